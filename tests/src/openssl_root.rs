//! A root whose key control never has: made by `openssl`, in files of a directory, and asked by file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::{Client, file};

/// What an intermediate below it may do.
const EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";

/// A root in `root.pem` and `root.key`, good for ten years.
#[derive(Debug)]
pub struct OpenSslRoot {
    directory: PathBuf,
}

impl OpenSslRoot {
    /// Makes one.
    ///
    /// # Panics
    /// When `openssl` does not.
    pub async fn new(directory: &Path) -> Self {
        let root = Self { directory: directory.to_owned() };
        root.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout root.key -out root.pem -days 3650 \
             -subj /O=Example/CN=Root -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
        )
        .await;
        let _ = file(directory, "ext", EXTENSIONS);
        root
    }

    /// Runs `openssl` beside its files, with arguments that have no spaces.
    ///
    /// # Panics
    /// When it fails.
    pub async fn openssl(&self, words: &str) {
        let command = Client::new("openssl").args(words.split(' ')).within(&self.directory);
        let _ = command.run().await.succeeded();
    }

    /// The path of one of its files.
    #[must_use]
    pub fn at(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Signs the request in `csr.pem` for that many days from the machine's now: `chain.pem` has what it signed, and itself.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub async fn sign(&self, days: u32) {
        self.openssl(&format!(
            "x509 -req -in csr.pem -CA root.pem -CAkey root.key -CAcreateserial -days {days} -extfile ext -out signed.pem"
        ))
        .await;
        let read = |name| fs::read_to_string(self.at(name)).expect("openssl wrote it");
        let _ = file(&self.directory, "chain.pem", [read("signed.pem"), read("root.pem")].concat());
    }
}
