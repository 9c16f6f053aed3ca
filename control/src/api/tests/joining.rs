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
            spiffe_id: String::new(),
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
