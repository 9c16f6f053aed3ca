//! Who is it, and may it: what stands between a handshake and the app.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;

use signet_proto::clock;
use signet_proto::handshake::PeerIdentity;
use signet_proto::policy::{Direction, HttpRequest, Layer, Request};
use signet_proto::spiffe::{SpiffeId, check_leaf};
use signet_proxy::forward::Prefixed;
use signet_proxy::forward::detect::{Detected, detect};
use signet_proxy::forward::http::Version;

use super::Case;
use crate::{Error, Mesh, documents, somebody};

const REQUEST: &[u8] = b"GET /orders/17?page=2 HTTP/1.1\r\nhost: shop.example\r\nuser-agent: bench/1\r\n\r\n";
const BYTES: &[u8] = b"\x00\x03\x00\x00user\0bench\0database\0orders\0\0";
const DOCUMENTS: usize = 100;

pub(super) fn cases(mesh: &Mesh) -> Result<Vec<Case>, Error> {
    let chain = mesh.chain().to_vec();
    let leaf = chain.first().cloned().ok_or("an SVID without a leaf")?;
    Ok(vec![
        Case::new("identity, parse", || {
            black_box("spiffe://prod.example/ns/payments/sa/checkout").parse::<SpiffeId>()?;
            Ok(())
        })?,
        Case::new("identity, check SVID profile", move || {
            check_leaf(black_box(&leaf))?;
            Ok(())
        })?,
        Case::new("identity, of a peer", move || {
            PeerIdentity::from_verified(black_box(Some(&chain)))?;
            Ok(())
        })?,
        authorize("authorize, connection", Layer::Connection)?,
        authorize(
            "authorize, request",
            Layer::Http(HttpRequest {
                method: "GET",
                path: "/orders/17",
                host: Some("shop"),
                grpc: false,
                headers: None,
            }),
        )?,
        detection("detect, HTTP/1.1", REQUEST, Detected::Http(Version::Http1))?,
        detection("detect, bytes", BYTES, Detected::Opaque)?,
    ])
}

/// With a hundred documents in force, the last of which allows it.
fn authorize(name: &'static str, layer: Layer<'static>) -> Result<Case, Error> {
    let policies = documents(DOCUMENTS)?;
    let (source, destination) = somebody(DOCUMENTS)?;
    let (source, destination) = (Arc::new(source), Arc::new(destination));
    Case::new(name, move || {
        let request = Request {
            direction: Direction::Inbound,
            source: Some(&source),
            destination: &destination,
            port: Some(8080),
            address: None,
            layer,
            now: clock::now(),
        };
        if !policies.decide(black_box(&request)).allowed {
            return Err("a request that is allowed was refused".into());
        }
        Ok(())
    })
}

fn detection(name: &'static str, words: &'static [u8], expected: Detected) -> Result<Case, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Case::new(name, move || {
        let mut caller = Prefixed::new(black_box(words));
        let nobody = std::future::pending::<Result<Prefixed<tokio::io::Empty>, Infallible>>();
        let (detected, _) = runtime.block_on(detect(&mut caller, nobody))?;
        if detected != expected {
            return Err(format!("detected {detected:?}").into());
        }
        Ok(())
    })
}
