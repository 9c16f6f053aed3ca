//! A peer that is not ours, named by DNS: its answer changes, and then DNS is gone.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use signet_tests::client::{Client, file};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::process::Process;
use signet_tests::sockets::free_address;
use signet_tests::tools::tool;
use signet_tests::{PATIENCE, eventually};
use tempfile::TempDir;

use super::worker::Worker;

const NAME: &str = "api.partner.test";

/// dnsmasq, which answers from a hosts file of ours with a TTL of a second.
struct Dns {
    process: Process,
    address: SocketAddr,
    directory: TempDir,
}

impl Dns {
    fn start(answer: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("signet-dns-").tempdir().unwrap();
        let (hosts, address) = (write(directory.path(), answer), free_address());
        let mut command = Command::new(tool("dnsmasq"));
        command
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--local-ttl=1"])
            .args(["--conf-file=/dev/null", "--pid-file=", "--user=root", "--group=root"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .arg("--local=/test/");
        Self { process: Process::start("dnsmasq", command), address, directory }
    }

    /// From now on this is the answer.
    async fn answers(&self, answer: &str) {
        write(self.directory.path(), answer);
        let hang_up = format!("kill -HUP {}", self.process.id());
        let _ = Client::new("bash").args(["-c", &hang_up]).run().await.succeeded();
    }
}

fn write(directory: &Path, answer: &str) -> std::path::PathBuf {
    file(directory, "hosts", format!("{answer} {NAME}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_again_and_its_last_good_answer_stays() {
    let mesh = Mesh::start().await;
    let (frontend, api) = (id("/frontend"), id("/api"));
    mesh.workload(&frontend).await;
    mesh.workload(&api).await;
    mesh.policy(&allow("api", &api, &[&frontend])).await;
    let port = free_address().port();
    let apps = [Worker::start("one").await, Worker::start("two").await, Worker::start("three").await];
    let mut servers = Vec::new();
    for (host, app) in ["127.0.2.1", "127.0.2.2", "::1"].into_iter().zip(&apps) {
        let listen = SocketAddr::new(host.parse::<IpAddr>().unwrap(), port);
        let builder = mesh.proxy(&api).await.with("--inbound", format!("{listen}=http://{}", app.address));
        servers.push(builder.start().await);
    }
    let mut dns = Dns::start("127.0.2.1");
    let caller = mesh
        .proxy(&frontend)
        .await
        .outbound("http://", &format!("{api}@{NAME}:{port}"))
        .with("--dns-server", dns.address)
        .start()
        .await;
    let url = format!("http://{}/", caller.outbound());
    let answered = async || Client::new("curl").args(["--fail", "--silent", &url]).run().await.stdout;
    let becomes = async |name: &str| {
        eventually(&format!("{name} answers"), PATIENCE, async || match answered().await {
            answer if answer == name => Ok(()),
            answer => Err(answer),
        })
        .await;
    };
    becomes("one").await;

    dns.answers("127.0.2.2").await;
    becomes("two").await;
    dns.answers("::1").await;
    becomes("three").await;

    dns.process.kill().await;
    eventually("lookups fail", PATIENCE, async || {
        let failures = caller.metrics().await.count("signet_dns_failures_total", &[]);
        if failures > 0 { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(answered().await, "three", "what was known stays in use");
    }
}
