//! A conversation by Envoy's discovery protocol, in either form: the client says what it wants and whether it took what it
//! was sent; we answer when there is something new. A refusal is counted and logged, and nothing is sent again for it: the
//! client keeps what it had until there is something else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use signet_proto::standard::google::rpc;
use tonic::Status;

use super::board::Streaming;
use super::feed::{Feed, Material};
use super::secrets::{Names, TYPE};
use super::{Asking, Gives, WorkloadApi};
use crate::telemetry::metrics;

/// Whoever opens a stream says what it is for.
const FIRST_NAMES: Duration = Duration::from_secs(10);
/// Of what a client says why it did not take something.
const LONGEST_REASON: usize = 512;

pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One form of the protocol: what a client wants, and what it was told.
pub(super) trait Subscription: Send + 'static {
    /// What the client sends.
    type Request: Send + 'static;
    /// What it is sent.
    type Response: Send + 'static;

    /// Takes a request. True if it wants something else than before.
    ///
    /// # Errors
    /// When the request is none of this service.
    fn hear(&mut self, request: Self::Request, asking: &Asking) -> Result<bool, Status>;

    /// What it wants now.
    fn names(&self) -> &Names;

    /// What it is to be told. None if that is nothing new.
    ///
    /// # Errors
    /// When there is no such thing as it wants.
    fn answer(&mut self, material: &Material) -> Result<Option<Self::Response>, Status>;
}

/// An open stream.
struct Conversation<S: Subscription> {
    api: Arc<WorkloadApi>,
    asking: Asking,
    method: &'static str,
    streaming: Streaming,
    requests: tonic::Streaming<S::Request>,
    subscription: S,
    /// Since it said what it wants.
    feed: Option<Feed>,
}

/// The responses of a stream.
pub(super) fn converse<S: Subscription>(
    api: Arc<WorkloadApi>,
    asking: Asking,
    method: &'static str,
    requests: tonic::Streaming<S::Request>,
    subscription: S,
) -> Result<Messages<S::Response>, Status> {
    let streaming = api.begin(&asking, method)?;
    let conversation = Conversation { api, asking, method, streaming, requests, subscription, feed: None };
    Ok(Box::pin(stream::unfold(Some(conversation), |conversation| async {
        let mut conversation = conversation?;
        match conversation.next().await? {
            Ok(response) => Some((Ok(response), Some(conversation))),
            Err(status) => Some((Err(status), None)),
        }
    })))
}

impl<S: Subscription> Conversation<S> {
    /// The next response. None when the client is gone.
    async fn next(&mut self) -> Option<Result<S::Response, Status>> {
        loop {
            let waits = self.feed.is_none();
            let change = async {
                match &mut self.feed {
                    Some(feed) => feed.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                request = self.requests.message() => match request {
                    Ok(Some(request)) => if let Err(status) = self.hear(request) {
                        return Some(Err(self.api.refused(self.method, "invalid", status)));
                    },
                    Ok(None) | Err(_) => return None,
                },
                material = change => {
                    let answered = material.and_then(|material| self.subscription.answer(&material));
                    if let Some(answer) = answered.transpose() {
                        self.streaming.updated();
                        return Some(answer);
                    }
                }
                () = tokio::time::sleep(FIRST_NAMES), if waits => {
                    return Some(Err(Status::deadline_exceeded("no secrets were asked for")));
                }
            }
        }
    }

    fn hear(&mut self, request: S::Request) -> Result<(), Status> {
        if self.subscription.hear(request, &self.asking)? || self.feed.is_none() {
            self.feed = Some(self.api.feed_of(&self.asking, self.subscription.names()));
        }
        Ok(())
    }
}

impl WorkloadApi {
    /// What a client of these names is to be shown.
    pub(super) fn feed_of(&self, asking: &Asking, names: &Names) -> Feed {
        let shelf =
            asking.shelf.as_ref().filter(|shelf| names.want_svid() && shelf.rule.gives == Gives::Svid);
        self.feed(shelf.map(|shelf| shelf.standing()))
    }
}

/// How many responses a stream has had, and of how many of them the client said something.
#[derive(Debug, Default)]
pub(super) struct Sent {
    last: u64,
    answered: u64,
}

/// What a request says of the responses before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// Nothing.
    Nothing,
    /// Of the newest one: taken, or not.
    Newest,
    /// Of an older one; what the newest one makes of it is on its way.
    Older,
}

