//! One exchange of each kind, with every byte looked at.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::service::{
    BODY, GRPC_METHOD, GRPC_SERVICE, GRPC_STATUS, HTTP_PATH, MESSAGE, SERVED_PATH, framed, pattern,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// What answers at an entrance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.1, 1 KiB.
    Http,
    /// gRPC, one message each way.
    Grpc,
    /// What is sent comes back; the check sends that many bytes.
    Echo(usize),
    /// iperf3, which checks itself.
    Iperf,
}

/// One exchange at `entrance`.
pub(super) async fn exchange(speaks: Speaks, entrance: SocketAddr) -> Result<()> {
    let checked = async {
        match speaks {
            Speaks::Http => http(entrance).await,
            Speaks::Grpc => grpc(entrance).await,
            Speaks::Echo(bytes) => echo(entrance, bytes).await,
            Speaks::Iperf => Ok(()),
        }
    };
    timeout(DEADLINE, checked).await.with_context(|| format!("{speaks:?} takes more than {DEADLINE:?}"))?
}

/// How many requests the HTTP app at `app` has answered.
pub(super) async fn served(app: SocketAddr) -> Result<u64> {
    let (status, body) = timeout(DEADLINE, get(app, SERVED_PATH)).await??;
    ensure!(status == StatusCode::OK, "the app's count: {status}");
    Ok(std::str::from_utf8(&body)?.parse()?)
}

async fn http(entrance: SocketAddr) -> Result<()> {
    let (status, body) = get(entrance, HTTP_PATH).await?;
    ensure!(status == StatusCode::OK, "status {status}: {}", body.escape_ascii());
    ensure!(body == pattern(BODY), "{} bytes of body are not the {BODY} that the app sends", body.len());
    Ok(())
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => ended.map_err(Into::into).and(Err(anyhow::anyhow!("no answer"))),
    }
}

async fn grpc(entrance: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(entrance).await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{entrance}/{GRPC_SERVICE}/{GRPC_METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(framed(&pattern(MESSAGE)))))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?;
    connection.abort();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let data = body.to_bytes();
    ensure!(status == StatusCode::OK, "status {status}: {}", data.escape_ascii());
    ensure!(data == framed(&pattern(MESSAGE)), "not the message that was sent: {}", data.escape_ascii());
    ensure!(trailers.get(GRPC_STATUS).is_some_and(|status| status == "0"), "trailers: {trailers:?}");
    Ok(())
}

async fn echo(entrance: SocketAddr, bytes: usize) -> Result<()> {
    let sent = pattern(bytes);
    let (mut reader, mut writer) = TcpStream::connect(entrance).await?.into_split();
    let send = async {
        writer.write_all(&sent).await?;
        writer.shutdown().await?;
        anyhow::Ok(())
    };
    let receive = async {
        let mut received = Vec::with_capacity(bytes);
        (&mut reader).take(bytes as u64).read_to_end(&mut received).await?;
        anyhow::Ok(received)
    };
    let ((), received) = tokio::try_join!(send, receive)?;
    ensure!(received == sent, "{} of {bytes} bytes came back as they were sent", received.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::service;
    use super::*;

    #[tokio::test]
    async fn the_apps_pass_the_check_that_proxies_have_to_pass() {
        let apps = service::start().await.unwrap();
        for (speaks, address) in
            [(Speaks::Http, apps.http), (Speaks::Grpc, apps.grpc), (Speaks::Echo(300_000), apps.echo)]
        {
            exchange(speaks, address).await.unwrap();
        }
        assert_eq!(served(apps.http).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_answer_of_another_app_does_not_pass() {
        let apps = service::start().await.unwrap();
        for (speaks, address) in
            [(Speaks::Http, apps.echo), (Speaks::Grpc, apps.http), (Speaks::Echo(1000), apps.http)]
        {
            assert!(exchange(speaks, address).await.is_err(), "{speaks:?}");
        }
    }
}
