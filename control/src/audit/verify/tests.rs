use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::audit::testing::{self, chain, checkpoint};
use crate::audit::{AuditSigner, Line};

/// Twelve events, checkpoints of three of them.
fn record() -> (Vec<AuditEvent>, Vec<Checkpoint>, AuditSigner) {
    let (events, signer) = (chain(12), testing::signer());
    let checkpoints = [3, 7, 10].map(|sequence: usize| checkpoint(&signer, &events[sequence - 1]));
    (events, checkpoints.to_vec(), signer)
}

fn whole(events: &[AuditEvent], checkpoints: &[Checkpoint], signer: &AuditSigner) -> Report {
    verify(events.to_vec(), checkpoints.to_vec(), signer.public(), Start::Genesis)
}

/// Makes hashes fit again from an event on, as somebody would who can write the store.
fn rehash(events: &mut [AuditEvent], from: usize) {
    for index in from..events.len() {
        let previous = if index == 0 { crate::audit::GENESIS } else { events[index - 1].hash };
        events[index].hash = events[index].expected_hash(&previous);
    }
}

#[test]
fn intact_record_says_what_is_covered() {
    let (events, checkpoints, signer) = record();
    let report = whole(&events, &checkpoints, &signer);
    assert!(report.is_intact() && report.is_whole(), "{report}");
    assert_eq!((report.intact_to, report.covered_to, report.tail, report.checkpoints), (12, 10, 2, 3));
    assert_eq!(report.head, events[11].hash);
    let text = report.to_string();
    assert!(text.contains("intact up to event 12") && text.contains("the 2 after it are only"), "{text}");
}

#[test]
fn record_without_checkpoints_is_only_self_consistent() {
    let (events, _, signer) = record();
    let report = whole(&events, &[], &signer);
    assert_eq!((report.covered_to, report.tail), (0, 12));
    assert!(report.to_string().contains("only self-consistent"));
    assert!(whole(&[], &[], &signer).is_intact());
}

#[test]
fn restored_old_store_is_truncated() {
    let (events, checkpoints, signer) = record();
    let report = whole(&events[..8], &checkpoints, &signer);
    assert_eq!(report.finding, Some(Finding::Truncated { from: 9, to: 10, at: checkpoints[2].at }));
    assert!(report.to_string().contains("the store lacks events 9 to 10"), "{report}");
    let report = whole(&[], &checkpoints, &signer);
    assert_eq!(report.finding.unwrap().first_bad_event(), 1);
}

#[test]
fn history_that_was_written_anew_is_found_by_its_checkpoint() {
    let (mut events, checkpoints, signer) = record();
    events[4].subject.push('x');
    assert_eq!(whole(&events, &checkpoints, &signer).finding, Some(Finding::Altered(5)));
    rehash(&mut events, 4);
    let report = whole(&events, &checkpoints, &signer);
    assert_eq!(report.finding, Some(Finding::Rewritten { from: 4, to: 7, at: checkpoints[1].at }));
    assert_eq!((report.intact_to, report.covered_to), (6, 3));
    events.remove(1);
    for (index, event) in events.iter_mut().enumerate() {
        event.sequence = index as u64 + 1;
    }
    rehash(&mut events, 0);
    let finding = whole(&events, &checkpoints, &signer).finding.unwrap();
    assert!(matches!(finding, Finding::Rewritten { from: 1, to: 3, .. }), "{finding}");
}

#[test]
fn only_the_tail_can_be_written_anew() {
    let (mut events, checkpoints, signer) = record();
    events[10].subject.push('x');
    rehash(&mut events, 10);
    let report = whole(&events, &checkpoints, &signer);
    assert!(report.is_intact(), "nothing speaks of it yet");
    assert_eq!(report.tail, 2, "and the report says so");
}

#[test]
fn checkpoints_go_forward_and_are_signed_by_one_key() {
    let (events, checkpoints, signer) = record();
    let finding = |list: Vec<Checkpoint>| whole(&events, &list, &signer).finding;
    let why = |list| match finding(list) {
        Some(Finding::Checkpoint { because, .. }) => because,
        other => panic!("{other:?}"),
    };
    let [first, second, third] = checkpoints.try_into().unwrap();
    assert_eq!(finding(vec![first.clone(), first.clone(), second.clone(), first.clone()]), None, "repeats");
    assert_eq!(why(vec![first.clone(), third, second.clone()]), CheckpointError::NotMonotonic);
    let mut early = checkpoint(&signer, &events[6]);
    early.at = first.at - std::time::Duration::from_secs(1);
    early.signature = signer.sign(&early.signed_bytes()).unwrap();
    assert_eq!(why(vec![first.clone(), early]), CheckpointError::NotMonotonic);
    let mut other = second.clone();
    other.revision += 1;
    other.signature = signer.sign(&other.signed_bytes()).unwrap();
    assert_eq!(why(vec![first.clone(), second.clone(), other]), CheckpointError::Contradiction);
    let mut foreign = second;
    foreign.trust_domain = "other".parse().unwrap();
    foreign.signature = signer.sign(&foreign.signed_bytes()).unwrap();
    assert_eq!(why(vec![first.clone(), foreign]), CheckpointError::OtherDomain);
    let stranger = testing::signer();
    assert_eq!(why(vec![first, checkpoint(&stranger, &events[6])]), CheckpointError::OtherKey);
}

