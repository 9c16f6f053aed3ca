//! Whether a record of events is what was written: the chain from event to event, and each checkpoint against the
//! event that it speaks of. Pure, and in one pass over the events.
//!
//! What is found, and what it proves:
//!
//! | found | means |
//! | --- | --- |
//! | intact up to N, covered by a checkpoint | nobody without the signing key changed, removed or added anything up to there |
//! | a copy from the middle, its first event taken as given | all after it is what was written; its own text is not proven, as its hash covers the event before |
//! | a tail of M events after the last checkpoint | only self-consistent: whoever can write the store could have made it |
//! | altered at N, or missing from N to M | the chain is broken there |
//! | rewritten up to N | the chain holds, but it is not the one that was signed |
//! | truncated | a checkpoint speaks of events that are not there: an old backup was restored, or the end was cut |
//!
//! Copies are made at least once, so an event or checkpoint that repeats what was just read is no finding; one that
//! says something else about it is.

use std::collections::VecDeque;
use std::fmt;
use std::time::SystemTime;

use super::chain::{AuditEvent, BrokenChain, ChainVerifier};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::key::AuditKey;
use crate::time;

/// How far back repeated events are recognised: many times what a sink is sent at once.
const WINDOW: usize = 4096;

/// Where a record has to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event ever.
    Genesis,
    /// Anywhere; its first event is believed if a checkpoint speaks of the one before, or else taken as given: nothing
    /// shows that its text is what was written.
    Anywhere,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// An event is not what was written.
    #[error("event {0} was altered: its hash does not match it and the event before")]
    Altered(u64),
    /// Events are not there, and later ones are.
    #[error("{} missing: the next one is event {}", events(*from, *to), to.saturating_add(1))]
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// An event stands where it does not belong.
    #[error("event {found} stands after event {after}, where it does not belong")]
    Disorder {
        /// The newest event before it.
        after: u64,
        /// It.
        found: u64,
    },
    /// A checkpoint speaks of another event with this number.
    #[error(
        "{} rewritten: the chain holds, but event {to} is not the one that the checkpoint of {} was made for",
        events(*from, *to), time::rfc3339(*at)
    )]
    Rewritten {
        /// The first event that may be concerned: the one after the last good checkpoint.
        from: u64,
        /// The event of the checkpoint.
        to: u64,
        /// When the checkpoint was made.
        at: SystemTime,
    },
    /// A checkpoint speaks of an event that is not there yet.
    #[error(
        "the store lacks {}, which the checkpoint of {} covers: restored from an old backup or cut",
        events(*from, *to), time::rfc3339(*at)
    )]
    Truncated {
        /// The first event that is not there.
        from: u64,
        /// The event of the newest checkpoint.
        to: u64,
        /// When that was made.
        at: SystemTime,
    },
    /// A checkpoint is not to be believed.
    #[error("checkpoint of event {sequence}: {because}")]
    Checkpoint {
        /// The event it speaks of.
        sequence: u64,
        /// Why not.
        because: CheckpointError,
    },
}

fn events(from: u64, to: u64) -> String {
    if from == to { format!("event {from}") } else { format!("events {from} to {to}") }
}

impl Finding {
    /// The first event that cannot be relied on.
    #[must_use]
    pub fn first_bad_event(&self) -> u64 {
        match self {
            Self::Altered(sequence) | Self::Checkpoint { sequence, .. } => *sequence,
            Self::Missing { from, .. } | Self::Rewritten { from, .. } | Self::Truncated { from, .. } => *from,
            Self::Disorder { found, .. } => *found,
        }
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first event of the record; 0 if it has none.
    pub from: u64,
    /// The last event up to which the chain holds.
    pub intact_to: u64,
    /// That event's hash.
    pub head: [u8; 32],
    /// Events whose hashes were recomputed.
    pub verified: u64,
    /// The first event, if it was taken as given: its hash can be signed, but not its text, as that takes the event
    /// before it.
    pub given: Option<u64>,
    /// The event of the last checkpoint that fits; 0 without any.
    pub covered_to: u64,
    /// Checkpoints that fit.
    pub checkpoints: u64,
    /// Events after the last checkpoint that fits: only self-consistent.
    pub tail: u64,
    /// The first thing that is wrong, if anything is.
    pub finding: Option<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.finding.is_none()
    }

