//! Two listeners: [`health`] (15020), which scrapers and orchestrators may reach, and the admin listener
//! (15021), where those who operate this machine look in and act. The second one is on loopback or a unix
//! socket only, and never a destination of the proxy.
//!
//! Whoever can reach loopback could be a web page in somebody's browser. So the host must be this machine, a
//! request that a page sends is refused, and what changes anything takes a header that no form can send.
//!
//! A new endpoint is a line in [`endpoints`] and a function that takes [`Admin`] and [`Ask`].

mod ask;
mod config;
mod connections;
mod endpoints;
mod explain;
mod health;
mod identity;
mod log;
mod policy;
mod profile;
mod quit;
mod reply;
mod services;
mod tap;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

pub use self::ask::{Ask, MARK};
pub use self::health::{Health, serve as serve_health};
pub use self::reply::{Refused, Reply};
use crate::capture::{Intake, Listener, Socket};
use crate::config::Effective;
use crate::run::Shared;
use crate::telemetry::log::Filter;
use crate::workload_api::WorkloadApi;

const MOST_CONNECTIONS: usize = 64;
/// From the first byte of a head to its last, and from one request to the next.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// What the admin listener shows and changes.
pub struct Admin {
    /// All that the connections of this proxy share.
    pub shared: Arc<Shared>,
    /// The configuration in force, and where each value came from.
    pub config: Effective,
    /// Where the identity comes from: `control` or `files`.
    pub source: &'static str,
    /// The socket for apps that do their own TLS, if there is one.
    pub workload_api: Option<Arc<WorkloadApi>>,
    /// What is logged.
    pub log: Arc<Filter>,
    /// Whether it shows profiles of this process.
    pub profiles: bool,
    /// Cancelled when the proxy is to end, if whoever asks here may say so.
    pub quit: Option<CancellationToken>,
}

/// Serves until `stop`: while the proxy drains, too.
pub async fn serve(listener: Listener, admin: Admin, stop: CancellationToken) {
    let admin = Arc::new(admin);
    let intake = Intake::new(MOST_CONNECTIONS, stop);
    intake.accept(listener, "admin", |stream, _| connection(Arc::clone(&admin), stream)).await;
}

async fn connection(admin: Arc<Admin>, stream: Socket) {
    let over_tcp = matches!(stream, Socket::Tcp(_));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(endpoints::answer(&admin, request, over_tcp).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to the admin listener ended");
    }
}
