//! Revocation lists over plain HTTP, as RFC 5280 wants them: they are signed, so who carries them does not matter.
//! Caches are told how long to keep them, and who has the newest is told so.

use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

use super::http::Told;
use crate::crl::Document;
use crate::time;

/// RFC 5280 section 4.2.1.13, RFC 2585.
const MEDIA_TYPE: &str = "application/pkix-crl";

/// `/crl/<authority>.crl` and `/crl/<authority>-delta.crl`.
pub(super) async fn list(State(told): State<Told>, Path(file): Path<String>, asked: HeaderMap) -> Response {
    let Some(document) = told.health.lists.document(&file, time::now()) else {
        let text = "no such revocation list: `signet ca status` shows the authorities\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let tag = format!("\"{}\"", document.sha256);
    let headers = [
        (header::CACHE_CONTROL, format!("public, max-age={}", document.fresh.as_secs())),
        (header::LAST_MODIFIED, http_date(document.made)),
        (header::ETAG, tag.clone()),
    ];
    if is_known(&asked, &tag, &document) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], headers, document.bytes).into_response()
}

/// RFC 9110 section 13.2.2: the date counts only if no tag is named.
fn is_known(asked: &HeaderMap, tag: &str, document: &Document) -> bool {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    if asked.contains_key(header::IF_NONE_MATCH) {
        return asked.get_all(header::IF_NONE_MATCH).iter().map(text).any(|tags| {
            let mut tags = tags.split(',').map(str::trim);
            tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
        });
    }
    let since = asked.get(header::IF_MODIFIED_SINCE).map(text);
    let since = since.and_then(|since| DateTimeParser::new().parse_timestamp(&since).ok());
    let made = Timestamp::try_from(document.made).ok();
    since.zip(made).is_some_and(|(since, made)| made.as_second() <= since.as_second())
}

fn http_date(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_has_the_newest_list_is_not_sent_it() {
        let made = time::from_millis(1_800_000_000_000);
        let document =
            Document { bytes: "x".into(), sha256: "ab".into(), made, fresh: Duration::from_secs(60) };
        let known = |name: header::HeaderName, value: &str| {
            is_known(&HeaderMap::from_iter([(name, value.parse().unwrap())]), "\"ab\"", &document)
        };
        for tags in ["\"ab\"", "W/\"ab\"", "\"cd\", \"ab\"", "*"] {
            assert!(known(header::IF_NONE_MATCH, tags), "{tags}");
        }
        assert!(!known(header::IF_NONE_MATCH, "\"cd\"") && !known(header::IF_NONE_MATCH, "ab"));
        assert_eq!(http_date(made), "Fri, 15 Jan 2027 08:00:00 GMT");
        assert!(known(header::IF_MODIFIED_SINCE, "Fri, 15 Jan 2027 08:00:00 GMT"));
        assert!(!known(header::IF_MODIFIED_SINCE, "Fri, 15 Jan 2027 07:59:59 GMT"));
        assert!(!known(header::IF_MODIFIED_SINCE, "yesterday"));
        assert!(!is_known(&HeaderMap::new(), "\"ab\"", &document));
    }
}
