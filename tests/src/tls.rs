//! A TLS client that believes any server, for looking at what a listener presents and negotiates, and for
//! calling control the way a joiner does, only more often at once.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::pki::Svid;

/// Connects with the credentials of `svid`, believing any server.
///
/// # Panics
/// When the handshake fails.
pub async fn connect(address: SocketAddr, svid: &Svid) -> TlsStream<TcpStream> {
    handshake(address, config(svid)).await.expect("the handshake succeeds")
}

/// A configuration with the credentials of `svid` that believes any server.
///
/// # Panics
/// Never with what the authorities of [`crate::pki`] make.
#[must_use]
pub fn config(svid: &Svid) -> ClientConfig {
    config_offering(svid, &aws_lc_rs::default_provider().kx_groups)
}

/// As [`config`], with these key exchange groups; a key share is sent only of the first.
///
/// # Panics
/// As [`config`].
#[must_use]
pub fn config_offering(svid: &Svid, groups: &[&'static dyn SupportedKxGroup]) -> ClientConfig {
    let chain = CertificateDer::pem_slice_iter(svid.svid_pem().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("our own PEM");
    let key = PrivateKeyDer::from_pem_slice(svid.key_pem.as_bytes()).expect("our own PEM");
    builder(groups).with_client_auth_cert(chain, key).expect("the key fits the certificate")
}

/// The leaf (DER) that a listener presents to the holder of `svid`.
///
/// # Panics
/// When the handshake fails.
pub async fn presented_leaf(address: SocketAddr, svid: &Svid) -> Vec<u8> {
    let stream = connect(address, svid).await;
    let chain = stream.get_ref().1.peer_certificates().expect("a server presents a chain");
    chain[0].to_vec()
}

/// A gRPC channel to control, over one TLS connection without a client certificate that is open already.
///
/// # Errors
/// When it cannot connect.
pub async fn anonymous_channel(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    grpc_channel(address, builder(&aws_lc_rs::default_provider().kx_groups).with_no_client_auth()).await
}

/// A gRPC channel to control for the holder of a certificate.
///
/// # Errors
/// When it cannot connect.
///
/// # Panics
/// When the key is of another certificate.
pub async fn identified_channel(
    address: SocketAddr,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Channel, tonic::transport::Error> {
    let config = builder(&aws_lc_rs::default_provider().kx_groups).with_client_auth_cert(chain, key);
    grpc_channel(address, config.expect("the key fits the certificate")).await
}

/// The same with any chain, also one that the key is not of.
///
/// # Errors
/// When it cannot connect.
///
/// # Panics
/// When the key is none.
pub async fn channel_showing(
    address: SocketAddr,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Channel, tonic::transport::Error> {
    let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key that signs");
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = builder(&aws_lc_rs::default_provider().kx_groups).with_client_cert_resolver(Arc::new(shown));
    grpc_channel(address, config).await
}

async fn grpc_channel(
    address: SocketAddr,
    mut config: ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { handshake(address, config).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://control.invalid").connect_with_connector(connector).await
}

/// A handshake with any configuration.
///
/// # Errors
/// When it fails, or there is nobody to connect to.
pub async fn handshake(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // Or each small call waits for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn builder(
    groups: &[&'static dyn SupportedKxGroup],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() });
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
