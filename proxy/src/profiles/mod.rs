//! Profiles of a running proxy, for whom it is too slow or too large: where CPU time goes, and who asked for memory.
//!
//! Off unless the configuration says `profiles`: they cost a little, and say more of a process than everybody who reaches
//! the admin listener need know. Every program has them built in, as the one that misbehaves is the one that runs.
//! One CPU profile at a time, of a bounded time; memory is watched from the start, as what is in use was asked for before
//! anybody looked.

mod pprof;
mod program;
mod sys;

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use self::sys::allocator::{Sampled, give_back, remember};

use self::program::Program;
use self::sys::allocator::{self, RATE};
use self::sys::interrupts::Sampling;

/// In each second of CPU time. Not 100, so that nothing that happens every 10 ms is always met, or never.
const HERTZ: u32 = 99;
/// How often samples are fetched: well before there is no room for more.
const FETCH: Duration = Duration::from_millis(25);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// One at a time.
    #[error("a CPU profile is being taken already: one at a time, try again when it is done")]
    Busy,
    /// The kernel would not.
    #[error("cannot take a profile: {0}")]
    System(#[from] io::Error),
}

/// What was counted, by stack.
#[derive(Debug)]
pub struct Profile {
    /// What each sample counts, and in which unit.
    counts: &'static [(&'static str, &'static str)],
    /// Which of these is meant when nobody says.
    main: usize,
    /// How much of the first of `period` lies between two samples.
    period: (&'static str, &'static str, i64),
    began: SystemTime,
    lasted: Duration,
    /// Samples that there was no room for.
    lost: u64,
    /// Innermost function first.
    stacks: Vec<(Vec<Place>, Vec<i64>)>,
    mappings: Vec<program::Mapping>,
}

/// Where a stack was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    address: u64,
    mapping: Option<usize>,
    function: String,
}

/// Where CPU time goes, for this long.
///
/// # Errors
/// When another one is under way, or the system has no timer for it.
pub async fn cpu(lasts: Duration) -> Result<Profile, ProfileError> {
    // Claimed before files are read: whoever comes second is told at once.
    let mut sampling = Sampling::begin(HERTZ).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => ProfileError::Busy,
        _ => ProfileError::System(error),
    })?;
    let mut program = loaded().await?;
    sampling.start_over();
    let (began, start) = (signet_proto::clock::now(), Instant::now());
    let mut counted = HashMap::<Vec<u64>, i64>::new();
    let mut ticks = interval(FETCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = sleep_until(start + lasts);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = ticks.tick() => sampling.drain(|moment| *counted.entry(program.stack(moment)).or_default() += 1),
        }
    }
    let nanoseconds = 1_000_000_000 / i64::from(HERTZ);
    let stacks = counted.into_iter().map(|(stack, count)| (stack, vec![count, count * nanoseconds]));
    Ok(Profile {
        counts: &[("samples", "count"), ("cpu", "nanoseconds")],
        main: 1,
        period: ("cpu", "nanoseconds", nanoseconds),
        began,
        lasted: start.elapsed(),
        lost: sampling.lost(),
        stacks: stacks.map(|(stack, counts)| (named(&program, &stack), counts)).collect(),
        mappings: program.mappings().to_vec(),
    })
}

/// Who asked for memory, and what of it is in use.
///
/// # Errors
/// When the system does not say how the program is mapped.
pub async fn heap() -> Result<Profile, ProfileError> {
    let program = loaded().await?;
    let (tallies, lost) = allocator::tallies();
    let stacks = tallies.into_iter().map(|(stack, tally)| {
        // The address after a call may be another function's.
        let callers: Vec<u64> = stack.iter().map(|address| address.saturating_sub(1)).collect();
        let counts = [tally.objects, tally.bytes, tally.live_objects, tally.live_bytes];
        (without_allocator(named(&program, &callers)), counts.map(|count| count.round() as i64).to_vec())
    });
    Ok(Profile {
        counts: &[
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes"),
        ],
        main: 3,
        period: ("space", "bytes", i64::from(RATE)),
        began: signet_proto::clock::now(),
        lasted: Duration::ZERO,
        lost,
        stacks: stacks.collect(),
        mappings: program.mappings().to_vec(),
    })
}

async fn loaded() -> io::Result<Program> {
    #[expect(clippy::disallowed_methods, reason = "reads some files whole, one profile at a time")]
    let loading = tokio::task::spawn_blocking(Program::load);
    loading.await.map_err(io::Error::other)?
}

