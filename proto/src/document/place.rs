//! A place in a document: what stands there, read as what it should be, or an error that names the place.

use std::time::SystemTime;

use jiff::Timestamp;

use super::error::ParseError;
use super::tree::{Entry, Excerpt, Node, Value};

/// A node and the way to it.
#[derive(Debug)]
pub struct Place<'a> {
    file: &'a str,
    key: String,
    node: &'a Node,
}

impl<'a> Place<'a> {
    /// The whole of a document; `file` is for messages only.
    #[must_use]
    pub fn new(file: &'a str, node: &'a Node) -> Self {
        Self { file, key: String::new(), node }
    }

    /// Which of the known kinds the document says to be, if it says; `what` is what it should be.
    ///
    /// # Errors
    /// When this is no mapping, or its `kind` is none of these.
    pub fn kind<'k>(&self, what: &str, known: &[&'k str]) -> Result<Option<&'k str>, ParseError> {
        let Some(entry) = self.mapping(what)?.iter().find(|entry| entry.key == "kind") else {
            return Ok(None);
        };
        let kind = self.below(entry);
        let known_kinds: Vec<String> = known.iter().map(|kind| format!("`{kind}`")).collect();
        let expected = match known_kinds.as_slice() {
            [first @ .., second, last] if !first.is_empty() => {
                format!("{}, {second} or {last}", first.join(", "))
            }
            kinds => kinds.join(" or "),
        };
        let text = kind.text(&expected)?;
        match known.iter().find(|known| **known == text) {
            Some(known) => Ok(Some(known)),
            None => Err(kind.expected(&expected)),
        }
    }

    /// An error about this place.
    #[must_use]
    pub fn fail(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            file: self.file.to_owned(),
            line: self.node.line,
            column: self.node.column,
            key: self.key.clone(),
            message: message.into(),
        }
    }

    /// The error that something else was expected here than was found.
    #[must_use]
    pub fn expected(&self, what: &str) -> ParseError {
        self.fail(format!("expected {what}, found {}", self.node.value))
    }

    fn below(&self, entry: &'a Entry) -> Self {
        let separator = if self.key.is_empty() { "" } else { "." };
        Place { file: self.file, key: format!("{}{separator}{}", self.key, entry.key), node: &entry.value }
    }

    /// The text at this place; `what` it should be.
    ///
    /// # Errors
    /// When there is no text.
    pub fn text(&self, what: &str) -> Result<&'a str, ParseError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.expected(what)),
        }
    }

    /// What the text at this place means; `what` it should be.
    ///
    /// # Errors
    /// When there is no text, or none that means this.
    pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, what: &str) -> Result<T, ParseError> {
        let text = self.text(what)?;
        text.parse()
            .map_err(|error| self.fail(format!("expected {what}, found {}: {error}", self.node.value)))
    }

    /// The number at this place, as written.
    #[must_use]
    pub fn number(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Number(text) => Some(text),
            _ => None,
        }
    }

    /// The port at this place, written as one writes a port: `+80`, `080` (octal to some) and `8e3` are not.
    ///
    /// # Errors
    /// When there is none.
    pub fn port(&self) -> Result<u16, ParseError> {
        const EXPECTED: &str = "a port, a whole number from 1 to 65535";
        let number = self.number().filter(|text| text.starts_with(|c: char| ('1'..='9').contains(&c)));
        number.and_then(|text| text.parse().ok()).ok_or_else(|| self.expected(EXPECTED))
    }

    /// Whether `true` or `false` is at this place, if one of them is.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// The moment at this place, in RFC 3339.
    ///
    /// # Errors
    /// When there is none.
    pub fn time(&self) -> Result<SystemTime, ParseError> {
        const EXPECTED: &str = "a time as in RFC 3339, such as `2027-01-31T00:00:00Z`";
        let text = self.text(EXPECTED)?;
        // The parser also takes what RFC 9557 and others add.
        let shape: String = text.chars().take(20).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let seconds_shape = shape.get(..19).is_some_and(|shape| shape == "0000-00-00T00:00:00");
        let offset = || text.len().checked_sub(6).and_then(|at| text.get(at..)).is_some_and(is_offset);
        if !seconds_shape || !(text.ends_with('Z') || offset()) {
            return Err(self.expected(EXPECTED));
        }
        text.parse::<Timestamp>().map(SystemTime::from).map_err(|_| self.expected(EXPECTED))
    }

    /// The items of the list at this place.
    ///
    /// # Errors
    /// When there is no list, or a longer one.
    pub fn items(&self, what: &str, most: usize) -> Result<Vec<Self>, ParseError> {
        let Value::List(items) = &self.node.value else { return Err(self.expected(what)) };
        if items.len() > most {
            return Err(
                self.fail(format!("expected {what} with at most {most} items, found {}", items.len()))
            );
        }
        let place =
            |(position, node)| Place { file: self.file, key: format!("{}[{position}]", self.key), node };
        Ok(items.iter().enumerate().map(place).collect())
    }

    fn mapping(&self, what: &str) -> Result<&'a [Entry], ParseError> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            _ => Err(self.expected(what)),
        }
    }

    /// The mapping at this place, once it is known to have no other keys than these.
    ///
    /// # Errors
    /// When there is no mapping, or one with an unknown key.
    pub fn fields(&self, what: &str, known: &[&str]) -> Result<Fields<'a, '_>, ParseError> {
        let entries = self.mapping(what)?;
        if let Some(unknown) = entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
            let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
            let mut error = self.fail(format!(
                "unknown field `{}`, expected one of {}",
                Excerpt(&unknown.key),
                known.join(", ")
            ));
            (error.line, error.column) = (unknown.line, unknown.column);
            return Err(error);
        }
        Ok(Fields { place: self, entries })
    }
}

/// The fields of one mapping.
#[derive(Debug)]
pub struct Fields<'a, 'p> {
    place: &'p Place<'a>,
    entries: &'a [Entry],
}

impl<'a> Fields<'a, '_> {
    /// The value of a key, if it is there.
    #[must_use]
    pub fn optional(&self, key: &str) -> Option<Place<'a>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| self.place.below(entry))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When it is not there.
    pub fn required(&self, key: &str) -> Result<Place<'a>, ParseError> {
        self.optional(key).ok_or_else(|| self.place.fail(format!("expected the field `{key}`, found none")))
    }

    /// A list that has one item at least, or is not there.
    ///
    /// # Errors
    /// When it is empty or too long, or the first item that is wrong.
    pub fn list<T>(
        &self,
        key: &str,
        what: &str,
        most: usize,
        item: impl Fn(&Place<'a>) -> Result<T, ParseError>,
    ) -> Result<Option<Vec<T>>, ParseError> {
        let Some(place) = self.optional(key) else { return Ok(None) };
        let items = place.items(what, most)?;
        if items.is_empty() {
            return Err(
                place.fail(format!("expected {what}, found an empty one: for any, leave out `{key}`"))
            );
        }
        items.iter().map(item).collect::<Result<_, _>>().map(Some)
    }
}

fn is_offset(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "+00:00" || shape == "-00:00"
}
