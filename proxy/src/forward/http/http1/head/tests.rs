use super::*;

fn asked(head: &str) -> Result<Asked, Malformed> {
    let read = request(head.as_bytes())?;
    let (asked, length) = read.expect("complete");
    assert_eq!(length, head.len());
    Ok(asked)
}

fn told(method: &Method, head: &str) -> Result<Told, Malformed> {
    Ok(response(head.as_bytes(), method)?.expect("complete").0)
}

#[test]
fn length_of_a_request_is_what_its_fields_say_and_one_of_them_goes_on() {
    let of = |version: &str, fields: &str| {
        asked(&format!("POST /a?b HTTP/1.{version}\r\nhost: a\r\n{fields}\r\n")).map(|asked| {
            let lengths = asked.request.headers().get_all(CONTENT_LENGTH).iter().count();
            (asked.body, asked.keep, lengths)
        })
    };
    for (version, fields, expected) in [
        ("1", "", (Length::Exactly(0), true, 0)),
        ("1", "content-length: 5\r\n", (Length::Exactly(5), true, 1)),
        ("1", "Content-Length: 005\r\nCONTENT-LENGTH: 5\r\n", (Length::Exactly(5), true, 1)),
        ("1", "transfer-encoding: CHUNKED\r\n", (Length::Chunked, true, 0)),
        ("1", "content-length: 9\r\ntransfer-encoding: chunked\r\n", (Length::Chunked, false, 0)),
        ("1", "connection: x, Close\r\n", (Length::Exactly(0), false, 0)),
        ("1", "connection: close\r\nconnection: keep-alive\r\n", (Length::Exactly(0), false, 0)),
        ("0", "", (Length::Exactly(0), false, 0)),
        ("0", "connection: keep-alive\r\n", (Length::Exactly(0), true, 0)),
    ] {
        assert_eq!(of(version, fields).unwrap(), expected, "{fields:?}");
    }
    for (version, fields) in [
        ("1", "content-length: 5\r\ncontent-length: 6\r\n"),
        ("1", "content-length: +5\r\n"),
        ("1", "content-length: \r\n"),
        ("1", "content-length: 5, 5\r\n"),
        ("1", "content-length: 18446744073709551616\r\n"),
        ("1", "content-length: x\r\ntransfer-encoding: chunked\r\n"),
        ("1", "transfer-encoding: chunked, identity\r\n"),
        ("1", "transfer-encoding:\r\n"),
        ("0", "transfer-encoding: chunked\r\n"),
    ] {
        assert!(of(version, fields).is_err(), "{fields:?}");
    }
}

#[test]
fn length_of_a_response_depends_on_what_was_asked() {
    let of = |method: &Method, head: &str| told(method, head).map(|told| (told.body, told.keep)).unwrap();
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    assert_eq!(of(&Method::GET, length), (Length::Exactly(7), true));
    assert_eq!(of(&Method::HEAD, length), (Length::Exactly(0), true));
    assert_eq!(of(&Method::GET, "HTTP/1.1 200 OK\r\n\r\n"), (Length::ToEnd, false));
    assert_eq!(of(&Method::GET, "HTTP/1.1 304 x\r\ncontent-length: 7\r\n\r\n"), (Length::Exactly(0), true));
    assert_eq!(of(&Method::GET, "HTTP/1.0 204 x\r\n\r\n"), (Length::Exactly(0), false));
    assert_eq!(
        of(&Method::GET, "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n"),
        (Length::Chunked, true)
    );
    let both = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(of(&Method::GET, both), (Length::Chunked, false));
    for wrong in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 304 x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "SIP/2.0 200 OK\r\n\r\n",
    ] {
        assert!(told(&Method::GET, wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn what_is_no_request_is_refused_as_what_it_is() {
    let many: String = (0..=MOST_FIELDS).map(|number| format!("x-{number}: y\r\n")).collect();
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
        (
            format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LARGEST_HEAD)),
            Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ),
        ("GET / HTTP/1.1\r\nX Y: z\r\n\r\n".to_owned(), Some(StatusCode::BAD_REQUEST)),
        ("GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n".to_owned(), Some(StatusCode::BAD_REQUEST)),
        ("\x16\x03\x01\x02\0GET".to_owned(), Some(StatusCode::BAD_REQUEST)),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), Some(StatusCode::BAD_REQUEST)),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), None),
    ] {
        let refused = request(head.as_bytes()).expect_err(&head);
        assert_eq!(refused.status(), status, "{refused}");
    }
    assert!(request(b"GET / HTTP/1.1\r\nhost").unwrap().is_none());
}

#[test]
fn heads_are_written_as_they_were_read() {
    let mut out = Vec::new();
    let head = "PUT /a?b=c HTTP/1.1\r\nhost: a\r\nX-One: 1\r\nx-one: \t2 \r\n\r\n";
    let Asked { request, body, .. } = asked(head).unwrap();
    write_request(&request, body, &mut out);
    let expected = "PUT /a?b=c HTTP/1.1\r\nhost: a\r\nx-one: 1\r\nx-one: 2\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    write_status(Version::HTTP_10, StatusCode::NOT_FOUND, &mut out);
    assert_eq!(out, b"HTTP/1.0 404 Not Found\r\n");
}

#[test]
fn trailers_are_fields_and_nothing_else() {
    let (fields, length) = trailers(b"x: y\r\nz: w\r\n\r\nGET").unwrap().unwrap();
    assert_eq!((fields.len(), length), (2, 14));
    assert!(trailers(b"x: y\r\n").unwrap().is_none());
    assert_eq!(trailers(b"\r\n").unwrap().unwrap().1, 2);
    assert!(trailers(b"x\r\n\r\n").is_err());
}
