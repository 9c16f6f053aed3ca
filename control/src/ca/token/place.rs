//! Which token: a PKCS#11 URI (RFC 7512), of which control understands what names a token and leads to it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::KeyId;

/// A token, the module that leads to it, and the file with the PIN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenPlace {
    pub(super) module: PathBuf,
    pub(super) pin: PathBuf,
    /// Attributes that the token must have: at least one.
    pub(super) wanted: Vec<(Attribute, String)>,
}

/// By what a token is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Token,
    Serial,
    Model,
    Manufacturer,
}

impl Attribute {
    const ALL: [Self; 4] = [Self::Token, Self::Serial, Self::Model, Self::Manufacturer];

    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Serial => "serial",
            Self::Model => "model",
            Self::Manufacturer => "manufacturer",
        }
    }
}

impl FromStr for TokenPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("pkcs11:").ok_or("expected `pkcs11:`")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut wanted = Vec::new();
        for (name, value) in attributes(path, ';')? {
            let known = Attribute::ALL.into_iter().find(|known| known.as_str() == name);
            let known = known.ok_or_else(|| {
                format!(
                    "`{name}`: expected token, serial, model or manufacturer; control names its keys itself"
                )
            })?;
            if wanted.iter().any(|(before, _)| *before == known) {
                return Err(format!("`{name}`: expected it once"));
            }
            wanted.push((known, value));
        }
        if wanted.is_empty() {
            return Err("expected the token: `token=LABEL` or `serial=NUMBER`".into());
        }
        let (mut module, mut pin) = (None, None);
        for (name, value) in attributes(query, '&')? {
            let path = PathBuf::from(value.strip_prefix("file:").unwrap_or(&value));
            match name {
                "module-path" if module.is_none() => module = Some(path),
                "pin-source" if pin.is_none() => pin = Some(path),
                "pin-value" => {
                    return Err(
                        "`pin-value`: expected `pin-source` with a file, so that no PIN stands in a setting"
                            .into(),
                    );
                }
                other => return Err(format!("`{other}`: expected module-path and pin-source, each once")),
            }
        }
        let missing = |what: &str| format!("expected `{what}=/absolute/path` after the `?`");
        let module = module.filter(|path| path.is_absolute()).ok_or_else(|| missing("module-path"))?;
        let pin = pin.filter(|path| path.is_absolute()).ok_or_else(|| missing("pin-source"))?;
        Ok(Self { module, pin, wanted })
    }
}

fn attributes(part: &str, between: char) -> Result<Vec<(&str, String)>, String> {
    let pairs = part.split(between).filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}`: expected NAME=VALUE"))?;
        let value =
            percent_decode_str(value).decode_utf8().map_err(|_| format!("`{name}`: expected UTF-8"))?;
        if value.is_empty() || value.contains('\0') {
            return Err(format!("`{name}`: expected a value"));
        }
        Ok((name, value.into_owned()))
    });
    pairs.collect()
}

/// As it was given; there is no secret in it.
impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        f.write_str("pkcs11:")?;
        for (place, (attribute, value)) in self.wanted.iter().enumerate() {
            let between = if place == 0 { "" } else { ";" };
            write!(f, "{between}{}={}", attribute.as_str(), encoded(value))?;
        }
        write!(f, "?module-path={}&pin-source={}", self.module.display(), self.pin.display())
    }
}

/// A key in a token, as the store knows it: by the token's serial number and label, and its own id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ca) struct TokenKeyName {
    /// The token's serial number.
    pub(in crate::ca) serial: String,
    /// The token's label.
    pub(in crate::ca) label: String,
    /// CKA_ID.
    pub(in crate::ca) id: KeyId,
}

impl fmt::Display for TokenKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        write!(f, "pkcs11:token={};serial={};id=", encoded(&self.label), encoded(&self.serial))?;
        self.id.0.iter().try_for_each(|byte| write!(f, "%{byte:02x}"))
    }
}

impl FromStr for TokenKeyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("pkcs11:").ok_or("expected `pkcs11:`")?;
        let (mut serial, mut label, mut id) = (None, None, None);
        for pair in rest.split(';') {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("`{pair}`: expected NAME=VALUE"))?;
            let bytes: Vec<u8> = percent_decode_str(value).collect();
            let text = || String::from_utf8(bytes.clone()).map_err(|_| format!("`{name}`: expected UTF-8"));
            match name {
                "token" => label = Some(text()?),
                "serial" => serial = Some(text()?),
                "id" => id = bytes.as_slice().try_into().ok().map(KeyId),
                other => return Err(format!("`{other}`: expected token, serial and id")),
            }
        }
        match (serial, label, id) {
            (Some(serial), Some(label), Some(id)) => Ok(Self { serial, label, id }),
            _ => Err("expected token, serial, and an id of 16 bytes".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_named_as_rfc_7512_says() {
        let text = "pkcs11:token=My%20CA;serial=1234?module-path=/usr/lib/m.so&pin-source=file:/etc/pin";
        let place: TokenPlace = text.parse().unwrap();
        assert_eq!(place.wanted, [(Attribute::Token, "My CA".into()), (Attribute::Serial, "1234".into())]);
        assert_eq!(
            (place.module.as_path(), place.pin.as_path()),
            ("/usr/lib/m.so".as_ref(), "/etc/pin".as_ref())
        );
        assert_eq!(place.to_string().parse(), Ok(place));
        for (wrong, told) in [
            ("", "expected `pkcs11:`"),
            ("pkcs11:?module-path=/m&pin-source=/p", "token=LABEL"),
            ("pkcs11:token=a", "module-path"),
            ("pkcs11:token=a?module-path=m&pin-source=/p", "module-path=/absolute/path"),
            ("pkcs11:token=a?module-path=/m", "pin-source"),
            ("pkcs11:token=a?module-path=/m&pin-value=1234", "no PIN stands in a setting"),
            ("pkcs11:token=a;object=b?module-path=/m&pin-source=/p", "control names its keys itself"),
            ("pkcs11:token=a;token=b?module-path=/m&pin-source=/p", "once"),
            ("pkcs11:token=?module-path=/m&pin-source=/p", "expected a value"),
            ("pkcs11:token=%ff?module-path=/m&pin-source=/p", "UTF-8"),
            ("pkcs11:token?module-path=/m&pin-source=/p", "NAME=VALUE"),
        ] {
            let error = wrong.parse::<TokenPlace>().unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }

    #[test]
    fn key_is_found_by_its_name_again() {
        let name = TokenKeyName { serial: "a;b=c".into(), label: "My CA %".into(), id: KeyId([7; 16]) };
        assert_eq!(name.to_string().parse(), Ok(name));
        assert!("pkcs11:token=a;serial=b;id=%00".parse::<TokenKeyName>().is_err());
    }
}
