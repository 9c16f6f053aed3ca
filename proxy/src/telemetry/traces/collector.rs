//! Where spans go: OTLP over gRPC, in the clear or over TLS. It is no part of the mesh, so it proves itself by a
//! certificate for its name, of an authority of this machine or of the configuration's own list.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use signet_proto::handshake::ALPN_H2;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// For a connection with its handshake, and for each batch.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// A collector of spans.
#[derive(Debug, Clone)]
pub struct Collector {
    endpoint: Endpoint,
    /// As it was configured.
    shown: String,
    tls: Option<Secured>,
}

#[derive(Debug, Clone)]
struct Secured {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// Why a collector cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// It has no address that gRPC can have.
    #[error("`otlp-endpoint`: {0}")]
    Address(String),
    /// Nobody could vouch for it.
    #[error(
        "`otlp-endpoint`: no certificate authority is trusted here: install `ca-certificates`, or name a file in `otlp-roots`"
    )]
    NoRoots,
    /// These are no certificates.
    #[error("`otlp-roots`: expected certificates in PEM: {0}")]
    Roots(String),
    /// The TLS library refused our parameters.
    #[error("`otlp-endpoint`: {0}")]
    Tls(#[from] rustls::Error),
}

impl Collector {
    /// One that anybody could be.
    ///
    /// # Errors
    /// When the address is none.
    pub fn in_the_clear(host: &str, port: u16) -> Result<Self, CollectorError> {
        let shown = format!("http://{}:{port}", bracketed(host));
        Ok(Self { endpoint: endpoint(&shown)?, shown, tls: None })
    }

    /// One that proves its name, to one of `roots` (PEM), or of the machine's.
    ///
    /// # Errors
    /// When there is nobody to vouch for it, or the name is none.
    pub fn proven(host: &str, port: u16, roots: Option<&[u8]>) -> Result<Self, CollectorError> {
        let shown = format!("https://{}:{port}", bracketed(host));
        let mut trusted = RootCertStore::empty();
        match roots {
            None => {
                trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate =
                        certificate.map_err(|error| CollectorError::Roots(error.to_string()))?;
                    trusted.add(certificate).map_err(|error| CollectorError::Roots(error.to_string()))?;
                }
                if trusted.is_empty() {
                    return Err(CollectorError::Roots("there is none".to_owned()));
                }
            }
        }
        if trusted.is_empty() {
            return Err(CollectorError::NoRoots);
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| CollectorError::Address(format!("`{host}`: {error}")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let tls = Secured { host: host.to_owned(), port, name, config: Arc::new(config) };
        // The connector has its own TLS; the scheme only keeps tonic from wanting one. What is asked for is `https`.
        let (plain, origin) = (format!("http://{}:{port}", bracketed(host)), shown.parse::<Uri>());
        let origin = origin.map_err(|error| CollectorError::Address(error.to_string()))?;
        Ok(Self { endpoint: endpoint(&plain)?.origin(origin), shown, tls: Some(tls) })
    }

    /// As it was configured.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects when it is used, and again when that was lost.
    pub(super) fn channel(self) -> Channel {
        let endpoint = self.endpoint.connect_timeout(DEADLINE).timeout(DEADLINE);
        let Some(tls) = self.tls else { return endpoint.connect_lazy() };
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let Secured { host, port, name, config } = tls.clone();
            let connecting = async move {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            };
            async move { tokio::time::timeout(DEADLINE, connecting).await? }
        }))
    }
}

fn endpoint(uri: &str) -> Result<Endpoint, CollectorError> {
    Endpoint::from_shared(uri.to_owned()).map_err(|error| CollectorError::Address(error.to_string()))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_proven_is_not_called() {
        let error =
            |roots: &[u8]| Collector::proven("collector.example", 4317, Some(roots)).unwrap_err().to_string();
        assert!(error(b"").contains("there is none"), "{}", error(b""));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(error(broken).starts_with("`otlp-roots`"), "{}", error(broken));
        assert_eq!(Collector::in_the_clear("::1", 4317).unwrap().shown(), "http://[::1]:4317");
    }
}
