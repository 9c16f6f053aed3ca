//! The programs that the scenarios drive and that we did not write. A missing one is a failure that names
//! the Debian package to install, never a skipped test.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::binaries::workspace;

/// Program, and the Debian package it comes from.
const PACKAGES: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("faketime", "faketime"),
    ("gnutls-cli", "gnutls-bin"),
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("hey", "hey"),
    ("initdb", "postgresql"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("mariadb", "mariadb-client-core"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("mariadbd", "mariadb-server-core"),
    ("mount", "mount"),
    ("nats-server", "nats-server"),
    ("nft", "nftables"),
    ("nghttpd", "nghttp2-server"),
    ("nginx", "nginx"),
    ("node", "nodejs"),
    ("openssl", "openssl"),
    ("p11-kit", "p11-kit"),
    ("p11tool", "gnutls-bin"),
    ("pg_ctl", "postgresql"),
    ("pgbench", "postgresql"),
    ("postgres", "postgresql"),
    ("prlimit", "util-linux"),
    ("psql", "postgresql-client"),
    ("redis-benchmark", "redis-tools"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("setpriv", "util-linux"),
    ("socat", "socat"),
    ("softhsm2-util", "softhsm2"),
    ("sqlite3", "sqlite3"),
    ("sslscan", "sslscan"),
    ("stunnel4", "stunnel4"),
    ("umount", "mount"),
    ("wrk", "wrk"),
];

/// Where `program` is: on the path, in `/usr/sbin`, or in the newest `/usr/lib/postgresql/*/bin`.
///
/// # Panics
/// When it is not installed, or not in the list of what `tests/run` installs.
#[must_use]
pub fn tool(program: &str) -> PathBuf {
    let package = PACKAGES
        .iter()
        .find_map(|(name, package)| (*name == program).then_some(*package))
        .unwrap_or_else(|| panic!("{program} is not in the list of tools that tests/run installs"));
    let on_path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&on_path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
        .chain(postgres_directories())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: apt-get install {package} (or let tests/run do it)"))
}

/// Envoy, where `tests/packages` puts it: Debian does not have it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn envoy() -> PathBuf {
    let program = workspace().join("target/tools/envoy-1.40.0/envoy/_bin/envoy");
    assert!(program.is_file(), "Envoy is missing: run tests/packages (or tests/run, which does it)");
    program
}

/// Debian's Python with the packages of `tests/peers/oidc.requirements` and no others.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn oidc_python() -> Command {
    python_with("oidc")
}

/// Debian's Python with the packages of `tests/peers/collector.requirements` and no others.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn collector_python() -> Command {
    python_with("collector")
}

/// Debian's Python with the packages of `tests/peers/spiffe.requirements` and no others.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn spiffe_python() -> Command {
    python_with("spiffe")
}

/// Debian's Python with the packages of `tests/peers/pki.requirements` and no others.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn pki_python() -> Command {
    python_with("pki")
}

/// Node.js with the packages of `tests/peers/npm`.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn node() -> Command {
    let mut command = Command::new(tool("node"));
    command.env("NODE_PATH", npm_packages());
    command
}

/// buf, of `tests/peers/npm`.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn buf() -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x64" };
    npm_packages().join(format!("@bufbuild/buf-linux-{machine}/bin/buf"))
}

fn npm_packages() -> PathBuf {
    let npm = workspace().join("target/tools/npm");
    let installed = npm.join("installed").is_file();
    assert!(installed, "packages of npm are missing: run tests/packages (or tests/run, which does it)");
    npm.join("node_modules")
}

fn python_with(peer: &str) -> Command {
    let packages = workspace().join("target/tools").join(peer);
    let installed = packages.join("installed").is_file();
    assert!(installed, "packages of {peer} are missing: run tests/packages (or tests/run, which does it)");
    let mut command = Command::new("/usr/bin/python3");
    // Without `site`: Debian's own modules are of other versions.
    command.arg("-S").env("PYTHONPATH", packages).env("PYTHONWARNINGS", "ignore");
    command
}

/// Debian keeps the server programs of each PostgreSQL version out of the path. Newest first.
fn postgres_directories() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, directory)| directory).collect()
}
