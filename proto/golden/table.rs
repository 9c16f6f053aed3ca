//! Reads `table.yaml`: what the policy language means, case by case. The tests of policy, of control and of the proxy all
//! go through it, so that the three say the same.

use signet_proto::document::{Limits, ParseError, Place, from_yaml};
use signet_proto::settings::{self, Settings};

const TABLE: &str = include_str!("table.yaml");
/// What holds for the whole mesh.
const MESH: &str = "kind: Mesh\nmode: strict\npermissive:\n  - { target: \"spiffe://mesh.local/plain/*\", ports: [80, 90] }\n";
const LIMITS: Limits = Limits { bytes: 1 << 20, documents: 256 };

/// One call, and what is decided about it.
#[derive(Debug)]
pub(super) struct Case {
    /// `inbound` or `egress`.
    pub(super) direction: String,
    /// Who calls; `plaintext` without identity.
    pub(super) source: String,
    /// Who is called.
    pub(super) destination: String,
    /// The app's port.
    pub(super) port: String,
    /// Empty: bytes that are not HTTP.
    pub(super) method: String,
    /// As the client sends it.
    pub(super) path: String,
    /// Empty: none.
    pub(super) host: String,
    /// `NAME: VALUE`.
    pub(super) headers: Vec<String>,
    /// Empty: not known.
    pub(super) address: String,
    /// Whether it passes.
    pub(super) allowed: bool,
    /// As in logs and metrics.
    pub(super) reason: String,
    /// `DOCUMENT`, `DOCUMENT/RULE` or empty.
    pub(super) by: String,
    /// In words.
    pub(super) says: String,
}

/// All cases, and the documents of all of them as one YAML stream: none of them is about another's identities.
pub(super) fn read() -> (String, Vec<Case>) {
    let nodes = from_yaml("table.yaml", TABLE, LIMITS).unwrap();
    let (mut documents, mut cases) = (String::new(), Vec::new());
    for node in &nodes {
        let place = Place::new("table.yaml", node);
        let fields = place.fields("a group of cases", &["about", "policy", "cases"]).unwrap();
        text(&fields.required("about").unwrap()).unwrap();
        documents.push_str("---\n");
        documents.push_str(&text(&fields.required("policy").unwrap()).unwrap());
        for place in fields.required("cases").unwrap().items("cases", 256).unwrap() {
            cases.push(case(&place).unwrap());
        }
    }
    (documents, cases)
}

/// [`MESH`], as it is read.
pub(super) fn settings() -> Settings {
    settings::parse_node("mesh.yaml", &from_yaml("mesh.yaml", MESH, LIMITS).unwrap()[0]).unwrap()
}

fn case(place: &Place<'_>) -> Result<Case, ParseError> {
    let known = ["call", "host", "headers", "address", "egress", "inbound", "by", "says"];
    let fields = place.fields("a case", &known)?;
    let optional = |key: &str| fields.optional(key).map(|place| text(&place)).transpose();
    // `SOURCE -> DESTINATION:PORT [METHOD PATH]`
    let call = text(&fields.required("call")?)?;
    let words: Vec<&str> = call.splitn(5, ' ').collect();
    let [source, "->", called, request @ ..] = words.as_slice() else { panic!("{call}") };
    let (destination, port) = called.rsplit_once(':').unwrap();
    let (direction, reason) = match (optional("inbound")?, optional("egress")?) {
        (Some(reason), None) => ("inbound", reason),
        (None, Some(reason)) => ("egress", reason),
        _ => panic!("{call}: one of `inbound` and `egress`"),
    };
    Ok(Case {
        direction: direction.to_owned(),
        source: match *source {
            "plaintext" => "plaintext".to_owned(),
            source => format!("spiffe://mesh.local/{source}"),
        },
        destination: format!("spiffe://mesh.local/{destination}"),
        port: port.to_owned(),
        method: request.first().copied().unwrap_or_default().to_owned(),
        path: request.get(1).copied().unwrap_or_default().to_owned(),
        host: optional("host")?.unwrap_or_default(),
        headers: fields.list("headers", "headers", 16, text)?.unwrap_or_default(),
        address: optional("address")?.unwrap_or_default(),
        allowed: matches!(&*reason, "allowed" | "plaintext"),
        reason,
        by: optional("by")?.unwrap_or_default(),
        says: optional("says")?.unwrap_or_default(),
    })
}

fn text(place: &Place<'_>) -> Result<String, ParseError> {
    place.text("a text").map(str::to_owned)
}

impl Case {
    /// What was found, in the terms of the table.
    pub(super) fn found(allowed: bool, reason: &str, policy: &str, rule: &str, says: &str) -> [String; 4] {
        let by = if rule.is_empty() { policy.to_owned() } else { format!("{policy}/{rule}") };
        [allowed.to_string(), reason.to_owned(), by, says.to_owned()]
    }

    /// What is expected.
    pub(super) fn expected(&self) -> [String; 4] {
        [self.allowed.to_string(), self.reason.clone(), self.by.clone(), self.says.clone()]
    }
}
