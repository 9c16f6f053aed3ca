use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::test_ca::{TestCa, ago};
use super::*;
use crate::spiffe::{Pins, sha256};
use crate::v1;

/// Runs a handshake in memory until both sides are done or one fails. The error is of the side that failed.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = Connection::Client(ClientConnection::new(Arc::clone(client), server_name()).unwrap());
    let mut server = Connection::Server(ServerConnection::new(Arc::clone(server)).unwrap());
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    match (client, server) {
        (Connection::Client(client), Connection::Server(server)) => Ok((client, server)),
        _ => unreachable!(),
    }
}

fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn server(svid: &Svid, trust: &Arc<Trust>) -> Arc<ServerConfig> {
    server_config(svid, Arc::clone(trust), ClientAuth::Required, &[ALPN_HTTP1]).unwrap()
}

fn client(svid: Option<&Svid>, trust: &Arc<Trust>, expected: &str) -> Arc<ClientConfig> {
    client_config(svid, Arc::clone(trust), expected.parse().unwrap(), &[]).unwrap()
}

fn refusal(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> &'static str {
    let error = shake(client, server).expect_err("the handshake should fail");
    verify_failure(&error).unwrap_or_else(|| panic!("{error}")).reason()
}

#[test]
fn two_identities_meet_over_tls13_with_the_hybrid_key_exchange() {
    let ca = TestCa::new("td");
    let (trust, caller, called) = (ca.trust(), ca.svid("/caller"), ca.svid("/called"));
    let (client, server) =
        shake(&client(Some(&caller), &trust, "spiffe://td/called"), &server(&called, &trust)).unwrap();
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(
        client.negotiated_key_exchange_group().map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768)
    );
    let seen = PeerIdentity::from_verified(server.peer_certificates()).unwrap();
    assert_eq!(seen.id, *caller.id());
    assert_eq!(seen.instance, caller.profile().instance);
    assert_eq!(seen.leaf_sha256, sha256(&caller.chain()[0]));
    assert_eq!(seen.handles.len(), 2);
}

