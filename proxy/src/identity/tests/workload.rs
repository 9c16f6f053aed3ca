//! SVIDs for apps, against a control that answers as it is told.

use signet_proto::handshake::Revocations;
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::{TrustBundle, certificate_handle};
use signet_proto::v1;
use tokio::sync::{Notify, watch};
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
        Self::start_with(life, false).await
    }

    /// The app's SVID is by an intermediate, if wanted; ours is not.
    async fn start_with(life: Duration, by_intermediate: bool) -> Self {
        let control = Control::start(HOUR).await;
        let (_directory, proof) = by_token("eyJ.the.token");
        let (joining, mesh) = (control.joining(proof), mesh());
        let addresses = Arc::new(Addresses::new(joining.control.clone()));
        join(&joining, &addresses, &mesh).await.unwrap();
        mesh.update(|inputs| inputs.policy = Some(Arc::new(PolicySet::empty()))).unwrap();
        let intermediate = by_intermediate.then(|| control.intermediate());
        control.state(|state| (state.life, state.intermediate) = (life, intermediate));
        let (sender, standing) = watch::channel(Standing::none_yet());
        let lender = Lender { control: addresses, mesh: Arc::clone(&mesh), ttl_seconds: 0 };
        let task = tokio::spawn(async move { lender.lend("uid=1000", sender).await });
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

    fn revoke(&self, list: v1::Revocations) {
        self.mesh.update(|inputs| inputs.revocations = Revocations::try_from(list).unwrap()).unwrap();
    }

    fn revoke_instance(&self, lent: &Lent) {
        let instance = lent.svid().profile().instance.unwrap().to_string();
        let instances = vec![v1::RevokedInstance { instance, lapsed: false }];
        self.revoke(v1::Revocations { instances, ..v1::Revocations::default() });
    }

    fn order_renewal(&self) {
        let issued_before = Some((signet_proto::clock::now() + HOUR).into());
        let order = v1::RenewalOrder { issued_before, within: None };
        self.mesh.order_renewal(RenewalOrder::read(&order).unwrap());
    }

    /// Nobody makes another instance for the app.
    async fn stays_refused(&mut self, attested: usize) {
        let other =
            tokio::time::timeout(Duration::from_secs(1), self.standing.wait_for(|now| !is_refused(now)));
        assert!(other.await.is_err(), "an operator took it out");
        assert_eq!(self.attested(), attested);
    }
}

