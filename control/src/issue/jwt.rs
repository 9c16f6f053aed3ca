//! JWT-SVIDs, for what cannot do mutual TLS: whoever could renew now gets one, for those it names, for minutes.

use std::time::{Duration, SystemTime};

use signet_proto::handshake::PeerIdentity;

use super::{IssueError, Issuer};
use crate::audit::RequestId;
use crate::ca::JwtRequest;
use crate::store::model::JwtIssuance;
use crate::telemetry::metrics::{self, Issue};
use crate::time;

/// More than a token needs; each makes it longer.
const MOST_AUDIENCES: usize = 8;
const LONGEST_AUDIENCE: usize = 255;
/// A token that is over before it arrives is of no use.
const SHORTEST: Duration = Duration::from_secs(1);

/// What operators decide about tokens.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Their longest life.
    pub ttl: Duration,
    /// Who says so: where the keys are served, for those who look for them by that.
    pub issuer: Option<String>,
}

/// A token to give out: recorded.
pub struct IssuedJwt {
    /// JWS compact serialization.
    pub token: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

impl Issuer {
    /// A token that names `peer`, for `audience`.
    ///
    /// # Errors
    /// Why not.
    pub async fn jwt(
        &self,
        peer: &PeerIdentity,
        audience: Vec<String>,
        ttl: Option<Duration>,
        request_id: Option<RequestId>,
    ) -> Result<IssuedJwt, IssueError> {
        let result = self.token(peer, audience, ttl, request_id).await;
        metrics::issued(Issue::Jwt, result.as_ref().err().map(IssueError::reason));
        result
    }

    async fn token(
        &self,
        peer: &PeerIdentity,
        audience: Vec<String>,
        ttl: Option<Duration>,
        request_id: Option<RequestId>,
    ) -> Result<IssuedJwt, IssueError> {
        require_bounded(&audience)?;
        let instance = peer.instance.ok_or(IssueError::NoInstance)?;
        let leaf = peer.handles.first().ok_or(IssueError::NoInstance)?;
        let JwtSettings { ttl: longest, issuer } = &self.settings.jwt;
        let until = self.store.workload(peer.id.clone()).await?.terms().until;
        let now = time::now();
        let wanted = now + ttl.map_or(*longest, |ttl| ttl.clamp(SHORTEST, *longest));
        // In whole seconds, as it is written, so that it is recorded as what it says.
        let ends = [Some(wanted), Some(peer.not_after), until].into_iter().flatten().min().unwrap_or(wanted);
        let whole = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(whole);
        if expires_at < now + SHORTEST {
            return Err(IssueError::Ends);
        }
        let request = JwtRequest { id: &peer.id, audience: &audience, issuer: issuer.as_deref(), expires_at };
        let signed = self.authority.sign_jwt(&request)?;
        let presented =
            peer.handles.iter().map(|handle| (handle.issuer_sha256, handle.serial.clone())).collect();
        let issuance = JwtIssuance {
            jti: signed.jti,
            spiffe_id: peer.id.clone(),
            instance,
            spki_sha256: leaf.spki_sha256,
            presented,
            audience,
            key: signed.key,
            expires_at,
            request_id,
        };
        self.store.record_jwt(issuance).await?;
        Ok(IssuedJwt { token: signed.token, expires_at })
    }
}

fn require_bounded(audience: &[String]) -> Result<(), IssueError> {
    let good = |name: &String| {
        (1..=LONGEST_AUDIENCE).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match (1..=MOST_AUDIENCES).contains(&audience.len()) && audience.iter().all(good) {
        true => Ok(()),
        false => Err(IssueError::Audience),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audience_is_named_and_bounded() {
        let ask = |audience: &[&str]| {
            require_bounded(&audience.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).is_ok()
        };
        assert!(ask(&["billing"]) && ask(&["https://api.example/v1", "spiffe://prod.example/billing"]));
        assert!(ask(&["a"; MOST_AUDIENCES]) && !ask(&["a"; MOST_AUDIENCES + 1]));
        let (longest, longer) = ("a".repeat(LONGEST_AUDIENCE), "a".repeat(LONGEST_AUDIENCE + 1));
        assert!(ask(&[&longest]) && !ask(&[&longer]));
        for wrong in [&[][..], &[""], &["billing", ""], &["with space"], &["new\nline"], &["\u{e9}"]] {
            assert!(!ask(wrong), "{wrong:?}");
        }
    }
}