#[test]
fn no_session_is_offered_for_resumption() {
    let ca = TestCa::new("td");
    let (trust, svid) = (ca.trust(), ca.svid("/a"));
    let (client_side, server_side) = (client(Some(&svid), &trust, "spiffe://td/a"), server(&svid, &trust));
    for _ in 0..2 {
        let (client, _) = shake(&client_side, &server_side).unwrap();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn caller_without_a_certificate_is_refused() {
    let ca = TestCa::new("td");
    let trust = ca.trust();
    let refused = refusal(&client(None, &trust, "spiffe://td/a"), &server(&ca.svid("/a"), &trust));
    assert_eq!(refused, "no_certificate");
}

#[test]
fn optional_client_certificate_may_be_absent_but_not_bad() {
    let (ca, other) = (TestCa::new("td"), TestCa::new("other"));
    let (trust, svid) = (ca.trust(), ca.svid("/a"));
    let server = server_config(&svid, Arc::clone(&trust), ClientAuth::Optional, &[]).unwrap();
    let (_, accepted) = shake(&client(None, &trust, "spiffe://td/a"), &server).unwrap();
    assert!(matches!(PeerIdentity::from_verified(accepted.peer_certificates()), Err(PeerError::None)));
    let stranger = other.svid("/a");
    assert_eq!(refusal(&client(Some(&stranger), &trust, "spiffe://td/a"), &server), "unknown_trust_domain");
}

#[test]
fn server_that_is_someone_else_is_refused() {
    let ca = TestCa::new("td");
    let (trust, svid) = (ca.trust(), ca.svid("/a"));
    let refused = refusal(&client(Some(&svid), &trust, "spiffe://td/b"), &server(&svid, &trust));
    assert_eq!(refused, "unexpected_peer");
}

#[test]
fn bundles_of_different_domains_are_not_pooled() {
    let (ours, theirs) = (TestCa::new("ours"), TestCa::new("theirs"));
    // A CA that is trusted for `theirs` signs a name of `ours`: its intermediate already names the wrong domain,
    // and the bundle of `ours` does not hold its root.
    let both = Arc::new(Trust::new([ours.bundle(), theirs.bundle()], Revocations::default()));
    let called = ours.svid("/called");
    let genuine = theirs.svid("/caller");
    shake(&client(Some(&genuine), &both, "spiffe://ours/called"), &server(&called, &both)).unwrap();

    let impostor = TestCa::new("ours");
    let forged = impostor.svid("/caller");
    let believing = Arc::new(Trust::new([impostor.bundle()], Revocations::default()));
    shake(&client(Some(&forged), &believing, "spiffe://ours/caller"), &server(&forged, &believing)).unwrap();
    let client = client_config(
        Some(&forged),
        Arc::new(Trust::new([ours.bundle()], Revocations::default())),
        "spiffe://ours/called".parse().unwrap(),
        &[],
    )
    .unwrap();
    assert_eq!(refusal(&client, &server(&called, &both)), "untrusted");
}

#[test]
fn certificates_outside_their_time_are_refused() {
    let ca = TestCa::new("td");
    let (trust, called) = (ca.trust(), ca.svid("/called"));
    let server = server(&called, &trust);
    let expired = ca.svid_with("/caller", |params| params.not_after = ago(1).into());
    assert_eq!(refusal(&client(Some(&expired), &trust, "spiffe://td/called"), &server), "expired");
    let early = ca.svid_with("/caller", |params| {
        params.not_before = (crate::clock::now() + std::time::Duration::from_secs(600)).into();
    });
    assert_eq!(refusal(&client(Some(&early), &trust, "spiffe://td/called"), &server), "not_yet_valid");
}

#[test]
fn every_kind_of_revocation_is_refused_on_both_sides() {
    let ca = TestCa::new("td");
    let (caller, called, plain) = (ca.svid("/caller"), ca.svid("/called"), ca.trust());
    let seen = {
        let client = client(Some(&caller), &plain, "spiffe://td/called");
        let (_, server) = shake(&client, &server(&called, &plain)).unwrap();
        PeerIdentity::from_verified(server.peer_certificates()).unwrap()
    };
    let certificate = |index: usize| v1::Revocations {
        certificates: vec![v1::RevokedCertificate {
            issuer_sha256: seen.handles[index].issuer_sha256.to_vec(),
            serial: seen.handles[index].serial.clone(),
        }],
        ..Default::default()
    };
    let instance = |lapsed| v1::Revocations {
        instances: vec![v1::RevokedInstance {
            instance: seen.instance.as_ref().unwrap().to_string(),
            lapsed,
        }],
        ..Default::default()
    };
    let cases = [
        (v1::Revocations { identities: vec![seen.id.to_string()], ..Default::default() }, "revoked_identity"),
        (instance(false), "revoked_instance"),
        (instance(true), "lapsed"),
        (certificate(0), "revoked_certificate"),
        (certificate(1), "revoked_certificate"),
        (
            v1::Revocations { keys: vec![seen.handles[0].spki_sha256.to_vec()], ..Default::default() },
            "revoked_key",
        ),
    ];
    for (message, reason) in cases {
        let revoking = Arc::new(Trust::new([ca.bundle()], message.try_into().unwrap()));
        assert_eq!(revoking.revoked(&seen).map(RevokedBecause::as_str), Some(reason));
        let to_server = client(Some(&caller), &plain, "spiffe://td/called");
        assert_eq!(refusal(&to_server, &server(&called, &revoking)), reason);
        let to_caller = client(Some(&called), &revoking, "spiffe://td/caller");
        assert_eq!(refusal(&to_caller, &server(&caller, &plain)), reason);
    }
}

#[test]
fn peer_is_no_longer_believed_when_its_authority_leaves_the_bundle() {
    let (ca, next) = (TestCa::new("td"), TestCa::new("td"));
    let (svid, trust) = (ca.svid("/a"), ca.trust());
    let (_, server) = shake(&client(Some(&svid), &trust, "spiffe://td/a"), &server(&svid, &trust)).unwrap();
    let peer = PeerIdentity::from_verified(server.peer_certificates()).unwrap();
    assert!(trust.believes(&peer));
    assert!(!next.trust().believes(&peer));
    let domain: crate::spiffe::TrustDomain = "td".parse().unwrap();
    let both =
        crate::spiffe::TrustBundle::new(domain, vec![next.root().clone(), ca.root().clone()], 2).unwrap();
    assert!(Trust::new([both], Revocations::default()).believes(&peer));
}

#[test]
fn authority_that_was_retired_keeps_who_is_there_and_lets_nobody_in() {
    let (ca, next) = (TestCa::new("td"), TestCa::new("td"));
    let svid = ca.svid("/a");
    let peer = PeerIdentity::from_verified(Some(svid.chain())).unwrap();
    let bundle = next.bundle().with_retired(vec![ca.root().clone()]).unwrap();
    let trust = Trust::new([bundle], Revocations::default());
    assert!(trust.believes(&peer), "a connection that is open goes on");
    assert_eq!(svid.check(&trust, crate::clock::now()).unwrap_err().reason(), "untrusted");
}

#[test]
fn joiner_with_several_pins_believes_any_of_them_and_no_other() {
    let (ca, next, other) = (TestCa::new("td"), TestCa::new("td"), TestCa::new("td"));
    let pins: Pins = [sha256(ca.root()), sha256(next.root())].into_iter().collect();
    let config =
        pinned_client_config(pins, "spiffe://td/signet/control".parse().unwrap(), &[ALPN_H2]).unwrap();
    let server = |ca: &TestCa| {
        let control = ca.svid_with_root("/signet/control");
        server_config(&control, ca.trust(), ClientAuth::Optional, &[ALPN_H2]).unwrap()
    };
    shake(&config, &server(&ca)).unwrap();
    shake(&config, &server(&next)).unwrap();
    assert_eq!(refusal(&config, &server(&other)), "pin_mismatch");
}

#[test]
fn live_peer_whose_certificate_ended_is_still_believed() {
    let ca = TestCa::new("td");
    let ended = ca.svid_with("/a", |params| params.not_after = ago(1).into());
    let mut peer = PeerIdentity::from_verified(Some(ended.chain())).unwrap();
    peer.verified_at = ago(5);
    assert!(ca.trust().believes(&peer));
}

#[test]
fn joiner_believes_control_by_the_pinned_root_alone() {
    let ca = TestCa::new("td");
    let control = ca.svid_with_root("/signet/control");
    let server = server_config(&control, ca.trust(), ClientAuth::Optional, &[ALPN_H2]).unwrap();
    let pin = |root, id: &str| pinned_client_config(root, id.parse().unwrap(), &[ALPN_H2]).unwrap();

    shake(&pin(sha256(ca.root()), "spiffe://td/signet/control"), &server).unwrap();
    assert_eq!(refusal(&pin([0; 32], "spiffe://td/signet/control"), &server), "pin_mismatch");
    assert_eq!(refusal(&pin(sha256(ca.root()), "spiffe://td/other"), &server), "unexpected_peer");
}

#[test]
fn workload_that_presents_the_pinned_root_is_not_control() {
    let ca = TestCa::new("td");
    let workload = ca.svid_with_root("/workload");
    let server = server_config(&workload, ca.trust(), ClientAuth::Optional, &[]).unwrap();
    let config =
        pinned_client_config(sha256(ca.root()), "spiffe://td/signet/control".parse().unwrap(), &[]).unwrap();
    assert_eq!(refusal(&config, &server), "unexpected_peer");
}

#[test]
fn long_chain_is_refused_before_any_signature_is_checked() {
    let ca = TestCa::new("td");
    let svid = ca.svid("/a");
    let intermediates = vec![svid.chain()[1].clone(); 4];
    let error = ca
        .trust()
        .verify(&svid.chain()[0], &intermediates, crate::clock::now(), trust::Role::Client)
        .unwrap_err();
    assert_eq!(error.reason(), "bad_svid");
}

#[test]
fn key_of_another_certificate_does_not_make_an_svid() {
    let ca = TestCa::new("td");
    let stranger = WorkloadKey::generate().unwrap().signing_key().unwrap();
    let error = Svid::new(ca.svid("/a").chain().to_vec(), stranger).unwrap_err();
    assert!(matches!(error, SvidMismatch::Key(_)));
}

#[test]
fn svid_that_our_peers_would_not_believe_is_found_out_before_use() {
    let (ca, other) = (TestCa::new("td"), TestCa::new("td"));
    let svid = ca.svid("/a");
    svid.check(&ca.trust(), crate::clock::now()).unwrap();
    assert_eq!(svid.check(&other.trust(), crate::clock::now()).unwrap_err().reason(), "untrusted");
}
