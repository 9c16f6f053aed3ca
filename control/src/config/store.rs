//! The three settings that say where the store is.

use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use super::{ConfigError, Origins};
use crate::store::{Location, Server};

const EMBEDDED: &str = "sqlite";

impl Origins<'_> {
    pub(super) fn store(
        &self,
        store: Option<&str>,
        ca_file: Option<&Path>,
        password_file: Option<&Path>,
        data_dir: &Path,
    ) -> Result<Location, ConfigError> {
        let url = match store {
            None | Some(EMBEDDED) => {
                let alone = [("store-ca-file", ca_file), ("store-password-file", password_file)];
                return match alone.into_iter().find_map(|(key, file)| Some((key, file?))) {
                    Some((key, file)) => {
                        Err(self.wrong(key, "`store` to name a PostgreSQL server", &file.display()))
                    }
                    None => Ok(Location::Directory(data_dir.to_owned())),
                };
            }
            Some(url) => url,
        };
        let read = |key, file: &Path| {
            fs::read(file)
                .map(Zeroizing::new)
                .map_err(|error| self.wrong(key, "a readable file", &format!("{}: {error}", file.display())))
        };
        let roots = ca_file.map(|file| read("store-ca-file", file)).transpose()?;
        let password = password_file.map(|file| read("store-password-file", file)).transpose()?;
        let server = Server::parse(
            url,
            roots.as_ref().map(|pem| pem.as_slice()),
            password.as_ref().map(|password| password.trim_ascii_end()),
        );
        // The URL is not repeated: it may hold a password.
        server.map(Location::Server).map_err(|error| ConfigError::Store { origin: self.of("store"), error })
    }
}
