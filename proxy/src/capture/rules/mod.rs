//! The nftables rules that turn a network namespace's connections to the proxy: `signet-proxy capture`.
//!
//! Everything is in one table of our own, `inet signet`, which is replaced and removed as a whole: what others
//! installed is never touched, and removal leaves nothing. Should the proxy be down, captured connections are
//! refused rather than let through.

mod kernel;

use std::fmt::{self, Display, Write};

use ipnet::IpNet;
use serde::Deserialize;

pub use kernel::{Altered, RulesError, State, check, install, remove};

use crate::config::{Cidr, InstallArguments};

/// Our table, and its address family.
const TABLE: &str = "inet signet";
/// What begins the comment of a chain; the names of its rules follow.
const NAMES: &str = "rules: ";

/// How connections to the app are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The destination is rewritten; connection tracking knows the original one.
    #[default]
    Redirect,
    /// Nothing is rewritten: the proxy's socket takes a connection that was not meant for it.
    Tproxy,
}

/// What is captured and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    uids: Vec<u32>,
    outbound: Side,
    inbound: Side,
    mode: Mode,
}

/// One direction: where it is turned to, and what is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    to: u16,
    ports: Vec<u16>,
    addresses: Vec<IpNet>,
}

/// One port for both directions: neither would lead where it should.
#[derive(Debug, thiserror::Error)]
#[error("`--outbound-port` and `--inbound-port` are both {0}: the proxy has a listener for each")]
pub struct SamePort(u16);

impl TryFrom<&InstallArguments> for Rules {
    type Error = SamePort;

    fn try_from(arguments: &InstallArguments) -> Result<Self, SamePort> {
        let side = |to, ports: &[u16], addresses: &[Cidr]| Side {
            to,
            ports: distinct(ports.iter().copied()),
            addresses: IpNet::aggregate(&addresses.iter().map(|cidr| cidr.0).collect()),
        };
        let InstallArguments { outbound_port, inbound_port, .. } = *arguments;
        if outbound_port == inbound_port {
            return Err(SamePort(outbound_port));
        }
        Ok(Self {
            uids: distinct(arguments.proxy_uid.iter().chain(&arguments.exclude_uid).copied()),
            outbound: side(outbound_port, &arguments.exclude_outbound_port, &arguments.exclude_outbound_cidr),
            inbound: side(inbound_port, &arguments.exclude_inbound_port, &arguments.exclude_inbound_cidr),
            mode: arguments.inbound_mode,
        })
    }
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl Rules {
    /// The table as nft reads it, with `comment` to know it by.
    #[must_use]
    pub fn table(&self, comment: &str) -> String {
        let Self { uids, outbound, inbound, mode } = self;
        // Priorities are numbers: older versions of nft know names for them on some hooks only.
        let mut calls = Chain::new("outbound", "nat hook output priority -100");
        calls.rule(&format!("meta skuid {} return", set(uids)), "the proxy, excluded users");
        calls.rule("fib daddr type local return", "stays here");
        outbound.exclusions(&mut calls, "daddr");
        calls.rule(&format!("meta l4proto tcp redirect to :{}", outbound.to), "captured");

        let called = match mode {
            Mode::Redirect => {
                let mut chain = Chain::new("inbound", "nat hook prerouting priority -100");
                inbound.leave_alone(&mut chain);
                chain.rule(&format!("meta l4proto tcp redirect to :{}", inbound.to), "captured");
                // A packet that goes ahead of a connection's first can make connection tracking forget to
                // redirect it. Past the proxy nothing begins.
                let mut guard = Chain::new("guard", "filter hook input priority 0");
                inbound.leave_alone(&mut guard);
                guard.rule("ct status & dnat != dnat reject with tcp reset", "not captured");
                format!("{chain}\n{guard}")
            }
            Mode::Tproxy => {
                let mut chain = Chain::new("inbound", "filter hook prerouting priority -150");
                inbound.leave_alone(&mut chain);
                for (family, protocol, comment) in
                    [("ipv4", "ip", "captured v4"), ("ipv6", "ip6", "captured v6")]
                {
                    let matches = format!("meta nfproto {family} meta l4proto tcp");
                    chain.rule(&format!("{matches} tproxy {protocol} to :{} accept", inbound.to), comment);
                }
                // Without a proxy that takes it, the statements above let it go on.
                chain.rule("meta l4proto tcp reject with tcp reset", "no proxy");
                chain.to_string()
            }
        };
        format!("table {TABLE} {{\n\tcomment \"{comment}\"\n\n{calls}\n{called}}}\n")
    }
}

/// A chain in the making. Its comment names its rules, so that a missing one can be named.
struct Chain {
    name: &'static str,
    hook: &'static str,
    comments: Vec<&'static str>,
    rules: String,
}

impl Chain {
    fn new(name: &'static str, hook: &'static str) -> Self {
        let mut chain = Self { name, hook, comments: Vec::new(), rules: String::new() };
        chain.rule("meta l4proto != tcp return", "not TCP");
        // What was open before the rules were is left as it is: connection tracking meets it in the middle, and
        // takes a packet from the other end for its beginning.
        chain.rule("tcp flags & (fin | syn | rst | ack) != syn return", "open before");
        chain
    }

