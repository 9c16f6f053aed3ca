//! Revocation lists as `openssl ca` makes them, for an authority of [`crate::pki`].

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::client::{Client, Finished, file};

const CONFIG: &str = "\
[ca]
default_ca = it
[it]
database = index.txt
unique_subject = no
crlnumber = number
default_md = sha256
certificate = ca.pem
private_key = ca.key
default_crl_days = 1
crl_extensions = lists
[lists]
authorityKeyIdentifier = keyid:always
[bare]
[delta]
authorityKeyIdentifier = keyid:always
2.5.29.27 = critical,DER:02:01:01
[part]
authorityKeyIdentifier = keyid:always
issuingDistributionPoint = critical,@users
[indirect]
authorityKeyIdentifier = keyid:always
issuingDistributionPoint = critical,@others
[unknown]
authorityKeyIdentifier = keyid:always
1.2.3.4 = critical,DER:05:00
[users]
onlyuser = TRUE
[others]
indirectCRL = TRUE
";

/// What an authority needs to make lists, with `openssl`.
#[derive(Debug)]
pub struct ListMaker {
    directory: TempDir,
}

impl ListMaker {
    /// For the authority with this certificate and this key, PEM.
    #[must_use]
    pub fn of((certificate, key): (String, String)) -> Self {
        let directory = tempfile::Builder::new().prefix("signet-lists-").tempdir().expect("room for files");
        let place = directory.path();
        for (name, text) in
            [("ca.cnf", CONFIG), ("ca.pem", &certificate), ("ca.key", &key), ("index.txt", "")]
        {
            let _ = file(place, name, text);
        }
        let maker = Self { directory };
        maker.number("10");
        maker
    }

    /// The number of the next list, in hex.
    pub fn number(&self, number: &str) {
        let _ = file(self.directory.path(), "number", format!("{number}\n"));
    }

    /// Names this certificate from the next list on.
    pub async fn revoke(&self, leaf_pem: &str) {
        let leaf = file(self.directory.path(), "leaf.pem", leaf_pem);
        let leaf = leaf.display().to_string();
        let _ = self.ca(&["-revoke", &leaf, "-crl_reason", "keyCompromise"]).await;
    }

    /// A list, PEM, made with these options of `openssl ca`.
    pub async fn list(&self, options: &[&str]) -> String {
        let _ = self.ca(&[&["-gencrl", "-out", "list.pem"], options].concat()).await;
        fs::read_to_string(self.directory.path().join("list.pem")).expect("the list")
    }

    /// The same in DER.
    pub async fn list_der(&self, options: &[&str]) -> Vec<u8> {
        let _ = self.list(options).await;
        let arguments = ["crl", "-in", "list.pem", "-outform", "DER", "-out", "list.der"];
        let _ = self.openssl(&arguments).await.succeeded();
        fs::read(self.directory.path().join("list.der")).expect("the list")
    }

    async fn ca(&self, arguments: &[&str]) -> Finished {
        self.openssl(&[&["ca", "-config", "ca.cnf"], arguments].concat()).await.succeeded()
    }

    async fn openssl(&self, arguments: &[&str]) -> Finished {
        Client::new("openssl").args(arguments).within(self.directory.path()).run().await
    }
}

/// Puts a list in the place of another one: nobody ever reads half of it.
///
/// # Panics
/// When it cannot be written.
pub fn put(folder: &Path, name: &str, list: impl AsRef<[u8]>) -> PathBuf {
    let beside = file(folder, &format!(".{name}.new"), list);
    let place = folder.join(name);
    fs::rename(beside, &place).expect("an atomic replacement");
    place
}
