//! What every event can say besides what it is about: in which call it was made, and why.
//!
//! Both are inside the event's detail, which the hash covers: events written before either existed stay what
//! they are.

use std::fmt;

use serde_json::Value;

use crate::hex;

const REQUEST_ID: &str = "request_id";
const REASON: &str = "reason";
/// Longer reasons are cut: they are for people.
const MAX_REASON: usize = 512;

/// The name of one call: in its answer, in the log and in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 8]);

impl RequestId {
    /// Another one. A name, no secret: without randomness it is all zeros, and the call is made all the same.
    #[must_use]
    pub fn random() -> Self {
        let mut id = [0; 8];
        let _ = aws_lc_rs::rand::fill(&mut id);
        Self(id)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(hex::decode(text)?.try_into().ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// The two, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotation {
    /// The call.
    pub request_id: Option<RequestId>,
    /// Why it was done, or refused.
    pub reason: Option<String>,
}

impl Annotation {
    /// Of a call.
    #[must_use]
    pub fn request(request_id: Option<RequestId>) -> Self {
        Self { request_id, reason: None }
    }

    /// With a reason, unless it is empty.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        let end = reason.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_REASON);
        let reason = end.and_then(|end| reason.get(..end)).unwrap_or(reason);
        self.reason = (!reason.is_empty()).then(|| reason.to_owned());
        self
    }

    /// The detail with these in it. What it says already stays; what is no object becomes `{"detail": ...}`.
    #[must_use]
    pub fn on(&self, detail: Value) -> Value {
        let mut object = match detail {
            Value::Object(object) => object,
            Value::Null => serde_json::Map::new(),
            other => [("detail".to_owned(), other)].into_iter().collect(),
        };
        let request_id = self.request_id.map(|id| id.to_string());
        for (key, value) in [(REASON, &self.reason), (REQUEST_ID, &request_id)] {
            if let Some(value) = value
                && !object.contains_key(key)
            {
                object.insert(key.to_owned(), Value::String(value.clone()));
            }
        }
        Value::Object(object)
    }

    /// Reads them out of an event's detail.
    #[must_use]
    pub fn of(detail: &str) -> Self {
        let detail: Value = serde_json::from_str(detail).unwrap_or_default();
        let text = |key| detail.get(key).and_then(Value::as_str);
        Self {
            request_id: text(REQUEST_ID).and_then(RequestId::parse),
            reason: text(REASON).filter(|reason| !reason.is_empty()).map(ToOwned::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn request_ids_are_sixteen_digits_and_read_back() {
        let id = RequestId::random();
        assert_eq!(id.to_string().len(), 16);
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        assert_ne!(id, RequestId::random());
        for wrong in ["", "00", "0123456789ABCDEF", "0123456789abcdef0", "01:23:45:67:89:ab:cd:ef"] {
            assert_eq!(RequestId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn annotation_is_in_the_detail_and_comes_back() {
        let annotation = Annotation::request(Some(RequestId::random())).because("key leaked");
        let detail = annotation.on(json!({ "instances": 2 }));
        assert_eq!(detail["instances"], 2);
        assert_eq!(Annotation::of(&detail.to_string()), annotation);
    }

    #[test]
    fn what_the_detail_says_already_stays() {
        let detail = Annotation::default().because("other").on(json!({ "reason": "mine" }));
        assert_eq!(detail, json!({ "reason": "mine" }));
        assert_eq!(Annotation::default().on(Value::Null), json!({}));
        assert_eq!(
            Annotation::default().because("x").on(json!([1])),
            json!({ "detail": [1], "reason": "x" })
        );
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let reason = Annotation::default().because(&"é".repeat(1000)).reason.unwrap();
        assert!(reason.len() <= MAX_REASON + 1 && reason.chars().all(|character| character == 'é'));
    }
}
