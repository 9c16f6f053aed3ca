//! Proxies that read only an older schema of policy documents: whom a document concerns, and what that means.

use std::fmt::Write;

use signet_proto::policy::{Direction, Document, Narrowed, Schema};
use signet_proto::spiffe::SpiffeId;

/// Proxies that one warning names.
const NAMED: usize = 5;

/// A proxy that reads only an older schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OlderReader {
    /// Whose.
    pub id: SpiffeId,
    /// Its version.
    pub version: String,
    /// What it reads.
    pub schema: Schema,
}

/// What one should know of documents that proxies read only in part, one line each.
#[must_use]
pub fn warnings<'a>(
    documents: impl IntoIterator<Item = &'a Document>,
    readers: &[OlderReader],
) -> Vec<String> {
    documents.into_iter().filter_map(|document| warning(document, readers)).collect()
}

fn warning(document: &Document, readers: &[OlderReader]) -> Option<String> {
    let reads_less = |reader: &&OlderReader| {
        document.whom.matches(&reader.id) && document.narrowed(reader.schema) != Narrowed::Same
    };
    let mut concerned: Vec<&OlderReader> = readers.iter().filter(reads_less).collect();
    if concerned.is_empty() {
        return None;
    }
    concerned.sort();
    let mut named = String::new();
    for (position, reader) in concerned.iter().take(NAMED).enumerate() {
        let separator = if position == 0 { "" } else { ", " };
        let _ = write!(named, "{separator}{} ({})", reader.id, reader.version);
    }
    if concerned.len() > NAMED {
        let _ = write!(named, " and {} more", concerned.len() - NAMED);
    }
    let meanwhile = match document.direction {
        Direction::Inbound => {
            "they leave out its allow rules that ask for cidrs, hosts, headers or grpc, and its deny rules stop more"
        }
        Direction::Egress => "they do not restrict whom their app calls",
    };
    Some(format!(
        "policy `{}` concerns proxies that read only an older policy language, {named}: until they are upgraded, \
         {meanwhile}",
        document.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(yaml: &str) -> Document {
        signet_proto::policy::parse_yaml("p.yaml", yaml).unwrap().remove(0)
    }

    fn reader(name: &str, schema: Schema) -> OlderReader {
        OlderReader { id: format!("spiffe://td/{name}").parse().unwrap(), version: "0.1.0".into(), schema }
    }

    #[test]
    fn only_proxies_that_a_document_concerns_and_that_read_less_are_named() {
        let readers: Vec<_> = (0..7)
            .map(|n| reader(&format!("a/{n}"), Schema::First))
            .chain([reader("b", Schema::First), reader("a/new", Schema::NEWEST)])
            .collect();
        let plain = document("{kind: Policy, name: p, target: spiffe://td/*, rules: [{name: r, allow: {}}]}");
        assert_eq!(warnings([&plain], &readers), Vec::<String>::new());
        let asks = |whom: &str| {
            document(&format!(
                "{{kind: Policy, name: p, target: {whom}, rules: [{{name: r, allow: {{cidrs: [10.0.0.0/8]}}}}]}}"
            ))
        };
        assert_eq!(warnings([&asks("spiffe://td/c")], &readers), Vec::<String>::new());
        let told = warnings([&asks("spiffe://td/a/*")], &readers);
        assert!(
            told[0].contains("spiffe://td/a/0 (0.1.0), ") && told[0].contains(" and 2 more: until"),
            "{told:?}"
        );
        assert!(!told[0].contains("a/new"), "{told:?}");
        let egress = document("{kind: Policy, name: e, source: spiffe://td/b, rules: []}");
        assert!(warnings([&egress], &readers)[0].ends_with("they do not restrict whom their app calls"));
    }
}
