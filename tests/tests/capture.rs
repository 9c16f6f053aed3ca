//! `signet-proxy capture`: the rules of a network namespace, put in whole, looked at, and taken out without a
//! trace. Nothing runs behind them here; what they do to connections is in `pods`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use signet_tests::binaries::{Copy, binaries};
use signet_tests::client::{Client, Finished};
use signet_tests::pods::{APP_USER, Pod};

const REDIRECT: &[&str] = &["--proxy-uid", "1337", "--exclude-inbound-port", "15443"];
const TPROXY: &[&str] =
    &["--proxy-uid", "1337", "--exclude-inbound-port", "15443", "--inbound-mode", "tproxy"];
const EVERYTHING: &[&str] = &[
    "--proxy-uid",
    "1337",
    "--outbound-port",
    "16001",
    "--inbound-port",
    "16006",
    "--inbound-mode",
    "tproxy",
    "--exclude-outbound-port",
    "53",
    "--exclude-outbound-port",
    "123",
    "--exclude-outbound-cidr",
    "192.0.2.0/24",
    "--exclude-outbound-cidr",
    "2001:db8::/32",
    "--exclude-inbound-port",
    "22",
    "--exclude-inbound-cidr",
    "198.51.100.7/32",
    "--exclude-inbound-cidr",
    "2001:db8:1::/48",
    "--exclude-uid",
    "42",
];

/// What a namespace has that rules could be in.
#[derive(Debug, PartialEq, Eq)]
struct State {
    ruleset: String,
    rules: String,
    routes: String,
}

async fn state(pod: &Pod) -> State {
    let run = async |program: &str, arguments: &[&str]| pod.run(program, arguments).await.stdout;
    State {
        ruleset: run("nft", &["--stateless", "list", "ruleset"]).await,
        rules: run("ip", &["-4", "rule"]).await + &run("ip", &["-6", "rule"]).await,
        routes: run("ip", &["-4", "route", "show", "table", "all"]).await
            + &run("ip", &["-6", "route", "show", "table", "all"]).await,
    }
}

async fn capture(pod: &Pod, verb: &str, options: &[&str]) -> Finished {
    Client::at(&binaries().proxy).args(["capture", verb]).args(options).in_pod(pod, 0).run().await
}

async fn install(pod: &Pod, options: &[&str]) {
    let _ = capture(pod, "install", options).await.succeeded();
}

/// The exit code of `capture check`, and what it said.
async fn check(pod: &Pod) -> (i32, String) {
    let checked = capture(pod, "check", &[]).await;
    (checked.code(), checked.all())
}

