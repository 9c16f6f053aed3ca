//! The nftables rules that turn a network namespace's connections to the proxy: `signet-proxy capture`.
//!
//! Everything is in one table of our own, `inet signet`, which is replaced and removed as a whole: what others
//! installed is never touched, and removal leaves nothing. Should the proxy be down, captured connections are
//! refused rather than let through.

mod kernel;

use std::fmt::{self, Display, Write};

use ipnet::IpNet;
use serde::Deserialize;

pub use kernel::{RulesError, State, check, install, remove};

use crate::config::{Cidr, InstallArguments};

/// Our table, and its address family.
const TABLE: &str = "inet signet";

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

impl From<&InstallArguments> for Rules {
    fn from(arguments: &InstallArguments) -> Self {
        let side = |to, ports: &[u16], addresses: &[Cidr]| Side {
            to,
            ports: distinct(ports.iter().copied()),
            addresses: IpNet::aggregate(&addresses.iter().map(|cidr| cidr.0).collect()),
        };
        Self {
            uids: distinct(arguments.proxy_uid.iter().chain(&arguments.exclude_uid).copied()),
            outbound: side(
                arguments.outbound_port,
                &arguments.exclude_outbound_port,
                &arguments.exclude_outbound_cidr,
            ),
            inbound: side(
                arguments.inbound_port,
                &arguments.exclude_inbound_port,
                &arguments.exclude_inbound_cidr,
            ),
            mode: arguments.inbound_mode,
        }
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
        let mut text = format!("table {TABLE} {{\n\tcomment \"{comment}\"\n");
        // Priorities are numbers: older versions of nft know names for them on some hooks only.
        text.push_str("\n\tchain outbound {\n\t\ttype nat hook output priority -100; policy accept;\n");
        rule(&mut text, "meta l4proto != tcp", "return", "only TCP");
        rule(&mut text, &format!("meta skuid {}", set(uids)), "return", "the proxy itself, excluded users");
        rule(&mut text, "fib daddr type local", "return", "stays in this namespace");
        outbound.exclusions(&mut text, "daddr");
        rule(&mut text, "meta l4proto tcp", &format!("redirect to :{}", outbound.to), "all else: captured");
        let hook = match mode {
            Mode::Redirect => "nat hook prerouting priority -100",
            Mode::Tproxy => "filter hook prerouting priority -150",
        };
        let _ = write!(text, "\t}}\n\n\tchain inbound {{\n\t\ttype {hook}; policy accept;\n");
        rule(&mut text, "meta l4proto != tcp", "return", "only TCP");
        rule(&mut text, "iifname \"lo\"", "return", "from this namespace");
        rule(&mut text, "fib daddr type != local", "return", "not for this namespace");
        inbound.exclusions(&mut text, "saddr");
        match mode {
            Mode::Redirect => {
                rule(
                    &mut text,
                    "meta l4proto tcp",
                    &format!("redirect to :{}", inbound.to),
                    "all else: captured",
                );
            }
            Mode::Tproxy => {
                for (family, protocol) in [("ipv4", "ip"), ("ipv6", "ip6")] {
                    let matches = format!("meta nfproto {family} meta l4proto tcp");
                    let verdict = format!("tproxy {protocol} to :{} accept", inbound.to);
                    rule(&mut text, &matches, &verdict, "all else: captured");
                }
            }
        }
        text.push_str("\t}\n}\n");
        text
    }
}

impl Side {
    /// `end` is the address that counts: where a connection goes, or where it comes from.
    fn exclusions(&self, text: &mut String, end: &str) {
        let of = |wanted: fn(&IpNet) -> bool| self.addresses.iter().filter(move |net| wanted(net)).collect();
        let families: [(&str, Vec<&IpNet>); 2] =
            [("ip", of(|net| net.addr().is_ipv4())), ("ip6", of(|net| net.addr().is_ipv6()))];
        for (family, addresses) in families.iter().filter(|(_, addresses)| !addresses.is_empty()) {
            rule(text, &format!("{family} {end} {}", set(addresses)), "return", "excluded addresses");
        }
        if !self.ports.is_empty() {
            rule(text, &format!("tcp dport {}", set(&self.ports)), "return", "excluded ports");
        }
    }
}

fn rule(text: &mut String, matches: &str, verdict: &str, comment: &str) {
    let _ = writeln!(text, "\t\t{matches} {verdict} comment \"{comment}\"");
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
            Command::Capture(Capture::Install(arguments)) => Rules::from(&*arguments),
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
                let turned = chain.find("captured").unwrap();
                let last = chain.rfind("return").unwrap();
                assert!(last < turned, "{chain}");
            }
        }
    }
}
