//! A tree into a document: the schema of the policy language, and its bounds.

use std::time::SystemTime;

use jiff::Timestamp;

use super::document::{
    Document, Effect, Http, KIND, MAX_METHODS, MAX_NAME_BYTES, MAX_PATHS, MAX_PATTERNS, MAX_PORTS, MAX_RULES,
    Mode, Rule,
};
use super::parse::ParseError;
use super::path::PathPattern;
use super::pattern::Pattern;
use super::tree::{Entry, Excerpt, Node, Value};

/// Reads one document; `file` is for messages only.
pub(super) fn document(file: &str, node: &Node) -> Result<Document, ParseError> {
    let place = Place { file, key: String::new(), node };
    // Before unknown fields, so that a document of another kind is called that.
    let kind = place.mapping("a policy document")?.iter().find(|entry| entry.key == "kind");
    if let Some(entry) = kind {
        let kind = place.below(entry);
        if kind.text("`Policy`")? != KIND {
            return Err(kind.expected("`Policy`, the only kind there is"));
        }
    }
    let fields = place.fields("a policy document", &["kind", "name", "target", "rules"])?;
    fields.required("kind")?;
    let name = name(&fields.required("name")?)?;
    let target = pattern(&fields.required("target")?)?;
    let rules = rules(&fields.required("rules")?)?;
    Ok(Document { name, target, rules })
}

