//! The operator's own SVID on disk: written by `signet login`, renewed when half of its life is over; key and
//! SVID always of one piece (`generations`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::{ALPN_H2, Revocations, Svid, Trust, WorkloadKey, client_config};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::v1::RenewRequest;
use signet_proto::v1::identity_client::IdentityClient;
use zeroize::Zeroizing;

use super::error::CliError;
use super::{connect, generations};
use crate::registry::CONTROL_PATH;

const SVID: &str = "svid.pem";
const KEY: &str = "key.pem";
const BUNDLE: &str = "bundle.pem";

/// An operator's SVID and whom it believes.
pub(super) struct Credentials {
    svid: Svid,
    trust: Arc<Trust>,
}

/// Where credentials are kept.
pub(super) fn directory(given: Option<PathBuf>) -> Result<PathBuf, CliError> {
    if let Some(directory) = given {
        return Ok(directory);
    }
    std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|config| config.join("signet"))
        .ok_or_else(|| CliError::usage("no home directory: say where credentials are with `--credentials`"))
}

impl Credentials {
    /// Reads them; renews them at `control` when due. That renewal fails does not matter while they are valid.
    pub(super) async fn load(directory: &Path, control: &str) -> Result<Self, CliError> {
        let mut credentials = Self::read(directory)?;
        let now = signet_proto::clock::now();
        let until = credentials.svid.profile().not_after;
        if until <= now {
            return Err(CliError::not_permitted(format!(
                "your SVID in {} ended {}",
                directory.display(),
                crate::time::rfc3339(until)
            ))
            .with_hint("ask for a join ticket and use `signet login` again"));
        }
        if credentials.renewal_is_due(now) {
            match Self::renewed(directory, control).await {
                Ok(renewed) => credentials = renewed,
                Err(error) => eprintln!("signet: warning: your SVID could not be renewed: {error}"),
            }
        }
        Ok(credentials)
    }

    fn renewal_is_due(&self, now: SystemTime) -> bool {
        let (from, until) = (self.svid.profile().not_before, self.svid.profile().not_after);
        now >= from + until.duration_since(from).unwrap_or_default() / 2
    }

    /// Of several commands at the same time one renews, and the others use what it wrote.
    async fn renewed(directory: &Path, control: &str) -> Result<Self, CliError> {
        let _lock = generations::lock(directory).await?;
        let credentials = Self::read(directory)?;
        if credentials.renewal_is_due(signet_proto::clock::now()) {
            credentials.renew(directory, control).await
        } else {
            Ok(credentials)
        }
    }

