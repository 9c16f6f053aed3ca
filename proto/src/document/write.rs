//! Trees into YAML, in one form: the same tree gives the same text, and [`super::from_yaml`] reads the
//! same tree from it.

use std::fmt::Write;

use serde_saphyr::granit_parser::ScalarStyle;

use super::tree::{Node, Value};
use super::yaml;

/// A list of scalars stays on the line of its key up to this column.
const LINE: usize = 100;
/// Words that older YAML readers take for something else than text.
const AMBIGUOUS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// The document in block style, keys in the order of the tree.
#[must_use]
pub fn to_yaml(document: &Node) -> String {
    let mut text = String::new();
    match &document.value {
        Value::Mapping(entries) if !entries.is_empty() => block(&mut text, &document.value, 0),
        Value::List(items) if !items.is_empty() => block(&mut text, &document.value, 0),
        value => {
            text.push_str(&inline(value).unwrap_or_default());
            text.push('\n');
        }
    }
    text
}

/// A mapping or list that is not empty, each of its parts on lines of their own.
fn block(text: &mut String, value: &Value, indent: usize) {
    let margin = " ".repeat(indent);
    match value {
        Value::Mapping(entries) => {
            for entry in entries {
                text.push_str(&margin);
                after(text, &format!("{}:", scalar(&entry.key)), &entry.value.value, indent);
            }
        }
        Value::List(items) => {
            for item in items {
                text.push_str(&margin);
                match (&item.value, inline(&item.value)) {
                    (_, Some(inline)) => {
                        text.push_str("- ");
                        text.push_str(&inline);
                        text.push('\n');
                    }
                    (value, None) => {
                        // The first line of the item stands behind its dash.
                        let mut nested = String::new();
                        block(&mut nested, value, indent + 2);
                        text.push_str("- ");
                        text.push_str(nested.get(indent + 2..).unwrap_or_default());
                    }
                }
            }
        }
        _ => {}
    }
}

/// A key and its value: on the same line if that is short, below it otherwise.
fn after(text: &mut String, key: &str, value: &Value, indent: usize) {
    let is_list = matches!(value, Value::List(items) if !items.is_empty());
    text.push_str(key);
    match inline(value) {
        Some(inline) if !is_list || indent + key.len() + inline.len() < LINE => {
            text.push(' ');
            text.push_str(&inline);
            text.push('\n');
        }
        _ => {
            text.push('\n');
            block(text, value, indent + 2);
        }
    }
}

/// What fits on one line: scalars, lists of them, and what is empty.
fn inline(value: &Value) -> Option<String> {
    match value {
        Value::Nothing => Some("null".into()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Number(text) => Some(text.clone()),
        Value::Text(text) => Some(scalar(text)),
        Value::Mapping(entries) => entries.is_empty().then(|| "{}".into()),
        Value::List(items) => {
            let plain = |item: &Node| match &item.value {
                Value::List(_) | Value::Mapping(_) => None,
                value => inline(value),
            };
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            items.map(|items| format!("[{}]", items.join(", ")))
        }
    }
}

/// Plain if no reader can take it for anything else, quoted otherwise.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            ' ' => quoted.push(' '),
            _ if character.is_ascii_graphic() || character.is_alphanumeric() => quoted.push(character),
            _ => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(character));
            }
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_./@+-: ".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(harmless)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !AMBIGUOUS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && matches!(yaml::scalar(text, ScalarStyle::Plain), Value::Text(_))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree::Entry;
    use super::*;
    use crate::document::{Limits, from_yaml};

    const ONE: Limits = Limits { bytes: 1 << 20, documents: 1 };

    /// Trees without their places.
    fn shape(node: &Node) -> String {
        match &node.value {
            Value::List(items) => format!("{:?}", items.iter().map(shape).collect::<Vec<_>>()),
            Value::Mapping(entries) => {
                format!(
                    "{:?}",
                    entries.iter().map(|entry| (&entry.key, shape(&entry.value))).collect::<Vec<_>>()
                )
            }
            scalar => format!("{scalar:?}"),
        }
    }

    fn nodes() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            Just(()).prop_map(|()| Value::Nothing),
            any::<bool>().prop_map(Value::Boolean),
            any::<i32>().prop_map(|number| Value::Number(number.to_string())),
            "\\PC{0,8}|[-a-z0-9:# .{}\\[\\],&*!|>%@`'\"\n\t]{0,12}|null|~|yes|Off|0x1f|1e3|---|spiffe://td/\\{a\\}/b"
                .prop_map(Value::Text),
            any::<String>().prop_map(Value::Text),
        ];
        let node = |value| Node { line: 0, column: 0, value };
        leaf.prop_map(node).prop_recursive(4, 40, 5, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List);
            let mapping = prop::collection::btree_map("[a-z.]{1,6}|\\PC{1,4}", inner, 0..5).prop_map(|map| {
                let entry = |(key, value)| Entry { key, line: 0, column: 0, value };
                Value::Mapping(map.into_iter().map(entry).collect())
            });
            prop_oneof![list, mapping].prop_map(node)
        })
    }

    #[test]
    fn a_document_looks_as_people_write_it() {
        let text = "\
kind: Policy
name: payments
target: spiffe://prod.example/payments
rules:
  - name: checkout-charges
    allow:
      from: [spiffe://prod.example/checkout]
      ports: [8080]
      http:
        methods: [POST]
        paths: [\"/charge/*\"]
    until: 2027-01-31T00:00:00Z
  - name: all
    deny: {}
purpose: \"it's: \\\"quoted\\\" \\U0000202E\"
";
        let documents = from_yaml("p.yaml", text, ONE).unwrap();
        assert_eq!(to_yaml(&documents[0]), text);
    }

    #[test]
    fn long_lists_go_below_their_key() {
        let items: Vec<String> = (0..9).map(|n| format!("spiffe://prod.example/w{n}")).collect();
        let document = from_yaml("p.yaml", &format!("from: [{}]", items.join(", ")), ONE).unwrap();
        assert!(to_yaml(&document[0]).starts_with("from:\n  - spiffe://prod.example/w0\n  - "));
        let empty = format!("{}: []\n", "k".repeat(LINE));
        assert_eq!(to_yaml(&from_yaml("p.yaml", &empty, ONE).unwrap()[0]), empty);
    }

    #[test]
    fn what_only_begins_like_a_number_is_text() {
        for (text, number) in
            [("0x1f", true), ("0o17", true), ("-1.5e3", true), ("0x", false), ("0xg", false)]
        {
            let read = from_yaml("p.yaml", text, ONE).unwrap();
            assert_eq!(matches!(read[0].value, Value::Number(_)), number, "{text}");
        }
        let folded = from_yaml("p.yaml", "- 0x1a|m\n t\n\n  more\n", ONE).unwrap();
        assert_eq!(to_yaml(&folded[0]), "- \"0x1a|m t\\nmore\"\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(node in nodes()) {
            prop_assume!(!matches!(node.value, Value::Nothing));
            let text = to_yaml(&node);
            let read = from_yaml("p.yaml", &text, ONE).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(read.len(), 1, "{}", text);
            prop_assert_eq!(shape(&read[0]), shape(&node), "{}", text);
        }
    }
}
