//! SVIDs from the SPIFFE Workload API that something else serves beside us: SPIRE's agent, or another proxy. The stream is
//! listened to for as long as we run, and opened again whenever it ends.
//!
//! An answer is taken only if SVID, key and bundles fit together and our peers would believe them; what cannot be used
//! changes nothing, is counted and said: that a new SVID cannot be had throws no valid one away (invariant 3). That we are
//! entitled to none any more is no failure but a decision, and the standard has clients cease to use what they lost
//! (SPIFFE Workload API, section 5.2.1). It is heard where it is sure: on the stream that gave the SVID; on a new stream,
//! if it stays so for a while, as an agent that has just started knows nobody yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::{
    ConfigError, KeyError, Revocations, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey,
};
use signet_proto::spiffe::{BundleError, SpiffeId, TrustBundle, TrustDomain, certificates};
use signet_proto::standard::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::standard::spiffe::{X509svid, X509svidRequest, X509svidResponse};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use zeroize::Zeroizing;

use crate::backoff::Backoff;
use crate::causes::causes;
use crate::mesh::Mesh;
use crate::telemetry::metrics;

const RETRIES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// An agent that has just started needs so long to know whom it serves.
const DENIED_FOR_GOOD: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The standard has it sent without delay.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// Of an agent that vanished without a word we hear within this and the next.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 1024 * 1024;
/// Of what an agent says that it gives, in an error.
const MOST_TOLD: usize = 8;

/// Where the Workload API is served, and what we want of it.
#[derive(Debug, Clone)]
pub struct Socket {
    /// Its path.
    pub path: PathBuf,
    /// The identity that is wanted; absent: the first that it gives, which the standard calls the default.
    pub spiffe_id: Option<SpiffeId>,
}

