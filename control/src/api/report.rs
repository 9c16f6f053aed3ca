//! What proxies tell: acknowledgements, and what they see.

use signet_proto::digest::StateDigest;
use signet_proto::v1::report_server::Report;
use signet_proto::v1::{ReportRequest, ReportResponse, ReportSightingsRequest, ReportSightingsResponse};
use tonic::{Request, Response, Status};

use super::Rooms;
use super::caller::Member;
use super::status::ToStatus;
use crate::inventory::Sightings;
use crate::publish::{Acknowledgement, Mismatch};
use crate::store::{Counted, EdgeBounds};
use crate::telemetry::metrics;
use crate::time;

/// There are about a dozen reasons for which connections close.
const MAX_REASONS: usize = 64;
/// As many peers as a proxy keeps apart; and what a database of this kind holds without being noticed.
const EDGES: EdgeBounds = EdgeBounds { of_identity: 4096, in_all: 1_000_000 };

#[tonic::async_trait]
impl Report for Rooms {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let arrived = time::now();
        let member = self.gate.member(request.extensions()).await?;
        let report = request.into_inner();
        if report.closed.len() > MAX_REASONS {
            return Err(Status::invalid_argument(format!("closed: expected at most {MAX_REASONS} reasons")));
        }
        let acknowledgement = Acknowledgement {
            position: report.position,
            closed: report.closed.iter().fold(0_u64, |closed, reason| closed.saturating_add(reason.count)),
            at: arrived,
            state: report.state.as_ref().and_then(StateDigest::read),
        };
        if let Some(mismatch) = self.watchers.acknowledged(&member.instance, acknowledgement) {
            differs(&member, &mismatch);
        }
        Ok(Response::new(ReportResponse {}))
    }

    /// Answered once it is counted for good: then the proxy forgets it.
    async fn report_sightings(
        &self,
        request: Request<ReportSightingsRequest>,
    ) -> Result<Response<ReportSightingsResponse>, Status> {
        let arrived = time::now();
        let member = self.gate.member(request.extensions()).await?;
        let reporter = member.identity.id.clone();
        let sightings = Sightings::parse(request.into_inner(), &reporter, arrived).map_err(|error| {
            tracing::warn!(id = %reporter, instance = %member.instance, %error, "report of what was seen refused");
            metrics::sightings_reported("refused");
            Status::invalid_argument(error.to_string())
        })?;
        let overflow = sightings.overflow;
        let counted = self.store.count_sightings(member.instance, reporter, sightings, EDGES).await;
        match counted.map_err(|error| error.to_status())? {
            Counted::Now { dropped } => {
                metrics::sightings_reported("counted");
                metrics::edges_dropped(dropped, overflow);
            }
            Counted::Before => metrics::sightings_reported("repeated"),
        }
        Ok(Response::new(ReportSightingsResponse {}))
    }
}

/// Said once of each stream, counted always.
fn differs(member: &Member, mismatch: &Mismatch) {
    mismatch.sections.iter().for_each(|section| metrics::state_mismatch(section));
    if mismatch.first {
        tracing::warn!(
            id = %member.identity.id, instance = %member.instance, sections = ?mismatch.sections,
            "a proxy does not have what it was sent: it is sent everything again"
        );
    }
}
