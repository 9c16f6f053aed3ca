//! The machine: files that others may read, descriptors, ports, rules that capture.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::report::{Finding, Report};
use crate::capture::rules::{self, State};
use crate::capture::{Callers, Listener};
use crate::config::{App, Attest, Config, Destination, Entrance, Origin, Source};
use crate::identity::Proof;

/// Besides those of connections: control, files, listeners, the runtime.
const OTHER_DESCRIPTORS: u64 = 128;

/// Secrets that others may read.
pub(super) fn file_permissions(config: &Config, file: Option<&Path>, report: &mut Report) {
    let mut secrets: Vec<(&Path, &str)> = Vec::new();
    let written =
        |key: &str, origin| config.effective.of(key).filter(|setting| setting.source == origin).is_some();
    if let Some(file) = file.filter(|_| written("join", Origin::File)) {
        secrets.push((file, "it holds a join ticket"));
    }
    let join_file = config.effective.of("join-file").and_then(|setting| setting.value.as_str());
    match &config.source {
        Source::Files(files) => {
            secrets.extend(files.identity.iter().map(|files| (files.key.as_path(), "it is a private key")));
        }
        Source::Socket(..) => {}
        Source::Control(joining) => match &joining.proof {
            Proof::Ticket(_) => {
                secrets.extend(join_file.map(|path| (Path::new(path), "it is a join ticket")));
            }
            Proof::Attest(Attest::Jwt { file, .. }) => secrets.push((file, "it is a token")),
            Proof::Attest(Attest::X509 { key, .. }) => secrets.push((key, "it is a private key")),
        },
    }
    if written("join", Origin::Flag) {
        let says = "the join ticket is on the command line, which everybody on this machine can read";
        report.add(Finding::warning("files", says, "use `join-file`, with mode 0600"));
    }
    for (path, what) in secrets {
        let shown = path.display();
        report.add(match std::fs::metadata(path) {
            Err(error) => {
                let fix = "put it where the proxy's user may read it";
                Finding::problem("files", format!("{shown}: {error}"), fix)
            }
            Ok(there) if there.mode() & 0o007 != 0 => {
                let says =
                    format!("{shown} is open to everybody (mode {:04o}), and {what}", there.mode() & 0o7777);
                Finding::problem("files", says, format!("chmod 0600 {shown}"))
            }
            Ok(there) => Finding::ok("files", format!("{shown}: mode {:04o}", there.mode() & 0o7777)),
        });
    }
}

/// As many as the connections that are allowed need, as the proxy raises its limit to the hard one.
pub(super) fn descriptors(config: &Config, report: &mut Report) {
    // Both directions, two sockets each.
    let needed = 4 * config.max_connections as u64 + OTHER_DESCRIPTORS;
    report.add(match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < needed => {
            let says = format!("{limit} at most, and `max-connections` may need {needed}");
            let fix =
                format!("raise the hard limit (systemd: `LimitNOFILE={needed}`), or lower `max-connections`");
            Finding::warning("descriptors", says, fix)
        }
        Some(limit) => Finding::ok("descriptors", format!("{limit} at most, {needed} may be needed")),
        None => Finding::ok("descriptors", "unlimited"),
    });
}

/// Whether every port is free, or held by the proxy that runs.
pub(super) async fn ports(config: &Config, runs: bool, report: &mut Report) {
    let metrics = Entrance::Tcp(config.metrics_listen);
    let inbound = config.inbound.iter().map(|listener| (&listener.listen, Callers::All));
    let outbound = config.outbound.iter().map(|listener| (&listener.listen, Callers::Loopback));
    let ours = [Some(&metrics), config.admin_listen.as_ref()].into_iter().flatten();
    let apps = config.workload_api.as_ref().map(|socket| Entrance::Unix(socket.path.clone()));
    let all = inbound
        .chain(outbound)
        .chain(ours.map(|entrance| (entrance, Callers::Loopback)))
        .chain(apps.iter().map(|entrance| (entrance, Callers::Admitted)));
    for (entrance, callers) in all {
        report.add(match Listener::bind(entrance, callers).await {
            Ok(_) if runs => {
                let says =
                    format!("{entrance} is free, although a proxy runs: it was started with other options");
                Finding::warning("ports", says, "restart it with this configuration, or check with that one")
            }
            Ok(_) => Finding::ok("ports", format!("{entrance} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
                Finding::ok("ports", format!("{entrance} is in use, as by the proxy that runs"))
            }
            Err(error) => Finding::problem("ports", &error, fix_of(&error, entrance)),
        });
    }
}

fn fix_of(error: &io::Error, entrance: &Entrance) -> String {
    match (error.kind(), entrance) {
        (io::ErrorKind::AddrInUse, Entrance::Unix(path)) => {
            format!("find who listens there: `ss -xlp | grep {}`", path.display())
        }
        (io::ErrorKind::AddrInUse, entrance) => {
            let port = entrance.address().map_or(0, |address| address.port());
            format!("find who listens there: `ss -tlnp 'sport = :{port}'`; end it, or take another port")
        }
        (io::ErrorKind::AddrNotAvailable, _) => "use an address of this machine: `ip addr` shows them".into(),
        (io::ErrorKind::PermissionDenied, Entrance::Unix(path)) => {
            format!("let the proxy's user write to the folder of {}", path.display())
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "use a port from 1024, or give the proxy CAP_NET_BIND_SERVICE".into()
        }
        _ => "use another address".into(),
    }
}

/// The rules, if anything is captured.
pub(super) fn capture(config: &Config, report: &mut Report) {
    let captures = config.inbound.iter().any(|listener| listener.forward == App::Original)
        || config.outbound.iter().any(|listener| listener.destination == Destination::Original);
    if !captures {
        return;
    }
    let install = "`signet-proxy capture install`, with the options it was installed with";
    report.add(match rules::check() {
        Ok(State::Installed) => Finding::ok("capture", "the rules are there, as they were installed"),
        Ok(State::Absent) => Finding::problem("capture", "no rules: nothing comes to `original`", install),
        Ok(State::Altered(altered)) => {
            let says = format!("the rules were altered: {}", altered.to_string().trim().replace('\n', "; "));
            Finding::problem("capture", says, install)
        }
        Err(error) => {
            let fix = "check with CAP_NET_ADMIN, in the network namespace of the app";
            Finding::warning("capture", format!("cannot look at the rules: {error}"), fix)
        }
    });
}