/// Why there is no SVID from the socket, or not a newer one. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Nobody answers there.
    #[error("cannot reach the Workload API at {path}: {cause}")]
    Unreachable {
        /// The socket's.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// It has nothing for us.
    #[error(
        "the Workload API at {path} has no identity for this process (uid {uid}): register it there; it is asked again. It says: {says}"
    )]
    Denied {
        /// The socket's.
        path: PathBuf,
        /// Ours.
        uid: u32,
        /// What it says.
        says: String,
    },
    /// It ended the stream, or has an answer for later.
    #[error("the Workload API at {path} ended the stream: {says}")]
    Ended {
        /// The socket's.
        path: PathBuf,
        /// What it says.
        says: String,
    },
    /// No SVID is the wanted one.
    #[error("the Workload API gives {given}, and `spiffe-id` is `{wanted}`")]
    NotThis {
        /// What is wanted.
        wanted: SpiffeId,
        /// What there is.
        given: String,
    },
    /// No SVID at all.
    #[error("the answer of the Workload API has no SVID in it")]
    Empty,
    /// A chain or a bundle is no sequence of certificates.
    #[error("the {what} that the Workload API gave is no sequence of certificates in DER")]
    Certificates {
        /// Chain or bundle.
        what: &'static str,
    },
    /// A name that no trust domain has.
    #[error("the Workload API gave a bundle for `{name}`, which is no trust domain: {error}")]
    Domain {
        /// What it is called.
        name: String,
        /// Why not.
        error: signet_proto::spiffe::SpiffeIdError,
    },
    /// The key.
    #[error("the key that the Workload API gave: {0}")]
    Key(#[from] KeyError),
    /// Chain and key.
    #[error("the Workload API gave an unusable SVID: {0}")]
    Svid(#[from] SvidMismatch),
    /// A bundle.
    #[error("the Workload API gave an unusable bundle: {0}")]
    Bundle(#[from] BundleError),
    /// The SVID does not chain to its bundle, or is outside its validity.
    #[error("the Workload API gave an SVID that does not verify: {0}")]
    Unbelievable(#[from] VerifyError),
    /// The TLS library refused our parameters.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Takes what the socket gives until `stop`.
pub async fn follow(socket: Socket, mesh: Arc<Mesh>, stop: CancellationToken) {
    let mut backoff = Backoff::new(RETRIES.0, RETRIES.1);
    let mut denial = Denial::default();
    loop {
        let (error, was_served) = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen(&socket, &mesh, &mut backoff) => ended,
        };
        let left = mesh
            .credentials()
            .map(|(svid, _)| svid.end().duration_since(signet_proto::clock::now()).unwrap_or_default());
        let is_denial = matches!(error, SocketError::Denied { .. });
        metrics::rotation(if is_denial { "refused" } else { "failed" });
        let mut delay = backoff.next_delay();
        match denial.after(is_denial, was_served, Instant::now()) {
            Some(rest) if left.is_some() && rest.is_zero() => {
                tracing::error!(%error, ?left, "the SVID in force is ours no more: nothing is accepted or called until there is another");
                mesh.withdraw();
            }
            Some(rest) if left.is_some() => {
                delay = delay.min(rest.max(RETRIES.0));
                tracing::error!(%error, ?delay, ?left, ?rest, "the SVID in force is used until this was said for long enough");
            }
            _ => {
                tracing::warn!(%error, ?delay, ?left, "no SVID from the Workload API, will try again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Since when nothing else is said than that we have no identity.
#[derive(Debug, Default)]
struct Denial(Option<Instant>);

impl Denial {
    /// How long it has yet to be said until it counts, if it was said at the end of a stream that served us before, or of
    /// one that did not.
    fn after(&mut self, is_denial: bool, was_served: bool, now: Instant) -> Option<Duration> {
        if !is_denial {
            self.0 = None;
            return None;
        }
        let since = *self.0.get_or_insert(now);
        let rest = DENIED_FOR_GOOD.saturating_sub(now.saturating_duration_since(since));
        Some(if was_served { Duration::ZERO } else { rest })
    }
}

/// What it would give us now, checked as if it were taken.
///
/// # Errors
/// When it gives nothing that could be used.
pub async fn once(socket: &Socket) -> Result<Svid, SocketError> {
    let (answer, _) = first(socket).await?;
    read(socket, answer)?.svid
}

/// One stream, to its end; and whether it gave us anything.
async fn listen(socket: &Socket, mesh: &Mesh, backoff: &mut Backoff) -> (SocketError, bool) {
    let (mut answer, mut answers) = match first(socket).await {
        Ok(answered) => answered,
        Err(error) => return (error, false),
    };
    loop {
        match adopt(socket, mesh, answer) {
            Ok(()) => backoff.reset(),
            Err(error) => {
                metrics::rotation("failed");
                tracing::warn!(%error, "an answer cannot be used; what is in force stays in force");
            }
        }
        answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return (socket.said(&without_a_word()), true),
            Err(status) => return (socket.said(&status), true),
        };
    }
}

/// The first answer of a new stream.
async fn first(socket: &Socket) -> Result<(X509svidResponse, Streaming<X509svidResponse>), SocketError> {
    let unreachable = |cause: String| SocketError::Unreachable { path: socket.path.clone(), cause };
    let late = |deadline: Duration| unreachable(format!("no answer within {} s", deadline.as_secs()));
    let channel = tokio::time::timeout(CONNECT_DEADLINE, channel(&socket.path)).await;
    let channel = channel.map_err(|_| late(CONNECT_DEADLINE))?.map_err(unreachable)?;
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    let answered = async {
        let mut answers = client.fetch_x509svid(request).await?.into_inner();
        let answer = answers.message().await?.ok_or_else(without_a_word)?;
        Ok((answer, answers))
    };
    let answered = tokio::time::timeout(FIRST_ANSWER, answered).await.map_err(|_| late(FIRST_ANSWER))?;
    answered.map_err(|status: Status| socket.said(&status))
}

fn without_a_word() -> Status {
    Status::unavailable("without a word")
}

async fn channel(path: &Path) -> Result<Channel, String> {
    let path = path.to_path_buf();
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(connect).await.map_err(|error| causes(&error))
}

impl Socket {
    fn said(&self, status: &Status) -> SocketError {
        let (path, says) = (self.path.clone(), format!("{:?}: {}", status.code(), status.message()));
        match status.code() {
            Code::PermissionDenied => {
                SocketError::Denied { path, uid: rustix::process::geteuid().as_raw(), says }
            }
            _ => SocketError::Ended { path, says },
        }
    }

    /// The one that is wanted.
    fn choose(&self, mut svids: Vec<X509svid>) -> Result<X509svid, SocketError> {
        let Some(wanted) = &self.spiffe_id else {
            return if svids.is_empty() { Err(SocketError::Empty) } else { Ok(svids.swap_remove(0)) };
        };
        match svids.iter().position(|svid| svid.spiffe_id == wanted.as_str()) {
            Some(place) => Ok(svids.swap_remove(place)),
            None => {
                let given: Vec<_> =
                    svids.iter().take(MOST_TOLD).map(|svid| format!("`{}`", svid.spiffe_id)).collect();
                let given = if given.is_empty() { "none".into() } else { given.join(", ") };
                Err(SocketError::NotThis { wanted: wanted.clone(), given })
            }
        }
    }
}

/// What is in an answer.
struct Read {
    /// If it fits the rest.
    svid: Result<Svid, SocketError>,
    bundles: Vec<TrustBundle>,
}

fn read(socket: &Socket, answer: X509svidResponse) -> Result<Read, SocketError> {
    let X509svidResponse { svids, federated_bundles, .. } = answer;
    let chosen = socket.choose(svids)?;
    let own = domain_of(chosen.spiffe_id.split('/').nth(2).unwrap_or_default())?;
    let mut bundles = vec![bundle(own.clone(), &chosen.bundle)?];
    for (name, authorities) in federated_bundles {
        match domain_of(&name).and_then(|domain| bundle(domain, &authorities)) {
            // That of our own domain comes with the SVID, and nothing else speaks for it.
            Ok(bundle) if *bundle.trust_domain() == own => {}
            Ok(bundle) => bundles.push(bundle),
            // Nobody of that domain is believed; our own identity does not wait for it.
            Err(error) => tracing::warn!(%error, "the bundle of another trust domain is left out"),
        }
    }
    bundles.sort_by(|one, other| one.trust_domain().as_str().cmp(other.trust_domain().as_str()));
    Ok(Read { svid: usable(chosen, &bundles), bundles })
}

/// An SVID, if all of it fits together.
fn usable(chosen: X509svid, bundles: &[TrustBundle]) -> Result<Svid, SocketError> {
    let key = Zeroizing::new(chosen.x509_svid_key);
    let chain = sequence("chain", &chosen.x509_svid)?;
    let svid = Svid::new(chain, WorkloadKey::signing_key_from_der(&key)?)?;
    svid.check(&Trust::new(bundles.iter().cloned(), Revocations::default()), signet_proto::clock::now())?;
    Ok(svid)
}

/// A valid SVID stays in force when the one in an answer cannot be used; who is believed no more by that answer is
/// believed no more all the same.
fn adopt(socket: &Socket, mesh: &Mesh, answer: X509svidResponse) -> Result<(), SocketError> {
    let Read { svid, bundles } = read(socket, answer)?;
    let before = mesh.credentials().map(|(svid, _)| svid);
    let svid = svid.and_then(|svid| match &before {
        Some(before) if before.id() != svid.id() => {
            Err(SocketError::NotThis { wanted: before.id().clone(), given: format!("`{}`", svid.id()) })
        }
        _ => Ok(svid),
    });
    let svid = match svid {
        Ok(svid) => svid,
        Err(error) => {
            mesh.update(|inputs| {
                let left = narrowed(&inputs.bundles, &bundles);
                if !left.is_empty() {
                    inputs.bundles = left;
                }
            })?;
            return Err(error);
        }
    };
    let is_new = before.is_none_or(|before| before.profile().serial != svid.profile().serial);
    let (id, not_after) = (svid.id().clone(), svid.profile().not_after);
    mesh.update(|inputs| {
        inputs.svid = Some(Arc::new(svid));
        inputs.bundles = bundles;
    })?;
    if is_new {
        tracing::info!(%id, "took a new SVID from the Workload API");
        metrics::rotation("success");
        metrics::svid_expiry(not_after);
    }
    Ok(())
}

/// What both say, and nobody else.
fn narrowed(before: &[TrustBundle], told: &[TrustBundle]) -> Vec<TrustBundle> {
    let kept = before.iter().filter_map(|old| {
        let new = told.iter().find(|new| new.trust_domain() == old.trust_domain())?;
        let both = old.authorities().iter().filter(|authority| new.authorities().contains(authority));
        TrustBundle::new(old.trust_domain().clone(), both.cloned().collect(), 0).ok()
    });
    kept.collect()
}

fn bundle(domain: TrustDomain, authorities: &[u8]) -> Result<TrustBundle, SocketError> {
    // The standard has no number for it.
    Ok(TrustBundle::new(domain, sequence("bundle", authorities)?, 0)?)
}

fn sequence(what: &'static str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, SocketError> {
    certificates(bytes).map_err(|_| SocketError::Certificates { what })
}

/// The standard writes trust domains as SPIFFE IDs; some write the name alone.
fn domain_of(name: &str) -> Result<TrustDomain, SocketError> {
    let domain = name.strip_prefix("spiffe://").unwrap_or(name);
    domain.parse().map_err(|error| SocketError::Domain { name: name.chars().take(256).collect(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_counts_at_once_where_we_were_served_and_otherwise_once_it_lasts() {
        let (begin, seconds) = (Instant::now(), Duration::from_secs);
        let mut denial = Denial::default();
        assert_eq!(denial.after(true, true, begin), Some(Duration::ZERO));
        // A new agent that knows nobody yet: the next word takes it back.
        let mut denial = Denial::default();
        assert_eq!(denial.after(true, false, begin), Some(DENIED_FOR_GOOD));
        assert_eq!(denial.after(true, false, begin + seconds(10)), Some(seconds(20)));
        assert_eq!(denial.after(false, false, begin + seconds(20)), None, "it is down: that decides nothing");
        assert_eq!(denial.after(true, false, begin + seconds(29)), Some(DENIED_FOR_GOOD));
        assert_eq!(denial.after(true, false, begin + seconds(60)), Some(Duration::ZERO));
    }
}
