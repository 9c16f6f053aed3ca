//! How the proxy proves who it is when it joins, other than by the secret of a ticket.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

/// What is proven, and to which attestor of control.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "AttestTable")]
pub enum Attest {
    /// A token that somebody else issues and rotates.
    Jwt {
        /// The name in control's configuration.
        attestor: String,
        /// Where the token is.
        file: PathBuf,
    },
    /// The key of a certificate of another CA.
    X509 {
        /// The name in control's configuration.
        attestor: String,
        /// PEM chain, leaf first.
        chain: PathBuf,
        /// PEM private key of the leaf.
        key: PathBuf,
    },
}

/// The same in the file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AttestTable {
    kind: Kind,
    attestor: String,
    file: Option<PathBuf>,
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Jwt,
    X509,
}

impl TryFrom<AttestTable> for Attest {
    type Error = String;

    fn try_from(table: AttestTable) -> Result<Self, String> {
        let AttestTable { kind, attestor, file, chain, key } = table;
        let attestor = named(&attestor)?;
        match (kind, file, chain, key) {
            (Kind::Jwt, Some(file), None, None) => Ok(Self::Jwt { attestor, file }),
            (Kind::X509, None, Some(chain), Some(key)) => Ok(Self::X509 { attestor, chain, key }),
            (Kind::Jwt, ..) => Err("kind jwt: expected `attestor` and `file`, and no other key".into()),
            (Kind::X509, ..) => {
                Err("kind x509: expected `attestor`, `chain` and `key`, and no other key".into())
            }
        }
    }
}

impl FromStr for Attest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected jwt=ATTESTOR:FILE or x509=ATTESTOR:CHAIN:KEY such as x509=devices:device.pem:device.key, \
                 found `{text}` (a path with a colon goes into the file of `config`)"
            )
        };
        let (kind, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (attestor, files) = rest.split_once(':').ok_or_else(wrong)?;
        let files: Vec<PathBuf> = files.split(':').map(PathBuf::from).collect();
        if files.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(wrong());
        }
        match (kind, files.as_slice()) {
            ("jwt", [file]) => Ok(Self::Jwt { attestor: named(attestor)?, file: file.clone() }),
            ("x509", [chain, key]) => {
                Ok(Self::X509 { attestor: named(attestor)?, chain: chain.clone(), key: key.clone() })
            }
            _ => Err(wrong()),
        }
    }
}

/// As control takes it.
fn named(attestor: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&attestor.len()) && attestor.bytes().all(plain) {
        Ok(attestor.to_owned())
    } else {
        Err(format!("expected an attestor's name of a-z, 0-9 and `-`, found `{attestor}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read() {
        let jwt = Attest::Jwt { attestor: "kubernetes".into(), file: "/run/token".into() };
        assert_eq!("jwt=kubernetes:/run/token".parse(), Ok(jwt));
        let attestor = "devices-2".to_owned();
        let x509 = Attest::X509 { attestor, chain: "device.pem".into(), key: "device.key".into() };
        assert_eq!("x509=devices-2:device.pem:device.key".parse(), Ok(x509));
    }

    #[test]
    fn what_is_missing_or_too_much_is_told() {
        for wrong in [
            "",
            "jwt",
            "jwt=",
            "jwt=k",
            "jwt=k:",
            "jwt=k:a:b",
            "x509=d:a",
            "x509=d:a:",
            "x509=d::k",
            "x509=d:a:b:c",
            "saml=k:f",
        ] {
            let error = wrong.parse::<Attest>().unwrap_err();
            assert!(error.starts_with("expected jwt=ATTESTOR:FILE or x509="), "{wrong}: {error}");
        }
        let error = "jwt=Kubernetes:f".parse::<Attest>().unwrap_err();
        assert!(error.starts_with("expected an attestor's name"), "{error}");
    }
}