fn rules(place: &Place<'_>) -> Result<Vec<Rule>, ParseError> {
    let mut rules: Vec<Rule> = Vec::new();
    // An empty list of rules is a document that lets nobody in, which one may want.
    for place in place.items("a list of rules", MAX_RULES)? {
        let rule = rule(&place)?;
        if rules.iter().any(|earlier| earlier.name == rule.name) {
            let name = place.fields("a rule", RULE_FIELDS)?.required("name")?;
            return Err(name.expected("a name that no earlier rule of the document has"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

const RULE_FIELDS: &[&str] = &["name", "allow", "deny", "until", "mode"];

fn rule(place: &Place<'_>) -> Result<Rule, ParseError> {
    let fields = place.fields("a rule", RULE_FIELDS)?;
    let name = name(&fields.required("name")?)?;
    let (effect, conditions) = match (fields.optional("allow"), fields.optional("deny")) {
        (Some(allow), None) => (Effect::Allow, allow),
        (None, Some(deny)) => (Effect::Deny, deny),
        (Some(_), Some(deny)) => {
            return Err(deny.fail("expected either `allow` or `deny`, found both in one rule"));
        }
        (None, None) => return Err(place.fail("expected `allow` or `deny` in the rule, found neither")),
    };
    let conditions = conditions
        .fields("conditions: `from`, `ports`, `http`, or `{}` for none", &["from", "ports", "http"])?;
    Ok(Rule {
        name,
        effect,
        from: conditions.list("from", "a list of identities", MAX_PATTERNS, pattern)?,
        ports: conditions.list("ports", "a list of ports", MAX_PORTS, port)?,
        http: conditions.optional("http").map(|place| http(&place)).transpose()?,
        until: fields.optional("until").map(|place| until(&place)).transpose()?,
        mode: fields.optional("mode").map(|place| mode(&place)).transpose()?.unwrap_or_default(),
    })
}

fn http(place: &Place<'_>) -> Result<Http, ParseError> {
    let fields = place.fields("a mapping with `methods`, `paths`, or both", &["methods", "paths"])?;
    let methods = fields.list("methods", "a list of HTTP methods", MAX_METHODS, method)?;
    let paths = fields.list("paths", "a list of paths", MAX_PATHS, |place| {
        place.parsed::<PathPattern>("a path such as `/charge` or `/charge/*`")
    })?;
    if methods.is_none() && paths.is_none() {
        return Err(place.expected("`methods`, `paths`, or both"));
    }
    Ok(Http { methods, paths })
}

fn name(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str = "a name of lower-case letters, digits and `-`, at most 63 characters";
    let text = place.text(EXPECTED)?;
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(allowed) {
        return Err(place.expected(EXPECTED));
    }
    Ok(text.to_owned())
}

fn pattern(place: &Place<'_>) -> Result<Pattern, ParseError> {
    place.parsed("a SPIFFE ID, or one that ends in `/*` for all below it")
}

fn port(place: &Place<'_>) -> Result<u16, ParseError> {
    const EXPECTED: &str = "a port, a whole number from 1 to 65535";
    match &place.node.value {
        // `+80`, `080` (octal to some) and `8e3` are not how one writes a port.
        Value::Number(text) if text.starts_with(|c: char| ('1'..='9').contains(&c)) => {
            text.parse().map_err(|_| place.expected(EXPECTED))
        }
        _ => Err(place.expected(EXPECTED)),
    }
}

/// A token of RFC 9110 section 5.6.2, compared exactly.
fn method(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str = "an HTTP method such as `GET`";
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    let text = place.text(EXPECTED)?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text == "*" {
        return Err(place.expected("an HTTP method; for any method, leave out `methods`"));
    }
    if text.is_empty() || text.len() > 32 || !text.bytes().all(token) {
        return Err(place.expected(EXPECTED));
    }
    // Methods are case-sensitive: a deny for `post` would stop nothing.
    if let Some(known) = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(text) && **known != text) {
        return Err(place.expected(&format!("`{known}`, as methods are case-sensitive")));
    }
    Ok(text.to_owned())
}

fn until(place: &Place<'_>) -> Result<SystemTime, ParseError> {
    const EXPECTED: &str = "a time as in RFC 3339, such as `2027-01-31T00:00:00Z`";
    let text = place.text(EXPECTED)?;
    // The parser also takes what RFC 9557 and others add.
    let shape: String = text.chars().take(20).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let seconds_shape = shape.get(..19).is_some_and(|shape| shape == "0000-00-00T00:00:00");
    let ends =
        text.ends_with('Z') || text.len().checked_sub(6).and_then(|at| text.get(at..)).is_some_and(is_offset);
    if !seconds_shape || !ends {
        return Err(place.expected(EXPECTED));
    }
    text.parse::<Timestamp>().map(SystemTime::from).map_err(|_| place.expected(EXPECTED))
}

fn is_offset(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "+00:00" || shape == "-00:00"
}

fn mode(place: &Place<'_>) -> Result<Mode, ParseError> {
    match place.text("`enforce` or `audit`")? {
        "enforce" => Ok(Mode::Enforce),
        "audit" => Ok(Mode::Audit),
        _ => Err(place.expected("`enforce` or `audit`")),
    }
}

/// A node and the way to it.
struct Place<'a> {
    file: &'a str,
    key: String,
    node: &'a Node,
}

impl<'a> Place<'a> {
    fn fail(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            file: self.file.to_owned(),
            line: self.node.line,
            column: self.node.column,
            key: self.key.clone(),
            message: message.into(),
        }
    }

    fn expected(&self, what: &str) -> ParseError {
        self.fail(format!("expected {what}, found {}", self.node.value))
    }

    fn below(&self, entry: &'a Entry) -> Self {
        let separator = if self.key.is_empty() { "" } else { "." };
        Place { file: self.file, key: format!("{}{separator}{}", self.key, entry.key), node: &entry.value }
    }

    fn text(&self, what: &str) -> Result<&'a str, ParseError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.expected(what)),
        }
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, what: &str) -> Result<T, ParseError> {
        let text = self.text(what)?;
        text.parse()
            .map_err(|error| self.fail(format!("expected {what}, found {}: {error}", self.node.value)))
    }

    fn items(&self, what: &str, most: usize) -> Result<Vec<Self>, ParseError> {
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
    fn fields(&self, what: &str, known: &[&str]) -> Result<Fields<'a, '_>, ParseError> {
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
struct Fields<'a, 'p> {
    place: &'p Place<'a>,
    entries: &'a [Entry],
}

impl<'a> Fields<'a, '_> {
    fn optional(&self, key: &str) -> Option<Place<'a>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| self.place.below(entry))
    }

    fn required(&self, key: &str) -> Result<Place<'a>, ParseError> {
        self.optional(key).ok_or_else(|| self.place.fail(format!("expected the field `{key}`, found none")))
    }

    /// A list that has one item at least, or is not there.
    fn list<T>(
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
