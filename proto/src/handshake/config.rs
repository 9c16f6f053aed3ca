//! The rustls configurations, prepared once per snapshot.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};

use super::secrets::Listener;
use super::verifier::{Basis, ClientVerifier, ServerVerifier};
use super::{Svid, Trust};
use crate::spiffe::{Pins, SpiffeId};

/// Whether a server insists on a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection: every proxy.
    Required,
    /// A certificate is verified if one comes: control, where a joiner has none yet.
    Optional,
    /// None is asked for: whoever calls may know what is told here.
    Unasked,
}

/// rustls does not accept the parameters. Not caused by a peer.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare the TLS configuration: {0}")]
pub struct ConfigError(#[from] rustls::Error);

/// The configuration of the accepting side.
///
/// # Errors
/// When rustls refuses the protocol parameters.
pub fn server_config(
    svid: &Svid,
    trust: Arc<Trust>,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let builder = ServerConfig::builder_with_details(provider().clone(), Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_auth {
        ClientAuth::Unasked => builder.with_no_client_auth(),
        ClientAuth::Required | ClientAuth::Optional => {
            let mandatory = client_auth == ClientAuth::Required;
            builder.with_client_cert_verifier(Arc::new(ClientVerifier { trust, mandatory }))
        }
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key().clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // For `Exchange`: what protects the connection after its handshake is ours.
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Listener);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The configuration of the calling side, for one expected peer. Without an SVID no client certificate is
/// presented.
///
/// # Errors
/// When rustls refuses the protocol parameters.
pub fn client_config(
    svid: Option<&Svid>,
    trust: Arc<Trust>,
    expected: SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    client(svid, ServerVerifier { basis: Basis::Bundle(trust), expected }, alpn)
}

/// The configuration to join with: control is believed if it presents a pinned root, and is `control`.
///
/// # Errors
/// When rustls refuses the protocol parameters.
pub fn pinned_client_config(
    pins: impl Into<Pins>,
    control: SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    client(None, ServerVerifier { basis: Basis::Pin(pins.into()), expected: control }, alpn)
}

/// The name to dial: SPIFFE peers are known by their ID, and an address as name keeps rustls from sending SNI.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(rustls_pki_types::IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED))
}

fn client(
    svid: Option<&Svid>,
    verifier: ServerVerifier,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    let builder = ClientConfig::builder_with_details(provider().clone(), Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match svid {
        Some(svid) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key().clone())))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Listener);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// ARCHITECTURE's order: the post-quantum hybrid, then the classical groups; AES first, as the hardware has it.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}

#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        crate::clock::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}
