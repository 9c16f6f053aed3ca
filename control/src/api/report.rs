//! Acknowledgements from proxies.

use signet_proto::v1::report_server::Report;
use signet_proto::v1::{ReportRequest, ReportResponse};
use tonic::{Request, Response, Status};

use super::Rooms;
use crate::time;

/// There are about a dozen reasons for which connections close.
const MAX_REASONS: usize = 64;

#[tonic::async_trait]
impl Report for Rooms {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let arrived = time::now();
        let member = self.gate.member(request.extensions()).await?;
        let report = request.into_inner();
        if report.closed.len() > MAX_REASONS {
            return Err(Status::invalid_argument(format!("closed: expected at most {MAX_REASONS} reasons")));
        }
        let closed = report.closed.iter().fold(0_u64, |closed, reason| closed.saturating_add(reason.count));
        self.watchers.acknowledged(&member.instance, report.applied_revision, closed, arrived);
        Ok(Response::new(ReportResponse {}))
    }
}