fn named(program: &Program, stack: &[u64]) -> Vec<Place> {
    let places = stack.iter().map(|address| {
        let (mapping, function) = program.at(*address);
        Place { address: *address, mapping, function }
    });
    places.collect()
}

/// Who asked, without the way from there to us.
fn without_allocator(stack: Vec<Place>) -> Vec<Place> {
    let ours = |place: &&Place| {
        let function = &place.function;
        function.contains("profiles::sys::allocator")
            || function.contains("__rust_")
            || function.contains("__rustc")
            || function.starts_with("alloc::")
            || function.starts_with("<alloc::")
    };
    let from = stack.iter().take_while(ours).count();
    if from == stack.len() { stack } else { stack.into_iter().skip(from).collect() }
}

impl Profile {
    /// A line a stack, outermost function first, and how much: what flame graphs are made of.
    ///
    /// # Errors
    /// With what can be counted instead.
    pub fn collapsed(&self, counting: Option<&str>) -> Result<String, String> {
        let place = match counting {
            None => self.main,
            Some(name) => self.counts.iter().position(|(counted, _)| *counted == name).ok_or_else(|| {
                let known: Vec<&str> = self.counts.iter().map(|(counted, _)| *counted).collect();
                format!("expected {}", known.join(", "))
            })?,
        };
        let mut lines = String::new();
        for (stack, counts) in &self.stacks {
            let count = counts.get(place).copied().unwrap_or_default();
            if count == 0 {
                continue;
            }
            for (number, place) in stack.iter().rev().enumerate() {
                let separator = if number == 0 { "" } else { ";" };
                let _ = write!(lines, "{separator}{}", place.function.replace(';', ","));
            }
            let _ = writeln!(lines, " {count}");
        }
        Ok(lines)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn place(address: u64, function: &str) -> Place {
        Place { address, mapping: None, function: function.to_owned() }
    }

    pub(super) fn small() -> Profile {
        Profile {
            counts: &[("samples", "count"), ("cpu", "nanoseconds")],
            main: 1,
            period: ("cpu", "nanoseconds", 10),
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            lasted: Duration::from_secs(2),
            lost: 3,
            stacks: vec![
                (vec![place(3, "leaf"), place(2, "[a; 2]"), place(1, "main")], vec![2, 20]),
                (vec![place(2, "[a; 2]"), place(1, "main")], vec![1, 10]),
                (vec![place(1, "main")], vec![0, 0]),
            ],
            mappings: Vec::new(),
        }
    }

    #[test]
    fn a_stack_is_a_line_from_the_outside_in() {
        let profile = small();
        assert_eq!(profile.collapsed(None).unwrap(), "main;[a, 2];leaf 20\nmain;[a, 2] 10\n");
        assert_eq!(profile.collapsed(Some("samples")).unwrap(), "main;[a, 2];leaf 2\nmain;[a, 2] 1\n");
        assert_eq!(profile.collapsed(Some("bytes")).unwrap_err(), "expected samples, cpu");
    }

    #[test]
    fn what_asked_for_memory_comes_before_the_allocator() {
        let stack =
            ["signet_proxy::profiles::sys::allocator::stack", "__rust_alloc", "alloc::alloc::alloc", "grow"];
        let places = stack.map(|function| place(1, function)).to_vec();
        assert_eq!(without_allocator(places.clone()), [place(1, "grow")]);
        assert_eq!(without_allocator(places[..2].to_vec()).len(), 2);
    }

    #[inline(never)]
    fn busy_beyond_doubt(over: &AtomicBool) -> u64 {
        let mut sum = 1_u64;
        while !over.load(Ordering::Relaxed) {
            for number in 0..10_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
        }
        sum
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_computes_is_seen_one_profile_at_a_time() {
        let over = Arc::new(AtomicBool::new(false));
        let busy = std::thread::spawn({
            let over = Arc::clone(&over);
            move || busy_beyond_doubt(&over)
        });
        let mut first = pin!(cpu(Duration::from_secs(1)));
        let second = tokio::select! {
            biased;
            first = &mut first => panic!("{first:?} in no time"),
            second = cpu(Duration::ZERO) => second,
        };
        assert!(matches!(second, Err(ProfileError::Busy)), "{second:?}");
        let lines = first.await.unwrap().collapsed(Some("samples")).unwrap();
        over.store(true, Ordering::Relaxed);
        let seen = lines.lines().find(|line| line.contains("busy_beyond_doubt")).expect(&lines);
        // From the thread's first function: the stack is whole.
        assert!(seen.contains("spawn") || seen.contains("thread"), "{seen}");
        busy.join().unwrap();
        cpu(Duration::ZERO).await.expect("the next one may begin");
    }
}