/// As somebody else may have left the namespace: a table, a rule and a route of their own.
async fn inhabited(name: &str) -> Pod {
    let pod = Pod::alone(name);
    let table = "add table inet theirs; add chain inet theirs input { type filter hook input priority 0; }; \
                 add rule inet theirs input tcp dport 9 counter drop";
    pod.run("nft", &[table]).await;
    pod.run("nft", &["add table ip nat; add chain ip nat output { type nat hook output priority -100; }"])
        .await;
    for family in ["-4", "-6"] {
        pod.run("ip", &[family, "rule", "add", "fwmark", "0x7", "lookup", "77", "priority", "77"]).await;
        pod.run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "77"]).await;
    }
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn installing_twice_is_installing_once() {
    for options in [REDIRECT, TPROXY, EVERYTHING] {
        let pod = inhabited("twice").await;
        let before = state(&pod).await;
        install(&pod, options).await;
        let once = state(&pod).await;
        assert_ne!(before.ruleset, once.ruleset, "something is installed");
        assert_eq!(check(&pod).await.0, 0);

        install(&pod, options).await;
        assert_eq!(state(&pod).await, once);
        assert_eq!(check(&pod).await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_leaves_no_trace() {
    for options in [REDIRECT, TPROXY, EVERYTHING] {
        for pod in [Pod::alone("bare"), inhabited("inhabited").await] {
            let before = state(&pod).await;
            install(&pod, options).await;
            let _ = capture(&pod, "remove", &[]).await.succeeded();
            assert_eq!(state(&pod).await, before, "{options:?}");
            let (code, said) = check(&pod).await;
            assert_eq!(code, 1, "{said}");

            // Nothing is there, which is what was asked for.
            let _ = capture(&pod, "remove", &[]).await.succeeded();
            assert_eq!(state(&pod).await, before, "{options:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_options_replace_what_is_there() {
    let (changed, fresh) = (inhabited("changed").await, inhabited("fresh").await);
    for (first, second) in
        [(REDIRECT, EVERYTHING), (EVERYTHING, REDIRECT), (TPROXY, REDIRECT), (REDIRECT, TPROXY)]
    {
        install(&changed, first).await;
        install(&changed, second).await;
        let _ = capture(&fresh, "remove", &[]).await.succeeded();
        install(&fresh, second).await;
        assert_eq!(state(&changed).await, state(&fresh).await, "nothing is left of {first:?}");
        assert_eq!(check(&changed).await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_differs() {
    let pod = inhabited("checked").await;
    let (code, said) = check(&pod).await;
    assert_eq!(code, 1, "nothing is installed: {said}");
    assert!(said.contains("install"), "it says what to do: {said}");

    // What others do to their own tables is not ours to judge.
    install(&pod, TPROXY).await;
    pod.run("nft", &["add rule inet theirs input tcp dport 10 accept"]).await;
    let (code, said) = check(&pod).await;
    assert_eq!((code, said.contains("differ")), (0, false), "{said}");

    for rule in rules_of_ours(&pod).await {
        delete(&pod, &rule).await;
        let (code, said) = check(&pod).await;
        assert_eq!(code, 1, "without {rule:?}: {said}");
        let (_, name) = rule.text.rsplit_once("comment ").expect("every rule has its name");
        let name = name.trim_matches('"');
        let missing = said.lines().find(|line| line.starts_with("missing rules: ")).unwrap_or_default();
        assert!(missing.ends_with(&format!(": {name}")), "it names what is gone ({}): {said}", rule.text);
        install(&pod, TPROXY).await;
        assert_eq!(check(&pod).await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_sees_what_was_added_altered_or_flushed() {
    let pod = inhabited("altered").await;
    for options in [REDIRECT, TPROXY] {
        install(&pod, options).await;
        let now = state(&pod).await;
        let alterations = [
            "insert rule CHAIN tcp dport 4444 accept",
            "replace rule CHAIN handle HANDLE tcp dport 4445 return",
            "add chain TABLE more",
            "add set TABLE addresses { type ipv4_addr; }",
            "flush chain CHAIN",
            "flush table TABLE",
        ];
        for alteration in alterations {
            // Handles are new after each installation.
            let Rule { table, chain, handle, .. } = &rules_of_ours(&pod).await[0];
            let command = alteration.replace("CHAIN", &format!("TABLE {chain}"));
            let command = command.replace("TABLE", table).replace("HANDLE", handle);
            pod.run("nft", &[&command]).await;
            let (code, said) = check(&pod).await;
            assert_eq!(code, 1, "after {alteration}: {said}");
            for word in ["4444", "4445", "more", "addresses"].iter().filter(|word| alteration.contains(*word))
            {
                assert!(said.contains(word), "it shows what is new ({alteration}): {said}");
            }
            install(&pod, options).await;
            assert_eq!(state(&pod).await, now, "installing again repairs: {alteration}");
            assert_eq!(check(&pod).await.0, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_rules_and_installs_none() {
    let pod = inhabited("dry").await;
    let before = state(&pod).await;
    for options in [REDIRECT, TPROXY, EVERYTHING] {
        let shown = capture(&pod, "install", &[options, &["--dry-run"]].concat()).await.succeeded();
        assert_eq!(state(&pod).await, before, "{options:?}");
        let numbers =
            options.iter().filter(|option| option.starts_with(|first: char| first.is_ascii_digit()));
        for number in numbers {
            let number = number.trim_end_matches("/32");
            assert!(shown.stdout.contains(number), "{number} is not in: {}", shown.stdout);
        }
    }
    // What is shown is what is installed: nft takes it as it is. Only the comment of the table may be another.
    let uncommented = |state: State| -> Vec<String> {
        let lines = state.ruleset.lines().filter(|line| !line.trim().starts_with("comment "));
        lines.map(ToOwned::to_owned).collect()
    };
    let shown = capture(&pod, "install", &[EVERYTHING, &["--dry-run"]].concat()).await.succeeded();
    let nft = Client::new("nft").args(["--file", "-"]).input(shown.stdout);
    let _ = nft.in_pod(&pod, 0).run().await.succeeded();
    let by_hand = uncommented(state(&pod).await);
    install(&pod, EVERYTHING).await;
    assert_eq!(by_hand, uncommented(state(&pod).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_with_what_to_do() {
    /// Neither 0 nor 1, which are answers of `check`.
    const FAILED: i32 = 3;
    let pod = Pod::alone("missing");
    let before = state(&pod).await;
    let program = Copy::of(&binaries().proxy);
    for verb in [&["install", "--proxy-uid", "1337"][..], &["remove"], &["check"]] {
        let refused = Client::at(&program.path).arg("capture").args(verb).in_pod(&pod, APP_USER).run().await;
        assert_eq!(refused.code(), FAILED, "{verb:?}: {}", refused.all());
        let said = refused.stderr.to_lowercase();
        assert!(said.contains("root") || said.contains("cap_net_admin"), "{verb:?}: {said}");

        // `ip netns exec` gives each program mounts of its own.
        let without_nft = "mount -t tmpfs none /usr/sbin && PATH=/nowhere exec \"$0\" capture \"$@\"";
        let refused = Client::new("bash").args(["-c", without_nft]).arg(&program.path).args(verb);
        let refused = refused.in_pod(&pod, 0).run().await;
        assert_eq!(refused.code(), FAILED, "{verb:?}: {}", refused.all());
        assert!(refused.stderr.contains("install the package nftables"), "{verb:?}: {}", refused.stderr);
    }
    assert_eq!(state(&pod).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_by_their_flag() {
    let pod = Pod::alone("mistakes");
    let before = state(&pod).await;
    let uid = ["--proxy-uid", "1337"];
    let mistakes: [(&[&str], &str); 12] = [
        (&[], "--proxy-uid"),
        (&["--proxy-uid", "nobody"], "--proxy-uid"),
        (&["--proxy-uid", "-1"], "--proxy-uid"),
        (&["--outbound-port", "0"], "--outbound-port"),
        (&["--inbound-port", "0"], "--inbound-port"),
        (&["--inbound-port", "65536"], "--inbound-port"),
        (&["--inbound-mode", "magic"], "--inbound-mode"),
        (&["--exclude-outbound-port", "0"], "--exclude-outbound-port"),
        (&["--exclude-outbound-cidr", "10.0.0.0/33"], "--exclude-outbound-cidr"),
        (&["--exclude-outbound-cidr", "10.0.0.0"], "--exclude-outbound-cidr"),
        (&["--exclude-inbound-cidr", "fd00::/8; flush ruleset"], "--exclude-inbound-cidr"),
        (&["--exclude-uid", "a"], "--exclude-uid"),
    ];
    for (mistake, flag) in mistakes {
        let first: &[&str] = if flag == "--proxy-uid" { &[] } else { &uid };
        let refused = capture(&pod, "install", &[first, mistake].concat()).await;
        // An address without a length is one address.
        if mistake.contains(&"10.0.0.0") && refused.status.success() {
            let _ = capture(&pod, "remove", &[]).await.succeeded();
            continue;
        }
        assert_eq!(refused.code(), 2, "{mistake:?}: {}", refused.all());
        assert!(refused.stderr.contains(flag), "{mistake:?}: {}", refused.stderr);
    }
    // The same port for both would capture neither.
    let same = [&uid[..], &["--outbound-port", "15001", "--inbound-port", "15001"]].concat();
    let refused = capture(&pod, "install", &same).await;
    assert_eq!(refused.code(), 2, "{}", refused.all());
    assert!(refused.stderr.contains("-port"), "{}", refused.stderr);
    assert_eq!(state(&pod).await, before);
}

/// A rule that `capture install` made.
#[derive(Debug)]
struct Rule {
    /// With its address family.
    table: String,
    chain: String,
    handle: String,
    text: String,
}

/// Every rule of the tables that are neither `theirs` nor `nat`.
async fn rules_of_ours(pod: &Pod) -> Vec<Rule> {
    let listed = pod.run("nft", &["--stateless", "--handle", "--numeric", "list", "ruleset"]).await.stdout;
    let (mut table, mut chain, mut rules) = (String::new(), String::new(), Vec::new());
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, ..] => table = format!("{family} {name}"),
            ["chain", name, ..] => chain = (*name).to_owned(),
            ["set" | "map" | "type" | "policy", ..] | ["elements", ..] => {}
            [text @ .., "#", "handle", handle] if !line.contains('{') || line.contains('}') => {
                rules.push(Rule {
                    table: table.clone(),
                    chain: chain.clone(),
                    handle: (*handle).to_owned(),
                    text: text.join(" "),
                });
            }
            _ => {}
        }
    }
    rules.retain(|rule| !["inet theirs", "ip nat"].contains(&rule.table.as_str()));
    assert!(rules.len() >= 4, "rules are found in: {listed}");
    rules
}

async fn delete(pod: &Pod, rule: &Rule) {
    let Rule { table, chain, handle, .. } = rule;
    pod.run("nft", &[&format!("delete rule {table} {chain} handle {handle}")]).await;
}