#[test]
fn copy_from_the_middle_is_anchored_by_the_checkpoint_before_it() {
    let (events, checkpoints, signer) = record();
    let from = |index: usize| {
        verify(events[index..].to_vec(), checkpoints.clone(), signer.public(), Start::Anywhere)
    };
    let anchored = from(3);
    assert!(anchored.is_intact() && !anchored.is_whole());
    assert_eq!((anchored.from, anchored.verified, anchored.checkpoints), (4, 9, 3));
    assert_eq!(anchored.given, None);
    let given = from(4);
    assert_eq!((given.verified, given.covered_to, given.given), (7, 10, Some(5)));
    assert!(given.to_string().contains("event 5 is taken as given"), "{given}");
    assert_eq!(
        (from(10).tail, from(10).given),
        (2, None),
        "the checkpoint of event 10 shows what 11 follows"
    );
    assert_eq!((from(11).tail, from(11).given), (0, Some(12)));
    // A checkpoint of the first event itself signs its hash: of its text nothing is shown, and that is said.
    let mut first = events[6..].to_vec();
    first[0].subject.push('x');
    let report = verify(first, checkpoints.clone(), signer.public(), Start::Anywhere);
    assert_eq!((report.is_intact(), report.given, report.verified), (true, Some(7), 5));
    let mut forged = events.clone();
    forged[3].subject.push('x');
    let report = verify(forged[3..].to_vec(), checkpoints.clone(), signer.public(), Start::Anywhere);
    assert_eq!(report.finding, Some(Finding::Altered(4)));
    let report = whole(&events[3..], &checkpoints, &signer);
    assert_eq!(report.finding, Some(Finding::Missing { from: 1, to: 3 }), "control has to show all");
}

#[test]
fn repeated_events_are_recognised_and_other_ones_are_not() {
    let (events, checkpoints, signer) = record();
    let repeated = [&events[..8], &events[4..], &events[11..]].concat();
    assert!(whole(&repeated, &checkpoints, &signer).is_intact());
    assert!(whole(&[&events[..8], &events[..]].concat(), &checkpoints, &signer).is_intact());
    let mut other = repeated;
    other[9].detail.push(' ');
    assert_eq!(whole(&other, &checkpoints, &signer).finding, Some(Finding::Altered(6)));
    let mut swapped = events;
    swapped.swap(5, 6);
    let finding = whole(&swapped, &checkpoints, &signer).finding;
    assert_eq!(finding, Some(Finding::Missing { from: 6, to: 6 }));
}

/// A copy as a sink holds it: events, and each checkpoint after its event.
fn copy() -> (Vec<String>, AuditSigner) {
    let (events, checkpoints, signer) = record();
    let lines = events.into_iter().flat_map(|event| {
        let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.sequence == event.sequence).cloned();
        [Some(Line::Event(event)), checkpoint.map(Line::Checkpoint)].into_iter().flatten()
    });
    (lines.map(|line| line.to_string()).collect(), signer)
}

/// Reads it back; anything that is no line is found, too.
fn finding(text: &[u8], key: &AuditKey) -> Option<String> {
    let Ok(text) = std::str::from_utf8(text) else { return Some("not UTF-8".into()) };
    let (mut events, mut checkpoints) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match Line::parse(line) {
            Ok(Line::Event(event)) => events.push(event),
            Ok(Line::Checkpoint(checkpoint)) => checkpoints.push(checkpoint),
            Err(error) => return Some(error.to_string()),
        }
    }
    verify(events, checkpoints, key, Start::Genesis).finding.map(|finding| finding.to_string())
}

#[test]
fn every_truncation_before_a_later_checkpoint_is_found() {
    let (events, checkpoints, signer) = record();
    for length in 0..10 {
        assert!(!whole(&events[..length], &checkpoints, &signer).is_intact(), "cut to {length}");
    }
}

#[test]
fn every_missing_event_line_is_found_and_every_swap() {
    let (lines, signer) = copy();
    let text = |lines: &[String]| lines.join("\n").into_bytes();
    assert_eq!(finding(&text(&lines), signer.public()), None);
    let events: BTreeSet<usize> =
        (0..lines.len() - 1).filter(|index| lines[*index].starts_with("{\"event\"")).collect();
    for index in events {
        let mut cut = lines.clone();
        cut.remove(index);
        assert!(finding(&text(&cut), signer.public()).is_some(), "line {index} missing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_mutation_of_a_byte_is_found(position in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0..3) {
        let (lines, signer) = copy();
        let mut text = (lines.join("\n") + "\n").into_bytes();
        let at = position.index(text.len() - 1);
        match how {
            0 if text[at] == byte => return Ok(()),
            0 => text[at] = byte,
            // Cutting a line's end and adding a blank line are mutations, too.
            1 => drop(text.remove(at)),
            _ => text.insert(at, byte),
        }
        // A carriage return before the end of a line is the one thing that `lines` forgives.
        prop_assume!(!(text.windows(2).any(|pair| pair == b"\r\n")));
        prop_assert!(finding(&text, signer.public()).is_some(), "{how} at {at}: {byte}");
    }
}
