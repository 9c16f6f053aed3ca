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
struct Attachment {
    kept: Arc<Kept>,
    audience: String,
    replace: bool,
}

/// No token for a request that needs one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoToken {
    /// None was to be had.
    #[error("no token for `{audience}`, which `attach-token` wants for this peer: {cause}")]
    None {
        /// Whom it is for.
        audience: String,
        /// Why.
        cause: Arc<IdentityError>,
    },
    /// A document sends a part of the calls to somebody else.
    #[error(
        "`attach-token` names {named}, and this call of it goes to {callee} by its Service document: name {callee}, too"
    )]
    OtherLeg {
        /// Whom the app called.
        named: SpiffeId,
        /// Who is called.
        callee: SpiffeId,
    },
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

    /// Puts in what a request to `callee` gets, which is `named` or a part of it.
    ///
    /// # Errors
    /// When there is no token to be had, or only the other of them is to get one.
    pub async fn attach(
        &self,
        named: Option<&SpiffeId>,
        callee: Option<&SpiffeId>,
        headers: &mut HeaderMap,
    ) -> Result<(), NoToken> {
        if self.0.is_empty() {
            return Ok(());
        }
        let of = |peer: Option<&SpiffeId>| peer.and_then(|peer| self.0.get(peer));
        match (of(callee), of(named), named, callee) {
            (Some(attachment), ..) => attachment.put_in(headers).await,
            (None, Some(_), Some(named), Some(callee)) => {
                metrics::token_attached("missing");
                Err(NoToken::OtherLeg { named: named.clone(), callee: callee.clone() })
            }
            (None, ..) => Ok(()),
        }
    }
}

impl Attachment {
    async fn put_in(&self, headers: &mut HeaderMap) -> Result<(), NoToken> {
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
                Err(NoToken::None { audience: self.audience.clone(), cause })
            }
        }
    }
}
