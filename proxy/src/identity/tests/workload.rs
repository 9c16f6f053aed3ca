//! SVIDs for apps, against a control that answers as it is told.

use signet_proto::handshake::Revocations;
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::TrustBundle;
use signet_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::identity::{Lender, Lent, RenewalOrder, Standing};

/// A proxy that has joined, and lends.
struct Lending {
    control: Control,
    mesh: Arc<Mesh>,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

impl Lending {
    /// With SVIDs of this life for the app; ours lasts.
    async fn start(life: Duration) -> Self {
        let control = Control::start(HOUR).await;
        let (_directory, proof) = by_token("eyJ.the.token");
        let (joining, mesh) = (control.joining(proof), mesh());
        let addresses = Arc::new(Addresses::new(joining.control.clone()));
        join(&joining, &addresses, &mesh).await.unwrap();
        mesh.update(|inputs| inputs.policy = Some(Arc::new(PolicySet::empty()))).unwrap();
        control.state(|state| state.life = life);
        let (sender, standing) = watch::channel(Standing::none_yet());
        let lender = Lender { control: addresses, mesh: Arc::clone(&mesh), ttl_seconds: 0 };
        let task = tokio::spawn(lender.lend(sender));
        Self { control, mesh, standing, task }
    }

    async fn has(&mut self) -> Arc<Lent> {
        let has = self.until("an SVID", |standing| matches!(standing, Standing::Has(_))).await;
        let Standing::Has(lent) = has else { unreachable!() };
        lent
    }

    async fn until(&mut self, what: &str, is_so: impl FnMut(&Standing) -> bool) -> Standing {
        let waited = tokio::time::timeout(PATIENCE, self.standing.wait_for(is_so)).await;
        waited.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}")).unwrap().clone()
    }

    /// The serial of the next one.
    async fn another(&mut self, before: &[u8]) -> Vec<u8> {
        let is_other =
            |now: &Standing| matches!(now, Standing::Has(lent) if lent.svid().profile().serial != before);
        let Standing::Has(lent) = self.until("another", is_other).await else { unreachable!() };
        lent.svid().profile().serial.clone()
    }

