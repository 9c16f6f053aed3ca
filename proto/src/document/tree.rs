//! The plain tree that both text forms are read into, with the place of each node.
//!
//! Documents are read from this tree through [`Place`](super::Place) rather than through derived
//! deserializers, so that every error, of form or of meaning, can name its line, its key, and what was
//! expected. A name that occurs twice in a mapping is refused here already.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value and where it begins, counted from 1; 0 when the text form does not tell (JSON).
#[derive(Debug)]
pub struct Node {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Nothing,
    Boolean(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Node,
}

impl Node {
    /// The line it begins on, from 1; 0 when the text form does not tell.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

impl Value {
    fn node(self) -> Node {
        Node { line: 0, column: 0, value: self }
    }
}

/// What an error message says was found: kind, and content if it is short.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Boolean(value) => write!(f, "`{value}`"),
            Self::Number(text) => write!(f, "the number {}", Excerpt(text)),
            Self::Text(text) => write!(f, "\"{}\"", Excerpt(text)),
            Self::List(items) if items.is_empty() => f.write_str("an empty list"),
            Self::List(_) => f.write_str("a list"),
            Self::Mapping(entries) if entries.is_empty() => f.write_str("an empty mapping"),
            Self::Mapping(_) => f.write_str("a mapping"),
        }
    }
}

/// The beginning of a text, escaped so that it stays on one line of any terminal.
pub(crate) struct Excerpt<'a>(pub(crate) &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        self.0.chars().take(SHOWN).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        if self.0.chars().nth(SHOWN).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// From JSON.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Value::node)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(key) = members.next_key::<String>()? {
            if entries.len() == MAX_ENTRIES {
                return Err(de::Error::custom(TOO_MANY_ENTRIES));
            }
            if entries.iter().any(|entry| entry.key == key) {
                return Err(de::Error::custom(format_args!("`{}` is there twice", Excerpt(&key))));
            }
            let value = members.next_value()?;
            entries.push(Entry { key, line: 0, column: 0, value });
        }
        Ok(Value::Mapping(entries))
    }
}

/// No mapping of any kind of document has more than a dozen keys; looking for duplicates is quadratic.
pub(super) const MAX_ENTRIES: usize = 64;
pub(super) const TOO_MANY_ENTRIES: &str = "expected a mapping with at most 64 keys";
