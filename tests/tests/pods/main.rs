//! Two pods, each with an app and a proxy of its own, and rules that capture what goes in and out: neither the
//! app nor its callers know of the proxies. Clients call the app's own address.
//!
//! ```text
//!   pod of the caller                                 pod of the app
//!   client ─▶ 10.77.0.11:8080 ┄▶ proxy :15001  ═══▶  proxy :15443 ─▶ app :8080
//!                     nftables redirects              whoever calls :8080 itself ┄▶ proxy :15006 ─▶ app :8080
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod captured;
mod clients;
mod exclusions;
mod explicit;
mod families;
mod inbound;
mod migration;
mod outbound;
mod python;
