//! Tokens, as those see them who have the trust bundle of some moment.

use signet_proto::spiffe::{JwtSvid, JwtSvidError};

use super::*;
use crate::ca::{JwtRequest, JwtStep};
use crate::store::model::KnownJwtKey;

const MINUTES: Duration = Duration::from_secs(300);

fn token(authority: &Authority, ttl: Duration) -> String {
    let (id, audience) = (id("/orders"), ["billing".to_owned()]);
    let issuer = Some("https://control.mesh.local");
    let ask = JwtRequest { id: &id, audience: &audience, issuer, expires_at: time::now() + ttl };
    authority.sign_jwt(&ask).unwrap().token
}

fn believed(token: &str, bundle: &TrustBundle) -> Result<JwtSvid, JwtSvidError> {
    JwtSvid::verify(token, "billing", |_| Some(bundle.jwt_authorities()), time::now())
}

async fn in_phase(authority: &Authority, phase: Phase) -> KnownJwtKey {
    authority.jwt_key_named("jwt", &[phase]).await.unwrap().unwrap()
}

#[tokio::test]
async fn tokens_are_believed_by_whoever_has_the_bundle_of_before_or_after_their_key_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let before = authority.bundle();
    let first = token(&authority, MINUTES);
    let svid = believed(&first, &before).unwrap();
    assert_eq!((svid.id, svid.claims["iss"].as_str()), (id("/orders"), Some("https://control.mesh.local")));

    authority.prepare_jwt_key(Actor::control()).await.unwrap();
    let both = authority.bundle();
    assert_eq!(both.jwt_authorities().keys().len(), 2);
    assert!(both.sequence() > before.sequence());
    assert!(believed(&token(&authority, MINUTES), &before).is_ok(), "the next one signs nothing yet");
    let prepared = in_phase(&authority, Phase::Prepared).await;
    let early = authority.activate_jwt_key(&prepared, false, Actor::control()).await.unwrap_err();
    assert!(early.to_string().contains("may keep them until"), "{early}");
    authority.activate_jwt_key(&prepared, true, Actor::control()).await.unwrap();
    drop(authority);

    let authority = open(&directory, 30 * DAY).await.unwrap();
    let second = token(&authority, MINUTES);
    assert_eq!(believed(&second, &both).unwrap().key_id, prepared.id);
    assert!(believed(&second, &before).is_err(), "so it is announced first");
    assert!(believed(&first, &authority.bundle()).is_ok(), "its key retires");

    // What is lost is believed by nobody, and another one signs.
    let lost = in_phase(&authority, Phase::Active).await;
    let ended = authority.compromised_jwt_key(&lost, Duration::ZERO, "test".into(), Actor::control()).await;
    ended.unwrap();
    assert!(believed(&second, &authority.bundle()).is_err());
    assert!(believed(&token(&authority, MINUTES), &authority.bundle()).is_ok());
    assert!(authority.jwt_due(time::now()).is_empty());
    let later = time::now() + 7 * DAY;
    let due = authority.jwt_due(later);
    assert!(due.contains(&JwtStep::Prepare) && due.iter().any(|step| matches!(step, JwtStep::Remove(_))));
}
