//! Which peers are sent a JWT-SVID with each HTTP request, so that the app needs no secret for them.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::Deserialize;
use signet_proto::spiffe::SpiffeId;

use super::ConfigError;
use super::args::Keys;
use super::source::Source;

const LONGEST_AUDIENCE: usize = 255;

/// A token for the requests to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "AttachTable")]
pub struct Attach {
    /// Whom the requests are for.
    pub peer: SpiffeId,
    /// Whom the token is for, as the peer's app checks it.
    pub audience: String,
    /// Whether it takes the place of an `authorization` that the app sends itself.
    pub replace: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AttachTable {
    peer: SpiffeId,
    audience: String,
    #[serde(default)]
    replace: bool,
}

impl TryFrom<AttachTable> for Attach {
    type Error = String;

    fn try_from(table: AttachTable) -> Result<Self, String> {
        let AttachTable { peer, audience, replace } = table;
        let is_good = (1..=LONGEST_AUDIENCE).contains(&audience.len())
            && audience.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_good {
            return Err(format!(
                "audience: expected 1 to {LONGEST_AUDIENCE} bytes of printable ASCII without spaces"
            ));
        }
        Ok(Self { peer, audience, replace })
    }
}

impl FromStr for Attach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected spiffe://ID=AUDIENCE, then `,replace` if the app's own authorization makes room, such as \
                 spiffe://prod.example/billing=https://billing.example, found `{text}`"
            )
        };
        let (peer, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (audience, replace) =
            rest.strip_suffix(",replace").map_or((rest, false), |audience| (audience, true));
        let peer = peer.parse().map_err(|_| wrong())?;
        AttachTable { peer, audience: audience.to_owned(), replace }.try_into().map_err(|_: String| wrong())
    }
}

/// One for each peer, from a control that signs them.
pub(super) fn attached(keys: &Keys, source: &Source) -> Result<Vec<Attach>, ConfigError> {
    let mut peers = BTreeSet::new();
    for Attach { peer, .. } in &keys.attach_token {
        if !peers.insert(peer.as_str()) {
            return Err(ConfigError::SameToken(peer.clone()));
        }
    }
    if source.joining().is_none() && !peers.is_empty() {
        return Err(ConfigError::Alone { key: "attach-token", with: "`join`: control signs the tokens" });
    }
    Ok(keys.attach_token.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_for_a_peer_and_an_audience() {
        let read = |text: &str| text.parse::<Attach>();
        let plain = read("spiffe://prod.example/billing=https://billing.example/v1?a=b").unwrap();
        assert_eq!(plain.peer.as_str(), "spiffe://prod.example/billing");
        assert_eq!((plain.audience.as_str(), plain.replace), ("https://billing.example/v1?a=b", false));
        assert!(read("spiffe://prod.example/billing=billing,replace").unwrap().replace);
        let table = "peer = \"spiffe://prod.example/billing\"\naudience = \"billing\"\nreplace = true";
        assert_eq!(
            toml::from_str::<Attach>(table),
            Ok(read("spiffe://prod.example/billing=billing,replace").unwrap())
        );
        for wrong in
            ["", "billing", "billing=a", "spiffe://prod.example/billing", "spiffe://prod.example/billing="]
        {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("expected spiffe://ID=AUDIENCE") && error.contains(wrong), "{error}");
        }
        assert!(read("spiffe://prod.example/billing=a b").is_err());
    }
}
