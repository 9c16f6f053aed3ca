//! A CA above control's: a process that speaks Vault's HTTP API as it is documented (`peers/vault.py`), over TLS, and is
//! administered with curl.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Finished, file};
use crate::peers::script;
use crate::process::Process;
use crate::sockets::free_address;
use crate::tools::pki_python;
use crate::{PATIENCE, eventually};

/// Where the PKI of every test is mounted.
pub const MOUNT: &str = "pki";

/// A running one, with a root of its own.
#[derive(Debug)]
pub struct Vault {
    /// Where it listens.
    pub address: SocketAddr,
    directory: TempDir,
    process: Process,
}

impl Vault {
    /// Starts it with a root in the namespace `team`, and a token that may sign with it in the token file.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("signet-vault-").tempdir().expect("a directory");
        certify(directory.path());
        let address = free_address();
        let process = run(address, directory.path());
        let vault = Self { address, directory, process };
        eventually("Vault answers", PATIENCE, async || {
            let asked = vault.ask("sys/unseal", &json!({})).await;
            if asked.code() == 0 { Ok(()) } else { Err(asked.all()) }
        })
        .await;
        vault.write("sys/mounts/pki", &json!({ "type": "pki" })).await;
        vault.write("sys/mounts/pki/tune", &json!({ "max_lease_ttl": "87600h" })).await;
        vault
            .write("pki/root/generate/internal", &json!({ "common_name": "Root 1", "issuer_name": "first" }))
            .await;
        vault.renew_token("1h").await;
        vault
    }

    /// Ends it: nobody listens there.
    pub async fn stop(&mut self) {
        self.process.kill().await;
    }

    /// The table of control's settings that leads to it, with `proof` of who control is.
    #[must_use]
    pub fn settings(&self, proof: &str) -> String {
        let (url, ca) = (format!("https://{}", self.address), self.path("ca.pem"));
        format!(
            "[ca.upstream]\nkind = \"vault\"\nurl = \"{url}\"\nmount = \"{MOUNT}\"\nnamespace = \"team\"\nca-file = \"{}\"\n{proof}\n",
            ca.display()
        )
    }

    /// The same with a token in a file.
    #[must_use]
    pub fn settings_with_token(&self) -> String {
        self.settings(&format!("token-file = \"{}\"", self.path("token").display()))
    }

    /// A file of its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts another token into the file, as an agent would; the ones before stay good.
    ///
    /// # Panics
    /// When there is none.
    pub async fn renew_token(&self, ttl: &str) {
        let made = self.write("auth/token/create", &json!({ "path": "pki/", "ttl": ttl })).await;
        let token = made["auth"]["client_token"].as_str().expect("a token").to_owned();
        let _ = file(self.directory.path(), "token.new", format!("{token}\n"));
        std::fs::rename(self.path("token.new"), self.path("token")).expect("our own directory");
    }

    /// Ends the token that is in the file.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn revoke_token(&self) {
        let _ = self.write("auth/token/revoke", &json!({ "token": self.token() })).await;
    }

    /// What is in the file.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("token")).expect("our own file").trim().to_owned()
    }

    /// Has it make another root, and sign with that from now on.
    pub async fn rotate_root(&self, name: &str) {
        let root = json!({ "common_name": name, "issuer_name": name });
        let _ = self.write("pki/root/rotate/internal", &root).await;
        let _ = self.write("pki/config/issuers", &json!({ "default": name })).await;
    }

    /// Has it answer as no Vault would; empty: as it should.
    pub fn is_hostile(&self, how: &str) {
        let _ = file(self.directory.path(), "hostile", how);
    }

    /// Writes something with the root token.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn write(&self, path: &str, asked: &Value) -> Value {
        let answer = self.ask(path, asked).await.succeeded();
        if answer.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&answer.stdout).expect("JSON")
        }
    }

    /// How often it was asked to sign and answered with this status.
    #[must_use]
    pub fn signed(&self, status: u16) -> usize {
        let log = self.process.logs().text();
        let line = |line: &&str| line.starts_with(&status.to_string()) && line.ends_with("sign-intermediate");
        log.lines().filter(line).count()
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.logs().text()
    }

    async fn ask(&self, path: &str, asked: &Value) -> Finished {
        let curl =
            Client::new("curl").args(["--fail-with-body", "--silent", "--show-error", "--noproxy", "*"]);
        let curl = curl.arg("--cacert").arg(self.path("ca.pem"));
        let headers = ["--header", "X-Vault-Token: root", "--header", "X-Vault-Namespace: team"];
        let url = format!("https://{}/v1/{path}", self.address);
        curl.args(headers).args(["--data", &asked.to_string(), &url]).run().await
    }
}

fn run(address: SocketAddr, directory: &Path) -> Process {
    let mut command = pki_python();
    command.arg(script("vault.py")).arg(address.to_string()).arg(directory);
    Process::start("vault.py", command)
}

/// What it shows, and by whom that is believed.
fn certify(directory: &Path) {
    let key = KeyPair::generate().expect("a key");
    let mut params = named("Authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::from_params(&params, &key);
    let own = KeyPair::generate().expect("a key");
    let mut params = named("Vault");
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let shown = params.signed_by(&own, &issuer).expect("a certificate");
    let _ = file(directory, "ca.pem", authority.pem());
    let _ = file(directory, "server.pem", shown.pem());
    let _ = file(directory, "server.key", own.serialize_pem());
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