    fn read(directory: &Path) -> Result<Self, CliError> {
        let directory = &generations::current(directory);
        let file = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map(Zeroizing::new).map_err(|error| {
                CliError::not_permitted(format!("no credentials: {}: {error}", path.display())).with_hint(
                    "get them with `signet login TICKET`, or use the local socket with `--control unix:PATH`",
                )
            })
        };
        let unusable = |name: &str, error: &dyn std::fmt::Display| {
            CliError::not_permitted(format!("{}: {error}", directory.join(name).display()))
                .with_hint("get new credentials with `signet login TICKET`")
        };
        let key_path = directory.join(KEY);
        let key_pem = file(KEY)?;
        if fs::metadata(&key_path)?.permissions().mode() & 0o077 != 0 {
            return Err(CliError::not_permitted(format!("{} can be read by others", key_path.display()))
                .with_hint("`chmod 600` it"));
        }
        let key = WorkloadKey::signing_key_from_pem(&key_pem).map_err(|error| unusable(KEY, &error))?;
        let svid = Svid::from_pem(&file(SVID)?, key).map_err(|error| unusable(SVID, &error))?;
        let bundle = TrustBundle::from_pem(svid.id().trust_domain().clone(), &file(BUNDLE)?)
            .map_err(|error| unusable(BUNDLE, &error))?;
        Ok(Self { svid, trust: Arc::new(Trust::new([bundle], Revocations::default())) })
    }

    /// For connections to control.
    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, CliError> {
        let control = control_id(self.svid.id())?;
        client_config(Some(&self.svid), Arc::clone(&self.trust), control, &[ALPN_H2])
            .map_err(|error| CliError::failed(error.to_string()))
    }

    async fn renew(&self, directory: &Path, control: &str) -> Result<Self, CliError> {
        let channel = connect::tls(control, self.client_config()?).await?;
        let key = WorkloadKey::generate().map_err(|error| CliError::failed(error.to_string()))?;
        let csr = key.csr(Some(self.svid.id())).map_err(|error| CliError::failed(error.to_string()))?;
        let request = RenewRequest { csr, version: version(), ..RenewRequest::default() };
        let renewed = IdentityClient::new(channel).renew(request).await?.into_inner();
        let chain = renewed.svid.map(|svid| svid.chain).unwrap_or_default();
        let domain = self.svid.id().trust_domain();
        let told = renewed.bundles.iter().find(|bundle| bundle.trust_domain == domain.as_str());
        // Roots follow one another; control, which we believe by the one that we know, says which there are.
        let bundle = match told.map(TrustBundle::try_from) {
            Some(bundle) => bundle.map_err(|error| CliError::failed(format!("control's bundle: {error}")))?,
            None => {
                self.trust.bundle(domain).cloned().ok_or_else(|| CliError::failed("no bundle of our own"))?
            }
        };
        let credentials = Self::check(&chain, &key, &bundle)?;
        write(directory, &chain, &key, &bundle)?;
        Ok(credentials)
    }

    /// Puts a chain and its key together, and believes it only if the bundle does (invariant 3).
    pub(super) fn check(
        chain: &[Vec<u8>],
        key: &WorkloadKey,
        bundle: &TrustBundle,
    ) -> Result<Self, CliError> {
        let unusable = |error: &dyn std::fmt::Display| {
            CliError::failed(format!("control's answer holds no usable SVID: {error}"))
        };
        let signing_key = key.signing_key().map_err(|error| unusable(&error))?;
        let certificates = chain.iter().cloned().map(CertificateDer::from).collect();
        let svid = Svid::new(certificates, signing_key).map_err(|error| unusable(&error))?;
        let trust = Arc::new(Trust::new([bundle.clone()], Revocations::default()));
        svid.check(&trust, signet_proto::clock::now()).map_err(|error| unusable(&error))?;
        Ok(Self { svid, trust })
    }

    /// Whom they name, and until when.
    pub(super) fn svid(&self) -> &Svid {
        &self.svid
    }
}

/// Control's identity in the trust domain of `id`.
pub(super) fn control_id(id: &SpiffeId) -> Result<SpiffeId, CliError> {
    SpiffeId::new(id.trust_domain(), CONTROL_PATH).map_err(|error| CliError::failed(error.to_string()))
}

/// What control is told about this program.
pub(super) fn version() -> String {
    format!("signet/{}", env!("CARGO_PKG_VERSION"))
}

/// Writes all three files at once, the key readable by its owner alone.
pub(super) fn write(
    directory: &Path,
    chain: &[Vec<u8>],
    key: &WorkloadKey,
    bundle: &TrustBundle,
) -> Result<(), CliError> {
    let svid: String = chain.iter().map(|certificate| pem(certificate)).collect();
    let (key, bundle) = (key.to_pem(), bundle.to_pem());
    let files =
        [(KEY, key.as_bytes(), 0o600), (SVID, svid.as_bytes(), 0o644), (BUNDLE, bundle.as_bytes(), 0o644)];
    generations::write(directory, &files)
        .map_err(|error| CliError::failed(format!("cannot write to {}: {error}", directory.display())))
}

/// RFC 7468, lines of 64 characters.
fn pem(certificate: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
