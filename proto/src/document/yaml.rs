//! YAML into trees: the part of YAML 1.2 that documents need.
//!
//! Anchors, aliases, merge keys, tags and directives are refused. A document is read in review, and what
//! it says must stand where it applies; and without aliases, the size of the tree is bounded by the size
//! of the text.

use serde_saphyr::granit_parser::{Event, Marker, Options, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::error::ParseError;
use super::tree::{Entry, Excerpt, MAX_ENTRIES, Node, TOO_MANY_ENTRIES, Value};

/// The deepest node of any document is at level 6: document, rules, rule, allow, http, paths.
const MAX_DEPTH: usize = 16;

/// All documents of a stream that are not empty, each with the places of its nodes.
pub(super) fn stream(file: &str, text: &str, max_documents: usize) -> Result<Vec<Node>, ParseError> {
    let mut options = Options::default();
    options.disallow_directives = true;
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut source = Source { file, parser: Parser::new_from_str_with_options(text, options) };
    let mut documents = Vec::new();
    loop {
        let (event, span) = source.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(..) if documents.len() == max_documents => {
                return Err(
                    source.fail(&span.start, format!("more than {max_documents} documents in one text"))
                );
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            other => {
                let node = source.node(other, &span, 0)?;
                // What a `---` at the end of a file leaves.
                if !matches!(node.value, Value::Nothing) {
                    documents.push(node);
                }
            }
        }
    }
}

struct Source<'a> {
    file: &'a str,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Source<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ParseError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::empty(Marker::new(0, 0, 0)))),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.fail(&span.start, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let value = match event {
            Event::Scalar(text, style, 0, None) => scalar(&text, style),
            Event::SequenceStart(_, 0, None) => Value::List(self.list(depth)?),
            Event::MappingStart(_, 0, None) => Value::Mapping(self.mapping(depth)?),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                return Err(self.fail(&span.start, "expected the value itself, found an alias (`*name`)"));
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                return Err(self.fail(&span.start, "expected a value without tag, found one with (`!name`)"));
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(
                    self.fail(&span.start, "expected a value without anchor, found one with (`&name`)")
                );
            }
            _ => return Err(self.fail(&span.start, "expected a value, found the end of the document")),
        };
        Ok(Node { line: span.start.line(), column: column(&span.start), value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ParseError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, ParseError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = match self.node(event, &span, depth + 1)?.value {
                Value::Text(key) => key,
                other => return Err(self.fail(&span.start, format!("expected a key, found {other}"))),
            };
            if entries.len() == MAX_ENTRIES {
                return Err(self.fail(&span.start, TOO_MANY_ENTRIES));
            }
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("`{}` is there twice, first on line {}", Excerpt(&key), first.line);
                return Err(self.fail(&span.start, message));
            }
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?;
            entries.push(Entry { key, line: span.start.line(), column: column(&span.start), value });
        }
    }

    fn syntax(&self, error: &ScanError) -> ParseError {
        self.fail(error.marker(), format!("not YAML: {}", Excerpt(&error.info())))
    }

    fn fail(&self, at: &Marker, message: impl Into<String>) -> ParseError {
        ParseError {
            file: self.file.to_owned(),
            line: at.line(),
            column: column(at),
            key: String::new(),
            message: message.into(),
        }
    }
}

/// The scanner counts columns from 0, and lines from 1.
fn column(at: &Marker) -> usize {
    at.col() + 1
}

/// The core schema of YAML 1.2 (section 10.3.2); what is quoted is text.
pub(super) fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Nothing,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str, radix: u32| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, 16);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    begins && text.contains(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok()
}
