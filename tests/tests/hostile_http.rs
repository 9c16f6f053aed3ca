//! HTTP from somebody who means harm: floods of HTTP/2 frames, requests that try to be two, forged identity
//! headers, heads without measure. Everything is tried beside the caller, where the proxy is spoken to in plain
//! text, and as a peer with an SVID, where no other proxy has cleaned up before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::apps::{Conversation, DROPS, H2App, Received, Recorder, Said};
use signet_tests::attacks::{self, ENHANCE_YOUR_CALM};
use signet_tests::corpus::{self, Case, May};
use signet_tests::forgeries::{self, Forgery};
use signet_tests::mesh::id;
use signet_tests::process::Process;
use signet_tests::raw_h2::{self, Answer, END_STREAM, Pace, fields, flood, headers, request};
use signet_tests::report::measured;
use signet_tests::ways::{BOTH, Way, Ways, statuses};
use tokio::task::JoinSet;
use tokio::time::timeout;

const H2: &[u8] = b"h2";
/// How much more memory a proxy may have while it is attacked, and how much processor time one attack may cost it.
const MEMORY_CEILING: u64 = 32 << 20;
const CPU_CEILING: Duration = Duration::from_secs(5);
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_frames_beside_the_caller() {
    withstands(Way::Pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_frames_from_a_peer() {
    withstands(Way::Peer).await;
}

/// Each attack under both ceilings, while others are served on their connections.
async fn withstands(way: Way) {
    let app = H2App::start().await;
    let ways = Ways::to(app.address, "", "*").await;
    let proxies = [&ways.pair.caller.process, &ways.pair.server.process];
    let mut honest = Honest::connect(&ways, way).await;
    honest.is_served("before").await;

    let mut wrong = Vec::new();
    for attack in attacks::ALL {
        let before: Vec<Usage> = proxies.map(Usage::of).to_vec();
        let arrived = app.arrived();
        let started = Instant::now();
        let connection = ways.connect_narrow(way, H2).await;
        let flooding = tokio::spawn(flood(connection, attack.pace, attack.waves, attack.wave));
        let mut peaks = before.clone();
        let mut meanwhile = 0;
        loop {
            honest.is_served(attack.name).await;
            meanwhile += 1;
            for (peak, process) in peaks.iter_mut().zip(proxies) {
                *peak = peak.most(Usage::of(process));
            }
            if flooding.is_finished() {
                break;
            }
        }
        let outcome = flooding.await.unwrap();
        Honest::connect(&ways, way).await.is_served(attack.name).await;

        let cost: Vec<Usage> = peaks.iter().zip(&before).map(|(peak, before)| peak.beyond(*before)).collect();
        measured(
            &format!("{way:?}, {}", attack.name),
            format!(
                "{outcome}, in {:.1?}; caller's proxy {}, app's proxy {}; {} requests at the app, {meanwhile} of others served",
                started.elapsed(),
                cost[0],
                cost[1],
                app.arrived() - arrived - meanwhile - 1
            ),
        );
        for cost in cost {
            assert!(cost.memory < MEMORY_CEILING, "{}: {cost}", attack.name);
            assert!(cost.cpu < CPU_CEILING, "{}: {cost}", attack.name);
        }
        if !attack.ended_well(&outcome) {
            wrong.push(format!("{}: {outcome:?}, not {:?}", attack.name, attack.end));
        }
    }
    assert!(app.most_held() <= 400, "{} requests at once at the app", app.most_held());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Memory, and processor time.
#[derive(Debug, Clone, Copy)]
struct Usage {
    memory: u64,
    cpu: Duration,
}

impl Usage {
    fn of(process: &Process) -> Self {
        Self { memory: process.resident_bytes(), cpu: process.cpu_time() }
    }

    fn most(self, other: Self) -> Self {
        Self { memory: self.memory.max(other.memory), cpu: self.cpu.max(other.cpu) }
    }

    fn beyond(self, before: Self) -> Self {
        Self { memory: self.memory.saturating_sub(before.memory), cpu: self.cpu.saturating_sub(before.cpu) }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{:.1} MiB, {:.2} s", self.memory as f64 / f64::from(1 << 20), self.cpu.as_secs_f64())
    }
}

/// A client that means well, on one connection of its own.
struct Honest(SendRequest<Empty<Bytes>>);

impl Honest {
    async fn connect(ways: &Ways, way: Way) -> Self {
        let io = TokioIo::new(ways.connect(way, H2).await);
        // How many small frames it takes at once follows from its window, and is not what is tested.
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_connection_window_size(64 << 20);
        let (sender, connection) = client.handshake(io).await.expect("HTTP/2 is spoken");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn is_served(&mut self, during: &str) {
        let served = async {
            self.0.ready().await?;
            let request = Request::get("http://a/honest").body(Empty::new()).unwrap();
            let response = self.0.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body)))
        };
        let served = timeout(Duration::from_secs(10), served).await;
        let good = matches!(&served, Ok(Ok(answer)) if answer == "200 ok");
        assert!(good, "an honest client during {during}: {served:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_to_an_app_that_is_declared() {
    smuggles_nothing("http://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_to_an_app_that_is_detected() {
    smuggles_nothing("").await;
}

/// The whole corpus. What the app received is judged when nothing can come any more.
async fn smuggles_nothing(scheme: &str) {
    let app = Recorder::start().await;
    let ways = Ways::to(app.address, scheme, "/t/*").await;
    let mut tried = BTreeMap::new();
    let mut wrong = Vec::new();
    for way in BOTH {
        for case in corpus::all() {
            let tag = format!("{}{:03}", if way == Way::Pair { 'p' } else { 'q' }, tried.len());
            // Half of the senders end with their bytes, half wait for an answer; a part has none to wait for.
            let bytes = case.tagged(&tag);
            let answers = match (scheme, &case.may) {
                ("", May::Nothing | May::One { .. }) => ways.say_and_wait(way, &bytes).await,
                _ => ways.say(way, &bytes).await,
            };
            let answers = statuses(&answers);
            // Where it is not declared, what does not look like HTTP is refused without a word.
            if let (Some(expected), "http://") = (&case.answers, scheme)
                && answers != *expected
            {
                wrong.push(format!("{way:?}, {}: answers {answers:?}, not {expected:?}", case.name));
            }
            tried.insert(tag, (way, case, answers));
        }
    }
    ways.close();

    let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for conversation in app.ended().await {
        if let Some(why) = &conversation.malformed {
            let rest = String::from_utf8_lossy(&conversation.rest);
            wrong.push(format!("the app received {why}: {:?}", rest.lines().next()));
        }
        if let Some(tag) = tags(&conversation) {
            received.entry(tag).or_default().push("part".to_owned());
        }
        for request in conversation.requests {
            let tag = request.target.trim_start_matches("/t/").to_owned();
            match tried.get(&tag) {
                Some((way, case, _)) => match differs(&request, case, &tag) {
                    None => received.entry(tag).or_default().push("one".to_owned()),
                    Some(how) => wrong.push(format!("{way:?}, {}: the app received {how}", case.name)),
                },
                None => wrong.push(format!("the app received {request:?}")),
            }
        }
    }
    for (tag, (way, case, answers)) in &tried {
        let came = received.get(tag).map_or(String::new(), |came| came.join(" and "));
        println!("{scheme:8}{way:?} | {} | answers {answers:?} | {came}", case.name);
        let right = match case.may {
            May::Nothing => came.is_empty(),
            May::Part => came.is_empty() || came == "part",
            May::One { .. } => came == "one",
        };
        if !right {
            wrong.push(format!("{way:?}, {}: the app received {came:?}, not {:?}", case.name, case.may));
        }
    }
    measured(
        "requests that try to be two",
        format!("{} tried, {} not as they should be", tried.len(), wrong.len()),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The case whose request a connection broke off with.
fn tags(conversation: &Conversation) -> Option<String> {
    let rest = String::from_utf8_lossy(&conversation.rest).into_owned();
    let (_, tag) = rest.split_once(" /t/")?;
    Some(tag.chars().take(4).collect())
}

fn differs(request: &Received, case: &Case, tag: &str) -> Option<String> {
    let May::One { method, host, body } = &case.may else { return Some(format!("{request:?}")) };
    let body = body.replace("c000", tag);
    let same = request.method == *method
        && request.values("host") == [*host]
        && String::from_utf8_lossy(&request.body) == body
        && request.trailers.is_empty()
        && request.identities().len() == 1;
    (!same).then(|| format!("{request:?} instead of {method} with host {host} and body {body:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_identities_never_reach_an_app_over_http1() {
    let app = Recorder::start().await;
    let ways = Ways::to(app.address, "", "/t/*").await;
    let mut expected = BTreeMap::new();
    for way in BOTH {
        for (number, (status, forgery)) in forgeries::over_http1().into_iter().enumerate() {
            let target = format!("/t/{way:?}/{number}");
            let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{forgery}\r\n");
            let answers = statuses(&ways.say(way, request.as_bytes()).await);
            assert_eq!(answers, [status], "{way:?}: {forgery:?}");
            if status == 200 {
                expected.insert(target, ours(&ways.caller(way)));
            }
        }
    }
    ways.close();
    let requests = app.ended().await.into_iter().flat_map(|conversation| {
        assert!(conversation.malformed.is_none() && conversation.rest.is_empty(), "{conversation:?}");
        conversation.requests
    });
    only_ours(requests.collect(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_identities_and_injections_never_reach_an_app_over_http2() {
    let app = H2App::start().await;
    let ways = Ways::to(app.address, "", "/t/*").await;
    let mut expected = BTreeMap::new();
    let mut wrong = Vec::new();
    for way in BOTH {
        for (number, Forgery { name, passes, make }) in forgeries::over_http2().into_iter().enumerate() {
            let target = format!("/t/{way:?}/{number}");
            let answer = raw_h2::ask(ways.connect(way, H2).await, &make(&target)).await;
            println!("{way:?} | {name} | {answer:?}");
            let right = match answer {
                Answer::Status(200) => passes,
                Answer::Status(status) => !passes && (400..500).contains(&status),
                Answer::Reset(_) | Answer::GoAway(_) => !passes,
                Answer::Closed => false,
            };
            if !right {
                wrong.push(format!("{way:?}, {name}: {answer:?}"));
            }
            if passes {
                expected.insert(target, ours(&ways.caller(way)));
            }
        }
    }
    ways.close();
    assert!(wrong.is_empty(), "{wrong:#?}");
    only_ours(app.requests(), expected);
}

fn ours(caller: &str) -> (String, String) {
    (format!("By={};Hash=", id("/web")), format!(";URI={caller}"))
}

/// Exactly the expected requests came, and each with one identity, which is not the sender's word.
fn only_ours(requests: Vec<Received>, mut expected: BTreeMap<String, (String, String)>) {
    for request in requests {
        let (begin, end) = expected.remove(&request.target).unwrap_or_else(|| panic!("{request:?}"));
        let [identity] = request.identities()[..] else { panic!("not one identity: {request:?}") };
        assert!(identity.starts_with(&begin) && identity.ends_with(&end), "not ours: {request:?}");
        let all = format!("{request:?}");
        assert!(!all.contains("admin"), "{all}");
    }
    assert!(expected.is_empty(), "these did not arrive: {:?}", expected.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_pass_up_to_the_limit_and_get_431_beyond_it() {
    const LARGE: usize = 60 << 10;
    const TOO_LARGE: usize = 65 << 10;
    let (h1, h2) = (Recorder::start().await, H2App::start().await);
    let ways = Ways::to(h1.address, "", "*").await;
    let ways2 = Ways::to(h2.address, "", "*").await;
    let line = |size: usize| format!("X-Large: {}\r\n", "x".repeat(size));
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let mut wrong = Vec::new();
    for way in BOTH {
        // Host, and what each proxy adds: a request id and the identity.
        for (name, head, status) in [
            ("60 KiB", line(LARGE), 200),
            ("65 KiB", line(TOO_LARGE), 431),
            ("1 MiB", line(1 << 20), 431),
            ("60 KiB in lines of 1 KiB", line(1 << 10).repeat(60), 200),
            ("65 KiB in lines of 1 KiB", line(1 << 10).repeat(65), 431),
            ("97 fields", many(96), 200),
            ("101 fields", many(100), 431),
            ("1,000 fields", many(1000), 431),
        ] {
            let head = format!("GET /large HTTP/1.1\r\nHost: a\r\n{head}\r\n");
            let answers = statuses(&ways.say(way, head.as_bytes()).await);
            println!("{way:?} | http/1.1 | {name} | {answers:?}");
            if answers != [status] {
                wrong.push(format!("{way:?}, http/1.1, {name}: {answers:?}, not {status}"));
            }
        }
        let value = |size: usize| vec![b'x'; size];
        for (name, size, count, status) in [
            ("60 KiB", LARGE, 1, 200),
            ("65 KiB", TOO_LARGE, 1, 431),
            ("1 MiB", 1 << 20, 1, 431),
            ("60 KiB in fields of 1 KiB", 1 << 10, 57, 200),
            ("65 KiB in fields of 1 KiB", 1 << 10, 65, 431),
            ("97 fields", 1, 93, 200),
            ("200 fields", 1, 196, 431),
            ("1,000 fields", 1, 996, 431),
        ] {
            let value = value(size);
            let mut all = request("GET", "/large");
            all.extend(std::iter::repeat_n((&b"x-large"[..], &value[..]), count));
            let answer =
                raw_h2::ask(ways2.connect(way, H2).await, &headers(1, END_STREAM, &fields(&all))).await;
            println!("{way:?} | http/2 | {name} | {answer:?}");
            // A block that needs many more frames than its size allows is an attack on its own.
            let right = answer == Answer::Status(status)
                || (name == "1 MiB" && answer == Answer::GoAway(ENHANCE_YOUR_CALM));
            if !right {
                wrong.push(format!("{way:?}, http/2, {name}: {answer:?}, not {status}"));
            }
        }
    }
    let passed = h1.requests().iter().filter(|request| request.target == "/large").count();
    if passed != 6 {
        wrong.push(format!("{passed} requests reached the app, and 6 should"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_responses_pass_up_to_the_limit_and_become_502_beyond_it() {
    let app = Recorder::answering(|request| {
        let size: usize = request.target.trim_start_matches('/').parse().unwrap();
        Said::and_keep(format!(
            "HTTP/1.1 200 OK\r\nx-large: {}\r\ncontent-length: 2\r\n\r\nok",
            "x".repeat(size)
        ))
    })
    .await;
    let ways = Ways::to(app.address, "", "*").await;
    for way in BOTH {
        for (size, status) in [(60 << 10, 200), (1 << 20, 502)] {
            let request = format!("GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n");
            let answers = statuses(&ways.say(way, request.as_bytes()).await);
            assert_eq!(answers, [status], "{way:?}, a response head of {size} bytes");
        }
    }
}

/// What deadlines do to many calls at once. No connection cancels more than one may; the proxies carry them together.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_some_cancel_do_not_break_those_of_others() {
    let app = H2App::start().await;
    let ways = Ways::to(app.address, "", "*").await;
    for way in BOTH {
        let mut honest = Honest::connect(&ways, way).await;
        let mut cancelling = JoinSet::new();
        for _ in 0..8 {
            let connection = ways.connect(way, H2).await;
            cancelling.spawn(flood(connection, Pace::InStep, 300, attacks::opened_and_reset::<10>));
        }
        let mut served = 0;
        while !cancelling.is_empty() {
            honest.is_served("cancellations").await;
            served += 1;
            while let Some(outcome) = cancelling.try_join_next() {
                let outcome = outcome.unwrap();
                assert!(outcome.alive, "{way:?}: {outcome}");
            }
        }
        measured(&format!("{way:?}: requests served while 8 connections cancel"), served);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_messages_are_no_attack() {
    let app = H2App::start().await;
    let ways = Ways::to(app.address, "", "*").await;
    let mut wrong = Vec::new();
    for way in BOTH {
        let mut honest = Honest::connect(&ways, way).await;
        honest.is_served("before").await;
        let drops = Request::get("http://a/drip").body(Empty::new()).unwrap();
        let response = honest.0.send_request(drops).await.unwrap();
        match timeout(Duration::from_secs(20), response.into_body().collect()).await.expect("an end in time")
        {
            Ok(body) => assert_eq!(body.to_bytes().len(), 10 * DROPS, "{way:?}"),
            Err(error) => wrong.push(format!("{way:?}: {error:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
