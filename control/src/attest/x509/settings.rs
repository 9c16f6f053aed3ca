//! What an operator sets for an X.509 attestor.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use webpki::KeyPurposeId;
use x509_parser::oid_registry::Oid;

use super::error::X509ConfigError;

const USUAL_DEPTH: usize = 3;
const MAX_DEPTH: usize = 5;

/// The table of an attestor of kind `x509`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct X509Settings {
    /// PEM roots: the only ones that this attestor believes.
    pub ca_file: PathBuf,
    /// PEM intermediates, for joiners that send their leaf alone.
    #[serde(default)]
    pub intermediates_file: Option<PathBuf>,
    /// Most certificates below the root, the leaf included: 1 to 5 [default: 3].
    #[serde(default)]
    pub max_depth: Option<usize>,
    /// Extended key usages of which the leaf must have one: `client-auth`, `server-auth`, an OID, or `any`, which
    /// does not look at them [default: client-auth].
    #[serde(default)]
    pub eku: Option<Vec<Usage>>,
    /// What of a leaf becomes selectors; the rest is not looked at [default: everything].
    #[serde(default)]
    pub selectors: Option<BTreeSet<Fact>>,
}

/// The settings with their defaults.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) max_depth: usize,
    pub(super) usages: Usages,
    pub(super) facts: BTreeSet<Fact>,
}

/// Extended key usages that do.
#[derive(Debug)]
pub(super) struct Usages(Vec<Usage>);

/// An extended key usage (RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Usage {
    /// Every usage, and none.
    Any,
    /// This one.
    Purpose(Oid<'static>),
}

/// What of a leaf becomes a selector; the name is the selector's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// Common names of the subject.
    SubjectCn,
    /// Organizations of the subject.
    SubjectO,
    /// Organizational units of the subject.
    SubjectOu,
    /// DNS names, in lower case.
    SanDns,
    /// URIs.
    SanUri,
    /// Mail addresses.
    SanEmail,
    /// The serial number, two hex digits a byte, without leading zero bytes.
    Serial,
    /// SHA-256 of the certificate, hex.
    Fingerprint,
    /// Common names of the issuer.
    IssuerCn,
    /// SHA-256 of the SubjectPublicKeyInfo, hex: stays when a certificate is renewed for the same key.
    Spki,
}

impl Fact {
    const ALL: [Self; 10] = [
        Self::SubjectCn,
        Self::SubjectO,
        Self::SubjectOu,
        Self::SanDns,
        Self::SanUri,
        Self::SanEmail,
        Self::Serial,
        Self::Fingerprint,
        Self::IssuerCn,
        Self::Spki,
    ];

    /// The selector's key.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SubjectCn => "subject-cn",
            Self::SubjectO => "subject-o",
            Self::SubjectOu => "subject-ou",
            Self::SanDns => "san-dns",
            Self::SanUri => "san-uri",
            Self::SanEmail => "san-email",
            Self::Serial => "serial",
            Self::Fingerprint => "fingerprint",
            Self::IssuerCn => "issuer-cn",
            Self::Spki => "spki",
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl X509Settings {
    pub(super) fn rules(&self) -> Result<Rules, X509ConfigError> {
        let max_depth = self.max_depth.unwrap_or(USUAL_DEPTH);
        if !(1..=MAX_DEPTH).contains(&max_depth) {
            return Err(X509ConfigError::Value { key: "max-depth", expected: "1 to 5" });
        }
        let usages = match &self.eku {
            None => vec![Usage::client_auth()],
            Some(usages) if usages.is_empty() => {
                let expected = "at least one usage; leave it out for client-auth, or set it to [\"any\"]";
                return Err(X509ConfigError::Value { key: "eku", expected });
            }
            Some(usages) => usages.clone(),
        };
        let facts = match &self.selectors {
            None => Fact::ALL.into(),
            Some(facts) if facts.is_empty() => {
                let expected = "at least one selector; leave it out for all";
                return Err(X509ConfigError::Value { key: "selectors", expected });
            }
            Some(facts) => facts.clone(),
        };
        Ok(Rules { max_depth, usages: Usages(usages), facts })
    }
}

impl Usages {
    /// Whether a leaf with these usages, or without the extension, may prove something.
    pub(super) fn suit_leaf(&self, purposes: Option<&[Oid<'_>]>) -> bool {
        self.0.iter().any(|usage| match usage {
            Usage::Any => true,
            Usage::Purpose(wanted) => purposes.is_some_and(|purposes| purposes.contains(wanted)),
        })
    }

    /// Whether an issuer with these usages may stand above such a leaf.
    pub(super) fn suit_path(&self, purpose: KeyPurposeId<'_>) -> bool {
        purpose == KeyPurposeId::new(ANY_PURPOSE)
            || self.0.iter().any(|usage| match usage {
                Usage::Any => true,
                Usage::Purpose(wanted) => purpose == KeyPurposeId::new(wanted.as_bytes()),
            })
    }
}

/// anyExtendedKeyUsage (2.5.29.37.0).
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 37, 0];

impl Usage {
    fn client_auth() -> Self {
        Self::known(2)
    }

    /// A usage below id-kp (1.3.6.1.5.5.7.3).
    fn known(number: u8) -> Self {
        Self::Purpose(Oid::new(vec![0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, number].into()))
    }
}

impl FromStr for Usage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "client-auth" => Ok(Self::client_auth()),
            "server-auth" => Ok(Self::known(1)),
            oid => {
                let wrong = || {
                    format!(
                        "expected client-auth, server-auth, any, or an OID such as 1.3.6.1.5.5.7.3.2, found `{oid}`"
                    )
                };
                let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                if oid.split('.').count() < 3 || !oid.split('.').all(digits) {
                    return Err(wrong());
                }
                oid.parse().map(Self::Purpose).map_err(|_| wrong())
            }
        }
    }
}

impl TryFrom<String> for Usage {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<X509Settings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_roots_are_required() {
        let rules = settings("ca-file = \"ca.pem\"").unwrap().rules().unwrap();
        assert_eq!((rules.max_depth, rules.facts.len()), (3, Fact::ALL.len()));
        assert!(settings("max-depth = 2").unwrap_err().contains("ca-file"));
    }

    #[test]
    fn usages_are_named_or_numbered() {
        let named = settings("ca-file = \"ca.pem\"\neku = [\"client-auth\", \"2.16.840.1\"]").unwrap();
        assert_eq!(named.eku.unwrap().first(), Some(&"1.3.6.1.5.5.7.3.2".parse().unwrap()));
        for wrong in ["clientAuth", "1.2", "1..2", "", "1.2.x", "99.1.2"] {
            assert!(wrong.parse::<Usage>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_out_of_bounds_and_unknown_keys_are_refused() {
        for (text, key) in [
            ("max-depth = 0", "max-depth"),
            ("max-depth = 6", "max-depth"),
            ("eku = []", "eku"),
            ("selectors = []", "selectors"),
        ] {
            let error = settings(&format!("ca-file = \"ca.pem\"\n{text}")).unwrap().rules().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{key}`: ")), "{error}");
        }
        assert!(settings("ca-file = \"ca.pem\"\nselectors = [\"subject\"]").is_err());
        assert!(settings("ca-file = \"ca.pem\"\ncrl = \"x\"").is_err());
    }

    #[test]
    fn every_fact_is_named_alike_in_settings_and_selectors() {
        for fact in Fact::ALL {
            let named = settings(&format!("ca-file = \"ca.pem\"\nselectors = [\"{fact}\"]")).unwrap();
            assert_eq!(named.selectors.unwrap(), BTreeSet::from([fact]));
        }
    }
}
