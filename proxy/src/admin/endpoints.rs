//! Every endpoint of the admin listener, a line each.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::reply::Body;
use super::{
    Admin, Ask, Refused, Reply, config, connections, explain, identity, log, policy, profile, quit, services,
    tap,
};

/// How long an endpoint may take until it begins to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

type Answering = Pin<Box<dyn Future<Output = Result<Reply, Refused>> + Send>>;

/// One endpoint.
struct Endpoint {
    method: &'static str,
    /// A segment `ID` stands for any.
    path: &'static str,
    /// For the index.
    says: &'static str,
    /// How long it may take until it begins to answer.
    within: Duration,
    answer: fn(Arc<Admin>, Ask) -> Answering,
}

const ENDPOINTS: &[Endpoint] = &[
    get("/", "this list", |_, ask| Box::pin(async move { index(&ask) })),
    get("/config", "configuration in force, and where each value came from", |admin, ask| {
        Box::pin(async move { config::show(&admin, &ask) })
    }),
    get("/identity", "the SVID, its chain and next renewal, and the bundles", |admin, ask| {
        Box::pin(async move { identity::show(&admin, &ask) })
    }),
    get("/policy", "documents in force, and what of them could not be read", |admin, ask| {
        Box::pin(async move { policy::show(&admin, &ask) })
    }),
    get("/services", "whom the app calls, and how their endpoints are", |admin, ask| {
        Box::pin(async move { services::show(&admin, &ask) })
    }),
    get(
        "/explain",
        "what policy says of a call: `source` or `destination`, `port`, `method`, `path`...",
        |admin, ask| Box::pin(async move { explain::show(&admin, ask) }),
    ),
    get("/connections", "what is open now; filters, `sort` and `limit` in the query", |admin, ask| {
        Box::pin(async move { connections::show(&admin, ask) })
    }),
    change("POST", "/connections/ID/close", "closes one", |admin, ask| {
        Box::pin(async move { connections::close(&admin, &ask) })
    }),
    get("/tap", "connections and requests as they come, a line of JSON each", |admin, ask| {
        Box::pin(async move { tap::stream(&admin, ask) })
    }),
    get("/log", "what is logged", |admin, ask| Box::pin(async move { log::show(&admin, &ask) })),
    change("PUT", "/log", r#"change it: {"filter": "debug,access=off", "for": "10m"}"#, |admin, ask| {
        Box::pin(async move { log::change(&admin, &ask) })
    }),
    change("POST", "/log", "the same", |admin, ask| Box::pin(async move { log::change(&admin, &ask) })),
    Endpoint {
        within: ANSWER_DEADLINE.saturating_add(Duration::from_secs(profile::LONGEST)),
        ..get(
            "/profile/cpu",
            "where CPU time goes for `seconds`, for pprof (with `profiles`)",
            |admin, ask| Box::pin(async move { profile::cpu(&admin, ask).await }),
        )
    },
    get(
        "/profile/heap",
        "who asked for memory, and what is in use, for pprof (with `profiles`)",
        |admin, ask| Box::pin(async move { profile::heap(&admin, ask).await }),
    ),
    change("POST", "/quit", "drain and end, as when the job is done (with `allow-quit`)", |admin, ask| {
        Box::pin(async move { quit::quit(&admin, &ask) })
    }),
];

const fn get(path: &'static str, says: &'static str, answer: fn(Arc<Admin>, Ask) -> Answering) -> Endpoint {
    Endpoint { method: "GET", path, says, within: ANSWER_DEADLINE, answer }
}

/// One that needs the mark that it comes from no web page.
const fn change(
    method: &'static str,
    path: &'static str,
    says: &'static str,
    answer: fn(Arc<Admin>, Ask) -> Answering,
) -> Endpoint {
    Endpoint { method, path, says, within: ANSWER_DEADLINE, answer }
}

/// Finds the endpoint and has it answer.
pub(super) async fn answer(admin: &Arc<Admin>, request: Request<Incoming>, over_tcp: bool) -> Response<Body> {
    match found(admin, request, over_tcp).await {
        Ok(reply) => reply.into(),
        Err(refused) => refused.into(),
    }
}

async fn found(admin: &Arc<Admin>, request: Request<Incoming>, over_tcp: bool) -> Result<Reply, Refused> {
    let path = request.uri().path().to_owned();
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let here: Vec<_> =
        ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint, matched(endpoint, &path)?))).collect();
    let asked = here.iter().find(|(endpoint, _)| endpoint.method == method);
    let Some((endpoint, id)) = asked else {
        // Who may not ask learns nothing of what there is.
        Ask::read(request, None, over_tcp).await?;
        return Err(match here.first() {
            Some((other, _)) => Refused::method(other.method),
            None => Refused::new(StatusCode::NOT_FOUND, format!("no {path} here; GET / lists what there is")),
        });
    };
    let ask = Ask::read(request, id.map(str::to_owned), over_tcp).await?;
    let answering = (endpoint.answer)(Arc::clone(admin), ask);
    let late = |_| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "no answer in time");
    tokio::time::timeout(endpoint.within, answering).await.map_err(late)?
}

/// What stands for `ID`, if the path is the endpoint's.
fn matched<'a>(endpoint: &Endpoint, path: &'a str) -> Option<Option<&'a str>> {
    let (mut wanted, mut found) = (endpoint.path.split('/'), path.split('/'));
    let mut id = None;
    loop {
        match (wanted.next(), found.next()) {
            (Some("ID"), Some(segment)) if !segment.is_empty() => id = Some(segment),
            (Some(wanted), Some(segment)) if wanted == segment => {}
            (None, None) => return Some(id),
            _ => return None,
        }
    }
}

fn index(ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    if ask.wants_json {
        let all = ENDPOINTS.iter().map(
            |endpoint| json!({ "method": endpoint.method, "path": endpoint.path, "says": endpoint.says }),
        );
        return Reply::json(&all.collect::<Vec<_>>());
    }
    let mut text = format!("signet-proxy {}\n\n", env!("CARGO_PKG_VERSION"));
    for Endpoint { method, path, says, .. } in ENDPOINTS {
        let _ = writeln!(text, "{method:<4} {path:<24} {says}");
    }
    text.push_str("\nWhat changes anything needs `content-type: application/json` or `signet-admin: yes`.\n");
    Ok(Reply::text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_as_a_whole() {
        let close =
            change("POST", "/connections/ID/close", "", |_, ask| Box::pin(async move { index(&ask) }));
        assert_eq!(matched(&close, "/connections/17/close"), Some(Some("17")));
        for other in ["/connections//close", "/connections/17", "/connections/17/close/", "/", ""] {
            assert_eq!(matched(&close, other), None, "{other}");
        }
    }

    #[test]
    fn no_endpoint_hides_another() {
        for (place, one) in ENDPOINTS.iter().enumerate() {
            for other in ENDPOINTS.iter().skip(place + 1) {
                assert!((one.method, one.path) != (other.method, other.path), "{} {}", one.method, one.path);
            }
        }
    }
}
