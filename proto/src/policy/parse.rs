//! Text to documents: YAML as people write it, JSON as it travels.
//!
//! Anything that is not understood is an error, never a default: two versions that read a policy
//! differently would disagree on who may talk. The error says where, at which key, what was expected and
//! what was found.

use super::compile::MAX_DOCUMENTS;
use super::document::Document;
use super::read;
use crate::document::{Limits, MAX_TEXT_BYTES, Node, ParseError, from_json, from_yaml};

/// Reads one or more documents from a YAML stream; `file` is for messages only.
///
/// Names are unique in the stream.
///
/// # Errors
/// The first thing that is not a policy, with its place in the text.
pub fn parse_yaml(file: &str, text: &str) -> Result<Vec<Document>, ParseError> {
    let nodes = from_yaml(file, text, Limits { bytes: MAX_TEXT_BYTES, documents: MAX_DOCUMENTS })?;
    if nodes.is_empty() {
        return Err(ParseError::somewhere(file, "expected at least one policy document, found none"));
    }
    let mut documents: Vec<Document> = Vec::with_capacity(nodes.len());
    let mut names = std::collections::HashSet::new();
    for node in &nodes {
        let document = read::document(file, node)?;
        if !names.insert(document.name.clone()) {
            let message =
                format!("expected a name of its own, `{}` names an earlier document too", document.name);
            return Err(ParseError { key: "name".into(), ..ParseError::at(file, node, message) });
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Reads one document of a stream that may hold other kinds too; `file` is for messages only.
///
/// # Errors
/// The first thing in it that is not a policy.
pub fn parse_node(file: &str, node: &Node) -> Result<Document, ParseError> {
    read::document(file, node)
}

/// Reads one document from the JSON that [`Document::to_json`] writes.
///
/// # Errors
/// The first thing that is not a policy.
pub fn parse_json(text: &str) -> Result<Document, ParseError> {
    const FILE: &str = "json";
    let node = from_json(FILE, text)?;
    read::document(FILE, &node)
}

#[cfg(test)]
mod tests {
    use super::super::document::{Direction, Effect, Mode};
    use super::super::testing::{PAYMENTS, at, documents};
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        parse_yaml("p.yaml", text).unwrap_err().to_string()
    }

    /// A document with one rule, which begins on line 5.
    fn with_rule(rule: &str) -> String {
        format!("kind: Policy\nname: p\ntarget: spiffe://td/a\nrules:\n  - {rule}\n")
    }

    #[test]
    fn the_example_reads_as_documented() {
        let documents = parse_yaml("payments.yaml", PAYMENTS).unwrap();
        let [document] = documents.as_slice() else { panic!("one document") };
        assert_eq!(
            (document.name.as_str(), document.direction, document.whom.to_string()),
            ("payments", Direction::Inbound, "spiffe://prod.example/payments".into())
        );
        let [charges, batch] = document.rules.as_slice() else { panic!("two rules") };
        assert_eq!(
            (charges.name.as_str(), charges.effect, charges.mode),
            ("checkout-charges", Effect::Allow, Mode::Enforce)
        );
        assert_eq!(charges.ports, Some(vec![8080]));
        assert_eq!(charges.until, Some(at(1_801_353_600)));
        let http = charges.http.as_ref().unwrap();
        assert_eq!(http.methods, Some(vec!["POST".to_owned()]));
        assert_eq!(http.paths.as_ref().unwrap()[0].to_string(), "/charge/*");
        assert_eq!((batch.effect, batch.ports.as_ref(), batch.until), (Effect::Deny, None, None));
    }

    #[test]
    fn a_stream_holds_many_documents() {
        let one = with_rule("{ name: r, allow: {} }");
        let text = format!("---\n{one}---\n{}...\n---\n# nothing\n---\n", one.replace("name: p", "name: q"));
        let names: Vec<_> =
            parse_yaml("p.yaml", &text).unwrap().into_iter().map(|document| document.name).collect();
        assert_eq!(names, ["p", "q"]);
        assert_eq!(
            error(&format!("{one}---\n{one}")),
            "p.yaml:7:1: name: expected a name of its own, `p` names an earlier document too"
        );
        assert_eq!(error(""), "p.yaml: expected at least one policy document, found none");
        assert_eq!(error("# only a comment\n"), "p.yaml: expected at least one policy document, found none");
    }

    #[test]
    fn errors_name_place_key_expected_and_found() {
        for (rule, message) in [
            (
                "{ name: r, allow: { ports: [8080, \"80\"] } }",
                "p.yaml:5:39: rules[0].allow.ports[1]: expected a port, a whole number from 1 to 65535, found \"80\"",
            ),
            (
                "{ name: r, allow: { from: [spiffe://td/b, spiffe://td/c/] } }",
                "p.yaml:5:47: rules[0].allow.from[1]: expected a SPIFFE ID, or one that ends in `/*` for all below it, \
                 found \"spiffe://td/c/\": the path ends with `/`: remove it",
            ),
            (
                "{ name: r, allow: { form: [spiffe://td/b] } }",
                "p.yaml:5:25: rules[0].allow: unknown field `form`, expected one of `from`, `ports`, `cidrs`, `http`, `grpc`",
            ),
            (
                "{ name: r, allow: { from: [] } }",
                "p.yaml:5:31: rules[0].allow.from: expected a list of identities, found an empty one: for any, leave out `from`",
            ),
            (
                "{ name: r, allow: { from: spiffe://td/b } }",
                "p.yaml:5:31: rules[0].allow.from: expected a list of identities, found \"spiffe://td/b\"",
            ),
            (
                "{ name: r, allow: { http: {} } }",
                "p.yaml:5:31: rules[0].allow.http: expected at least one of `methods`, `paths`, `hosts`, `headers`, found an empty mapping",
            ),
            (
                "{ name: r, allow: { http: { methods: [post] } } }",
                "p.yaml:5:43: rules[0].allow.http.methods[0]: expected `POST`, as methods are case-sensitive, found \"post\"",
            ),
            (
                "{ name: r, allow: { http: { paths: [charge] } } }",
                "p.yaml:5:41: rules[0].allow.http.paths[0]: expected a path such as `/charge` or `/charge/*`, found \"charge\": \
                 a path starts with `/`",
            ),
            (
                "{ name: r, allow: }",
                "p.yaml:5:21: rules[0].allow: expected conditions: `from`, `ports`, `cidrs`, `http`, `grpc`, or `{}` for none, found nothing",
            ),
            (
                "{ name: r, allow: {}, deny: {} }",
                "p.yaml:5:33: rules[0].deny: expected either `allow` or `deny`, found both in one rule",
            ),
            ("{ name: r }", "p.yaml:5:5: rules[0]: expected `allow` or `deny` in the rule, found neither"),
            ("{ allow: {} }", "p.yaml:5:5: rules[0]: expected the field `name`, found none"),
            (
                "{ name: R, allow: {} }",
                "p.yaml:5:13: rules[0].name: expected a name of lower-case letters, digits and `-`, at most 63 characters, found \"R\"",
            ),
            (
                "{ name: 7, allow: {} }",
                "p.yaml:5:13: rules[0].name: expected a name of lower-case letters, digits and `-`, at most 63 characters, found the number 7",
            ),
            (
                "{ name: r, allow: {}, mode: dry-run }",
                "p.yaml:5:33: rules[0].mode: expected `enforce` or `audit`, found \"dry-run\"",
            ),
            (
                "{ name: r, allow: {}, until: tomorrow }",
                "p.yaml:5:34: rules[0].until: expected a time as in RFC 3339, such as `2027-01-31T00:00:00Z`, found \"tomorrow\"",
            ),
            ("{ name: r, name: s, allow: {} }", "p.yaml:5:16: `name` is there twice, first on line 5"),
            (
                "{ name: r, allow: { to: [spiffe://td/b] } }",
                "p.yaml:5:25: rules[0].allow: unknown field `to`, expected one of `from`, `ports`, `cidrs`, `http`, `grpc`",
            ),
            (
                "{ name: r, allow: { cidrs: [10.0.0.1/8] } }",
                "p.yaml:5:33: rules[0].allow.cidrs[0]: expected a network, perhaps `10.0.0.0/8`, found \"10.0.0.1/8\"",
            ),
            (
                "{ name: r, allow: { cidrs: [10.0.0.0/33] } }",
                "p.yaml:5:33: rules[0].allow.cidrs[0]: expected a network such as `10.0.0.0/8`, `2001:db8::/32`, or one \
                 address, found \"10.0.0.0/33\"",
            ),
            (
                "{ name: r, allow: { http: { hosts: [\"*\"] } } }",
                "p.yaml:5:41: rules[0].allow.http.hosts[0]: expected a host such as `api.example` or `*.example`, found \
                 \"*\": for any host, leave out `hosts`",
            ),
            (
                "{ name: r, allow: { http: { headers: [{ name: x-a, present: false }] } } }",
                "p.yaml:5:65: rules[0].allow.http.headers[0].present: expected `true`, as no rule asks that a header is \
                 absent, found `false`",
            ),
            (
                "{ name: r, allow: { http: { headers: [{ name: x-a }] } } }",
                "p.yaml:5:43: rules[0].allow.http.headers[0]: expected `exact`, `prefix` or `present`, found none",
            ),
            (
                "{ name: r, allow: { http: { headers: [{ name: Host, exact: [a] }] } } }",
                "p.yaml:5:51: rules[0].allow.http.headers[0].name: expected the name of a header such as `x-tenant`, found \
                 `host`: use `hosts`",
            ),
            (
                "{ name: r, allow: { http: { headers: [{ name: x_forwarded-client-cert, present: true }] } } }",
                "p.yaml:5:51: rules[0].allow.http.headers[0].name: expected the name of a header such as `x-tenant`, found \
                 `x_forwarded-client-cert`: the proxy writes it, from the identity that it verified: use `from`",
            ),
            (
                "{ name: r, allow: { grpc: { services: [/shop.Carts] } } }",
                "p.yaml:5:44: rules[0].allow.grpc.services[0]: expected a gRPC service such as `shop.v1.Carts`, found \
                 \"/shop.Carts\"",
            ),
            (
                "{ name: r, allow: { grpc: { methods: [a.B] } } }",
                "p.yaml:5:43: rules[0].allow.grpc.methods[0]: expected a gRPC method such as `AddItem`, found \"a.B\"",
            ),
            (
                "{ name: r, allow: { grpc: {} } }",
                "p.yaml:5:31: rules[0].allow.grpc: expected `services`, `methods`, or both, found an empty mapping",
            ),
        ] {
            assert_eq!(error(&with_rule(rule)), message);
        }
    }

    #[test]
    fn egress_documents_have_conditions_of_their_own() {
        let egress = |conditions: &str| {
            error(&format!(
                "kind: Policy\nname: p\nsource: spiffe://td/a\nrules:\n  - {{ name: r, allow: {conditions} }}\n"
            ))
        };
        for field in ["from: [spiffe://td/b]", "cidrs: [10.0.0.0/8]"] {
            let found = egress(&format!("{{ {field} }}"));
            assert!(found.ends_with("expected one of `to`, `ports`, `http`, `grpc`"), "{found}");
        }
    }

    #[test]
    fn errors_of_whole_documents_are_placed_too() {
        for (text, message) in [
            ("kind: Role\nname: p\n", "p.yaml:1:7: kind: expected `Policy`, found \"Role\""),
            ("kind: Role\nsubject: p\n", "p.yaml:1:7: kind: expected `Policy`, found \"Role\""),
            (
                "name: p\ntarget: spiffe://td/a\nrules: []\n",
                "p.yaml:1:1: expected the field `kind`, found none",
            ),
            (
                "kind: Policy\nname: p\nrules: []\n",
                "p.yaml:1:1: expected the field `target` (whom it protects) or `source` (whom it restricts), found neither",
            ),
            (
                "kind: Policy\nname: p\ntarget: spiffe://td/a\nsource: spiffe://td/a\nrules: []\n",
                "p.yaml:4:9: source: expected either `target` or `source`, found both in one document",
            ),
            (
                "kind: Policy\nname: p\ntarget: spiffe://td/a\n",
                "p.yaml:1:1: expected the field `rules`, found none",
            ),
            (
                "kind: Policy\nname: p\ntarget: spiffe://td\nrules: []\n",
                "p.yaml:3:9: target: expected a SPIFFE ID, or one that ends in `/*` for all below it, found \
                 \"spiffe://td\": `spiffe://td` names no workload; for all of the trust domain, write `spiffe://td/*`",
            ),
            (
                "kind: Policy\nname: p\nspec: {}\n",
                "p.yaml:3:1: unknown field `spec`, expected one of `kind`, `name`, `target`, `source`, `rules`",
            ),
            (
                "kind: Policy\nname: p\ntarget: spiffe://td/a\nrules: {}\n",
                "p.yaml:4:8: rules: expected a list of rules, found an empty mapping",
            ),
            ("- kind: Policy\n", "p.yaml:1:1: expected a policy document, found a list"),
            ("just text\n", "p.yaml:1:1: expected a policy document, found \"just text\""),
        ] {
            assert_eq!(error(text), message);
        }
        let twice = with_rule("{ name: r, allow: {} }\n  - { name: r, deny: {} }");
        assert_eq!(
            error(&twice),
            "p.yaml:6:13: rules[1].name: expected a name that no earlier rule of the document has, found \"r\""
        );
    }

    #[test]
    fn what_is_not_yaml_is_placed_where_it_breaks() {
        let found = parse_yaml("p.yaml", "kind: Policy\nname: [\n").unwrap_err();
        assert!(found.line >= 2 && found.message.starts_with("not YAML: "), "{found}");
        let found = parse_yaml("p.yaml", "kind: Policy\nname: ]\n").unwrap_err();
        assert!(found.line == 2 && found.message.starts_with("not YAML: "), "{found}");
    }

    #[test]
    fn aliases_anchors_tags_merges_and_directives_are_refused() {
        for (rule, found) in [
            ("{ name: &n r, allow: {} }", "expected a value without anchor"),
            ("{ name: *n, allow: {} }", "not YAML"),
            ("&r { name: r, allow: {} }", "expected a value without anchor"),
            ("{ name: !!str r, allow: {} }", "expected a value without tag"),
            ("{ name: r, allow: !x {} }", "expected a value without tag"),
            ("{ name: r, <<: { mode: audit }, allow: {} }", "unknown field `<<`"),
            ("{ [a]: r }", "expected a key"),
            ("{ 7: r }", "expected a key"),
        ] {
            let error = error(&with_rule(rule));
            assert!(error.contains(found), "{error}");
        }
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
        assert!(error(bomb).contains("p.yaml:1:"), "{}", error(bomb));
        assert!(
            parse_yaml("p.yaml", &format!("%YAML 1.2\n---\n{}", with_rule("{name: r, allow: {}}"))).is_err()
        );
    }

    #[test]
    fn sizes_and_depths_are_bounded() {
        let large = format!("{}# {}", with_rule("{ name: r, allow: {} }"), " ".repeat(MAX_TEXT_BYTES));
        assert!(error(&large).contains("expected at most 1048576 bytes"));
        assert!(parse_json(&large).unwrap_err().to_string().contains("expected at most 1048576 bytes"));
        for nested in ["[".repeat(100_000), "{a: ".repeat(10_000), "- ".repeat(10_000)] {
            assert!(parse_yaml("p.yaml", &nested).is_err());
        }
        assert!(parse_json(&"[".repeat(100_000)).is_err());
        let ports = (1..=65).map(|port| port.to_string()).collect::<Vec<_>>().join(", ");
        assert!(
            error(&with_rule(&format!("{{ name: r, allow: {{ ports: [{ports}] }} }}")))
                .contains("expected a list of ports with at most 64 items, found 65")
        );
        let keys = (0..100).map(|key| format!("k{key}: 1")).collect::<Vec<_>>().join("\n");
        assert!(error(&keys).contains("at most 64 keys"));
        let documents = "--- {a: 1}\n".repeat(MAX_DOCUMENTS + 1);
        assert!(error(&documents).contains("more than 4096 documents"));
    }

    #[test]
    fn ports_and_times_have_one_form() {
        for port in
            ["0", "65536", "-1", "+80", "080", "0x50", "80.0", "8e1", "true", "null", "'80'", "[80]", "http"]
        {
            let error = error(&with_rule(&format!("{{ name: r, allow: {{ ports: [{port}] }} }}")));
            assert!(error.contains("rules[0].allow.ports[0]: expected a port"), "{error}");
        }
        for (time, read) in [
            ("2027-01-31T00:00:00Z", true),
            ("2027-01-31T02:00:00+02:00", true),
            ("2027-01-31T00:00:00.123Z", true),
            ("2027-01-31", false),
            ("2027-01-31T00:00:00", false),
            ("2027-01-31 00:00:00Z", false),
            ("2027-01-31t00:00:00z", false),
            ("2027-01-31T00:00:00Z[UTC]", false),
            ("2027-01-31T00:00:00+02:00[Europe/Paris]", false),
            ("2027-02-30T00:00:00Z", false),
            ("2027-01-31T25:00:00Z", false),
            ("20270131T000000Z", false),
            ("+002027-01-31T00:00:00Z", false),
            ("1801353600", false),
        ] {
            let text = with_rule(&format!("{{ name: r, allow: {{}}, until: \"{time}\" }}"));
            assert_eq!(parse_yaml("p.yaml", &text).is_ok(), read, "{time}");
        }
    }

    #[test]
    fn json_is_read_with_the_same_rules() {
        let document = parse_yaml("p.yaml", PAYMENTS).unwrap().remove(0);
        let json = document.to_json();
        assert_eq!(parse_json(&json), Ok(document.clone()));
        assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
        for (from, to, message) in [
            (r#""kind":"Policy","#, "", "json: expected the field `kind`, found none"),
            (r#""kind":"Policy""#, r#""kind":"Policy","kind":"Policy""#, "`kind` is there twice"),
            (r#""ports":[8080]"#, r#""ports":[8080],"port":1"#, "rules[0].allow: unknown field `port`"),
            (
                r#""ports":[8080]"#,
                r#""ports":[]"#,
                "rules[0].allow.ports: expected a list of ports, found an empty one",
            ),
            (r#""ports":[8080]"#, r#""ports":[8080.0]"#, "rules[0].allow.ports[0]: expected a port"),
            (r#""name":"payments""#, r#""name":null"#, "name: expected a name"),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(changed, json);
            let error = parse_json(&changed).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            let error = serde_json::from_str::<Document>(&changed).unwrap_err().to_string();
            assert!(error.contains(message.trim_start_matches("json: ")), "{error}");
        }
        for text in ["", "kind: Policy", "[]", "null", "{}{}", r#"{"kind":"Policy"} x"#] {
            assert!(parse_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn messages_stay_on_one_line_and_short() {
        let text = format!("{{ name: \"\\n\\e[31m{}\", allow: {{}} }}", "x".repeat(10_000));
        let error = error(&with_rule(&text));
        assert!(error.len() < 300 && !error.contains('\n') && !error.contains('\u{1b}'), "{error}");
    }

    proptest! {
        #[test]
        fn documents_survive_the_way_through_json(documents in documents()) {
            for document in documents {
                prop_assert_eq!(parse_json(&document.to_json()), Ok(document));
            }
        }

        #[test]
        fn documents_survive_the_way_through_yaml(documents in documents()) {
            // JSON is YAML.
            let stream = documents.iter().map(|d| format!("---\n{}\n", d.to_json())).collect::<String>();
            if !documents.is_empty() {
                prop_assert_eq!(parse_yaml("p.yaml", &stream), Ok(documents));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}", pieces in "([-:{}\\[\\],&*!|>'\"%#?a \n\t]|kind: Policy\n|---\n){0,30}") {
            for text in [text, pieces] {
                let _ = (parse_yaml("p.yaml", &text), parse_json(&text));
            }
        }

        #[test]
        fn no_cut_or_changed_text_panics(at in any::<prop::sample::Index>(), with in any::<char>()) {
            let mut text: Vec<char> = PAYMENTS.chars().collect();
            *at.get_mut(&mut text) = with;
            let _ = parse_yaml("p.yaml", &text.iter().collect::<String>());
            let cut = at.index(text.len());
            let _ = parse_yaml("p.yaml", &text[..cut].iter().collect::<String>());
        }
    }
}
