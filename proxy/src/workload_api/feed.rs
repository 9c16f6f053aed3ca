//! What one stream is to show: nothing is queued, the newest state is looked at when the stream has room for it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::spiffe::{TrustBundle, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::identity::{Lent, Standing};
use crate::mesh::Mesh;

/// For the first answer. Whoever hears that there is none comes again.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// All that a caller may be told, of one moment.
#[derive(Debug)]
pub(super) struct Material {
    /// Its SVID, if it asked for one.
    pub(super) lent: Option<Arc<Lent>>,
    /// Our trust domain.
    pub(super) domain: TrustDomain,
    /// Of all trust domains.
    pub(super) bundles: Vec<TrustBundle>,
}

/// The changes of that, for one stream.
#[derive(Debug)]
pub(super) struct Feed {
    mesh: Arc<Mesh>,
    generations: watch::Receiver<u64>,
    standing: Option<watch::Receiver<Standing>>,
    stop: CancellationToken,
    shown: Option<Arc<Material>>,
}

impl Feed {
    pub(super) fn new(
        mesh: &Arc<Mesh>,
        standing: Option<watch::Receiver<Standing>>,
        stop: CancellationToken,
    ) -> Self {
        Self { mesh: Arc::clone(mesh), generations: mesh.generations(), standing, stop, shown: None }
    }

    /// The next state that differs from the one before. May be dropped while it waits.
    ///
    /// # Errors
    /// When there is nothing any more: UNAVAILABLE, or PERMISSION_DENIED if somebody decided so.
    pub(super) async fn next(&mut self) -> Result<Arc<Material>, Status> {
        let mut late = pin!(tokio::time::sleep(FIRST_ANSWER));
        loop {
            self.generations.borrow_and_update();
            let missing = match self.look()? {
                Ok(material) if self.is_news(&material) => {
                    let material = Arc::new(material);
                    self.shown = Some(Arc::clone(&material));
                    return Ok(material);
                }
                Ok(_) => None,
                // What had an SVID has none now: whoever listens shall not think that it is still good.
                Err(why) if self.shown.is_some() => return Err(Status::unavailable(why)),
                Err(why) => Some(why),
            };
            let Self { generations, standing, stop, .. } = self;
            let change = async {
                match standing {
                    Some(standing) => standing.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    return Err(Status::unavailable("the proxy ends, or another one takes over: connect again"));
                }
                changed = generations.changed() => if changed.is_err() { return Err(gone()) },
                is_there = change => if !is_there { return Err(gone()) },
                () = late.as_mut(), if missing.is_some() => {
                    return Err(Status::unavailable(missing.unwrap_or_default()));
                }
            }
        }
    }

    /// What there is now, or why not yet.
    fn look(&mut self) -> Result<Result<Material, String>, Status> {
        let Some((own, trust)) = self.mesh.credentials() else {
            return Ok(Err("the proxy has no identity yet".into()));
        };
        let bundles = trust.bundles().cloned().collect();
        let mut material = Material { lent: None, domain: own.id().trust_domain().clone(), bundles };
        let Some(standing) = &mut self.standing else { return Ok(Ok(material)) };
        match &*standing.borrow_and_update() {
            Standing::Has(lent) => material.lent = Some(Arc::clone(lent)),
            Standing::Without(why) => return Ok(Err(why.to_string())),
            Standing::Refused(why) => return Err(Status::permission_denied(why.to_string())),
        }
        Ok(Ok(material))
    }

    fn is_news(&self, now: &Material) -> bool {
        self.shown.as_ref().is_none_or(|before| {
            let same_svid = match (&before.lent, &now.lent) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                _ => false,
            };
            !same_svid || before.domain != now.domain || before.bundles != now.bundles
        })
    }
}

fn gone() -> Status {
    Status::unavailable("the proxy ends: connect again")
}

impl Material {
    /// The bundle of our trust domain.
    pub(super) fn own_bundle(&self) -> Option<&TrustBundle> {
        self.bundles.iter().find(|bundle| *bundle.trust_domain() == self.domain)
    }
}
