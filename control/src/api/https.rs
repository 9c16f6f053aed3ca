//! HTTP over TLS for those who are no members of the mesh: what this trust domain says of itself to anybody. Nobody is
//! asked who they are, and nothing can be changed.
//!
//! What a listener shows is looked up at each handshake. Certificate files are read again every few seconds, so that
//! whatever renews them need not tell control; what cannot be used is not taken, and the ones before stay.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_proto::handshake::ALPN_HTTP1;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::tls::OwnIdentity;
use super::web::{self, Over};
use crate::telemetry::metrics;
use crate::{duration, time};

const LOOK: Duration = Duration::from_secs(5);
/// A chain of some certificates.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Why certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// One cannot be read, or holds something else.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says, or what was expected.
        error: io::Error,
    },
    /// They do not go together.
    #[error("{} and {} cannot be used together: {error}", certificate.display(), key.display())]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Why not.
        error: rustls::Error,
    },
}

/// A chain and its key in files that somebody else renews.
pub struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    begins: SystemTime,
    ends: SystemTime,
    /// Of both files.
    sha256: [[u8; 32]; 2],
}

/// What a listener proves itself with.
#[derive(Clone)]
pub enum Shows {
    /// A certificate that browsers and clouds believe (`https_web`).
    Files(Arc<CertificateFiles>),
    /// Control's own SVID (`https_spiffe`).
    Own(Arc<OwnIdentity>),
}

impl Shows {
    /// For the next handshake.
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        match self {
            Self::Files(files) => Arc::clone(&files.current.load().config),
            Self::Own(own) => own.public_config(),
        }
    }
}

/// Serves `router` over TLS until `stop`.
pub async fn serve(
    door: &'static str,
    shows: Shows,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) {
    let served = web::serve(door, Over::Tls(shows.clone()), listener, router, stop.clone());
    match shows {
        Shows::Own(_) => served.await,
        Shows::Files(files) => {
            tokio::join!(served, files.follow(stop));
        }
    }
}

impl CertificateFiles {
    /// Reads them: a chain in PEM, leaf first, and the key of its leaf.
    ///
    /// # Errors
    /// When they cannot be used.
    pub async fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(load(&certificate, &key).await?);
        Ok(Self { certificate, key, current })
    }

    /// What will break unless somebody renews it: a sixth of its life is left, or nothing. Those who renew by themselves do
    /// so when a third is.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let loaded = self.current.load();
        let (begins, ends) = (loaded.begins, loaded.ends);
        let file = self.certificate.display();
        match ends.duration_since(now) {
            Ok(left) if left > ends.duration_since(begins).unwrap_or_default() / 6 => None,
            Ok(left) if !left.is_zero() => Some(format!(
                "the certificate of the HTTPS listener ends in {}: renew {file}",
                duration::rough(left)
            )),
            _ => Some(format!("the certificate of the HTTPS listener has ended: renew {file}")),
        }
    }

    async fn follow(&self, stop: CancellationToken) {
        let mut wrong = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            wrong = self.look(wrong).await;
        }
    }

    /// Takes what is in the files now. Returns why that cannot be, and says it unless it is what was said before: between
    /// two files that are replaced one after the other they do not go together.
    async fn look(&self, said: Option<String>) -> Option<String> {
        match load(&self.certificate, &self.key).await {
            Ok(loaded) if loaded.sha256 == self.current.load().sha256 => None,
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!(certificate = %self.certificate.display(), "certificate of the HTTPS listener replaced");
                None
            }
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::warn!(%error, "certificate of the HTTPS listener cannot be replaced: the one before stays");
                }
                Some(error)
            }
        }
    }
}

