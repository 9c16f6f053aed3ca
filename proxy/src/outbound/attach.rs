//! Tokens for APIs that take bearer tokens: each HTTP request to a peer that the configuration names gets a JWT-SVID of
//! our workload, so that the app holds no secret. What the app sends itself stays, unless the configuration says
//! otherwise. Without a token nothing is sent: the peer would take the request for one of nobody.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use signet_proto::spiffe::SpiffeId;

use crate::config::Attach;
use crate::identity::{Holder, IdentityError, Kept, Tokens};
use crate::telemetry::metrics;

/// What is attached, by peer.
#[derive(Debug, Default)]
pub struct Attachments(HashMap<SpiffeId, Attachment>);

/// The tokens for one peer.
#[derive(Debug)]
pub struct Attachment {
    kept: Arc<Kept>,
    audience: String,
    replace: bool,
}

/// No token for a request that needs one.
#[derive(Debug, thiserror::Error)]
#[error("no token for `{audience}`, which `attach-token` wants for this peer: {cause}")]
pub struct NoToken {
    audience: String,
    cause: Arc<IdentityError>,
}

impl Attachments {
    /// As the configuration says; no token is fetched before one is needed.
    #[must_use]
    pub fn new(attached: Vec<Attach>, tokens: &Tokens) -> Self {
        let attachment = |attach| {
            let Attach { peer, audience, replace } = attach;
            (peer, Attachment { kept: tokens.keep(vec![audience.clone()]), audience, replace })
        };
        Self(attached.into_iter().map(attachment).collect())
    }

    /// What requests to this peer get.
    #[must_use]
    pub fn of(&self, peer: &SpiffeId) -> Option<&Attachment> {
        if self.0.is_empty() { None } else { self.0.get(peer) }
    }
}

impl Attachment {
    /// Puts a token in.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn put_in(&self, headers: &mut HeaderMap) -> Result<(), NoToken> {
        if headers.contains_key(AUTHORIZATION) && !self.replace {
            metrics::token_attached("kept");
            return Ok(());
        }
        match self.kept.token(&Holder::Own).await {
            Ok(jwt) => {
                headers.insert(AUTHORIZATION, jwt.header().clone());
                metrics::token_attached("attached");
                Ok(())
            }
            Err(cause) => {
                metrics::token_attached("missing");
                Err(NoToken { audience: self.audience.clone(), cause })
            }
        }
    }
}
