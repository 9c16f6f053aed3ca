//! The normal form of a path: the one reading that policy and the app both get.
//!
//! Escapes of letters, digits and `-._~` are decoded and the others written with capital digits (RFC 3986 section
//! 6.2.2), dot segments are folded (section 5.2.4), and slashes that follow one another become one, as most
//! servers read them. What servers are known to read in more than one way, and nobody needs, has no normal form.
//! What is left that one may read differently (`;`, `%2F`, `%25` before digits) stays as it is and is
//! *ambiguous* to rules ([`super::path`]).

use std::borrow::Cow;

use super::PolicySet;
use super::document::Direction;
use super::path::decode_pair;
use crate::spiffe::SpiffeId;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathRefused {
    /// A byte that has no place in a path.
    #[error("the path has a control character, space, `\\`, `?`, `#` or byte beyond ASCII, in clear")]
    Byte,
    /// `%` without two digits.
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    Escape,
    /// An escaped byte that hides.
    #[error("the path has an escaped control character or backslash")]
    Hidden,
    /// Escapes that are no UTF-8, overlong forms among them.
    #[error("the escapes of the path are not UTF-8")]
    Utf8,
    /// `..` with nothing to go up from.
    #[error("the path goes above its root")]
    AboveRoot,
    /// Dot segments that only some servers see.
    #[error("the path has dot segments beside `;`, an escaped slash, or an empty segment")]
    DoubtfulDots,
}

impl PolicySet {
    /// The path of a request, without query, as policy decides on it and as it is forwarded: in normal form where a
    /// rule about `whom` looks at paths, as it came elsewhere.
    ///
    /// # Errors
    /// When rules look at paths, and this one has no normal form.
    pub fn path<'p>(
        &self,
        direction: Direction,
        whom: &SpiffeId,
        path: &'p str,
    ) -> Result<Cow<'p, str>, PathRefused> {
        if self.sees_paths(direction, whom) { normalize(path) } else { Ok(Cow::Borrowed(path)) }
    }
}

/// The normal form of a path, from which the query was cut. `*` and what else is no path stays as it is.
///
/// # Errors
/// When it has none.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathRefused> {
    if !path.starts_with('/') {
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        return if plain { Ok(Cow::Borrowed(path)) } else { Err(PathRefused::Byte) };
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    fold(&unescape(path)?).map(Cow::Owned)
}

/// Whether there is nothing to do: by far the most paths.
fn is_plain(path: &str) -> bool {
    let (mut after_slash, mut plain) = (false, true);
    for byte in path.bytes() {
        plain &= match byte {
            // The beginning of a dot segment, perhaps, and an empty segment.
            b'.' | b'/' => !after_slash,
            b'%' | b'\\' | b'?' | b'#' | b';' => false,
            _ => byte.is_ascii_graphic(),
        };
        after_slash = byte == b'/';
    }
    plain
}

/// Decodes the escapes that mean nothing else than the character, and writes the others in one way.
fn unescape(path: &str) -> Result<String, PathRefused> {
    let mut plain = String::with_capacity(path.len());
    // Escaped bytes beyond ASCII that follow one another.
    let mut beyond = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match byte {
            b'%' => Some(decode_pair(after).ok_or(PathRefused::Escape)?),
            _ if !byte.is_ascii_graphic() || b"\\?#".contains(&byte) => return Err(PathRefused::Byte),
            _ => None,
        };
        if !matches!(escaped, Some((0x80.., _))) {
            is_utf8(&mut beyond)?;
        }
        rest = match escaped {
            None => {
                plain.push(char::from(byte));
                after
            }
            Some((decoded, after)) => {
                match decoded {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                        plain.push(char::from(decoded));
                    }
                    b'\\' => return Err(PathRefused::Hidden),
                    _ if decoded.is_ascii_control() => return Err(PathRefused::Hidden),
                    _ => {
                        if !decoded.is_ascii() {
                            beyond.push(decoded);
                        }
                        plain.push_str(&format!("%{decoded:02X}"));
                    }
                }
                after
            }
        };
    }
    is_utf8(&mut beyond)?;
    Ok(plain)
}

fn is_utf8(bytes: &mut Vec<u8>) -> Result<(), PathRefused> {
    std::str::from_utf8(bytes).map_err(|_| PathRefused::Utf8)?;
    bytes.clear();
    Ok(())
}

/// Folds dot segments and empty ones.
fn fold(path: &str) -> Result<String, PathRefused> {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_below = false;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        ends_below = matches!(segment, "" | "." | "..");
        match segment {
            "." => {}
            ".." => match segments.pop() {
                // With empty segments counted or not, it goes up to different places.
                Some("") => return Err(PathRefused::DoubtfulDots),
                Some(_) => {}
                None => return Err(PathRefused::AboveRoot),
            },
            _ if hides_dots(segment) => return Err(PathRefused::DoubtfulDots),
            _ => segments.push(segment),
        }
    }
    let mut folded = String::with_capacity(path.len());
    for segment in segments.into_iter().filter(|segment| !segment.is_empty()) {
        folded.push('/');
        folded.push_str(segment);
    }
    if ends_below || folded.is_empty() {
        folded.push('/');
    }
    Ok(folded)
}

/// Whether a server that cuts at `;`, or decodes slashes or `;` before it folds, sees a dot segment in it.
fn hides_dots(segment: &str) -> bool {
    let parts = segment.split("%2F").flat_map(|part| part.split("%3B")).flat_map(|part| part.split(';'));
    let mut parts = parts.peekable();
    let first = parts.next();
    parts.peek().is_some() && first.into_iter().chain(parts).any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests;
