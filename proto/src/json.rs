//! JSON that says one thing only: a name that occurs twice in an object is refused, at every depth.
//!
//! RFC 8259 section 4 leaves open which of the two counts, and readers disagree; so whoever can put a second
//! one in can tell two readers two things. `serde_json` alone keeps the last.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

/// How much of a name is quoted in an error.
const QUOTED: usize = 64;

/// Why a text is not such JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// A name twice in one object.
    #[error("{0}")]
    DuplicateName(String),
    /// Not JSON, or nested too deep.
    #[error("{0}")]
    Syntax(String),
}

/// Reads a text, all of it.
///
/// # Errors
/// When it is not JSON, nested deeper than 128, or has a name twice in one object.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    match serde_json::from_slice(text) {
        Ok(UniqueNames(value)) => Ok(value),
        // The visitor takes every kind of value, so that only its own refusal is about data.
        Err(error) if error.classify() == Category::Data => Err(JsonError::DuplicateName(error.to_string())),
        Err(error) => Err(JsonError::Syntax(error.to_string())),
    }
}

struct UniqueNames(Value);

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueNamesVisitor).map(Self)
    }
}

struct UniqueNamesVisitor;

impl<'de> Visitor<'de> for UniqueNamesVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(UniqueNames(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                let quoted: String = name.chars().take(QUOTED).collect();
                return Err(de::Error::custom(format_args!("{quoted:?} is there twice in one object")));
            }
            let UniqueNames(value) = members.next_value()?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_says_one_thing_is_read() {
        let text = br#" {"a":[1,-1,1.5,null,true,"x",{"a":{}}],"b":{"a":1}} "#;
        assert_eq!(
            parse(text),
            Ok(json!({ "a": [1, -1, 1.5, null, true, "x", { "a": {} }], "b": { "a": 1 } }))
        );
    }

    #[test]
    fn a_name_twice_is_refused_at_every_depth_however_it_is_written() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"deep":[{"a":1,"b":2,"a":1}]}}"#,
            r#"[[{"":1,"":2}]]"#,
        ] {
            let Err(JsonError::DuplicateName(error)) = parse(text.as_bytes()) else { panic!("{text}") };
            assert!(error.contains("is there twice in one object"), "{error}");
        }
        let long = format!(r#"{{"{0}":1,"{0}":2}}"#, "n".repeat(10_000));
        assert!(parse(long.as_bytes()).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in ["", "{", "{}{}", "{} x", "{'a':1}", r#"{"a":NaN}"#, r#""\ud800""#, "01", deep.as_str()] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Syntax(_))), "{text:.20}");
        }
        assert!(matches!(parse(b"\"\xff\""), Err(JsonError::Syntax(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&text);
        }

        #[test]
        fn without_duplicates_it_is_what_any_reader_says(names in proptest::collection::hash_set("[a-c]{1,3}", 0..6)) {
            let members: Vec<_> = names.iter().map(|name| format!("{name:?}:1")).collect();
            let text = format!("{{{}}}", members.join(","));
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}