impl Sent {
    /// The nonce of the next one.
    pub(super) fn next(&mut self) -> String {
        self.last += 1;
        self.last.to_string()
    }

    /// What a request with this nonce is about; taken or refused is counted once for each response.
    pub(super) fn answered_by(
        &mut self,
        nonce: &str,
        error: Option<&rpc::Status>,
        asking: &Asking,
    ) -> Answers {
        let about = self.about(nonce);
        if self.is_news(nonce, &about, error.is_some()) {
            metrics::secret_answered(if error.is_some() { "nack" } else { "ack" });
            if let Some(error) = error
                && asking.place.may_complain(asking.caller)
            {
                let reason: String = error.message.chars().take(LONGEST_REASON).collect();
                tracing::warn!(caller = ?asking.caller, reason,
                    "an SDS client did not take what it was sent, and keeps what it had");
            }
        }
        about
    }

    /// Whether that is the first word on a response. Of an older one it counts only that it was refused.
    fn is_news(&mut self, nonce: &str, about: &Answers, is_refusal: bool) -> bool {
        let number = match (about, nonce.parse::<u64>()) {
            (Answers::Newest, Ok(number)) => number,
            (Answers::Older, Ok(number)) if is_refusal && number < self.last => number,
            _ => return false,
        };
        let is_first = number > self.answered;
        self.answered = self.answered.max(number);
        is_first
    }

    fn about(&self, nonce: &str) -> Answers {
        match nonce.parse::<u64>() {
            // Before anything was sent, it can only be of a stream before this one.
            _ if nonce.is_empty() || self.last == 0 => Answers::Nothing,
            Ok(number) if number == self.last => Answers::Newest,
            _ => Answers::Older,
        }
    }
}

/// That a request is about secrets.
pub(super) fn about_secrets(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == TYPE {
        return Ok(());
    }
    let found: String = type_url.chars().take(256).collect();
    Err(Status::invalid_argument(format!("expected the type {TYPE}, found {found:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_to_the_newest_response_or_to_none() {
        let mut sent = Sent::default();
        assert_eq!(sent.about(""), Answers::Nothing);
        assert_eq!(
            (sent.about("0"), sent.about("1")),
            (Answers::Nothing, Answers::Nothing),
            "of a stream before"
        );
        let first = sent.next();
        assert_eq!(sent.about(&first), Answers::Newest);
        let second = sent.next();
        assert_ne!(first, second);
        assert_eq!((sent.about(&first), sent.about(&second)), (Answers::Older, Answers::Newest));
        assert_eq!((sent.about("0"), sent.about("x")), (Answers::Older, Answers::Older));
    }

    #[test]
    fn each_response_is_answered_once_whatever_a_client_repeats() {
        let mut sent = Sent::default();
        let (first, second) = (sent.next(), sent.next());
        let mut news = |nonce: &str, is_refusal| {
            let about = sent.about(nonce);
            sent.is_news(nonce, &about, is_refusal)
        };
        assert!(!news(&first, false), "an older one was taken: nobody asks");
        assert!(news(&first, true) && !news(&first, true));
        assert!(news(&second, true) && !news(&second, true) && !news(&second, false));
        assert!(!news(&first, true) && !news("x", true) && !news("", true) && !news("99", true));
    }

    #[test]
    fn only_secrets_can_be_discovered() {
        assert!(about_secrets("").is_ok() && about_secrets(TYPE).is_ok());
        let other = about_secrets("type.googleapis.com/envoy.config.cluster.v3.Cluster").unwrap_err();
        assert_eq!(other.code(), tonic::Code::InvalidArgument);
    }
}
