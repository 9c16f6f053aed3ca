//! The book of changes: how many proxies have not acknowledged each.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::policies::Concerned;

/// Changes of which the count is kept. Who asks about an older one waits for a look at everybody.
const CHANGES: usize = 1024;

/// The newest changes, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Book {
    changes: VecDeque<Change>,
    /// Of the newest state, ever growing; and its revision, which may go back with a store.
    generation: u64,
    revision: u64,
    forgotten: u64,
}

/// One change of the state.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) generation: u64,
    /// It contains what is new after this revision ...
    after: u64,
    /// ... up to this one.
    revision: u64,
    pub(super) concerned: Concerned,
    /// Streams that have not acknowledged it.
    pub(super) open: usize,
}

/// What one stream owes, or owed: all changes of these generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The message that told it.
    pub(super) sent: Option<u32>,
    pub(super) acknowledged_at: Option<SystemTime>,
    pub(super) closed: u64,
}

impl Book {
    /// The first state.
    pub(super) fn begin(&mut self, revision: u64) {
        (self.revision, self.forgotten) = (revision, revision);
    }

    /// The newest state is as of this revision, too.
    pub(super) fn pass(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Enters a change; nobody owes it yet. Returns its generation.
    pub(super) fn enter(&mut self, after: u64, revision: u64, concerned: Concerned) -> u64 {
        if self.changes.len() == CHANGES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.revision;
        }
        self.generation += 1;
        self.revision = revision;
        self.changes.push_back(Change { generation: self.generation, after, revision, concerned, open: 0 });
        self.generation
    }

    /// Revisions of before mean nothing any more.
    pub(super) fn start_over(&mut self, revision: u64) {
        self.changes.clear();
        self.forgotten = 0;
        self.enter(0, revision, Concerned::Everyone);
    }

    /// Whoever has just come owes all there is.
    pub(super) fn owe_all(&mut self) -> Entry {
        self.changes.iter_mut().for_each(|change| change.open += 1);
        Entry { first: 0, ..Entry::of_uncounted(self.generation) }
    }

    /// Nothing of this entry is owed any more. True if that was the last of a change.
    pub(super) fn settle(&mut self, entry: &Entry) -> bool {
        let mut last = false;
        for change in self.within(entry.first, entry.last) {
            change.open = change.open.saturating_sub(1);
            last |= change.open == 0;
        }
        last
    }

    /// Makes of two entries that follow each other one, which is settled when the later one is.
    pub(super) fn join(&mut self, earlier: &mut Entry, later: &Entry) {
        for change in self.within(earlier.last + 1, later.first.saturating_sub(1)) {
            change.open += 1;
        }
        *earlier = Entry { first: earlier.first, ..later.clone() };
    }

    fn owe(&mut self, generation: u64) {
        self.within(generation, generation).for_each(|change| change.open += 1);
    }

    /// The change that contains `revision`.
    pub(super) fn find(&self, revision: u64) -> Option<&Change> {
        let at = self.changes.partition_point(|change| change.revision < revision);
        self.changes.get(at).filter(|change| change.after < revision)
    }

    /// The newest revision of which nothing is known any more.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Of the newest state.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Of the state before `generation`, if that is known.
    pub(super) fn revision_before(&self, generation: u64) -> Option<u64> {
        let at = self.changes.partition_point(|change| change.generation < generation);
        self.changes.get(at).filter(|change| change.generation == generation).map(|change| change.after)
    }

    fn within(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Change> {
        let from = self.changes.partition_point(|change| change.generation < first);
        self.changes.iter_mut().skip(from).take_while(move |change| change.generation <= last)
    }
}

impl Entry {
    /// Of one change, counted as owed.
    pub(super) fn of(generation: u64, book: &mut Book) -> Self {
        book.owe(generation);
        Self::of_uncounted(generation)
    }

    fn of_uncounted(generation: u64) -> Self {
        Self { first: generation, last: generation, sent: None, acknowledged_at: None, closed: 0 }
    }

    pub(super) fn covers(&self, generation: u64) -> bool {
        (self.first..=self.last).contains(&generation)
    }
}