    /// Whether it begins with the first event ever.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.from <= 1
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            Some(finding) => writeln!(f, "audit broken: {finding}")?,
            None => write!(f, "audit intact up to event {}", self.intact_to)?,
        }
        let reach = if self.is_whole() { "from the first on" } else { "not from the first on" };
        match &self.finding {
            Some(_) => writeln!(f, "intact up to event {}, {reach} (#{})", self.intact_to, self.from)?,
            None => writeln!(f, ": {} events verified, {reach} (#{})", self.verified, self.from)?,
        }
        if let Some(given) = self.given {
            writeln!(
                f,
                "event {given} is taken as given: that its text is what was written takes the one before it, or a \
                 checkpoint of that"
            )?;
        }
        match (self.checkpoints, self.tail) {
            (0, _) => writeln!(f, "no checkpoint: the chain is only self-consistent"),
            (count, 0) => writeln!(f, "{count} signed checkpoints, up to event {}", self.covered_to),
            (count, tail) => writeln!(
                f,
                "{count} signed checkpoints, up to event {}; the {tail} after it are only self-consistent",
                self.covered_to
            ),
        }
    }
}

/// Checkpoints that one key signed, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointList(VecDeque<Checkpoint>);

impl CheckpointList {
    /// Checks signatures and order; repeats are dropped.
    ///
    /// # Errors
    /// The first checkpoint that is not to be believed.
    pub fn verified(
        checkpoints: impl IntoIterator<Item = Checkpoint>,
        key: &AuditKey,
    ) -> Result<Self, Finding> {
        let mut list = Self::default();
        for checkpoint in checkpoints {
            list.add(checkpoint, key)?;
        }
        Ok(list)
    }

    /// Adds one more.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn add(&mut self, checkpoint: Checkpoint, key: &AuditKey) -> Result<(), Finding> {
        let refused = |because| Finding::Checkpoint { sequence: checkpoint.sequence, because };
        checkpoint.verify(key).map_err(refused)?;
        match self.0.back() {
            Some(newest) if checkpoint.sequence <= newest.sequence => {
                let position = self.0.binary_search_by_key(&checkpoint.sequence, |known| known.sequence);
                let known = position.ok().and_then(|position| self.0.get(position));
                match known {
                    Some(known) if *known == checkpoint => return Ok(()),
                    Some(_) => return Err(refused(CheckpointError::Contradiction)),
                    None => return Err(refused(CheckpointError::NotMonotonic)),
                }
            }
            Some(newest) => checkpoint.follows(newest).map_err(refused)?,
            None => {}
        }
        self.0.push_back(checkpoint);
        Ok(())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Verifies a whole record at once.
#[must_use]
pub fn verify(
    events: impl IntoIterator<Item = AuditEvent>,
    checkpoints: impl IntoIterator<Item = Checkpoint>,
    key: &AuditKey,
    start: Start,
) -> Report {
    let (list, refused) = match CheckpointList::verified(checkpoints, key) {
        Ok(list) => (list, None),
        Err(finding) => (CheckpointList::default(), Some(finding)),
    };
    let mut verifier = Verifier::new(start, list);
    if let Some(finding) = refused {
        return verifier.broken(finding);
    }
    for event in events {
        if let Err(finding) = verifier.take(&event) {
            return verifier.broken(finding);
        }
    }
    verifier.finish()
}

/// Verifies a record event by event, however long it is.
#[derive(Debug)]
pub struct Verifier {
    chain: Option<ChainVerifier>,
    pending: VecDeque<Checkpoint>,
    /// The newest events, to recognise repeats.
    recent: VecDeque<(u64, [u8; 32])>,
    from: u64,
    given: Option<u64>,
    head: [u8; 32],
    covered_to: u64,
    checkpoints: u64,
}

impl Verifier {
    /// For a record that begins at `start`.
    #[must_use]
    pub fn new(start: Start, checkpoints: CheckpointList) -> Self {
        Self {
            chain: (start == Start::Genesis).then(ChainVerifier::from_genesis),
            pending: checkpoints.0,
            recent: VecDeque::new(),
            from: 0,
            given: None,
            head: [0; 32],
            covered_to: 0,
            checkpoints: 0,
        }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// What is wrong with it; nothing after it can be verified.
    pub fn take(&mut self, event: &AuditEvent) -> Result<(), Finding> {
        if self.is_repeated(event)? {
            return Ok(());
        }
        let chain = match &mut self.chain {
            Some(chain) => chain,
            none => {
                let (chain, anchored) = begin(event, &mut self.pending);
                if let Some(sequence) = anchored {
                    self.covered_to = sequence;
                    self.checkpoints += 1;
                } else if event.sequence > 1 {
                    self.given = Some(event.sequence);
                }
                none.insert(chain)
            }
        };
        chain.take(event).map_err(|broken| match broken {
            BrokenChain::Gap { expected, found } if found > expected => {
                Finding::Missing { from: expected, to: found - 1 }
            }
            BrokenChain::Gap { expected, found } => {
                Finding::Disorder { after: expected.saturating_sub(1), found }
            }
            BrokenChain::Hash(sequence) => Finding::Altered(sequence),
        })?;
        if self.from == 0 {
            self.from = event.sequence;
        }
        if let Some(checkpoint) = self.pending.pop_front_if(|next| next.sequence == event.sequence) {
            if checkpoint.hash != event.hash {
                let from = self.covered_to.max(self.from.saturating_sub(1)) + 1;
                return Err(Finding::Rewritten { from, to: event.sequence, at: checkpoint.at });
            }
            self.covered_to = event.sequence;
            self.checkpoints += 1;
        }
        self.head = event.hash;
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back((event.sequence, event.hash));
        Ok(())
    }

    /// The last event taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.chain.as_ref().map_or(0, ChainVerifier::position)
    }

