//! How long to wait before asking control again, and what to say meanwhile: a request that is held for approval is
//! asked about now and then, and told about once.

use std::time::Duration;

use super::control::IdentityError;
use crate::backoff::Backoff;

/// People take their time.
const HELD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The waits of one joiner.
pub(super) struct Patience {
    failing: Backoff,
    held: Backoff,
    told: Option<String>,
}

impl Patience {
    /// With these waits, the first and the longest, while control cannot be reached.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { failing: Backoff::new(first, longest), held: Backoff::new(HELD.0, HELD.1), told: None }
    }

    /// The wait after this failure.
    pub(super) fn after(&mut self, error: &IdentityError) -> Duration {
        if !error.is_held() {
            let delay = self.failing.next_delay();
            tracing::warn!(%error, ?delay, "cannot join yet, will try again");
            return delay;
        }
        if self.is_news(error.to_string()) {
            tracing::warn!(%error, "the request is held: asking again until it is approved or refused");
        }
        self.failing.reset();
        self.held.next_delay()
    }

    fn is_news(&mut self, said: String) -> bool {
        let said = Some(said);
        let news = self.told != said;
        self.told = said;
        news
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::control::ControlError;

    fn failure(status: Status) -> IdentityError {
        ControlError::from(status).into()
    }

    #[test]
    fn a_held_request_is_no_refusal_and_is_asked_about_ever_more_rarely() {
        let held = failure(Status::failed_precondition("request 7 waits for approval"));
        assert!(held.is_held() && !held.is_final());
        assert!(failure(Status::permission_denied("refused")).is_final());
        let mut patience = Patience::new(Duration::from_millis(100), Duration::from_secs(10));
        assert!(patience.after(&held) >= HELD.0 / 2);
        let delays: Vec<_> = (0..20).map(|_| patience.after(&held)).collect();
        assert!(delays.iter().all(|delay| *delay <= HELD.1), "{delays:?}");
        assert!(delays.last().unwrap() >= &(HELD.1 / 2));
        let lost = failure(Status::unavailable("gone"));
        assert!(patience.after(&lost) <= Duration::from_millis(100), "control is only restarting");
    }

    #[test]
    fn what_is_held_is_told_once_until_the_message_changes() {
        let mut patience = Patience::new(HELD.0, HELD.1);
        let told = ["one of two", "one of two", "two of two", "two of two"]
            .map(|message| patience.is_news(message.to_owned()));
        assert_eq!(told, [true, false, true, false]);
    }
}
