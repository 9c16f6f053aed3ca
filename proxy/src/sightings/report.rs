//! Sends the reports: soon when there is something that control has never heard of, otherwise every 30 s.

use std::sync::Arc;
use std::time::Duration;

use signet_proto::clock;
use signet_proto::spiffe::InstanceId;
use signet_proto::v1;
use signet_proto::v1::report_client::ReportClient;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::Sightings;
use super::reporter::Reporter;
use crate::control::{CALL_DEADLINE, ControlError};
use crate::telemetry::metrics;

const EVERY: Duration = Duration::from_secs(30);
/// News come together: what the first of them waits for the others.
const GATHER: Duration = Duration::from_secs(1);
/// From one report of news to the next.
const APART: Duration = Duration::from_secs(5);

/// The one who reports, over all streams of this process.
pub struct Reports {
    sightings: Arc<Sightings>,
    reporter: Mutex<Reporter>,
    /// The last one is wanted now.
    last: Notify,
    said: Notify,
}

impl Reports {
    /// Of this process.
    ///
    /// # Errors
    /// When the system has no randomness to name the process by.
    pub fn new(sightings: Arc<Sightings>) -> anyhow::Result<Self> {
        let run = *InstanceId::random()?.as_bytes();
        let reporter = Mutex::new(Reporter::new(run));
        Ok(Self { sightings, reporter, last: Notify::new(), said: Notify::new() })
    }

    /// Reports over this channel until it is dropped. What is not answered is repeated, here or over the next one.
    pub async fn send(&self, channel: Channel) {
        let mut client = ReportClient::new(channel);
        let mut timer = tokio::time::interval(EVERY);
        timer.reset();
        let mut earliest = Instant::now();
        loop {
            let last = tokio::select! {
                _ = timer.tick() => false,
                () = self.last.notified() => true,
                () = self.news(earliest) => false,
            };
            let told = self.flush(&mut client).await;
            earliest = Instant::now() + APART;
            if last && told {
                self.said.notify_one();
            }
        }
    }

    /// Tells control what is left, if it listens. Ends when it has heard.
    pub async fn flushed(&self) {
        self.last.notify_one();
        self.said.notified().await;
    }

    async fn news(&self, earliest: Instant) {
        self.sightings.news.notified().await;
        tokio::time::sleep_until(earliest.max(Instant::now() + GATHER)).await;
    }

    /// Reports until nothing is left. False: control did not take it.
    async fn flush(&self, client: &mut ReportClient<Channel>) -> bool {
        let mut reporter = self.reporter.lock().await;
        while let Some(report) = reporter.next(&self.sightings, clock::now()) {
            let told = tell(client, report).await;
            if !told {
                return false;
            }
            reporter.answered(&self.sightings, clock::now());
        }
        true
    }
}

/// False: it has to be repeated. What control will never take is counted as told, so that what comes after it is.
async fn tell(client: &mut ReportClient<Channel>, report: v1::ReportSightingsRequest) -> bool {
    let mut request = Request::new(report);
    request.set_timeout(CALL_DEADLINE);
    let Err(status) = client.report_sightings(request).await else {
        metrics::sightings_reported("taken");
        return true;
    };
    // An older control does not know the call: what is not reported is lost with every other count of that time.
    let never = matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange);
    metrics::sightings_reported(if never { "refused" } else { "failed" });
    let error = ControlError::from(status);
    if never {
        tracing::warn!(%error, "control will not take what was seen: it is not counted");
    } else {
        tracing::debug!(%error, "control did not take what was seen; it is told again");
    }
    never
}
