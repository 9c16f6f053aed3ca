//! nginx: answers with the identity header it received, serves and takes files.

use std::fs::{Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::shared_directory;
use crate::client::file;
use crate::process::Process;
use crate::sockets::free_address;
use crate::tools::tool;
use crate::{PATIENCE, eventually, http};

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
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        let address = free_address();
        let directory = shared_directory("signet-nginx-");
        let files = directory.path().join("files");
        std::fs::create_dir(&files).expect("a new directory");
        set_permissions(&files, Permissions::from_mode(0o777)).expect("our own directory");
        let configuration = file(directory.path(), "nginx.conf", configuration(address));

        let mut command = Command::new(tool("nginx"));
        command.arg("-p").arg(directory.path()).arg("-c").arg(configuration).args(["-e", "stderr"]);
        let process = Process::start("nginx", command);
        eventually("nginx answers", PATIENCE, async || match http::request(address, "/identity").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        Self { address, _process: process, directory }
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
fn configuration(address: SocketAddr) -> String {
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
    listen {address} backlog=4096;
    location = /identity {{ return 200 "$http_x_forwarded_client_cert"; }}
    location /files/ {{ root .; dav_methods PUT; }}
    location /charge/ {{ return 200 "$request_method $request_uri"; }}
    location /refund/ {{ return 200 "$request_method $request_uri"; }}
  }}
}}
"#
    )
}
