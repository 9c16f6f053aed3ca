//! Requests in flight to one app: so many at once, a few more wait for a while, and the rest is shed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::traffic::Limits;
use tokio::sync::oneshot;

/// The way to one app.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    /// The oldest first. Those who lost their patience are still in it, until their turn comes.
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// A place in flight, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    /// None: the place was taken back.
    gate: Option<Arc<Gate>>,
    limit: u32,
}

/// A request was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// There are enough who wait.
    #[error("the app has all it can take, and as many wait already (`limits` of the service)")]
    QueueFull,
    /// It waited for too long.
    #[error("the app has all it can take, and nothing came free in time (`limits.wait` of the service)")]
    Deadline,
}

impl Shed {
    /// The label value.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Deadline => "deadline",
        }
    }
}

impl Gate {
    pub(super) async fn enter(self: &Arc<Self>, limits: Limits) -> Result<Permit, Shed> {
        let turn = {
            let mut state = self.0.lock();
            if state.in_flight < limits.requests {
                state.in_flight += 1;
                return Ok(Permit { gate: Some(Arc::clone(self)), limit: limits.requests });
            }
            state.waiting.retain(|waiting| !waiting.is_closed());
            if state.waiting.len() >= limits.queue as usize {
                return Err(Shed::QueueFull);
            }
            let (give, turn) = oneshot::channel();
            state.waiting.push_back(give);
            turn
        };
        match tokio::time::timeout(limits.wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Shed::Deadline),
        }
    }
}

impl State {
    /// Gives places that came free to those who have waited longest and still do.
    fn hand_on(&mut self, gate: &Arc<Gate>, limit: u32) {
        while self.in_flight < limit {
            let Some(waiting) = self.waiting.pop_front() else { return };
            match waiting.send(Permit { gate: Some(Arc::clone(gate)), limit }) {
                Ok(()) => self.in_flight += 1,
                // Nobody waits there any more.
                Err(mut unwanted) => unwanted.gate = None,
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            let mut state = gate.0.lock();
            state.in_flight = state.in_flight.saturating_sub(1);
            state.hand_on(&gate, self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(requests: u32, queue: u32) -> Limits {
        Limits { requests, queue, wait: Duration::from_secs(5) }
    }

    fn in_flight(gate: &Gate) -> u32 {
        gate.0.lock().in_flight
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_waits_and_what_is_more_is_shed() {
        let gate = Arc::new(Gate::default());
        let limits = limits(2, 1);
        let first = gate.enter(limits).await.unwrap();
        let _second = gate.enter(limits).await.unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(limits).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.enter(limits).await.unwrap_err(), Shed::QueueFull);
        drop(first);
        let third = waiting.await.unwrap().unwrap();
        assert_eq!(in_flight(&gate), 2);
        assert_eq!(gate.enter(limits).await.unwrap_err(), Shed::Deadline);
        drop(third);
        assert_eq!(in_flight(&gate), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn places_of_those_who_lost_their_patience_are_not_lost() {
        let gate = Arc::new(Gate::default());
        let limits = limits(1, 100);
        for _ in 0..50 {
            let held = gate.enter(limits).await.unwrap();
            let all: Vec<_> = (0..20)
                .map(|number| {
                    let gate = Arc::clone(&gate);
                    let patience = Duration::from_millis(number);
                    tokio::spawn(
                        async move { tokio::time::timeout(patience, gate.enter(limits)).await.is_ok() },
                    )
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(held);
            for waiting in all {
                let _ = waiting.await.unwrap();
            }
            assert_eq!(in_flight(&gate), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_lets_those_in_flight_end() {
        let gate = Arc::new(Gate::default());
        let three: Vec<_> = [gate.enter(limits(3, 1)).await, gate.enter(limits(3, 1)).await].into();
        assert_eq!(gate.enter(limits(1, 0)).await.unwrap_err(), Shed::QueueFull);
        drop(three);
        assert!(gate.enter(limits(1, 0)).await.is_ok());
    }
}
