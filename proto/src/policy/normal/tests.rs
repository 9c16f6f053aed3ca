//! The normal form by example, and against two readings that were written apart from it: one that decodes and folds
//! step by step as RFC 3986 says it, and what servers of several kinds make of the same bytes.

use super::super::path::is_ambiguous;
use super::*;
use proptest::prelude::*;

#[test]
fn what_means_the_same_has_one_form() {
    for (path, normal) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//", "/"),
        ("//a///b//", "/a/b/"),
        ("/a/./b/.", "/a/b/"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/%61dmin", "/admin"),
        ("/%7euser/%2d", "/~user/-"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b%40", "/a%20b%40"),
        ("/a;x=1/b", "/a;x=1/b"),
        ("/%2541", "/%2541"),
        ("/...", "/..."),
        ("/.a/a.", "/.a/a."),
        ("*", "*"),
        ("", ""),
    ] {
        assert_eq!(normalize(path).as_deref(), Ok(normal), "{path}");
    }
    assert!(matches!(normalize("/a/b.c/d-e_f~"), Ok(Cow::Borrowed(_))), "nothing to do costs nothing");
}

#[test]
fn what_is_read_in_several_ways_has_none() {
    use PathRefused as E;
    for (path, why) in [
        ("/a\\..\\b", E::Byte),
        ("/a b", E::Byte),
        ("/a#b", E::Byte),
        ("/a?b", E::Byte),
        ("/é", E::Byte),
        ("/\0", E::Byte),
        ("a b", E::Byte),
        ("/%", E::Escape),
        ("/%4", E::Escape),
        ("/%zz", E::Escape),
        ("/%+1", E::Escape),
        ("/%00", E::Hidden),
        ("/a%0d%0aX", E::Hidden),
        ("/a%7f", E::Hidden),
        ("/a%5C..%5cb", E::Hidden),
        ("/%c0%af", E::Utf8),
        ("/%e0%80%af", E::Utf8),
        ("/%c3", E::Utf8),
        ("/%c3a%a9", E::Utf8),
        ("/%ff", E::Utf8),
        ("/%ed%a0%80", E::Utf8),
        ("/..", E::AboveRoot),
        ("/a/../../b", E::AboveRoot),
        ("/%2e%2e/b", E::AboveRoot),
        ("/a//../b", E::DoubtfulDots),
        ("/a/..;/b", E::DoubtfulDots),
        ("/a/..;x=1/b", E::DoubtfulDots),
        ("/a/..%3b/b", E::DoubtfulDots),
        ("/a/..%2fb", E::DoubtfulDots),
        ("/a/x%2f..%2fb", E::DoubtfulDots),
        ("/a/.;/b", E::DoubtfulDots),
    ] {
        assert_eq!(normalize(path), Err(why), "{path}");
    }
}

/// RFC 3986 section 5.2.4, word for word: an input and an output buffer.
fn remove_dot_segments(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("../") {
            input.drain(..3);
        } else if input.starts_with("./") || input.starts_with("/./") {
            input.drain(..2);
        } else if input == "/." {
            input = "/".into();
        } else if input.starts_with("/../") || input == "/.." {
            input.replace_range(..3, "");
            if input.is_empty() {
                input.push('/');
            }
            output.truncate(output.rfind('/').unwrap_or_default());
        } else if input == "." || input == ".." {
            input.clear();
        } else {
            let start = usize::from(input.starts_with('/'));
            let end = input[start..].find('/').map_or(input.len(), |at| start + at);
            output.push_str(&input[..end]);
            input.drain(..end);
        }
    }
    output
}

/// Every escape decoded, as an app that has the whole path in memory does it.
fn decoded(path: &str) -> Vec<u8> {
    let (bytes, mut output, mut at) = (path.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let pair = (bytes[at] == b'%').then(|| path.get(at + 1..at + 3)).flatten();
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                output.push(byte);
                at += 3;
            }
            None => {
                output.push(bytes[at]);
                at += 1;
            }
        }
    }
    output
}

/// Slashes that follow one another as one.
fn merged(path: &str) -> String {
    let mut merged = String::new();
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// What servers make of a path before they look for a resource. Each is a reading that some server in use has.
fn readings(path: &str) -> Vec<(&'static str, Vec<u8>)> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let cut = |path: &str| {
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        segments.collect::<Vec<_>>().join("/")
    };
    vec![
        ("decodes", decoded(path)),
        ("folds, then decodes", decoded(&remove_dot_segments(path))),
        ("decodes, then folds", remove_dot_segments(&text(decoded(path))).into_bytes()),
        ("decodes, merges, folds (nginx)", remove_dot_segments(&merged(&text(decoded(path)))).into_bytes()),
        (
            "cuts parameters, decodes, folds (Tomcat)",
            remove_dot_segments(&text(decoded(&cut(path)))).into_bytes(),
        ),
        ("decodes twice, folds", remove_dot_segments(&text(decoded(&text(decoded(path))))).into_bytes()),
        (
            "takes backslashes for slashes (IIS)",
            remove_dot_segments(&text(decoded(path)).replace('\\', "/")).into_bytes(),
        ),
    ]
}

const PATHS: &str =
    "/(a|b|\\.|/|;|%2[eEfF5]|%61|%3[bB]|%5c|\\\\|%00|%c0%af|%c3%a9|%25|%|2e|2f| |é|%7e|~|:){0,9}";

proptest! {
    #[test]
    fn the_normal_form_is_its_own(path in PATHS) {
        if let Ok(normal) = normalize(&path) {
            prop_assert_eq!(normalize(&normal), Ok(normal.clone()), "{}", path);
        }
    }

    #[test]
    fn it_means_what_the_path_meant(path in PATHS) {
        // By the RFC, apart from slashes that follow one another, of which it says nothing.
        if let Ok(normal) = normalize(&path) {
            let expected = decoded(&remove_dot_segments(&unhidden(&path)));
            let text = |bytes: &[u8]| merged(&String::from_utf8_lossy(bytes));
            prop_assert_eq!(text(&decoded(&normal)), text(&expected), "{}", path);
        }
    }

    #[test]
    fn every_server_reads_it_alike_unless_rules_call_it_ambiguous(path in PATHS) {
        if let Ok(normal) = normalize(&path) && !is_ambiguous(&normal) {
            let all = readings(&normal);
            for (server, reading) in &all {
                prop_assert_eq!(reading, &all[0].1, "{} -> {}: who {}", path, normal, server);
            }
        }
    }

    #[test]
    fn a_form_that_rules_can_read_has_nothing_left_to_settle(path in "\\PC{0,24}|/(%[0-9a-f]{2}|[a-z./;]){0,10}") {
        if let Ok(normal) = normalize(&path) && normal.starts_with('/') {
            let segments = normal[1..].split('/');
            prop_assert!(!segments.clone().any(|segment| matches!(segment, "." | "..")), "{}", normal);
            prop_assert!(!normal.contains("//"), "{}", normal);
            prop_assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{}", normal);
        }
    }
}

/// With `%2e` in clear: that is all that the RFC's folding has to see.
fn unhidden(path: &str) -> String {
    path.replace("%2e", ".").replace("%2E", ".")
}
