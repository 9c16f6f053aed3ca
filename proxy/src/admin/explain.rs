//! `/explain`: what this proxy would decide about a call, and why, in the words of `signet explain`.

use http::StatusCode;
use signet_proto::policy::{Answer, Asked, Direction, PolicySet, Question};
use signet_proto::settings::Settings;
use signet_proto::spiffe::SpiffeId;

use super::{Admin, Ask, Refused, Reply};

const PARAMETERS: &str =
    "`source` or `destination`, `port`, `method`, `path`, `host`, `header` (NAME: VALUE) or `address`";

pub(super) fn show(admin: &Admin, mut ask: Ask) -> Result<Reply, Refused> {
    let mesh = &admin.shared.mesh;
    let Some(snapshot) = mesh.current() else {
        let text = format!("no policy in force yet: {}", mesh.missing().join("; "));
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let answer = answer(&snapshot.policy, &snapshot.settings, snapshot.svid.id(), &mut ask)?;
    if ask.wants_json { Reply::json(&answer) } else { Ok(Reply::text(answer.explanation + "\n")) }
}

/// Who calls us, or whom our app calls: we are at the other end.
fn answer(
    policy: &PolicySet,
    settings: &Settings,
    local: &SpiffeId,
    ask: &mut Ask,
) -> Result<Answer, Refused> {
    let mut text = |name| ask.take::<String>(name).map(Option::unwrap_or_default);
    let (source, destination) = (text("source")?, text("destination")?);
    let (port, address) = (text("port")?, text("address")?);
    let (method, path, host) = (text("method")?, text("path")?, text("host")?);
    let headers = ask.take_all("header");
    ask.nothing_else(PARAMETERS)?;
    let ours = local.as_str();
    let (direction, source, destination) = match (source.as_str(), destination.as_str()) {
        ("", "") => {
            return Err(Refused::bad(
                "expected `source` (who calls us, or `plaintext`) or `destination` (whom we call)",
            ));
        }
        (source, "") => (Direction::Inbound, source, ours),
        ("", destination) => (Direction::Egress, ours, destination),
        (source, destination) if destination == ours => (Direction::Inbound, source, destination),
        (source, destination) if source == ours => (Direction::Egress, source, destination),
        _ => {
            let text =
                format!("this proxy decides for {ours} alone: `signet explain` answers for both sides");
            return Err(Refused::bad(text));
        }
    };
    let asked = Asked {
        source,
        destination,
        port: &port,
        method: &method,
        path: &path,
        host: &host,
        headers: headers.iter().map(String::as_str).collect(),
        address: &address,
    };
    let question = Question::parse(&asked).map_err(Refused::bad)?;
    Ok(question.answer(direction, policy, settings, signet_proto::clock::now()))
}

#[cfg(test)]
#[path = "../../../proto/golden/table.rs"]
mod table;

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use signet_proto::policy::parse_yaml;

    use super::table::Case;
    use super::*;

    fn query(parameters: &[(&str, &str)]) -> String {
        let pair =
            |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        parameters.iter().filter(|(_, value)| !value.is_empty()).map(pair).collect::<Vec<_>>().join("&")
    }

    #[test]
    fn the_proxy_says_what_the_golden_table_says() {
        let (documents, cases) = table::read();
        let (documents, settings) = (parse_yaml("table.yaml", &documents).unwrap(), table::settings());
        for case in &cases {
            let (local, other) = match case.direction.as_str() {
                "inbound" => (&case.destination, ("source", case.source.as_str())),
                _ => (&case.source, ("destination", case.destination.as_str())),
            };
            let local: SpiffeId = local.parse().unwrap();
            // As a proxy has them: those alone that concern it.
            let concerned = documents.iter().filter(|document| PolicySet::concerns(document, &local));
            let policy = PolicySet::compile(concerned.cloned().collect()).unwrap();
            let mut parameters = vec![
                other,
                ("port", &case.port),
                ("method", &case.method),
                ("path", &case.path),
                ("host", &case.host),
                ("address", &case.address),
            ];
            parameters.extend(case.headers.iter().map(|header| ("header", header.as_str())));
            let mut ask = Ask::of_query(&query(&parameters)).unwrap();
            let Answer { allowed, reason, policy, rule, explanation, .. } =
                answer(&policy, &settings, &local, &mut ask).unwrap();
            assert_eq!(
                Case::found(allowed, reason, &policy, &rule, &explanation),
                case.expected(),
                "{case:#?}"
            );
        }
    }

    #[test]
    fn only_what_this_proxy_decides_is_answered() {
        let local: SpiffeId = "spiffe://td/app".parse().unwrap();
        let policy = PolicySet::empty();
        let settings = Settings::default();
        let ask = |text: &str| answer(&policy, &settings, &local, &mut Ask::of_query(text).unwrap());
        assert_eq!(ask("source=spiffe://td/a&port=1").unwrap().direction, "inbound");
        assert_eq!(ask("destination=spiffe://td/a&port=1").unwrap().reason, "unrestricted");
        assert_eq!(
            ask("source=spiffe://td/app&destination=spiffe://td/a&port=1").unwrap().direction,
            "egress"
        );
        for (query, says) in [
            ("port=1", "expected `source`"),
            ("source=spiffe://td/a&destination=spiffe://td/b&port=1", "decides for spiffe://td/app alone"),
            ("source=spiffe://td/a", "port: "),
            ("source=spiffe://td/a&port=1&method=GET", "method and path"),
            ("source=spiffe://td/a&port=1&verb=GET", "`verb` is no parameter"),
        ] {
            let refused = ask(query).unwrap_err().to_string();
            assert!(refused.contains(says), "{query}: {refused}");
        }
    }
}
