//! A tree into a declaration: the schema of `kind: Workload`.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::time::SystemTime;

use signet_proto::document::{Node, ParseError, Place};

use crate::duration::Span;
use crate::registry::declaration::{
    Approval, Declaration, MAX_DNS_NAMES, MAX_SELECTORS, Name, Owner, Ttl, environment,
};
use crate::registry::text;
use crate::store::model::WorkloadStatus;
use crate::time;

/// The `kind` of a workload's document.
pub(super) const KIND: &str = "Workload";

const WHAT: &str = "a workload document";
const FIELDS: [&str; 11] = [
    "kind",
    "id",
    "owner",
    "purpose",
    "environment",
    "selectors",
    "ttl",
    "dns",
    "status",
    "until",
    "approval",
];

/// Reads one document; `file` is for messages only.
///
/// # Errors
/// The first thing that is not a workload's.
pub(super) fn read(file: &str, node: &Node) -> Result<Declaration, ParseError> {
    let place = Place::new(file, node);
    place.kind(WHAT, &[KIND])?;
    let fields = place.fields(WHAT, &FIELDS)?;
    fields.required("kind")?;
    let name: Name = fields
        .required("id")?
        .parsed("a SPIFFE ID, or a template such as `spiffe://prod.example/ns/{namespace}`")?;
    let selectors = fields.optional("selectors").map(|place| {
        set(&place, "a list of selectors", MAX_SELECTORS, "a selector such as `prod-cluster:namespace:shop`")
    });
    let dns = fields.optional("dns").map(|place| {
        set(&place, "a list of DNS names", MAX_DNS_NAMES, "a DNS name such as `payments.shop.svc`")
    });
    let declaration = Declaration {
        name,
        owner: owner(&fields.required("owner")?)?,
        purpose: words(&fields.required("purpose")?)?,
        environment: fields.optional("environment").map(|place| word(&place)).transpose()?,
        selectors: selectors.transpose()?.unwrap_or_default(),
        ttl: fields.optional("ttl").map(|place| ttl(&place)).transpose()?.unwrap_or_default(),
        dns: dns.transpose()?.unwrap_or_default(),
        status: fields
            .optional("status")
            .map(|place| status(&place))
            .transpose()?
            .unwrap_or(WorkloadStatus::Active),
        until: fields.optional("until").map(|place| until(&place)).transpose()?,
        approval: fields.optional("approval").map(|place| approval(&place)).transpose()?.unwrap_or_default(),
    };
    declaration.check().map_err(|mistake| {
        let about = fields.optional(mistake.field);
        about.map_or_else(|| place.fail(mistake.to_string()), |place| place.fail(&*mistake.message))
    })?;
    Ok(declaration)
}

fn owner(place: &Place<'_>) -> Result<Owner, ParseError> {
    let fields =
        place.fields("a mapping with `team`, and `contact` if there is one", &["team", "contact"])?;
    let team = words(&fields.required("team")?)?;
    let contact = fields.optional("contact").map(|place| words(&place)).transpose()?;
    Ok(Owner { team, contact })
}

fn ttl(place: &Place<'_>) -> Result<Ttl, ParseError> {
    let fields = place
        .fields("a mapping with `default`, `min`, `max`, or some of them", &["default", "min", "max"])?;
    let span = |key: &str| {
        let place = fields.optional(key);
        place.map(|place| place.parsed::<Span>("a duration").map(|span| span.0)).transpose()
    };
    Ok(Ttl { default: span("default")?, min: span("min")?, max: span("max")? })
}

fn words(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str = "1 to 256 bytes of text without control characters";
    text("", place.text(EXPECTED)?).map_err(|_| place.expected(EXPECTED))
}

fn word(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str = "a word such as `production`";
    environment(place.text(EXPECTED)?).map_err(|mistake| place.fail(mistake.message))
}

fn status(place: &Place<'_>) -> Result<WorkloadStatus, ParseError> {
    const EXPECTED: &str = "`active`, `suspended` or `retired`";
    place.text(EXPECTED)?.parse().map_err(|_| place.expected(EXPECTED))
}

fn approval(place: &Place<'_>) -> Result<Approval, ParseError> {
    const EXPECTED: &str = "`none`, `one` or `two`";
    place.text(EXPECTED)?.parse().map_err(|_| place.expected(EXPECTED))
}

/// To the millisecond, the finest step there is.
fn until(place: &Place<'_>) -> Result<SystemTime, ParseError> {
    let at = place.time()?;
    if at < SystemTime::UNIX_EPOCH {
        return Err(place.expected("a time after 1970"));
    }
    Ok(time::from_millis(time::to_millis(at)))
}

