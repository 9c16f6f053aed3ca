//! The traffic secrets of a handshake. rustls keeps them to itself, with much that a connection has no use for once
//! its handshake is done, and tells them only to a key log: so there is one, which listens while a handshake goes on and
//! has them wiped. Nobody else hears them.

use std::cell::RefCell;

use rustls::KeyLog;
use zeroize::Zeroizing;

thread_local! {
    /// Of the handshake that rustls goes on with just now.
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

/// What both ends protect their bytes with at first.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) client: Zeroizing<Vec<u8>>,
    pub(super) server: Zeroizing<Vec<u8>>,
}

impl Heard {
    /// Listens to what rustls does in `advance`.
    pub(super) fn during<T>(&mut self, advance: impl FnOnce() -> T) -> T {
        HEARD.replace(Some(std::mem::take(self)));
        let outcome = advance();
        *self = HEARD.take().unwrap_or_default();
        outcome
    }
}

/// The key log of every configuration.
#[derive(Debug)]
pub(super) struct Listener;

impl KeyLog for Listener {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| {
            let Some(heard) = heard else { return };
            match label {
                CLIENT => heard.client = secret.to_vec().into(),
                SERVER => heard.server = secret.to_vec().into(),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER) && HEARD.with_borrow(Option::is_some)
    }
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_hears_its_own_secrets_and_else_nobody_hears_any() {
        let (mut one, mut other) = (Heard::default(), Heard::default());
        assert!(!Listener.will_log(CLIENT), "nobody listens");
        Listener.log(CLIENT, &[0; 32], &[9; 32]);
        one.during(|| Listener.log(CLIENT, &[1; 32], &[1; 32]));
        other.during(|| {
            assert!(Listener.will_log(CLIENT) && Listener.will_log(SERVER));
            assert!(!Listener.will_log("EXPORTER_SECRET"));
            Listener.log(SERVER, &[2; 32], &[2; 32]);
        });
        one.during(|| Listener.log(SERVER, &[1; 32], &[3; 48]));
        assert!(!Listener.will_log(SERVER), "nobody listens any more");
        assert_eq!((&**one.client, &**one.server), (&[1; 32][..], &[3; 48][..]));
        assert_eq!((&**other.client, &**other.server), (&[][..], &[2; 32][..]));
    }
}
