//! Who may ask, by what the kernel says of the process at the other end. Nobody, unless a rule is about it; the first
//! rule that fits counts.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use tokio::net::unix::UCred;

/// A rule: which processes, and what they get.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CallerTable")]
pub struct CallerRule {
    uid: Option<u32>,
    gid: Option<u32>,
    /// What they get.
    pub gives: Gives,
}

/// What a caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gives {
    /// An SVID with its key, and the bundles.
    #[default]
    Svid,
    /// The bundles only, to verify others by.
    Bundles,
}

/// A process that called, when it called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its id, if we can see it.
    pub pid: Option<i32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CallerTable {
    uid: Option<u32>,
    gid: Option<u32>,
    #[serde(default)]
    gives: Gives,
}

impl CallerRule {
    /// Whether it is about that process.
    #[must_use]
    pub fn fits(&self, caller: &Caller) -> bool {
        self.uid.is_none_or(|uid| uid == caller.uid) && self.gid.is_none_or(|gid| gid == caller.gid)
    }
}

impl From<UCred> for Caller {
    fn from(credentials: UCred) -> Self {
        Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() }
    }
}

impl TryFrom<CallerTable> for CallerRule {
    type Error = String;

    fn try_from(table: CallerTable) -> Result<Self, String> {
        let CallerTable { uid, gid, gives } = table;
        if uid.is_none() && gid.is_none() {
            return Err("expected `uid`, `gid` or both: a rule for everybody is none".into());
        }
        Ok(Self { uid, gid, gives })
    }
}

impl FromStr for CallerRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected uid=UID, gid=GID or both, such as uid=1000,gid=1000 or uid=1000,gives=bundles, found `{text}`"
            )
        };
        let mut table = CallerTable { uid: None, gid: None, gives: Gives::Svid };
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            if seen.contains(&name) {
                return Err(wrong());
            }
            seen.push(name);
            match (name, value) {
                ("uid", uid) => table.uid = Some(uid.parse().map_err(|_| wrong())?),
                ("gid", gid) => table.gid = Some(gid.parse().map_err(|_| wrong())?),
                ("gives", "svid") => table.gives = Gives::Svid,
                ("gives", "bundles") => table.gives = Gives::Bundles,
                _ => return Err(wrong()),
            }
        }
        table.try_into().map_err(|_: String| wrong())
    }
}

impl fmt::Display for CallerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = [("uid", self.uid), ("gid", self.gid)];
        let ids = ids.iter().filter_map(|(name, id)| id.map(|id| format!("{name}={id}")));
        f.write_str(&ids.collect::<Vec<_>>().join(","))?;
        if self.gives == Gives::Bundles { f.write_str(",gives=bundles") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, pid: None }
    }

    #[test]
    fn a_rule_fits_whoever_has_all_that_it_names() {
        let fits = |rule: &str, caller: Caller| rule.parse::<CallerRule>().unwrap().fits(&caller);
        assert!(fits("uid=0", caller(0, 7)) && !fits("uid=1", caller(0, 7)), "root is nobody special");
        assert!(fits("gid=7", caller(1, 7)) && !fits("gid=7", caller(7, 1)));
        assert!(fits("uid=1,gid=7", caller(1, 7)));
        assert!(!fits("uid=1,gid=7", caller(1, 8)) && !fits("uid=1,gid=7", caller(2, 7)));
    }

    #[test]
    fn rules_read_back_as_they_are_written() {
        for text in ["uid=1000", "gid=5", "uid=1000,gid=5,gives=bundles"] {
            assert_eq!(text.parse::<CallerRule>().unwrap().to_string(), text);
        }
        let read = |text: &str| toml::from_str::<CallerRule>(text).map_err(|error| error.to_string());
        let rule = read("uid = 1000\ngives = \"bundles\"").unwrap();
        assert_eq!(rule, "uid=1000,gives=bundles".parse().unwrap());
        assert!(read("gives = \"svid\"").unwrap_err().contains("expected `uid`, `gid` or both"));
    }

    #[test]
    fn what_is_no_rule_lets_nobody_in() {
        for text in
            ["", "uid", "uid=", "uid=-1", "uid=root", "uid=1,uid=2", "gives=svid", "pid=1", "uid=1,gives=all"]
        {
            let error = text.parse::<CallerRule>().unwrap_err();
            assert!(error.contains("expected uid=UID") && error.contains(text), "{error}");
        }
    }
}