/// A list without repetitions, whose order does not matter.
fn set<T>(place: &Place<'_>, list: &str, most: usize, what: &str) -> Result<BTreeSet<T>, ParseError>
where
    T: FromStr<Err: Display> + Ord,
{
    let mut set = BTreeSet::new();
    for place in place.items(list, most)? {
        if !set.insert(place.parsed(what)?) {
            return Err(place.expected("each of the list once"));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signet_proto::document::{Limits, from_yaml};

    use super::*;
    use crate::registry::testing::PAYMENTS;

    fn parse(text: &str) -> Result<Declaration, ParseError> {
        let nodes = from_yaml("w.yaml", text, Limits { bytes: 10_000, documents: 1 })?;
        read("w.yaml", &nodes[0])
    }

    /// The smallest document, and one more line, its fifth.
    fn with(line: &str) -> String {
        format!("kind: Workload\nid: spiffe://td/w\nowner: {{ team: t }}\npurpose: p\n{line}\n")
    }

    #[test]
    fn the_example_reads_as_documented() {
        let found = parse(PAYMENTS).unwrap();
        assert_eq!(found.name.as_str(), "spiffe://prod.example/payments");
        assert_eq!(
            (found.owner.team.as_str(), found.owner.contact.as_deref()),
            ("payments", Some("payments@prod.example"))
        );
        assert_eq!(
            (found.purpose.as_str(), found.environment.as_deref()),
            ("charges cards", Some("production"))
        );
        assert_eq!(found.selectors.len(), 2);
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        assert_eq!(found.ttl, Ttl { default: minutes(60), min: minutes(5), max: minutes(24 * 60) });
        assert_eq!(
            found.dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["payments.shop.svc.cluster.local"]
        );
        assert_eq!((found.status, found.approval), (WorkloadStatus::Active, Approval::None));
        assert_eq!(found.until, Some(time::from_millis(1_801_353_600_000)));
    }

    #[test]
    fn most_of_it_may_be_left_out() {
        let found = parse(&with("")).unwrap();
        assert!(found.selectors.is_empty() && found.dns.is_empty() && found.until.is_none());
        assert_eq!(
            (found.status, found.approval, found.ttl),
            (WorkloadStatus::Active, Approval::None, Ttl::default())
        );
        assert!(parse(&with("selectors: []")).is_ok());
    }

    #[test]
    fn a_template_is_read_with_its_variables() {
        let text = "kind: Workload\nid: spiffe://td/ns/{namespace}/sa/{serviceaccount}\nowner: { team: t }\npurpose: p\n\
                    selectors: [prod]\ndns: [\"{serviceaccount}.{namespace}.svc\"]\n";
        assert!(matches!(parse(text).unwrap().name, Name::Template(_)));
    }

    #[test]
    fn errors_name_place_key_expected_and_found() {
        for (line, message) in [
            (
                "colour: red",
                "w.yaml:5:1: unknown field `colour`, expected one of `kind`, `id`, `owner`, `purpose`, \
              `environment`, `selectors`, `ttl`, `dns`, `status`, `until`, `approval`",
            ),
            (
                "environment: Prod",
                "w.yaml:5:14: environment: expected 1 to 63 lower-case letters, digits and `-`",
            ),
            (
                "status: paused",
                "w.yaml:5:9: status: expected `active`, `suspended` or `retired`, found \"paused\"",
            ),
            ("approval: 1", "w.yaml:5:11: approval: expected `none`, `one` or `two`, found the number 1"),
            (
                "ttl: 1h",
                "w.yaml:5:6: ttl: expected a mapping with `default`, `min`, `max`, or some of them, found \"1h\"",
            ),
            (
                "ttl: { default: soon }",
                "w.yaml:5:17: ttl.default: expected a duration, found \"soon\": expected a duration \
              such as `90s`, `10m`, `1h30m` or `7d`, found `soon`",
            ),
            ("ttl: { default: 1h, min: 2h }", "w.yaml:5:6: ttl: expected `min` <= `default` <= `max`"),
            ("ttl: { max: 8d }", "w.yaml:5:6: ttl: expected whole seconds, from `1s` to `7d`"),
            (
                "dns: [\"*.shop.example\"]",
                "w.yaml:5:7: dns[0]: expected a DNS name such as `payments.shop.svc`, found \
              \"*.shop.example\": wildcards are not certified: name each host",
            ),
            (
                "dns: [\"{namespace}.svc\"]",
                "w.yaml:5:6: dns: `{namespace}` in `{namespace}.svc` is no variable of the id",
            ),
            ("dns: [a, b, a]", "w.yaml:5:13: dns[2]: expected each of the list once, found \"a\""),
            (
                "selectors: [prod:x]",
                "w.yaml:5:13: selectors[0]: expected a selector such as `prod-cluster:namespace:shop`, \
              found \"prod:x\": expected `ATTESTOR:KEY:VALUE`, or `ATTESTOR` alone for any proof of it",
            ),
            (
                "selectors: [\"a:k:v\", \"b:k:v\"]",
                "w.yaml:5:12: selectors: a proof is of one attestor, so `a` and `b` never hold together",
            ),
            (
                "selectors: [a, \"a:k:v\"]",
                "w.yaml:5:12: selectors: `a` says nothing that the others do not: leave it out",
            ),
            (
                "until: 1960-01-01T00:00:00Z",
                "w.yaml:5:8: until: expected a time after 1970, found \"1960-01-01T00:00:00Z\"",
            ),
        ] {
            assert_eq!(parse(&with(line)).unwrap_err().to_string(), message);
        }
        for (from, to, message) in [
            ("Workload", "Policy", "w.yaml:1:7: kind: expected `Workload`, found \"Policy\""),
            ("spiffe://td/w", "spiffe://td", "found \"spiffe://td\": it names the trust domain"),
            ("spiffe://td/w", "spiffe://td/signet/x", "it is reserved"),
            ("spiffe://td/w", "spiffe://td/{a}", "selectors: a template needs one"),
            ("spiffe://td/w", "spiffe://td/x-{a}", "a variable is a whole segment"),
            ("{ team: t }", "shop", "w.yaml:3:8: owner: expected a mapping with `team`"),
            ("{ team: t }", "{ contact: c }", "w.yaml:3:8: owner: expected the field `team`, found none"),
            ("purpose: p", "purpose: \"a\\nb\"", "w.yaml:4:10: purpose: expected 1 to 256 bytes"),
        ] {
            let error = parse(&with("").replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let many = (0..17).map(|n| format!("\"a:k:{n}\"")).collect::<Vec<_>>().join(", ");
        let error = parse(&with(&format!("selectors: [{many}]"))).unwrap_err().to_string();
        assert!(error.contains("at most 16 items, found 17"), "{error}");
    }
}
