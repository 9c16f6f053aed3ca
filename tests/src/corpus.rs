//! Requests that try to be two: for each, what may reach the app, and what the sender is told.
//!
//! Every case asks for `/t/c000`, which policy allows; what is smuggled asks for `/admin/c000`, which it denies. A
//! proxy that sees the second as a request of its own answers 403 and nothing is lost; one that does not see it
//! passes it undecided. The tag `c000` is replaced by one that is unique in a run.

/// A placeholder of the same length as every tag.
const TAG: &[u8] = b"c000";

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it tries.
    pub name: String,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// What may reach the app.
    pub may: May,
    /// The statuses that the sender gets where HTTP is declared; `None` where it depends on how far the body came.
    pub answers: Option<Vec<u16>>,
}

/// What the app may receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum May {
    /// Not a single byte.
    Nothing,
    /// No complete request: the body ended in an error.
    Part,
    /// Exactly this one.
    One {
        /// Method.
        method: &'static str,
        /// The value of `Host`.
        host: &'static str,
        /// The body.
        body: String,
    },
}

impl Case {
    /// The bytes under a tag of four characters.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(TAG.len()).position(|window| window == TAG) {
            at += found;
            bytes[at..at + TAG.len()].copy_from_slice(tag.as_bytes());
        }
        bytes
    }
}

/// The request that must not pass.
fn smuggled() -> String {
    "GET /admin/c000 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()
}

/// All cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        both_lengths(),
        obscure_codings(),
        content_lengths(),
        chunks(),
        heads(),
        hosts(),
        targets(),
        old_versions(),
        changes_of_protocol(),
        expectations(),
    ]
    .concat()
}

/// RFC 9112 s6.3: the coding wins, and the connection ends with the response.
fn both_lengths() -> Vec<Case> {
    let (secret, size) = (smuggled(), smuggled().len());
    let (after, length) = (format!("0\r\n\r\n{secret}"), 5 + size);
    let chunk = format!("{size:x}\r\n{secret}\r\n0\r\n\r\n");
    let te = "Transfer-Encoding: chunked\r\n";
    vec![
        passes("CL.TE", &post(&format!("Content-Length: {length}\r\n{te}"), &after), ""),
        passes("CL.TE, coding first", &post(&format!("{te}Content-Length: {length}\r\n"), &after), ""),
        passes("CL.TE, length 0", &post(&format!("Content-Length: 0\r\n{te}"), &after), ""),
        passes("TE.CL", &post(&format!("Content-Length: 4\r\n{te}"), &chunk), &secret),
        passes("TE.CL, coding first", &post(&format!("{te}Content-Length: 4\r\n"), &chunk), &secret),
        refused(
            "CL.TE, two lengths",
            &post(&format!("Content-Length: 4\r\nContent-Length: {length}\r\n{te}"), &after),
        ),
    ]
}

