//! A tree into a document: the schema of the policy language, and its bounds.

use std::net::IpAddr;

use ipnet::IpNet;

use super::document::{
    Direction, Document, Effect, Grpc, Http, KIND, MAX_GRPC_NAMES, MAX_HEADERS, MAX_HOSTS, MAX_METHODS,
    MAX_NAME_BYTES, MAX_NETWORKS, MAX_PATHS, MAX_PATTERNS, MAX_PORTS, MAX_RULES, Mode, Rule,
};
use super::header;
use super::host::HostPattern;
use super::path::PathPattern;
use super::pattern::Pattern;
use crate::document::{Node, ParseError, Place};

/// Reads one document; `file` is for messages only.
pub(super) fn document(file: &str, node: &Node) -> Result<Document, ParseError> {
    let place = Place::new(file, node);
    // Before unknown fields, so that a document of another kind is called that.
    place.kind("a policy document", &[KIND])?;
    let fields = place.fields("a policy document", &["kind", "name", "target", "source", "rules"])?;
    fields.required("kind")?;
    let name = name(&fields.required("name")?)?;
    let (direction, whom) = match (fields.optional("target"), fields.optional("source")) {
        (Some(target), None) => (Direction::Inbound, target),
        (None, Some(source)) => (Direction::Egress, source),
        (Some(_), Some(source)) => {
            return Err(source.fail("expected either `target` or `source`, found both in one document"));
        }
        (None, None) => {
            return Err(place.fail(
                "expected the field `target` (whom it protects) or `source` (whom it restricts), found neither",
            ));
        }
    };
    let whom = pattern(&whom)?;
    let rules = rules(&fields.required("rules")?, direction)?;
    Ok(Document { name, direction, whom, rules })
}

fn rules(place: &Place<'_>, direction: Direction) -> Result<Vec<Rule>, ParseError> {
    let mut rules: Vec<Rule> = Vec::new();
    // An empty list of rules is a document that lets nobody in, which one may want.
    for place in place.items("a list of rules", MAX_RULES)? {
        let rule = rule(&place, direction)?;
        if rules.iter().any(|earlier| earlier.name == rule.name) {
            let name = place.fields("a rule", RULE_FIELDS)?.required("name")?;
            return Err(name.expected("a name that no earlier rule of the document has"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

const RULE_FIELDS: &[&str] = &["name", "allow", "deny", "until", "mode"];

fn rule(place: &Place<'_>, direction: Direction) -> Result<Rule, ParseError> {
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
    let peers = direction.peers_field();
    // Beside the caller its address says nothing: it is that of the app, or none.
    let known: &[&str] = match direction {
        Direction::Inbound => &["from", "ports", "cidrs", "http", "grpc"],
        Direction::Egress => &["to", "ports", "http", "grpc"],
    };
    let named = known.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
    let conditions = conditions.fields(&format!("conditions: {named}, or `{{}}` for none"), known)?;
    Ok(Rule {
        name,
        effect,
        peers: conditions.list(peers, "a list of identities", MAX_PATTERNS, pattern)?,
        ports: conditions.list("ports", "a list of ports", MAX_PORTS, Place::port)?,
        cidrs: conditions.list("cidrs", "a list of networks", MAX_NETWORKS, network)?,
        http: conditions.optional("http").map(|place| http(&place)).transpose()?,
        grpc: conditions.optional("grpc").map(|place| grpc(&place)).transpose()?,
        until: fields.optional("until").map(|place| place.time()).transpose()?,
        mode: fields.optional("mode").map(|place| mode(&place)).transpose()?.unwrap_or_default(),
    })
}

fn http(place: &Place<'_>) -> Result<Http, ParseError> {
    const SOME: &str = "at least one of `methods`, `paths`, `hosts`, `headers`";
    let fields =
        place.fields(&format!("a mapping with {SOME}"), &["methods", "paths", "hosts", "headers"])?;
    let path = |place: &Place<'_>| place.parsed::<PathPattern>("a path such as `/charge` or `/charge/*`");
    let host = |place: &Place<'_>| place.parsed::<HostPattern>("a host such as `api.example` or `*.example`");
    let http = Http {
        methods: fields.list("methods", "a list of HTTP methods", MAX_METHODS, method)?,
        paths: fields.list("paths", "a list of paths", MAX_PATHS, path)?,
        hosts: fields.list("hosts", "a list of hosts", MAX_HOSTS, host)?,
        headers: fields.list("headers", "a list of headers", MAX_HEADERS, header::read)?,
    };
    if http.is_empty() {
        return Err(place.expected(SOME));
    }
    Ok(http)
}

fn grpc(place: &Place<'_>) -> Result<Grpc, ParseError> {
    const SOME: &str = "`services`, `methods`, or both";
    let fields = place.fields(&format!("a mapping with {SOME}"), &["services", "methods"])?;
    let service = |place: &Place<'_>| grpc_name(place, "a gRPC service such as `shop.v1.Carts`", true);
    let method = |place: &Place<'_>| grpc_name(place, "a gRPC method such as `AddItem`", false);
    let grpc = Grpc {
        services: fields.list("services", "a list of gRPC services", MAX_GRPC_NAMES, service)?,
        methods: fields.list("methods", "a list of gRPC methods", MAX_GRPC_NAMES, method)?,
    };
    if grpc.services.is_none() && grpc.methods.is_none() {
        return Err(place.expected(SOME));
    }
    Ok(grpc)
}

/// An identifier of protocol buffers, or several with dots between them.
fn grpc_name(place: &Place<'_>, what: &str, dotted: bool) -> Result<String, ParseError> {
    const LONGEST: usize = 255;
    let text = place.text(what)?;
    let identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let parts = text.split('.').count();
    if text.len() > LONGEST || !text.split('.').all(identifier) || (parts > 1 && !dotted) {
        return Err(place.expected(what));
    }
    Ok(text.to_owned())
}

/// A network as RFC 4632 writes it; an address alone is a network of one.
fn network(place: &Place<'_>) -> Result<IpNet, ParseError> {
    const EXPECTED: &str = "a network such as `10.0.0.0/8`, `2001:db8::/32`, or one address";
    let text = place.text(EXPECTED)?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| place.expected(EXPECTED))?;
    // Callers are known by their plain IPv4 address.
    if network.addr().to_canonical() != network.addr() {
        return Err(place.expected("a network of IPv4 addresses without `::ffff:`"));
    }
    if network != network.trunc() {
        // A slip in the address or in the length: which one is meant?
        return Err(place.expected(&format!("a network, perhaps `{}`", network.trunc())));
    }
    Ok(network)
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
