//! A root, an intermediate and two workloads, made anew for each run, and a handshake without a network.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use signet_proto::handshake::{
    ALPN_HTTP1, ClientAuth, Revocations, Svid, Trust, WorkloadKey, client_config, server_config, server_name,
};
use signet_proto::spiffe::{SpiffeId, TrustBundle, TrustDomain};

use crate::Error;

/// What a handshake between two workloads needs.
pub struct Mesh {
    chain: Vec<CertificateDer<'static>>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Mesh {
    /// Makes keys, certificates and configurations: the part that is not measured.
    ///
    /// # Errors
    /// When a certificate of it does not pass the project's own checks.
    pub fn new() -> Result<Self, Error> {
        let domain: TrustDomain = "bench.mesh".parse()?;
        let (root_key, intermediate_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let root_params = authority("root");
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let intermediate_params = authority("intermediate");
        let intermediate = intermediate_params.signed_by(&intermediate_key, &root_issuer)?;
        let issuer = Issuer::from_params(&intermediate_params, &intermediate_key);
        let (client_id, server_id) = (SpiffeId::new(&domain, "/shop")?, SpiffeId::new(&domain, "/orders")?);
        let svid = |id: &SpiffeId| -> Result<Svid, Error> {
            let key = KeyPair::generate()?;
            let leaf = leaf(id)?.signed_by(&key, &issuer)?;
            let chain = vec![leaf.der().clone(), intermediate.der().clone()];
            Ok(Svid::new(chain, WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes())?)?)
        };
        let (client_svid, server_svid) = (svid(&client_id)?, svid(&server_id)?);
        let bundle = TrustBundle::new(domain, vec![root.der().clone()], 1)?;
        let trust = Arc::new(Trust::new([bundle], Revocations::default()));
        Ok(Self {
            chain: server_svid.chain().to_vec(),
            client: client_config(Some(&client_svid), Arc::clone(&trust), server_id, &[ALPN_HTTP1])?,
            server: server_config(&server_svid, trust, ClientAuth::Required, &[ALPN_HTTP1])?,
        })
    }

    /// The certificates that the accepting side shows, as control issues them, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The calling side's configuration.
    #[must_use]
    pub fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// The accepting side's configuration.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }
}

/// One handshake, both ends in one thread, the bytes carried by hand; and of which kind it was.
///
/// # Errors
/// When the ends do not come to terms, which would make the figure worthless.
pub fn shake_hands(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<Option<HandshakeKind>, Error> {
    let mut client = ClientConnection::new(Arc::clone(client), server_name())?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut wire = Vec::with_capacity(8 * 1024);
    while client.is_handshaking() || server.is_handshaking() {
        let sent = carry(&mut wire, |wire| client.write_tls(wire), |wire| server.read_tls(wire))?;
        server.process_new_packets()?;
        let answered = carry(&mut wire, |wire| server.write_tls(wire), |wire| client.read_tls(wire))?;
        client.process_new_packets()?;
        if sent + answered == 0 {
            return Err("the handshake got stuck".into());
        }
    }
    // Tickets come after it.
    carry(&mut wire, |wire| server.write_tls(wire), |wire| client.read_tls(wire))?;
    client.process_new_packets()?;
    Ok(client.handshake_kind())
}

fn carry(
    wire: &mut Vec<u8>,
    mut write: impl FnMut(&mut Vec<u8>) -> std::io::Result<usize>,
    mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>,
) -> Result<usize, Error> {
    wire.clear();
    while write(wire)? > 0 {}
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        read(&mut rest)?;
    }
    Ok(wire.len())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&[0x42; 16]));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(id: &SpiffeId) -> Result<CertificateParams, Error> {
    let mut params = params("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_that_is_measured_shakes_hands() {
        let mesh = Mesh::new().unwrap();
        assert_eq!(shake_hands(mesh.client(), mesh.server()).unwrap(), Some(HandshakeKind::Full));
    }
}
