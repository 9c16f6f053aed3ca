//! A PKCS#11 token that is a process of its own, so that it can go away and come back: SoftHSM, served by p11-kit.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::client::{Client, file};
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

const LABEL: &str = "signet ca";
/// The right PIN.
pub const PIN: &str = "4711-0815";
/// Where Debian's packages put them, on whatever architecture.
const MODULES: [&str; 2] = ["/usr/lib/softhsm/libsofthsm2.so", "pkcs11/p11-kit-client.so"];

/// A token with its keys on disk, and the process that serves it.
#[derive(Debug)]
pub struct Token {
    directory: TempDir,
    server: Option<Process>,
}

impl Token {
    /// Makes an empty token, and serves it.
    ///
    /// # Panics
    /// When SoftHSM or p11-kit do not.
    pub async fn start() -> Self {
        let directory =
            tempfile::Builder::new().prefix("signet-token-").tempdir().expect("a temporary directory");
        let tokens = directory.path().join("tokens");
        std::fs::create_dir(&tokens).expect("our own directory");
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        let _ = file(directory.path(), "softhsm.conf", &settings);
        let mut token = Self { directory, server: None };
        token.has_pin_file(PIN);
        token.make().await;
        token.serve().await;
        token
    }

    async fn make(&self) {
        let make =
            Client::new("softhsm2-util").args(["--init-token", "--free", "--label", LABEL, "--pin", PIN]);
        let _ = self.with_settings(make.args(["--so-pin", PIN])).run().await.succeeded();
    }

    /// Its URI for `--ca-key`.
    #[must_use]
    pub fn uri(&self) -> String {
        let (module, pin) = (client_module(), self.pin_file());
        format!("pkcs11:token=signet%20ca?module-path={}&pin-source={}", module.display(), pin.display())
    }

    /// The environment in which the URI leads to it.
    #[must_use]
    pub fn environment(&self) -> (String, String) {
        ("P11_KIT_SERVER_ADDRESS".to_owned(), format!("unix:path={}", self.socket().display()))
    }

    /// The file with its PIN.
    fn pin_file(&self) -> PathBuf {
        self.directory.path().join("pin")
    }

    /// Writes what the file says; [`PIN`] is right.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn has_pin_file(&self, pin: &str) {
        let path = file(self.directory.path(), "pin", pin);
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("our own file");
    }

    /// Serves it, again.
    ///
    /// # Panics
    /// When nobody can connect to it in time.
    pub async fn serve(&mut self) {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(tool("p11-kit"));
        command.args(["server", "--foreground", "--name"]).arg(&socket).args(["--provider", MODULES[0]]);
        // Each who connects is served by a process of its own.
        command.arg("pkcs11:token=signet%20ca").env("SOFTHSM2_CONF", self.settings()).process_group(0);
        self.server = Some(Process::start("p11-kit", command));
        eventually("the token is served", PATIENCE, async || {
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Takes it away from everybody.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn goes_away(&mut self) {
        let mut server = self.server.take().expect("it is there");
        let group = Pid::from_raw(server.id().cast_signed()).expect("a process");
        server.expect_end();
        kill_process_group(group, Signal::KILL).expect("our own processes");
        let _ = server.exit(PATIENCE).await;
    }

    /// Erases it: it is there, by the same name, and empty.
    ///
    /// # Panics
    /// When SoftHSM does not.
    pub async fn is_erased(&mut self) {
        self.goes_away().await;
        let delete = Client::new("softhsm2-util").args(["--delete-token", "--token", LABEL]);
        let _ = self.with_settings(delete).run().await.succeeded();
        self.make().await;
        self.serve().await;
    }

    /// Puts what was backed up in the place of what is there.
    ///
    /// # Panics
    /// When there is nothing.
    pub async fn restores(&mut self, aside: &str) {
        self.goes_away().await;
        let (tokens, kept) = (self.directory.path().join("tokens"), self.directory.path().join(aside));
        std::fs::remove_dir_all(&tokens).expect("our own directory");
        std::fs::rename(kept, tokens).expect("it was put aside");
        self.serve().await;
    }

    /// Makes a copy of all that is in it, as a backup by its own means.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn is_backed_up(&self, aside: &str) {
        let directory = self.directory.path();
        copy(&directory.join("tokens"), &directory.join(aside)).expect("our own directory");
    }

    /// What GnuTLS says about the private keys in it.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn keys(&self) -> Vec<String> {
        let provider = format!("--provider={}", MODULES[0]);
        let list = Client::new("p11tool").args([
            &provider,
            "--login",
            "--list-privkeys",
            "pkcs11:token=signet%20ca",
        ]);
        let told = self.with_settings(list).env("GNUTLS_PIN", PIN).run().await;
        let objects = told.stdout.split("Object ").skip(1).map(str::to_owned);
        objects.collect()
    }

    fn with_settings(&self, client: Client) -> Client {
        client.env("SOFTHSM2_CONF", self.settings())
    }

    fn settings(&self) -> PathBuf {
        self.directory.path().join("softhsm.conf")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take()
            && let Some(group) = Pid::from_raw(server.id().cast_signed())
        {
            server.expect_end();
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            let _ = std::fs::copy(from, to)?;
        }
    }
    Ok(())
}

fn client_module() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let candidates = directories.map(|entry| entry.path().join(Path::new(MODULES[1])));
    let mut there = candidates.filter(|path| path.is_file());
    there.next().expect("p11-kit's client module is missing: apt-get install p11-kit-modules")
}