    fn rule(&mut self, rule: &str, comment: &'static str) {
        let _ = writeln!(self.rules, "\t\t{rule} comment \"{comment}\"");
        self.comments.push(comment);
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hook, comments, rules } = self;
        let names = comments.join(";");
        write!(
            f,
            "\tchain {name} {{\n\t\tcomment \"{NAMES}{names}\"\n\t\ttype {hook}; policy accept;\n{rules}\t}}\n"
        )
    }
}

impl Side {
    /// What is not for the app from elsewhere, or excluded.
    fn leave_alone(&self, chain: &mut Chain) {
        chain.rule("iifname \"lo\" return", "from here");
        chain.rule("fib daddr type != local return", "not for here");
        self.exclusions(chain, "saddr");
    }

    /// `end` is the address that counts: where a connection goes, or where it comes from.
    fn exclusions(&self, chain: &mut Chain, end: &str) {
        let of = |wanted: fn(&IpNet) -> bool| self.addresses.iter().filter(move |net| wanted(net)).collect();
        let families: [(&str, &str, Vec<&IpNet>); 2] = [
            ("ip", "excluded v4", of(|net| net.addr().is_ipv4())),
            ("ip6", "excluded v6", of(|net| net.addr().is_ipv6())),
        ];
        for (family, comment, addresses) in families {
            if !addresses.is_empty() {
                chain.rule(&format!("{family} {end} {} return", set(&addresses)), comment);
            }
        }
        if !self.ports.is_empty() {
            chain.rule(&format!("tcp dport {} return", set(&self.ports)), "excluded ports");
        }
    }
}

fn set<T: Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", values.join(", "))
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Arguments, Capture, Command};

    fn rules(arguments: &[&str]) -> Rules {
        let line = ["signet-proxy", "capture", "install", "--proxy-uid", "15443"].iter().chain(arguments);
        match Arguments::try_parse_from(line).unwrap().command {
            Command::Capture(Capture::Install(arguments)) => Rules::try_from(&*arguments).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn order_and_repetition_of_options_do_not_matter() {
        let one =
            rules(&["--exclude-outbound-port", "25", "--exclude-outbound-port", "22", "--exclude-uid", "7"]);
        let other = rules(&[
            "--exclude-uid",
            "7",
            "--exclude-uid",
            "15443",
            "--exclude-outbound-port",
            "22",
            "--exclude-outbound-port",
            "25",
        ]);
        assert_eq!(one.table("x"), other.table("x"));
        assert!(one.table("x").contains("meta skuid { 7, 15443 } return"));
        assert!(one.table("x").contains("tcp dport { 22, 25 } return"));
    }

    #[test]
    fn addresses_are_told_apart_by_family_and_joined() {
        let table = rules(&[
            "--exclude-outbound-cidr",
            "10.0.0.0/8",
            "--exclude-outbound-cidr",
            "10.1.0.0/16",
            "--exclude-inbound-cidr",
            "fd00::1",
            "--exclude-inbound-cidr",
            "192.0.2.1",
        ])
        .table("x");
        assert!(table.contains("ip daddr { 10.0.0.0/8 } return"), "{table}");
        assert!(table.contains("ip saddr { 192.0.2.1/32 } return"), "{table}");
        assert!(table.contains("ip6 saddr { fd00::1/128 } return"), "{table}");
    }

    #[test]
    fn nothing_is_captured_before_the_exclusions() {
        for mode in ["redirect", "tproxy"] {
            let table = rules(&["--inbound-mode", mode, "--exclude-inbound-port", "15443"]).table("x");
            for chain in table.split("chain ").skip(1) {
                let places = |what: fn(&str) -> bool| {
                    let lines = chain.lines().enumerate();
                    lines.filter(|(_, line)| what(line)).map(|(place, _)| place).collect::<Vec<_>>()
                };
                let exclusions = places(|line| line.contains(" return comment"));
                let rest =
                    places(|line| ["redirect to", "tproxy ", "reject with"].iter().any(|v| line.contains(v)));
                assert!(!rest.is_empty() && exclusions.iter().max() < rest.iter().min(), "{chain}");
            }
        }
    }

    #[test]
    fn comments_are_as_short_as_nft_wants_them() {
        for mode in ["redirect", "tproxy"] {
            let mut options = vec!["--inbound-mode", mode];
            for side in [
                ["--exclude-outbound-port", "--exclude-outbound-cidr"],
                ["--exclude-inbound-port", "--exclude-inbound-cidr"],
            ] {
                options.extend([side[0], "1", side[1], "10.0.0.0/8", side[1], "fd00::/8"]);
            }
            let table = rules(&options).table("x");
            for comment in table.lines().filter_map(|line| line.split_once("comment \"")) {
                assert!(comment.1.len() <= 128, "{}", comment.1);
            }
        }
    }
}
