//! Things found by whose they are: of one identity, or of all below one, without a look at the others.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;

/// The index.
#[derive(Debug)]
pub(super) struct ByIdentity<T> {
    entries: BTreeMap<Name, Vec<T>>,
}

/// Ordered like its text, so that a subtree is one range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) SpiffeId);

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

impl<T> Default for ByIdentity<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T: PartialEq> ByIdentity<T> {
    pub(super) fn insert(&mut self, id: &SpiffeId, value: T) {
        let values = self.entries.entry(Name(id.clone())).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    pub(super) fn remove(&mut self, id: &SpiffeId, value: &T) {
        if let Some(values) = self.entries.get_mut(id.as_str()) {
            values.retain(|known| known != value);
            if values.is_empty() {
                self.entries.remove(id.as_str());
            }
        }
    }

    /// Those of all whom `pattern` means, in the order of identities.
    pub(super) fn matching<'a>(&'a self, pattern: &'a Pattern) -> Box<dyn Iterator<Item = &'a T> + 'a> {
        match pattern {
            Pattern::Exact(id) => Box::new(self.entries.get(id.as_str()).into_iter().flatten()),
            Pattern::Subtree(subtree) => {
                Box::new(below(&self.entries, subtree.prefix()).flat_map(|(_, values)| values))
            }
        }
    }

    /// Everybody's, in the order of identities.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.entries.values().flatten()
    }
}

/// All entries of names that begin with `prefix`.
pub(super) fn below<'a, V>(
    entries: &'a BTreeMap<Name, V>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a Name, &'a V)> {
    let from = (Bound::Included(prefix), Bound::Unbounded);
    entries.range::<str, _>(from).take_while(move |(name, _)| name.0.as_str().starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_finds_whom_a_look_at_everybody_finds(
            ids in proptest::collection::vec("spiffe://td(/[a.-]{0,1}[ab]){1,3}", 0..20),
            removed in proptest::collection::vec(0..20_usize, 0..8),
            pattern in "spiffe://td(/[a.-]{0,1}[ab]){0,2}/\\*|spiffe://td(/[a.-]{0,1}[ab]){1,3}",
        ) {
            let pattern: Pattern = pattern.parse().unwrap();
            let ids: Vec<SpiffeId> = ids.iter().map(|id| id.parse().unwrap()).collect();
            let mut index = ByIdentity::default();
            let mut naive: Vec<(SpiffeId, usize)> = Vec::new();
            for (number, id) in ids.iter().enumerate() {
                index.insert(id, number);
                naive.push((id.clone(), number));
            }
            for number in removed.into_iter().filter(|number| *number < ids.len()) {
                index.remove(&ids[number], &number);
                naive.retain(|(_, known)| *known != number);
            }
            let mut found: Vec<_> = index.matching(&pattern).copied().collect();
            found.sort_unstable();
            let expected = naive.iter().filter(|(id, _)| pattern.matches(id)).map(|(_, number)| *number);
            prop_assert_eq!(found, expected.collect::<Vec<_>>());
            prop_assert_eq!(index.all().count(), naive.len());
        }
    }
}
