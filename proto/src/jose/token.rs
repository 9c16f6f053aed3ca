//! A signed token in compact form (RFC 7515 sections 3.1 and 5.2, RFC 7519, RFC 8725).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, KeySet, TokenError};
use crate::json;

/// Largest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longest name of a key, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 256;

/// What a header may say, by the kind of token. Others are made for other purposes (RFC 8725 section 3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What issuers of all kinds give out: `typ` is `JWT` or `at+jwt`, if it is there.
    Common,
    /// JWT-SVID sections 2.1 to 2.3: `alg`, `kid` and `typ`, and nothing else; no EdDSA; `typ` is `JWT` or `JOSE`, if it
    /// is there.
    JwtSvid,
}

/// All that the header of a JWT-SVID may have.
const JWT_SVID_HEADER: [&str; 3] = ["alg", "kid", "typ"];
/// Header members that change what the rest means, and so cannot be passed over. A token that brings its own
/// key or says where one is (`jwk`, `x5c`, `jku`, `x5u`) changes nothing: those are never looked at.
const NOT_UNDERSTOOD: [(&str, &str); 5] = [
    ("crit", "`crit` asks for extensions, and none is known"),
    ("b64", "`b64` asks for a payload that is not encoded"),
    ("cty", "`cty` says that the payload is another token"),
    ("enc", "`enc` says that it is encrypted"),
    ("zip", "`zip` says that it is compressed"),
];

/// A token that was parsed and is not believed yet.
#[derive(Debug)]
pub struct Token<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// The bytes that were signed: all before the last dot, as they came.
    signed: &'a [u8],
    claims: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes a token of [`Profile::Common`] apart and reads its header. Nothing of it is true yet.
    ///
    /// # Errors
    /// When it is not exactly three parts, or its header asks for what is not done here.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        Self::parse_as(text, Profile::Common)
    }

    /// The same for a token of another kind.
    ///
    /// # Errors
    /// As for [`Token::parse`].
    pub fn parse_as(text: &'a str, profile: Profile) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge { length: text.len() });
        }
        let three = || TokenError::Malformed("expected three parts with a dot between them".to_owned());
        let (signed, signature) = text.rsplit_once('.').ok_or_else(three)?;
        let (header, claims) = signed.split_once('.').ok_or_else(three)?;
        if claims.contains('.') {
            return Err(three());
        }
        let header = object("header", &decode("header", header)?)?;
        let claims = decode("claims", claims)?;
        let signature = decode("signature", signature)?;
        let (algorithm, key_id) = read_header(&header, profile)?;
        Ok(Self { algorithm, key_id, signed: signed.as_bytes(), claims, signature })
    }

    /// How it says that it was signed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that it says it was signed with.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// What was signed: the same in every form that the signature can have.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.signed
    }

    /// What it claims, believed or not: to find the keys that it must be signed with, and for nothing else.
    ///
    /// # Errors
    /// When the claims do not say one thing only.
    pub fn claimed(&self) -> Result<Map<String, Value>, TokenError> {
        object("claims", &self.claims)
    }

    /// Checks the signature, and only then reads the claims: always an object.
    ///
    /// # Errors
    /// When no key of the set fits, the signature is wrong, or the claims do not say one thing only.
    pub fn verify(&self, keys: &KeySet) -> Result<Value, TokenError> {
        let key = keys.key(self.key_id(), self.algorithm)?;
        if !key.verify(self.algorithm, self.signed, &self.signature) {
            return Err(TokenError::Signature);
        }
        object("claims", &self.claims).map(Value::Object)
    }
}

/// Without padding and with zeros in unused bits: one text for the same bytes.
fn decode(part: &str, text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| TokenError::Malformed(format!("{part}: expected base64url without padding")))
}

fn object(part: &str, text: &[u8]) -> Result<Map<String, Value>, TokenError> {
    match json::parse(text).map_err(|error| TokenError::json(part, error))? {
        Value::Object(members) => Ok(members),
        _ => Err(TokenError::Malformed(format!("{part}: expected an object"))),
    }
}

fn read_header(
    header: &Map<String, Value>,
    profile: Profile,
) -> Result<(Algorithm, Option<String>), TokenError> {
    if let Some((_, why)) = NOT_UNDERSTOOD.iter().find(|(name, _)| header.contains_key(*name)) {
        return Err(TokenError::Header(why));
    }
    if let Some(kind) = header.get("typ") {
        profile.require_type(kind.as_str().unwrap_or_default())?;
    }
    if profile == Profile::JwtSvid && header.keys().any(|name| !JWT_SVID_HEADER.contains(&name.as_str())) {
        return Err(TokenError::Header("it has members besides `alg`, `kid` and `typ`"));
    }
    let Some(Value::String(algorithm)) = header.get("alg") else {
        return Err(TokenError::Algorithm("expected `alg`, a string, in the header"));
    };
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) if (1..=MAX_KEY_ID_BYTES).contains(&id.len()) => Some(id.clone()),
        Some(_) => return Err(TokenError::Header("`kid` is not a string of 1 to 256 bytes")),
    };
    let algorithm = algorithm.parse()?;
    if profile == Profile::JwtSvid && algorithm == Algorithm::EdDsa {
        return Err(TokenError::Algorithm("EdDSA is none of those of JWT-SVIDs"));
    }
    Ok((algorithm, key_id))
}

impl Profile {
    fn require_type(self, kind: &str) -> Result<(), TokenError> {
        match self {
            Self::Common => {
                let kind = kind.to_ascii_lowercase();
                match kind.strip_prefix("application/").unwrap_or(&kind) {
                    "jwt" | "at+jwt" => Ok(()),
                    _ => Err(TokenError::Header("`typ` is neither `JWT` nor `at+jwt`")),
                }
            }
            Self::JwtSvid if matches!(kind, "JWT" | "JOSE") => Ok(()),
            Self::JwtSvid => Err(TokenError::Header("`typ` is neither `JWT` nor `JOSE`")),
        }
    }
}

#[cfg(test)]
mod tests;
