//! What wakes one stream, and why: set from any thread, taken by the stream. What is set twice before it is taken is
//! there once; so a slow proxy costs no queue.

use std::collections::HashSet;

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;
use tokio::sync::Notify;

/// Services that are remembered one by one; more are all.
const MOST_SERVICES: usize = 256;

/// One stream's.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    notify: Notify,
}

/// What happened since it was asked last.
#[derive(Debug, Default)]
pub struct Rung {
    /// The state changed in something that may concern the proxy.
    pub state: bool,
    /// The proxy does not have what it was told: everything is sent again.
    pub whole: bool,
    /// These may have moved.
    pub services: Moved,
    /// The stream ends.
    pub ended: Option<Ended>,
}

/// Services that may have moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Moved {
    /// None.
    #[default]
    None,
    /// These.
    Some(HashSet<SpiffeId>),
    /// Any of them.
    All,
}

/// Why control ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The instance has a newer one.
    Superseded,
    /// Control ends.
    ShuttingDown,
    /// This replica has no database.
    CutOff,
}

impl Bell {
    /// Takes what happened, without waiting.
    #[must_use]
    pub fn take(&self) -> Rung {
        std::mem::take(&mut *self.rung.lock())
    }

    /// Waits until something happened.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    pub(super) fn state(&self) {
        self.ring(|rung| rung.state = true);
    }

    pub(super) fn whole(&self) {
        self.ring(|rung| rung.whole = true);
    }

    pub(super) fn end(&self, why: Ended) {
        self.ring(|rung| rung.ended = Some(why));
    }

    /// One service moved.
    pub(super) fn service(&self, id: &SpiffeId) {
        self.ring(|rung| match &mut rung.services {
            Moved::All => {}
            Moved::Some(known) => {
                known.insert(id.clone());
                if known.len() > MOST_SERVICES {
                    rung.services = Moved::All;
                }
            }
            Moved::None => rung.services = Moved::Some(HashSet::from([id.clone()])),
        });
    }

    fn ring(&self, what: impl FnOnce(&mut Rung)) {
        what(&mut self.rung.lock());
        self.notify.notify_one();
    }
}

impl Rung {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.state && !self.whole && self.services == Moved::None && self.ended.is_none()
    }

    /// Only services moved: that can wait for others that move at the same time.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        !self.state && !self.whole && self.ended.is_none()
    }

    /// Both.
    pub fn join(&mut self, later: Self) {
        self.state |= later.state;
        self.whole |= later.whole;
        self.ended = self.ended.or(later.ended);
        self.services = match (std::mem::take(&mut self.services), later.services) {
            (Moved::None, moved) | (moved, Moved::None) => moved,
            (Moved::Some(mut one), Moved::Some(other)) => {
                one.extend(other);
                Moved::Some(one)
            }
            _ => Moved::All,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happens_before_it_is_asked_is_there_once() {
        let bell = Bell::default();
        bell.state();
        bell.service(&"spiffe://td/a".parse().unwrap());
        bell.service(&"spiffe://td/a".parse().unwrap());
        bell.rung().await;
        let rung = bell.take();
        assert!(rung.state && !rung.can_wait());
        assert_eq!(rung.services, Moved::Some(HashSet::from(["spiffe://td/a".parse().unwrap()])));
        assert!(bell.take().is_nothing());
    }

    #[test]
    fn memory_of_what_moved_is_bounded() {
        let bell = Bell::default();
        for number in 0..=MOST_SERVICES {
            bell.service(&format!("spiffe://td/a{number}").parse().unwrap());
        }
        assert_eq!(bell.take().services, Moved::All);
        bell.service(&"spiffe://td/a".parse().unwrap());
        let mut rung = bell.take();
        assert!(rung.can_wait() && !rung.is_nothing());
        rung.join(Rung { services: Moved::All, ..Rung::default() });
        assert_eq!(rung.services, Moved::All);
    }
}
