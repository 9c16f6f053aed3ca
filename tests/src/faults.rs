//! How long faults go on, and at which points they come.

use std::env;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

const IN_THE_GATE: u64 = 20;

/// Faults go on for as long as `SIGNET_FAULT_SECONDS` says.
#[derive(Debug)]
pub struct Faults {
    until: Instant,
    state: u64,
    count: usize,
}

impl Faults {
    /// From now on. The seed is printed; `SIGNET_FAULT_SEED` gives another.
    ///
    /// # Panics
    /// When a variable is not a number.
    #[must_use]
    pub fn begin() -> Self {
        let now = signet_proto::clock::now().duration_since(UNIX_EPOCH).expect("after 1970");
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let state = number("SIGNET_FAULT_SEED").unwrap_or(now.as_nanos() as u64).max(1);
        println!("faults by SIGNET_FAULT_SEED={state}");
        Self { until: Instant::now() + duration(), state, count: 0 }
    }

    /// Whether there is time for one more.
    pub fn another(&mut self) -> bool {
        let more = Instant::now() < self.until;
        self.count += usize::from(more);
        more
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// A number below `bound` that nobody foresees.
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let chosen = self.below(choices.len() as u64);
        &choices[usize::try_from(chosen).expect("it was one")]
    }
}

/// How long faults go on.
///
/// # Panics
/// When the variable is not a number.
#[must_use]
pub fn duration() -> Duration {
    Duration::from_secs(number("SIGNET_FAULT_SECONDS").unwrap_or(IN_THE_GATE))
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}