fn obscure_codings() -> Vec<Case> {
    let after = format!("0\r\n\r\n{}", smuggled());
    let length = format!("Content-Length: {}\r\n", after.len());
    let with = |field: &str| post(&format!("{length}{field}\r\n"), &after);
    let mut cases = Vec::new();
    for (name, field) in [
        ("two blanks", "Transfer-Encoding:  chunked"),
        ("tab", "Transfer-Encoding:\tchunked"),
        ("blanks after it", "Transfer-Encoding: chunked \t"),
        ("no blank", "Transfer-Encoding:chunked"),
        ("capitals", "TRANSFER-ENCODING: CHUNKED"),
        ("line that ends with LF", "X: y\nTransfer-Encoding: chunked"),
    ] {
        cases.push(passes(&format!("TE.TE: {name}"), &with(field), ""));
    }
    for (name, field) in [
        ("xchunked", "Transfer-Encoding: xchunked"),
        ("chunked, identity", "Transfer-Encoding: chunked, identity"),
        ("identity", "Transfer-Encoding: identity"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("chunked,", "Transfer-Encoding: chunked,"),
        ("empty", "Transfer-Encoding:"),
        ("quoted", "Transfer-Encoding: \"chunked\""),
        ("parameter", "Transfer-Encoding: chunked;q=1"),
        ("NUL inside", "Transfer-Encoding: chu\0nked"),
        ("vertical tab", "Transfer-Encoding: \x0bchunked"),
        ("form feed", "Transfer-Encoding: \x0cchunked"),
        ("no-break space", "Transfer-Encoding: \u{a0}chunked"),
        ("space before the colon", "Transfer-Encoding : chunked"),
        ("tab before the colon", "Transfer-Encoding\t: chunked"),
        ("space before the name", " Transfer-Encoding: chunked"),
        ("folded", "Transfer-Encoding:\r\n chunked"),
        ("folded into another", "X: y\r\n\tTransfer-Encoding: chunked"),
        ("line break before the colon", "Transfer-Encoding\r\n: chunked"),
        ("bare CR after it", "Transfer-Encoding: chunked\rX: y"),
        ("bare CR before it", "X: y\rTransfer-Encoding: chunked"),
    ] {
        cases.push(refused(&format!("TE.TE: {name}"), &with(field)));
    }
    // Codings that may be, but not here.
    for (name, field) in [
        ("identity, chunked", "Transfer-Encoding: identity, chunked"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        ("x, chunked", "Transfer-Encoding: x, chunked"),
        ("chunked, chunked", "Transfer-Encoding: chunked, chunked"),
        ("identity and chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("x and chunked", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked"),
        ("empty and chunked", "Transfer-Encoding:\r\nTransfer-Encoding: chunked"),
        (", chunked", "Transfer-Encoding: , chunked"),
    ] {
        cases.push(Case { answers: Some(vec![501]), ..refused(&format!("TE.TE: {name}"), &with(field)) });
    }
    // Another field: the length counts, and the proxy says so to the app.
    cases.push(passes("TE.TE: underscore", &with("Transfer_Encoding: chunked"), &after));
    cases.push(passes("TE.TE: x-transfer-encoding", &with("X-Transfer-Encoding: chunked"), &after));
    cases
}

fn content_lengths() -> Vec<Case> {
    let body = format!("hello{}", smuggled());
    let with = |fields: &str| post(&format!("{fields}\r\n"), &body);
    let mut cases = vec![
        pipelined("CL twice, the same", &with("Content-Length: 5\r\nContent-Length: 5"), "hello"),
        pipelined("CL with leading zeros", &with("Content-Length: 0005"), "hello"),
        pipelined("CL between blanks", &with("Content-Length: \t5\t "), "hello"),
        pipelined(
            "CL nominated by Connection",
            &with("Connection: content-length\r\nContent-Length: 5"),
            "hello",
        ),
        // What was meant as a body is the method of the next request.
        pipelined("CL with an underscore", &with("Content_Length: 5"), ""),
        // It ends before its length: there is nothing complete to pass on.
        part("CL longer than the body", &with("Content-Length: 500")),
    ];
    for value in [
        "5, 5",
        "5,6",
        "+5",
        "-5",
        "5 5",
        "0x5",
        "5.0",
        "5e0",
        "5abc",
        "",
        "٥",
        "5\x0b",
        "18446744073709551621",
        "99999999999999999999999",
    ] {
        cases.push(refused(&format!("CL {value:?}"), &with(&format!("Content-Length: {value}"))));
    }
    for (name, fields) in [
        ("CL twice, conflicting", "Content-Length: 5\r\nContent-Length: 50"),
        ("CL twice, one of them wrong", "Content-Length: 5\r\nContent-Length: x"),
        ("CL with space before the colon", "Content-Length : 5"),
        ("CL folded", "Content-Length:\r\n 5"),
        ("CL folded into a longer one", "Content-Length: 5\r\n 0"),
        ("CL after a bare CR", "X: y\rContent-Length: 5"),
    ] {
        cases.push(refused(name, &with(fields)));
    }
    cases
}

/// RFC 9112 s7.1. The head has reached the app when the body turns out to be wrong.
fn chunks() -> Vec<Case> {
    let with = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let secret = smuggled();
    let long = "x".repeat(40_000);
    let mut cases = vec![
        pipelined("chunk extension", &with(&format!("5;a=b\r\nhello\r\n0\r\n\r\n{secret}")), "hello"),
        pipelined("chunk size with zeros", &with(&format!("0005\r\nhello\r\n000\r\n\r\n{secret}")), "hello"),
        pipelined(
            "forbidden trailers",
            &with(&format!(
                "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n{secret}"
            )),
            "hello",
        ),
        pipelined(
            "forbidden trailers, announced",
            &post(
                "Transfer-Encoding: chunked\r\nTrailer: Content-Length, Transfer-Encoding, Host\r\n",
                &format!(
                    "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n{secret}"
                ),
            ),
            "hello",
        ),
    ];
    for (name, body) in [
        ("chunk size 0x5", format!("0x5\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size +5", format!("+5\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size -5", format!("-5\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size after a blank", format!(" 5\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size g", format!("g\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk without a size", format!("\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size that overflows", format!("10000000000000005\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size line that ends with LF", format!("5\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk size line with a bare CR", format!("5\rX\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk data without an end", format!("5\r\nhello0\r\n\r\n{secret}")),
        ("chunk data longer than its size", format!("5\r\nhelloworld\r\n0\r\n\r\n{secret}")),
        ("chunk data that ends with LF", format!("5\r\nhello\n0\r\n\r\n{secret}")),
        ("chunk extension with LF", format!("5;\nX\r\nhello\r\n0\r\n\r\n{secret}")),
        ("chunk extension with bare CR", format!("5;a\rb\r\nhello\r\n0\r\n\r\n{secret}")),
        (
            "chunk size that a second look takes for the last one",
            format!("5\r\nhello\r\n0Z: x\r\n\r\n{secret}"),
        ),
        ("chunk extension of 40 kB", format!("5;{long}\r\nhello\r\n0\r\n\r\n{secret}")),
        ("trailers of 80 kB", format!("5\r\nhello\r\n0\r\nX: {long}{long}\r\n\r\n{secret}")),
        ("trailer without a colon", format!("5\r\nhello\r\n0\r\nX\r\n\r\n{secret}")),
        ("last chunk missing", "5\r\nhello\r\n".to_owned()),
    ] {
        cases.push(part(name, &with(&body)));
    }
    cases
}

fn heads() -> Vec<Case> {
    let secret = smuggled();
    let get = |fields: &str| format!("GET /t/c000 HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut cases = vec![
        pipelined_get("two requests", &format!("{}{secret}", get(""))),
        pipelined_get("empty lines first", &format!("\r\n\r\n{}{secret}", get(""))),
        pipelined_get("lines that end with LF", &format!("GET /t/c000 HTTP/1.1\nHost: a\n\n{secret}")),
        Case {
            answers: Some(vec![200]),
            ..pipelined_get(
                "bytes after Connection: close",
                &format!("{}{secret}", get("Connection: close\r\n")),
            )
        },
        Case {
            answers: Some(vec![200, 400]),
            ..pipelined_get("TLS after a request", &format!("{}\x16\x03\x01\x02\0{secret}", get("")))
        },
    ];
    for (name, fields) in [
        ("NUL in a value", "X: a\0b\r\n"),
        ("NUL in a name", "X\0: a\r\n"),
        ("control byte in a value", "X: a\x01b\r\n"),
        ("DEL in a value", "X: a\x7fb\r\n"),
        ("bare CR in a value", "X: a\rb\r\n"),
        ("field without a colon", "X\r\n"),
        ("field without a name", ": x\r\n"),
        ("space in a name", "X Y: z\r\n"),
        ("space before the colon", "X : y\r\n"),
        ("folded field", "X: y\r\n z\r\n"),
        ("name with a slash", "X/Y: z\r\n"),
    ] {
        cases.push(refused(name, &format!("{}{secret}", get(fields))));
    }
    cases.push(refused(
        "space before the first field",
        &format!("GET /t/c000 HTTP/1.1\r\n Host: a\r\n\r\n{secret}"),
    ));
    cases.push(refused("NUL before the request", &format!("\0{}{secret}", get(""))));
    cases
}

/// RFC 9112 s3.2: one, and a valid one; otherwise 400.
fn hosts() -> Vec<Case> {
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}\r\n{}", smuggled());
    let target = "/t/c000";
    let mut cases = Vec::new();
    for (name, fields) in [
        ("no Host", ""),
        ("two Hosts", "Host: a\r\nHost: b\r\n"),
        ("the same Host twice", "Host: a\r\nHost: a\r\n"),
        ("Host with a space", "Host: a b\r\n"),
        ("Host with a path", "Host: a/admin\r\n"),
        ("Host with a user", "Host: u@a\r\n"),
        ("Host that is a list", "Host: a, b\r\n"),
        ("Host with a bad port", "Host: a:x\r\n"),
        ("Host with a signed port", "Host: a:+80\r\n"),
    ] {
        cases.push(refused(name, &get(target, fields)));
    }
    let host = |name: &str, target: &str, fields: &str, host: &'static str| Case {
        may: May::One { method: "GET", host, body: String::new() },
        ..pipelined_get(name, &get(target, fields))
    };
    cases.extend([
        host("absolute form, another Host", "http://b/t/c000", "Host: a\r\n", "b"),
        host("absolute form with a port", "http://b:8080/t/c000", "Host: a\r\n", "b:8080"),
        host("absolute form with a user", "http://u:p@b/t/c000", "Host: a\r\n", "b"),
        host("Host nominated by Connection", target, "Connection: host\r\nHost: a\r\n", "a"),
    ]);
    cases
}

fn targets() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n{}", smuggled());
    let mut cases = vec![pipelined_get("fragment", &line("GET /t/c000#/admin HTTP/1.1"))];
    // Without a path it is `/`, which policy does not allow, whatever the query looks like.
    for target in ["http://a?/t/c000", "http://a?/t/c000#/t/c000"] {
        let request = line(&format!("GET {target} HTTP/1.1"));
        cases.push(Case { answers: Some(vec![403, 403]), ..refused(&format!("target {target}"), &request) });
    }
    // Normalized, and then decided: what passes is what policy saw.
    for target in ["/t//c000", "/t/./c000", "//t/c000", "/t/x/../c000", "/%74/c000"] {
        cases.push(pipelined_get(&format!("target {target}"), &line(&format!("GET {target} HTTP/1.1"))));
    }
    for target in [
        "//admin/c000",
        "/t/../admin/c000",
        "/t/%2e%2e/admin/c000",
        "/t/c000;x=y",
        "/t%2fc000",
        "*",
        "http://a//admin/c000",
        "a:80",
    ] {
        let denied = Case {
            answers: Some(vec![403, 403]),
            ..refused(&format!("target {target}"), &line(&format!("GET {target} HTTP/1.1")))
        };
        cases.push(denied);
    }
    // Servers read these in several ways.
    for target in [
        "/t/..%2fadmin/c000",
        "/t/c000%00",
        "/t/c000%0d%0aX:y",
        "/t\\c000",
        "/t/x/..;/admin/c000",
        "/t/%c000",
        "/t/%2",
        "/../t/c000",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.push(refused(&format!("target {target}"), &request));
    }
    for request_line in [
        "GET t/c000 HTTP/1.1",
        "GET /t/c000 x HTTP/1.1",
        "GET /t/c000  HTTP/1.1",
        "GET  /t/c000 HTTP/1.1",
        "GET\t/t/c000\tHTTP/1.1",
        "GET /t/\tc000 HTTP/1.1",
        " GET /t/c000 HTTP/1.1",
        "GET /t/c000 HTTP/1.1 ",
        "GET /t/c000\0 HTTP/1.1",
        "GET /t/c000\r HTTP/1.1",
        "GET http:///t/c000 HTTP/1.1",
        "GET http://a b/t/c000 HTTP/1.1",
        "GET /t/c000 HTTP/1.2",
        "GET /t/c000 HTTP/2.0",
        "GET /t/c000 HTTP/0.9",
        "GET /t/c000 HTTP/1.10",
        "GET /t/c000 HTTP/01.1",
        "GET /t/c000 http/1.1",
        "GET /t/c000 HTTP",
        "GET /t/c000",
        "GET",
        "G(T /t/c000 HTTP/1.1",
        ": /t/c000 HTTP/1.1",
        "GET /t/\u{e9}c000 HTTP/1.1",
    ] {
        cases.push(refused(&format!("request line {request_line:?}"), &line(request_line)));
    }
    cases
}

fn old_versions() -> Vec<Case> {
    let secret = smuggled();
    let post = |fields: &str| format!("POST /t/c000 HTTP/1.0\r\nHost: a\r\n{fields}\r\nhello{secret}");
    vec![
        pipelined(
            "1.0, keep-alive and a body",
            &post("Connection: keep-alive\r\nContent-Length: 5\r\n"),
            "hello",
        ),
        passes("1.0 with a body", &post("Content-Length: 5\r\n"), "hello"),
        passes("1.0 with a body of no length", &post(""), ""),
        pipelined("1.0, keep-alive and a body of no length", &post("Connection: keep-alive\r\n"), ""),
        refused("1.0 with a coding", &post("Transfer-Encoding: chunked\r\n")),
        refused(
            "1.0, keep-alive, a coding and a length",
            &post("Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ),
    ]
}

fn changes_of_protocol() -> Vec<Case> {
    let secret = smuggled();
    let get = |fields: &str| format!("GET /t/c000 HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let connect = |fields: &str| format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n{fields}\r\n{secret}");
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    vec![
        pipelined_get("bytes after an upgrade that is not accepted", &format!("{}{secret}", get(websocket))),
        pipelined(
            "upgrade with a body",
            &format!("POST /t/c000 HTTP/1.1\r\nHost: a\r\n{websocket}Content-Length: 5\r\n\r\nhello{secret}"),
            "hello",
        ),
        pipelined_get("h2c and bytes after it", &format!("{}{secret}", get(h2c))),
        Case {
            answers: Some(vec![200]),
            ..pipelined_get(
                "h2c and the preface after it",
                &format!("{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get(h2c)),
            )
        },
        // Whether the connection goes on is the proxy's choice; that the app hears nothing is not.
        Case { answers: None, ..refused("CONNECT and bytes after it", &connect("")) },
        Case {
            answers: None,
            ..refused("CONNECT with a length", &connect(&format!("Content-Length: {}\r\n", secret.len())))
        },
        Case {
            answers: None,
            ..refused("CONNECT with a coding", &connect("Transfer-Encoding: chunked\r\n"))
        },
        Case { answers: None, ..refused("PRI and a request", &format!("PRI * HTTP/2.0\r\n\r\n{secret}")) },
    ]
}

/// The body belongs to the request whatever its sender expects (RFC 9110 s10.1.1).
fn expectations() -> Vec<Case> {
    let secret = smuggled();
    let length = format!("Content-Length: {}\r\n", secret.len());
    let with = |expect: &str| post(&format!("{expect}{length}"), &secret);
    vec![
        Case {
            answers: Some(vec![100, 200]),
            ..passes("Expect", &with("Expect: 100-continue\r\n"), &secret)
        },
        passes("Expect, obscured", &with("Expect: y 100-continue\r\n"), &secret),
        Case {
            may: May::One { method: "GET", host: "a", body: secret.clone() },
            answers: Some(vec![100, 200]),
            ..passes(
                "Expect on a GET with a body",
                &with("Expect: 100-continue\r\n").replacen("POST", "GET", 1),
                &secret,
            )
        },
    ]
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /t/c000 HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn case(name: &str, bytes: &str, may: May, answers: Option<Vec<u16>>) -> Case {
    Case { name: name.to_owned(), bytes: bytes.as_bytes().to_vec(), may, answers }
}

/// One request passes, and the connection ends with its response.
fn passes(name: &str, bytes: &str, body: &str) -> Case {
    let may = May::One { method: "POST", host: "a", body: body.to_owned() };
    case(name, bytes, may, Some(vec![200]))
}

/// One request passes; what follows it is a request of its own, which is denied.
fn pipelined(name: &str, bytes: &str, body: &str) -> Case {
    Case { answers: Some(vec![200, 403]), ..passes(name, bytes, body) }
}

fn pipelined_get(name: &str, bytes: &str) -> Case {
    let may = May::One { method: "GET", host: "a", body: String::new() };
    case(name, bytes, may, Some(vec![200, 403]))
}

/// Nothing passes.
fn refused(name: &str, bytes: &str) -> Case {
    case(name, bytes, May::Nothing, Some(vec![400]))
}

/// A request that never becomes complete.
fn part(name: &str, bytes: &str) -> Case {
    case(name, bytes, May::Part, None)
}
