//! nginx: answers with the identity header it received, serves and takes files.

use std::fs::{Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::shared_directory;
use crate::client::file;
use crate::place::Place;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running nginx with one server.
///
/// - `/identity` answers `x-forwarded-client-cert` as nginx sees it, underscore variants included
/// - `/files/..` are the files of [`Nginx::files`], readable by GET and writable by PUT
/// - `/charge/..`, `/refund/..` answer 200 with the method and the path, for policy by method and path
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    directory: TempDir,
}

impl Nginx {
    /// Starts it on loopback and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// Starts it there and waits until it answers; in a pod on port 8080.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(8080);
        let directory = shared_directory("signet-nginx-", None);
        let files = directory.path().join("files");
        std::fs::create_dir(&files).expect("a new directory");
        set_permissions(&files, Permissions::from_mode(0o777)).expect("our own directory");
        let configuration = file(directory.path(), "nginx.conf", configuration(seat.listen));

        let mut command = place.command(&tool("nginx"), None);
        command.arg("-p").arg(directory.path()).arg("-c").arg(configuration).args(["-e", "stderr"]);
        let process = Process::start("nginx", command);
        eventually("nginx answers", PATIENCE, async || match place.get(seat.address, "/identity").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        Self { address: seat.address, _process: process, directory }
    }

    /// The directory behind `/files/`.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// Puts a file behind `/files/`.
    pub fn serve(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = file(&self.files(), name, bytes);
        set_permissions(path, Permissions::from_mode(0o644)).expect("our own file");
    }
}

/// One process without a master: it ends whole when it is told to. Temporary files stay in the prefix.
fn configuration(listen: SocketAddr) -> String {
    let families = if listen.is_ipv6() { "ipv6only=off" } else { "" };
    format!(
        r#"
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  underscores_in_headers on;
  keepalive_requests 1000000;
  client_max_body_size 256m;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  default_type text/plain;
  server {{
    listen {listen} backlog=4096 {families};
    location = /identity {{ return 200 "$http_x_forwarded_client_cert"; }}
    location /files/ {{ root .; dav_methods PUT; }}
    location /charge/ {{ return 200 "$request_method $request_uri"; }}
    location /refund/ {{ return 200 "$request_method $request_uri"; }}
  }}
}}
"#
    )
}
