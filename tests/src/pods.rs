//! Pods: network namespaces of the test's own on one bridge, as a node gives its pods. What is captured,
//! redirected or refused in one of them is nobody else's.
//!
//! ```text
//!            hub: br0 .1        control runs here
//!        ┌─────────┼─────────┐
//!     eth0 .10  eth0 .11  eth0 .12
//! ```
//!
//! Every network has the same addresses: networks do not see each other. A namespace goes when the last
//! process, app or proxy that holds its [`Pod`] has gone, panic or not; those of a test program that was killed
//! go when the next one starts.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::client::{Client, Finished, curl};
use crate::http::Reply;
use crate::tools::tool;

/// Who apps and clients are in a pod: not root, which the proxy may be.
pub const APP_USER: u32 = 65534;

const PREFIX: &str = "signet-test";
const FIRST_POD: u8 = 10;

/// What addresses the pods of a network have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4; IPv6 is switched off.
    V4,
    /// IPv6; IPv4 only on `lo`.
    V6,
    /// Both.
    Dual,
}

/// A bridge, and the pods on it.
#[derive(Debug)]
pub struct Network {
    hub: Pod,
    next: AtomicU8,
}

/// One network namespace.
#[derive(Debug, Clone)]
pub struct Pod {
    namespace: Arc<Namespace>,
    family: Family,
    host: u8,
}

/// A namespace by its name, removed with the last pod that holds it.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Network {
    /// A bridge without pods.
    ///
    /// # Panics
    /// When it cannot be made; that needs root.
    #[must_use]
    pub fn new(family: Family) -> Self {
        let hub = Pod::make("hub", family, 1);
        hub.configure(&["link add br0 type bridge".into(), "link set br0 up".into()]);
        hub.take_addresses("br0");
        Self { hub, next: AtomicU8::new(FIRST_POD) }
    }

    /// Where control runs: on the bridge itself.
    #[must_use]
    pub fn hub(&self) -> &Pod {
        &self.hub
    }

    /// Another pod; `name` is for people who look at the machine meanwhile.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        let host = self.next.fetch_add(1, Ordering::Relaxed);
        let pod = Pod::make(name, self.hub.family, host);
        let peer = &pod.namespace.name;
        self.hub.configure(&[
            format!("link add port{host} type veth peer name eth0 netns {peer}"),
            format!("link set port{host} master br0 up"),
        ]);
        pod.configure(&["link set eth0 up".into()]);
        pod.take_addresses("eth0");
        pod
    }
}

impl Pod {
    /// A namespace with `lo` and nothing else.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn alone(name: &str) -> Self {
        Self::make(name, Family::Dual, 0)
    }

    fn make(name: &str, family: Family, host: u8) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_leftovers();
        }
        let namespace = Namespace { name: format!("{PREFIX}-{}-{number}-{name}", std::process::id()) };
        ip(&["netns", "add", &namespace.name], "");
        let pod = Self { namespace: Arc::new(namespace), family, host };
        if family == Family::V4 {
            pod.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            pod.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        }
        pod.configure(&["link set lo up".into()]);
        pod
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    /// Its address; the IPv4 one when it has both.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        match self.family {
            Family::V6 => self.ipv6().into(),
            Family::V4 | Family::Dual => Ipv4Addr::new(10, 77, 0, self.host).into(),
        }
    }

    /// Its IPv6 address, which it has unless it is IPv4 only.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.host.into())
    }

    /// A port at its address.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// A port at all its addresses, to listen on.
    #[must_use]
    pub fn any(&self, port: u16) -> SocketAddr {
        match self.family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Family::V6 | Family::Dual => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }

    /// `command` in this pod, as `user`.
    #[must_use]
    pub fn wrap(&self, command: &Command, user: u32) -> Command {
        self.wrap_with(command, user, &[])
    }

    /// As [`Pod::wrap`], with more options of `setpriv`.
    #[must_use]
    pub fn wrap_with(&self, command: &Command, user: u32, privileges: &[&str]) -> Command {
        let mut wrapped = Command::new(tool("ip"));
        wrapped.args(["netns", "exec", self.name()]);
        if user != 0 {
            let user = user.to_string();
            wrapped.arg(tool("setpriv")).args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            wrapped.args(privileges);
        }
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped
    }

    /// One of the installed tools in this pod, as root, to its end.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        Client::new(program).args(arguments).in_pod(self, 0).run().await.succeeded()
    }

    /// GET from inside the pod, as root, for what listens only on its loopback.
    ///
    /// # Errors
    /// When curl gets no answer.
    pub async fn get(&self, address: SocketAddr, path: &str) -> io::Result<Reply> {
        let url = format!("http://{address}{path}");
        let answer = curl().args(["--write-out", "\n%{http_code}", &url]).in_pod(self, 0).run().await;
        match answer.stdout.rsplit_once('\n').map(|(body, status)| (body, status.parse())) {
            Some((body, Ok(status))) if answer.status.success() => {
                Ok(Reply { status, headers: hyper::HeaderMap::new(), body: body.to_owned() })
            }
            _ => Err(io::Error::other(answer.stderr)),
        }
    }

    fn take_addresses(&self, interface: &str) {
        let v4 = format!("address add {}/24 dev {interface}", Ipv4Addr::new(10, 77, 0, self.host));
        // Nobody else has this address: it need not be probed for.
        let v6 = format!("address add {}/64 dev {interface} nodad", self.ipv6());
        self.configure(&match self.family {
            Family::V4 => vec![v4],
            Family::V6 => vec![v6],
            Family::Dual => vec![v4, v6],
        });
    }

    fn configure(&self, commands: &[String]) {
        ip(&["-n", self.name(), "-batch", "-"], &commands.join("\n"));
    }

    fn sysctl(&self, name: &str, value: &str) {
        let mut command = Command::new(tool("bash"));
        command.args(["-c", &format!("echo {value} > /proc/sys/{name}")]);
        let status = self.wrap(&command, 0).status().expect("ip starts");
        assert!(status.success(), "cannot set {name}");
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Namespaces of test programs that are no more.
fn remove_leftovers() {
    let listed = Command::new(tool("ip")).args(["netns", "list"]).output().expect("ip starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(name);
        }
    }
}

/// It may be gone already.
fn remove(name: &str) {
    let _ = Command::new(tool("ip")).args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

fn ip(arguments: &[&str], input: &str) {
    let mut child = Command::new(tool("ip"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("ip reads its batch");
    let output = child.wait_with_output().expect("ip ends");
    assert!(
        output.status.success(),
        "ip {} (pods need root): {}{input}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