    /// What became of it, when there are no more events.
    #[must_use]
    pub fn finish(self) -> Report {
        let position = self.position();
        let truncated = self
            .pending
            .back()
            .filter(|newest| newest.sequence > position)
            .map(|newest| Finding::Truncated { from: position + 1, to: newest.sequence, at: newest.at });
        self.report(truncated)
    }

    /// What became of it, when something is wrong.
    #[must_use]
    pub fn broken(self, finding: Finding) -> Report {
        self.report(Some(finding))
    }

    fn report(self, finding: Option<Finding>) -> Report {
        // The event that broke the rule of a checkpoint was taken by the chain already.
        let intact_to = self.recent.back().map_or(0, |(sequence, _)| *sequence);
        Report {
            from: self.from,
            intact_to,
            head: self.head,
            verified: self.chain.as_ref().map_or(0, ChainVerifier::verified),
            given: self.given,
            covered_to: self.covered_to,
            checkpoints: self.checkpoints,
            tail: intact_to
                .saturating_sub(self.covered_to.max(self.given.unwrap_or(self.from.saturating_sub(1)))),
            finding,
        }
    }

    /// Whether exactly this event was read a moment ago.
    fn is_repeated(&self, event: &AuditEvent) -> Result<bool, Finding> {
        let Some((oldest, _)) = self.recent.front() else { return Ok(false) };
        let position = self.position();
        if event.sequence > position {
            return Ok(false);
        }
        let known = |sequence: u64| {
            let index = usize::try_from(sequence.checked_sub(*oldest)?).ok()?;
            self.recent.get(index).map(|(_, hash)| hash)
        };
        let Some(hash) = known(event.sequence) else {
            return Err(Finding::Disorder { after: position, found: event.sequence });
        };
        let same = match event.sequence.checked_sub(1).and_then(known) {
            Some(previous) => event.expected_hash(previous) == event.hash,
            None if event.sequence == 1 => event.expected_hash(&super::GENESIS) == event.hash,
            // The one before it is not known any more: nothing shows that its text is the same.
            None => return Err(Finding::Disorder { after: position, found: event.sequence }),
        };
        if same && event.hash == *hash { Ok(true) } else { Err(Finding::Altered(event.sequence)) }
    }
}

/// How to begin with an event that may be any: checkpoints of what came before are of no use, except that of the
/// event right before it.
fn begin(first: &AuditEvent, checkpoints: &mut VecDeque<Checkpoint>) -> (ChainVerifier, Option<u64>) {
    if first.sequence <= 1 {
        return (ChainVerifier::from_genesis(), None);
    }
    let mut before = None;
    while let Some(checkpoint) = checkpoints.pop_front_if(|next| next.sequence < first.sequence) {
        before = Some(checkpoint);
    }
    match before {
        Some(checkpoint) if checkpoint.sequence + 1 == first.sequence => {
            let sequence = checkpoint.sequence;
            (ChainVerifier::from_point(sequence, checkpoint.hash), Some(sequence))
        }
        _ => (ChainVerifier::from_middle(), None),
    }
}

#[cfg(test)]
mod tests;
