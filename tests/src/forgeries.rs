//! Requests that bring an identity of their own making: in every spelling, in the head and after the body, beside
//! a line break that a careless proxy would copy.

use crate::raw_h2::{DATA, END_STREAM, fields, frame, headers, request};

const FORGED: &str = "By=x;Hash=00;URI=spiffe://mesh.test/admin";

/// Names that some server takes for the identity header.
const SPELLINGS: [&str; 5] = [
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "X-FORWARDED-CLIENT-CERT",
    "x_forwarded_client_cert",
    "X-Forwarded_Client_Cert",
];

/// Fields of HTTP/1.1, with or without a body after them, and the status that they get.
#[must_use]
pub fn over_http1() -> Vec<(u16, String)> {
    let mut forgeries = Vec::new();
    for name in SPELLINGS {
        forgeries.extend([
            (200, format!("{name}: {FORGED}\r\n")),
            (200, format!("{name}: {FORGED}\r\n{name}: {FORGED}\r\n")),
            (200, format!("{name}:{FORGED}\r\nx-forwarded-client-cert: {FORGED}\r\n")),
            (200, format!("Connection: {name}\r\n{name}: {FORGED}\r\n")),
            (200, format!("Connection: close, {name}\r\n{name}: {FORGED}\r\n")),
            (200, format!("X: y\n{name}: {FORGED}\r\n")),
            (200, format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{name}: {FORGED}\r\n")),
            (200, format!("Transfer-Encoding: chunked\r\nTrailer: {name}\r\n\r\n2\r\nhi\r\n0\r\n{name}: {FORGED}\r\n")),
            (200, format!("Transfer-Encoding: chunked\r\nTrailer: {name}, X\r\n\r\n0\r\nX: y\r\n{name}: {FORGED}\r\n")),
            (400, format!("{name} : {FORGED}\r\n")),
            (400, format!("{name}\t: {FORGED}\r\n")),
            (400, format!("{name}\0: {FORGED}\r\n")),
            (400, format!(" {name}: {FORGED}\r\n")),
            (400, format!("{name}: {FORGED},\r\n {FORGED}\r\n")),
            (400, format!("X: y\r\n {name}: {FORGED}\r\n")),
            (400, format!("X: y\r{name}: {FORGED}\r\n")),
            (400, format!("X: y\0\n{name}: {FORGED}\r\n")),
        ]);
    }
    forgeries
}

/// Makes the frames of a request for a path.
pub type Frames = Box<dyn Fn(&str) -> Vec<u8> + Send>;

/// A request over HTTP/2.
pub struct Forgery {
    /// For messages.
    pub name: String,
    /// Whether it reaches the app, without what is forged.
    pub passes: bool,
    /// Its frames, for a path.
    pub make: Frames,
}

/// All of HTTP/2.
///
/// # Panics
/// Never.
#[must_use]
pub fn over_http2() -> Vec<Forgery> {
    let mut all = Vec::new();
    let mut add = |name: String, passes: bool, make: Frames| {
        all.push(Forgery { name, passes, make });
    };
    let forged = FORGED.as_bytes();
    // The fields after the usual ones.
    let mut extra = |name: String, passes: bool, more: Vec<(Vec<u8>, Vec<u8>)>| {
        add(
            name,
            passes,
            Box::new(move |path| {
                let mut all = request("GET", path);
                all.extend(more.iter().map(|(name, value)| (&name[..], &value[..])));
                headers(1, END_STREAM, &fields(&all))
            }),
        );
    };
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    for name in SPELLINGS {
        // Names in capitals are malformed (RFC 9113 s8.2.1).
        let small = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        extra(name.to_owned(), small, vec![field(name, forged)]);
        extra(format!("{name} twice"), small, vec![field(name, forged), field(name, forged)]);
        extra(
            format!("{name} nominated by Connection"),
            false,
            vec![field("connection", name.as_bytes()), field(name, forged)],
        );
    }
    extra("x-forwarded_client-cert".into(), true, vec![field("x-forwarded_client-cert", forged)]);
    for end in ["\r\n", "\n", "\r", "\0"] {
        let injection = format!("y{end}x-forwarded-client-cert: {FORGED}");
        extra(format!("{end:?} in a value"), false, vec![field("x", injection.as_bytes())]);
        let injection = format!("x: y{end}x-forwarded-client-cert");
        extra(format!("{end:?} in a name"), false, vec![field(&injection, forged)]);
    }
    for (name, value) in [
        ("x y", "z"),
        ("x:", "y"),
        ("", "y"),
        ("\u{e9}", "y"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        (":path", "/t/again"),
        (":authority", "b"),
        (":protocol", "websocket"),
        (":unknown", "x"),
        (":status", "200"),
        ("content-length", "5"),
    ] {
        extra(format!("field {name:?}: {value:?}"), false, vec![field(name, value.as_bytes())]);
    }

    for end in ["\r\n", "\n", " ", "\t", "\0"] {
        let injection = format!("{end}HTTP/1.1{end}x-forwarded-client-cert: {FORGED}");
        for at in [":method", ":path", ":authority", ":scheme"] {
            let injection = injection.clone();
            add(
                format!("{end:?} in {at}"),
                false,
                Box::new(move |path| {
                    let mut all: Vec<(Vec<u8>, Vec<u8>)> = request("GET", path)
                        .iter()
                        .map(|(name, value)| (name.to_vec(), value.to_vec()))
                        .collect();
                    let changed = all.iter_mut().find(|(name, _)| name == at.as_bytes()).unwrap();
                    changed.1.extend(injection.bytes());
                    let all: Vec<(&[u8], &[u8])> =
                        all.iter().map(|(name, value)| (&name[..], &value[..])).collect();
                    headers(1, END_STREAM, &fields(&all))
                }),
            );
        }
    }
    for without in [":method", ":path"] {
        add(
            format!("without {without}"),
            false,
            Box::new(move |path| {
                let mut all = request("GET", path);
                all.retain(|(name, _)| *name != without.as_bytes());
                headers(1, END_STREAM, &fields(&all))
            }),
        );
    }
    add(
        "pseudo-header field after the others".into(),
        false,
        Box::new(|path| {
            let mut all = request("GET", path);
            all.insert(0, (b"x", b"y"));
            headers(1, END_STREAM, &fields(&all))
        }),
    );
    for name in ["x-forwarded-client-cert", "x_forwarded_client_cert"] {
        add(
            format!("{name} in trailers"),
            true,
            Box::new(move |path| {
                let trailers = fields(&[(name.as_bytes(), FORGED.as_bytes())]);
                [
                    headers(1, 0, &fields(&request("POST", path))),
                    frame(DATA, 0, 1, b"hi"),
                    headers(1, END_STREAM, &trailers),
                ]
                .concat()
            }),
        );
    }
    for (name, length, data) in [("more", "1", "xy"), ("fewer", "5", "xy")] {
        add(
            format!("{name} bytes than announced"),
            false,
            Box::new(move |path| {
                let mut all = request("POST", path);
                all.push((b"content-length", length.as_bytes()));
                [headers(1, 0, &fields(&all)), frame(DATA, END_STREAM, 1, data.as_bytes())].concat()
            }),
        );
    }
    all
}

impl std::fmt::Debug for Forgery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
