//! A tree into a document: the schema of the policy language, and its bounds.

use super::document::{
    Document, Effect, Http, KIND, MAX_METHODS, MAX_NAME_BYTES, MAX_PATHS, MAX_PATTERNS, MAX_PORTS, MAX_RULES,
    Mode, Rule,
};
use super::path::PathPattern;
use super::pattern::Pattern;
use crate::document::{Node, ParseError, Place};

/// Reads one document; `file` is for messages only.
pub(super) fn document(file: &str, node: &Node) -> Result<Document, ParseError> {
    let place = Place::new(file, node);
    // Before unknown fields, so that a document of another kind is called that.
    place.kind("a policy document", &[KIND])?;
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
        ports: conditions.list("ports", "a list of ports", MAX_PORTS, Place::port)?,
        http: conditions.optional("http").map(|place| http(&place)).transpose()?,
        until: fields.optional("until").map(|place| place.time()).transpose()?,
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

fn mode(place: &Place<'_>) -> Result<Mode, ParseError> {
    match place.text("`enforce` or `audit`")? {
        "enforce" => Ok(Mode::Enforce),
        "audit" => Ok(Mode::Audit),
        _ => Err(place.expected("`enforce` or `audit`")),
    }
}