    fn attested(&self) -> usize {
        self.control.state(|state| state.attested.len())
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_refused(standing: &Standing) -> bool {
    matches!(standing, Standing::Refused(_))
}

#[tokio::test]
async fn an_app_has_a_key_of_its_own_that_renews_itself() {
    let mut lending = Lending::start(Duration::from_secs(3)).await;
    let lent = lending.has().await;
    let (own, _) = lending.mesh.credentials().unwrap();
    assert_eq!(lent.svid().id(), own.id());
    assert_ne!(lent.svid().profile().spki_sha256, own.profile().spki_sha256, "our key is nobody else's");
    let read = WorkloadKey::signing_key_from_der(&lent.key()).unwrap();
    assert_eq!(sha256(&read.public_key().unwrap()), lent.svid().profile().spki_sha256);
    let proof = lending.control.state(|state| state.attested.last().unwrap().proof.clone());
    assert!(matches!(proof, Some(Message::Svid(_))), "ours vouches for it: {proof:?}");

    let first = lent.svid().profile().serial.clone();
    lending.another(&first).await;
    assert_eq!(lending.attested(), 2, "it renews itself");
}

#[tokio::test]
async fn an_app_s_svid_is_renewed_when_control_orders_it_or_distrusts_its_issuer() {
    let mut lending = Lending::start(HOUR).await;
    let mut before = lending.has().await.svid().profile().serial.clone();
    let renewed = |control: &Control| control.state(|state| state.renewed);
    // As it may be: an order that is tried in vain at first.
    lending.control.state(|state| state.to_renew.push_back(Status::unavailable("away")));
    let issued_before = Some((signet_proto::clock::now() + HOUR).into());
    let order = v1::RenewalOrder { issued_before, within: None };
    lending.mesh.order_renewal(RenewalOrder::read(&order).unwrap());
    before = lending.another(&before).await;
    assert_eq!((renewed(&lending.control), lending.attested()), (2, 2), "once, and as the same instance");

    let bundle = lending.mesh.bundles().remove(0);
    let issuer = lending.mesh.credentials().unwrap().0.profile().issuer_sha256;
    let distrusting =
        TrustBundle::new(bundle.trust_domain().clone(), bundle.authorities().to_vec(), 2).unwrap();
    let distrusting = distrusting.with_superseded(vec![issuer]).unwrap();
    lending.mesh.update(|inputs| inputs.bundles = vec![distrusting.clone()]).unwrap();
    lending.another(&before).await;
    lending.mesh.update(|inputs| inputs.bundles = vec![bundle]).unwrap();
    assert_eq!(lending.attested(), 2);
}

#[tokio::test]
async fn whom_an_operator_took_out_is_told_at_once_and_not_vouched_for_again() {
    let mut lending = Lending::start(HOUR).await;
    let instance = lending.has().await.svid().profile().instance.unwrap();
    let revoked = because::with(Status::permission_denied("no"), "revoked_instance");
    lending.control.state(|state| state.to_renew.extend((0..50).map(|_| revoked.clone())));
    let revoked = v1::RevokedInstance { instance: instance.to_string(), lapsed: false };
    let message = v1::Revocations { instances: vec![revoked], ..v1::Revocations::default() };
    lending.mesh.update(|inputs| inputs.revocations = Revocations::try_from(message).unwrap()).unwrap();
    lending.until("it is refused", is_refused).await;
    let control = lending.control.clone();
    eventually("control was asked", || control.state(|state| state.renewed > 0)).await;
    lending.mesh.update(|inputs| inputs.revocations = Revocations::default()).unwrap();
    eventually("asked again", || control.state(|state| state.renewed > 1)).await;
    assert!(is_refused(&lending.standing.borrow()), "control's word counts");
    assert_eq!(lending.attested(), 2);
}

#[tokio::test]
async fn an_instance_that_control_forgot_is_vouched_for_again() {
    let mut lending = Lending::start(Duration::from_secs(3)).await;
    let forgotten = because::with(Status::permission_denied("no"), because::INSTANCE_UNKNOWN);
    lending.control.state(|state| state.to_renew.push_back(forgotten));
    let first = lending.has().await.svid().profile().serial.clone();
    lending.another(&first).await;
    assert_eq!(lending.attested(), 3);
}

#[tokio::test]
async fn while_control_is_away_what_is_valid_stays_and_what_ended_is_none() {
    let mut lending = Lending::start(Duration::from_secs(2)).await;
    let first = lending.has().await;
    lending.control.state(|state| {
        state.to_renew.extend((0..200).map(|_| Status::unavailable("away")));
        state.to_attest.extend((0..200).map(|_| Status::unavailable("away")));
    });
    let standing = lending.until("it has ended", |now| matches!(now, Standing::Without(_))).await;
    assert!(first.svid().end() <= signet_proto::clock::now(), "{standing:?}");
    lending.control.state(|state| {
        state.to_renew.clear();
        state.to_attest.clear();
    });
    lending.has().await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_told_as_such() {
    let mut lending = Lending::start(HOUR).await;
    lending.has().await;
    let control = lending.control.clone();
    control.state(|state| state.to_attest.push_back(Status::permission_denied("the workload is suspended")));
    let (sender, mut standing) = watch::channel(Standing::none_yet());
    let joining = control.joining(Proof::Ticket(Zeroizing::new(Vec::new())));
    let addresses = Arc::new(Addresses::new(joining.control));
    let lender = Lender { control: addresses, mesh: Arc::clone(&lending.mesh), ttl_seconds: 0 };
    let lend = tokio::spawn(lender.lend(sender));
    standing.wait_for(is_refused).await.unwrap();
    standing.wait_for(|now| matches!(now, Standing::Has(_))).await.unwrap();
    lend.abort();
}
