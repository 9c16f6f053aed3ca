//! A certificate authority of devices, run with the openssl command line: what a fleet has before it has a
//! mesh.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::client::{Client, file};

/// A root with an intermediate, which certifies devices.
#[derive(Debug)]
pub struct DeviceAuthority {
    directory: TempDir,
}

/// What a device has: its chain, leaf first, and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Device {
    /// The leaf and the intermediate.
    pub chain: PathBuf,
    /// PKCS#8.
    pub key: PathBuf,
}

/// How a device's certificate comes to be.
#[derive(Debug, Clone, Copy)]
pub struct Certified<'a> {
    /// Options of `openssl genpkey`.
    pub key: &'a [&'a str],
    /// Lines of the extension section.
    pub extensions: &'a str,
    /// Options of `openssl ca` for its beginning and end.
    pub validity: &'a [&'a str],
}

/// ECDSA over P-256.
pub const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
/// RSA of the usual length.
pub const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

const AUTHORITY: &str =
    "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
const LEAF: &str = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
    extendedKeyUsage=clientAuth\n";

const SETTINGS: &str = "[ca]\ndefault_ca = factory\n[factory]\ndatabase = index.txt\nnew_certs_dir = .\n\
    default_md = sha256\nunique_subject = no\nrand_serial = yes\npolicy = any\n\
    [any]\norganizationName = optional\ncommonName = optional\n";

impl Default for Certified<'_> {
    fn default() -> Self {
        Self { key: P256, extensions: LEAF, validity: &["-days", "1"] }
    }
}

impl DeviceAuthority {
    /// Makes it; every one has the same names.
    ///
    /// # Panics
    /// When openssl fails.
    pub async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("signet-devices-").tempdir().expect("a directory");
        let authority = Self { directory };
        let _ = file(authority.directory.path(), "ca.conf", SETTINGS);
        let _ = file(authority.directory.path(), "index.txt", "");
        let certified =
            Certified { extensions: AUTHORITY, validity: &["-days", "2"], ..Certified::default() };
        let _ = authority.request("root", P256, "/O=Factory/CN=Factory root").await;
        authority.sign("root", &certified, &["-selfsign", "-keyfile", "root.key"]).await;
        let _ = authority.request("line", P256, "/O=Factory/CN=Production line").await;
        authority.sign("line", &certified, &["-cert", "root.pem", "-keyfile", "root.key"]).await;
        authority
    }

    /// The root certificate, for `ca-file`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root.pem")
    }

    /// Certifies a device: `subject` as `/O=Factory/CN=serial`.
    ///
    /// # Panics
    /// When openssl fails.
    pub async fn device(&self, name: &str, subject: &str, certified: Certified<'_>) -> Device {
        self.certify(name, subject, certified, "line").await
    }

    /// As [`DeviceAuthority::device`], signed by another device, which plays authority.
    ///
    /// # Panics
    /// When openssl fails.
    pub async fn device_below(&self, issuer: &str, name: &str, subject: &str) -> Device {
        self.certify(name, subject, Certified::default(), issuer).await
    }

    async fn certify(&self, name: &str, subject: &str, certified: Certified<'_>, issuer: &str) -> Device {
        let key = self.request(name, certified.key, subject).await;
        let (authority, issuer_key) = (format!("{issuer}.pem"), format!("{issuer}.key"));
        self.sign(name, &certified, &["-cert", &authority, "-keyfile", &issuer_key]).await;
        let mut chain = vec![name, issuer];
        if issuer != "line" {
            chain.push("line");
        }
        let chain: String = chain.into_iter().map(|name| read(&self.path(&format!("{name}.pem")))).collect();
        Device { chain: file(self.directory.path(), &format!("{name}.chain.pem"), chain), key }
    }

    /// A signing request; its key.
    async fn request(&self, name: &str, options: &[&str], subject: &str) -> PathBuf {
        let (key, request) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.csr")));
        let genpkey = Client::new("openssl").args(["genpkey", "-quiet"]).args(options).arg("-out").arg(&key);
        let _ = genpkey.run().await.succeeded();
        let req = Client::new("openssl").args(["req", "-new", "-subj", subject, "-key"]).arg(&key);
        let _ = req.arg("-out").arg(&request).run().await.succeeded();
        key
    }

    async fn sign(&self, name: &str, certified: &Certified<'_>, issuer: &[&str]) {
        let _ = file(self.directory.path(), "extensions", certified.extensions);
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        let ca = Client::new("openssl").within(self.directory.path());
        let ca = ca.args([
            "ca",
            "-batch",
            "-notext",
            "-rand_serial",
            "-config",
            "ca.conf",
            "-extfile",
            "extensions",
        ]);
        let ca = ca.args(["-in", &request, "-out", &certificate]).args(issuer).args(certified.validity);
        let _ = ca.run().await.succeeded();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Device {
    /// For `signet-proxy --attest`, against the attestor of that name.
    #[must_use]
    pub fn proof(&self, attestor: &str) -> String {
        format!("x509={attestor}:{}:{}", self.chain.display(), self.key.display())
    }

    /// The chain of this device with the key of another.
    #[must_use]
    pub fn with_key_of(&self, other: &Self) -> Self {
        Self { chain: self.chain.clone(), key: other.key.clone() }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn openssl_believes_a_device_of_its_own_and_no_other() {
        let (ours, theirs) = (DeviceAuthority::new().await, DeviceAuthority::new().await);
        let device = ours.device("drill", "/O=Factory/CN=drill-7", Certified::default()).await;
        let verify = |root: PathBuf| {
            let verify = Client::new("openssl").args(["verify", "-CAfile"]).arg(root).arg("-untrusted");
            verify.arg(&device.chain).arg(&device.chain).run()
        };
        let _ = verify(ours.root()).await.succeeded();
        assert_ne!(verify(theirs.root()).await.code(), 0);
        let over = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"];
        let over = Certified { validity: &over, ..Certified::default() };
        let _ = ours.device("old", "/O=Factory/CN=drill-7", over).await;
        let _ = ours.device_below("drill", "below", "/O=Factory/CN=drill-7").await;
    }
}
