//! The apps behind the proxies. They know nothing of Signet: plain HTTP and plain TCP on loopback.
//!
//! They run as processes of their own and end when the demo does: their standard input is a pipe from it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use clap::Subcommand;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Which app to be.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum App {
    /// Answers every HTTP request with JSON: what was asked, and who the proxy says asked
    Orders,
    /// Sends back every byte it gets, over plain TCP
    Echo,
}

impl App {
    /// Serves on a free port of loopback until the demo ends. Logs the address as `listening`.
    pub(crate) async fn run(self) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        eprintln!("{}", listening(listener.local_addr()?));
        tokio::select! {
            () = self.serve(listener) => {}
            () = demo_ended() => {}
        }
        Ok(())
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            // A connection that failed while it waited concerns nobody else.
            let Ok((connection, _)) = listener.accept().await else { continue };
            let _ = connection.set_nodelay(true);
            match self {
                Self::Orders => tokio::spawn(orders(connection)),
                Self::Echo => tokio::spawn(echo(connection)),
            };
        }
    }
}

async fn orders(connection: TcpStream) {
    let service =
        service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(answer(&request)) });
    // The other side may end whenever it likes.
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

/// The identity of the caller is a header, put there by the proxy: all an app needs to know.
fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let seen: Vec<_> = request
        .headers()
        .get_all("x-forwarded-client-cert")
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    let body = json!({
        "app": "orders",
        "asked": format!("{} {}", request.method(), request.uri()),
        "x-forwarded-client-cert": seen,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn echo(mut connection: TcpStream) {
    let (mut read, mut write) = connection.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

fn listening(address: SocketAddr) -> serde_json::Value {
    json!({"level": "INFO", "target": "app", "fields": {"message": "listening", "address": address}})
}

async fn demo_ended() {
    let mut input = tokio::io::stdin();
    let mut nothing = [0; 64];
    while matches!(input.read(&mut nothing).await, Ok(1..)) {}
}
