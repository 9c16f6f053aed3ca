//! A place in a list: the key of the last row that was looked at. Told to callers as a word that means nothing to
//! them; what they say instead is at worst another place of the same list.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Key, Kind};
use crate::store::StoreError;
use crate::store::sql::{Row, Value};

/// Two identities and some numbers, encoded.
const LONGEST: usize = 8 * 1024;

/// The place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(super) Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    #[serde(rename = "n")]
    Number(i64),
    #[serde(rename = "t")]
    Text(String),
    #[serde(rename = "b")]
    Bytes(Vec<u8>),
}

/// A word that is no place of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("after: expected what an answer of the same list and order said as `next`")]
pub struct CursorError;

impl Cursor {
    /// Of a row that begins with these keys.
    pub(super) fn of(row: &Row, keys: &[Key]) -> Result<Self, StoreError> {
        let parts = keys.iter().enumerate().map(|(column, key)| {
            Ok(match key.kind {
                Kind::Number => Part::Number(row.get(column)?),
                Kind::Text => Part::Text(row.get(column)?),
                Kind::Bytes => Part::Bytes(row.get(column)?),
            })
        });
        Ok(Self(parts.collect::<Result<_, StoreError>>()?))
    }

    /// As [`fmt::Display`] writes it, for a list in the order of `keys`.
    pub(super) fn parse(text: &str, keys: &[Key]) -> Result<Self, CursorError> {
        if text.len() > LONGEST {
            return Err(CursorError);
        }
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let parts: Vec<Part> = serde_json::from_slice(&json).map_err(|_| CursorError)?;
        let fits = parts.len() == keys.len()
            && parts.iter().zip(keys).all(|(part, key)| match part {
                Part::Number(_) => key.kind == Kind::Number,
                // PostgreSQL has no such text.
                Part::Text(text) => key.kind == Kind::Text && !text.contains('\0'),
                Part::Bytes(_) => key.kind == Kind::Bytes,
            });
        if fits { Ok(Self(parts)) } else { Err(CursorError) }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

impl From<Part> for Value<'_> {
    fn from(part: Part) -> Self {
        match part {
            Part::Number(number) => number.into(),
            Part::Text(text) => text.into(),
            Part::Bytes(bytes) => Value::Bytes(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{bytes, number, text};
    use super::*;

    #[test]
    fn place_is_good_for_its_own_list_only() {
        let keys = [number("a"), text("b"), bytes("c")];
        let place =
            Cursor(vec![Part::Number(-7), Part::Text("spiffe://td/a".into()), Part::Bytes(vec![0, 255])]);
        let word = place.to_string();
        assert_eq!(Cursor::parse(&word, &keys), Ok(place));
        for other in [&keys[..2], &[text("a"), text("b"), bytes("c")], &[]] {
            assert_eq!(Cursor::parse(&word, other), Err(CursorError));
        }
        for odd in ["", "x", "!", &"A".repeat(LONGEST + 4), &URL_SAFE_NO_PAD.encode("[{\"t\":\"\\u0000\"}]")]
        {
            assert_eq!(Cursor::parse(odd, &[text("a")]), Err(CursorError), "{odd}");
        }
    }
}
