//! One ticket, one instance.

use super::*;

#[tokio::test]
async fn of_a_hundred_joins_with_one_ticket_one_wins_and_the_others_learn_nothing() {
    let mut mesh = Mesh::start().await;
    let ticket = Arc::new(mesh.ticket("orders").await);
    let joins: Vec<_> = (0..100)
        .map(|_| {
            let ticket = Arc::clone(&ticket);
            tokio::spawn(async move { Proxy::join(&ticket).await.map(drop) })
        })
        .collect();
    let mut won = 0;
    for join in joins {
        match join.await.unwrap() {
            Ok(()) => won += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated);
                assert!(status.message().starts_with("unknown or used or expired token"), "{status}");
            }
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn lost_answer_to_a_join_is_given_again_to_the_same_key() {
    let mut mesh = Mesh::start().await;
    let ticket = mesh.ticket("orders").await;
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let channel = dial(&ticket.control[0], pinned).await.unwrap();
    let key = WorkloadKey::generate().unwrap();
    let attest = async |csr: Vec<u8>| {
        let request = v1::AttestRequest {
            proof: Some(proof(&ticket)),
            csr,
            version: "test".into(),
            ..v1::AttestRequest::default()
        };
        IdentityClient::new(channel.clone()).attest(request).await
    };
    let first = attest(key.csr(None).unwrap()).await.unwrap().into_inner().svid.unwrap();
    let again = attest(key.csr(None).unwrap()).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(first.instance, again.instance);
    svid(&again, &key);
    let other = WorkloadKey::generate().unwrap();
    for csr in [other.csr(None).unwrap(), Vec::new()] {
        let refused = attest(csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().starts_with("unknown or used or expired token"), "{refused}");
    }
}

#[tokio::test]
async fn svid_has_the_life_and_the_dns_names_that_are_asked_for_within_those_of_the_workload() {
    let mut mesh = Mesh::start().await;
    let dns = vec!["a.example".to_owned(), "b.example".to_owned()];
    let request = v1::CreateWorkloadRequest {
        spiffe_id: "spiffe://mesh.local/named".into(),
        owner: "team".into(),
        purpose: "test".into(),
        ttl_max: Some(crate::time::duration_to_proto(Duration::from_secs(7200))),
        dns,
        ..v1::CreateWorkloadRequest::default()
    };
    mesh.operator.create_workload(request).await.unwrap();
    let ask = async |mesh: &mut Mesh, names: &[&str], ttl_seconds: u32| {
        let ticket = mesh.ticket("named").await;
        let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
        let channel = dial(&ticket.control[0], pinned).await.unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names =
            names.iter().map(|name| rcgen::SanType::DnsName((*name).try_into().unwrap())).collect();
        let request = v1::AttestRequest {
            proof: Some(proof(&ticket)),
            csr: params.serialize_request(&key).unwrap().der().to_vec(),
            ttl_seconds,
            ..v1::AttestRequest::default()
        };
        let issued = IdentityClient::new(channel).attest(request).await?.into_inner().svid.unwrap();
        let life = issued.not_after.unwrap().seconds - issued.not_before.unwrap().seconds;
        let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        let dns = names.iter().filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Ok::<_, tonic::Status>((life, dns.collect::<Vec<_>>()))
    };
    let (life, dns) = ask(&mut mesh, &[], 0).await.unwrap();
    assert_eq!((life, dns.len()), (3610, 2), "as usual, and 10 s for slow clocks");
    let (life, dns) = ask(&mut mesh, &["b.example"], 600).await.unwrap();
    assert_eq!((life, dns), (610, vec!["b.example".to_owned()]));
    for (names, ttl, said) in
        [(&["c.example"][..], 0, "has only a.example, b.example"), (&[], 7201, "lives from 1m to 2h")]
    {
        let refused = ask(&mut mesh, names, ttl).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(said), "{refused}");
    }
}