fn away() -> impl Iterator<Item = Status> {
    (0..200).map(|_| Status::unavailable("away"))
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
    lending.order_renewal();
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
    let lent = lending.has().await;
    let revoked = because::with(Status::permission_denied("no"), "revoked_instance");
    lending.control.state(|state| state.to_renew.extend((0..50).map(|_| revoked.clone())));
    lending.revoke_instance(&lent);
    lending.until("it is refused", is_refused).await;
    let control = lending.control.clone();
    eventually("control was asked", || control.state(|state| state.renewed > 0)).await;
    lending.revoke(v1::Revocations::default());
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
async fn whom_the_list_took_out_is_not_vouched_for_again_though_control_cannot_say_so() {
    let mut lending = Lending::start(Duration::from_secs(2)).await;
    let lent = lending.has().await;
    lending.control.state(|state| state.to_renew.extend(away()));
    lending.revoke_instance(&lent);
    lending.until("it is refused", is_refused).await;
    // As when entries go whose certificates have ended.
    lending.revoke(v1::Revocations::default());
    // From then on control cannot be asked: nobody handshakes with what has ended.
    eventually("its end", || signet_proto::clock::now() >= lent.svid().end()).await;
    lending.stays_refused(2).await;
}

#[tokio::test]
async fn a_workload_that_was_suspended_and_is_resumed_is_vouched_for_again() {
    let mut lending = Lending::start(Duration::from_secs(2)).await;
    let lent = lending.has().await;
    lending.control.state(|state| state.to_renew.extend(away()));
    let identities = vec![lent.svid().id().to_string()];
    lending.revoke(v1::Revocations { identities, ..v1::Revocations::default() });
    lending.until("it is refused", is_refused).await;
    let control = lending.control.clone();
    eventually("it is lost", || control.state(|state| state.attested.len() > 2)).await;
    lending.revoke(v1::Revocations::default());
    lending.another(&lent.svid().profile().serial).await;
}

#[tokio::test]
async fn whose_issuer_alone_is_revoked_is_vouched_for_again() {
    let mut lending = Lending::start_with(HOUR, true).await;
    let lent = lending.has().await;
    let issuer = certificate_handle(&lent.svid().chain()[1]).unwrap();
    let refused = because::with(Status::permission_denied("no"), "revoked_certificate");
    lending.control.state(|state| {
        state.intermediate = None;
        state.to_renew.extend((0..50).map(|_| refused.clone()));
    });
    lending.order_renewal();
    // Our own list is late: until it comes, control's word may be about the app's own certificate.
    lending.until("it is refused", is_refused).await;
    assert_eq!(lending.attested(), 2);
    let (issuer_sha256, serial) = (issuer.issuer_sha256.to_vec(), issuer.serial);
    lending.revoke(v1::Revocations {
        certificates: vec![v1::RevokedCertificate { issuer_sha256, serial }],
        keys: vec![issuer.spki_sha256.to_vec()],
        ..v1::Revocations::default()
    });
    lending.another(&lent.svid().profile().serial).await;
    assert_eq!(lending.attested(), 3);
}

#[tokio::test]
async fn the_svid_of_a_lost_instance_serves_until_there_is_another() {
    let mut lending = Lending::start(HOUR).await;
    let lent = lending.has().await;
    let forgotten = because::with(Status::permission_denied("no"), because::INSTANCE_UNKNOWN);
    lending.control.state(|state| {
        state.to_renew.push_back(forgotten);
        state.to_attest.push_back(Status::permission_denied("no"));
        state.to_attest.push_back(Status::unavailable("away"));
        state.to_attest.push_back(Status::unavailable("away"));
    });
    lending.standing.mark_unchanged();
    lending.order_renewal();
    let control = lending.control.clone();
    eventually("tried in vain", || control.state(|state| state.attested.len() > 4)).await;
    lending.standing.changed().await.unwrap();
    let Standing::Has(other) = lending.standing.borrow_and_update().clone() else {
        panic!("{:?} though the SVID is good", lending.standing.borrow())
    };
    assert!(!Arc::ptr_eq(&lent, &other), "what changes is that there is another");
}

#[tokio::test]
async fn a_lost_instance_that_is_taken_out_before_there_is_another_stays_so() {
    let mut lending = Lending::start(HOUR).await;
    let lent = lending.has().await;
    let forgotten = because::with(Status::permission_denied("no"), because::INSTANCE_UNKNOWN);
    lending.control.state(|state| {
        state.to_renew.push_back(forgotten);
        state.to_renew.extend(away());
        state.to_attest.extend(away());
    });
    lending.order_renewal();
    let control = lending.control.clone();
    eventually("tried in vain", || control.state(|state| state.attested.len() > 3)).await;
    lending.revoke_instance(&lent);
    lending.until("it is refused", is_refused).await;
    eventually("asked to renew", || control.state(|state| state.renewed > 1)).await;
    control.state(|state| state.to_attest.clear());
    let attested = lending.attested();
    lending.stays_refused(attested).await;
}

#[tokio::test]
async fn what_is_revoked_during_a_slow_renewal_is_told_at_once() {
    let mut lending = Lending::start(HOUR).await;
    let lent = lending.has().await;
    let hold = Arc::new(Notify::new());
    lending.control.state(|state| state.hold_renewals = Some(Arc::clone(&hold)));
    lending.order_renewal();
    let control = lending.control.clone();
    eventually("control was asked", || control.state(|state| state.renewed > 0)).await;
    lending.revoke_instance(&lent);
    lending.until("it is refused", is_refused).await;
    hold.notify_one();
    lending.another(&lent.svid().profile().serial).await;
    assert_eq!(control.state(|state| state.renewed), 1, "told while that was waited for");
}

#[tokio::test]
async fn while_control_is_away_what_is_valid_stays_and_what_ended_is_none() {
    let mut lending = Lending::start(Duration::from_secs(2)).await;
    let first = lending.has().await;
    lending.control.state(|state| {
        state.to_renew.extend(away());
        state.to_attest.extend(away());
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
    let lend = tokio::spawn(async move { lender.lend("uid=1000", sender).await });
    standing.wait_for(is_refused).await.unwrap();
    standing.wait_for(|now| matches!(now, Standing::Has(_))).await.unwrap();
    lend.abort();
}