async fn load(certificate: &Path, key: &Path) -> Result<Loaded, CertificateError> {
    let (pem, secret) = (file(certificate).await?, file(key).await?);
    let wrong = |path: &Path, error: &str| CertificateError::File {
        path: path.to_owned(),
        error: io::Error::other(error),
    };
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| wrong(certificate, "expected certificates in PEM, leaf first"))?;
    let leaf = chain.first().ok_or_else(|| wrong(certificate, "expected certificates in PEM, leaf first"))?;
    let (_, read) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|_| wrong(certificate, "its first certificate cannot be read"))?;
    let at = |moment: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(moment.timestamp()).unwrap_or_default())
    };
    let (begins, ends) = (at(read.validity().not_before), at(read.validity().not_after));
    let private = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|_| wrong(key, "expected a private key in PEM: PKCS#8, SEC1 or PKCS#1"))?;
    let sha256 = [crate::sha256(&pem), crate::sha256(&secret)];
    let config = config(chain, private).map_err(|error| CertificateError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        error,
    })?;
    metrics::authority_ends("https", ends);
    if ends <= time::now() {
        tracing::warn!(certificate = %certificate.display(), "certificate of the HTTPS listener has ended");
    }
    Ok(Loaded { config: Arc::new(config), begins, ends, sha256 })
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(config)
}

async fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let failed = |error| CertificateError::File { path: path.to_owned(), error };
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = tokio::fs::File::open(path).await.map_err(failed)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(io::Error::other(format!("expected at most {MAX_FILE_BYTES} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn paths(&self) -> [PathBuf; 2] {
            ["tls.crt", "tls.key"].map(|name| self.directory.path().join(name))
        }

        fn write(&self, certificate: &str, key: &str) {
            for (path, text) in self.paths().iter().zip([certificate, key]) {
                std::fs::write(path, text).unwrap();
            }
        }

        async fn open(&self) -> Result<CertificateFiles, CertificateError> {
            let [certificate, key] = self.paths();
            CertificateFiles::open(certificate, key).await
        }
    }

    #[tokio::test]
    async fn what_does_not_go_together_does_not_start_and_says_why() {
        let (files, (first, first_key), (second, second_key)) = (Files::new(), issued(), issued());
        assert!(matches!(files.open().await, Err(CertificateError::File { .. })), "there is none");
        files.write(&first, &first_key);
        files.open().await.unwrap();
        files.write(&second, &first_key);
        let error = files.open().await.err().unwrap();
        assert!(matches!(error, CertificateError::Pair { .. }), "{error}");
        for (certificate, key, named) in
            [(&second_key, &second_key, "tls.crt"), (&second, &second, "tls.key")]
        {
            files.write(certificate, key);
            let error = files.open().await.err().unwrap().to_string();
            assert!(error.contains(named) && error.contains("expected"), "{error}");
        }
    }

    #[tokio::test]
    async fn certificate_is_replaced_under_the_listener_and_stays_while_the_files_do_not_fit() {
        let (files, (first, first_key), (second, second_key)) = (Files::new(), issued(), issued());
        files.write(&first, &first_key);
        let shown = Shows::Files(Arc::new(files.open().await.unwrap()));
        let Shows::Files(shows) = &shown else { panic!("files") };
        let before = shown.server_config();
        assert_eq!(shows.look(None).await, None);
        assert!(Arc::ptr_eq(&before, &shown.server_config()), "nothing new");
        files.write(&second, &first_key);
        let said = shows.look(None).await;
        assert!(said.is_some() && Arc::ptr_eq(&before, &shown.server_config()), "{said:?}");
        files.write(&second, &second_key);
        assert_eq!(shows.look(said).await, None);
        assert!(!Arc::ptr_eq(&before, &shown.server_config()));
    }

    #[tokio::test]
    async fn its_end_is_warned_of_while_there_is_time() {
        let (files, key, day) =
            (Files::new(), rcgen::KeyPair::generate().unwrap(), Duration::from_secs(86_400));
        let begins = time::whole_seconds(time::now());
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (begins.into(), (begins + 90 * day).into());
        files.write(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem());
        let shows = files.open().await.unwrap();
        assert_eq!((shows.warning(begins), shows.warning(begins + 74 * day)), (None, None));
        assert!(shows.warning(begins + 76 * day).unwrap().contains("ends in 14d"));
        assert!(shows.warning(begins + 91 * day).unwrap().contains("has ended"));
    }
}
