//! Every key of the configuration with its value and where that came from, so that nobody has to guess which of
//! flag, environment and file won. Secrets are not shown.

use std::collections::BTreeMap;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use serde::Serialize;
use serde_json::Value;

const SECRET: &str = "(secret)";

/// The configuration in force, by key.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Effective(BTreeMap<String, Setting>);

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As it was written; `null` where there is none and no default.
    pub value: Value,
    /// Who said so.
    pub source: Origin,
    /// The variable or the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File,
    /// Nobody: it is so by default.
    Default,
}

/// What the command line and the environment said, and which keys there are.
#[derive(Debug, Clone, Default)]
pub struct Given {
    said: Effective,
    secret: Vec<String>,
}

impl Given {
    /// Of the arguments that `command` knows.
    pub(super) fn of(command: &clap::Command, matches: &ArgMatches) -> Self {
        let keys = command.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument)));
        let mut given = Self::default();
        for (key, argument) in keys.filter(|(key, _)| *key != "help") {
            let secret = argument.is_hide_env_values_set();
            if secret {
                given.secret.push(key.to_owned());
            }
            given.said.0.insert(key.to_owned(), setting(argument, matches, secret));
        }
        given
    }
}

impl Effective {
    /// What was given, and what the file says of the rest.
    pub(super) fn new(given: &Given, file: Option<(&Path, &toml::Table)>) -> Self {
        let mut all = given.said.clone();
        let (path, table) = file.map_or((None, None), |(path, table)| (Some(path), Some(table)));
        for (key, value) in table.into_iter().flatten() {
            let here = all.0.get(key).is_none_or(|said| said.source == Origin::Default);
            if here {
                let value = match given.secret.contains(key) {
                    true => SECRET.into(),
                    false => serde_json::to_value(value).unwrap_or_default(),
                };
                let at = path.map(|path| path.display().to_string());
                all.0.insert(key.clone(), Setting { value, source: Origin::File, at });
            }
        }
        all
    }

    /// The setting of a key.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&Setting> {
        self.0.get(key)
    }
}

fn setting(argument: &Arg, matches: &ArgMatches, secret: bool) -> Setting {
    let id = argument.get_id().as_str();
    let (source, at) = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (Origin::Flag, None),
        Some(ValueSource::EnvVariable) => {
            (Origin::Environment, argument.get_env().map(|name| name.to_string_lossy().into_owned()))
        }
        _ => (Origin::Default, None),
    };
    let raw = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned());
    let mut values: Vec<Value> = raw.map(|value| if secret { SECRET.into() } else { value.into() }).collect();
    let value = match (argument.get_action(), values.len()) {
        (clap::ArgAction::Append, _) => values.into(),
        (_, 0) => stated_default(argument).map_or(Value::Null, Value::from),
        _ => values.swap_remove(0),
    };
    Setting { value, source, at }
}

/// What the help says in `[default: ...]`.
fn stated_default(argument: &Arg) -> Option<String> {
    let help = argument.get_help()?.to_string();
    let (_, default) = help.rsplit_once("[default: ")?;
    default.split_once(']').map(|(default, _)| default.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arguments, Command};

    #[test]
    fn every_value_tells_where_it_came_from_and_secrets_are_none() {
        let line = [
            "signet-proxy",
            "run",
            "--join",
            "a secret",
            "--drain-timeout",
            "5s",
            "--inbound",
            "1=127.0.0.1:2",
        ];
        let Command::Run(run) = Arguments::try_read(line).unwrap().command else { panic!() };
        let table: toml::Table =
            "drain-timeout = \"9s\"\nidle-timeout = \"1h\"\noutbound = [\"127.0.0.1:1=spiffe://td/x\"]"
                .parse()
                .unwrap();
        let all = Effective::new(&run.given, Some((Path::new("proxy.toml"), &table)));
        let of = |key: &str| all.of(key).unwrap();
        assert_eq!(
            (of("drain-timeout").value.as_str(), of("drain-timeout").source),
            (Some("5s"), Origin::Flag)
        );
        assert_eq!(
            (of("idle-timeout").value.as_str(), of("idle-timeout").source),
            (Some("1h"), Origin::File)
        );
        assert_eq!(of("idle-timeout").at.as_deref(), Some("proxy.toml"));
        assert_eq!(of("join").value, SECRET);
        assert_eq!(of("inbound").value, serde_json::json!(["1=127.0.0.1:2"]));
        assert_eq!(of("max-connections").value, "10000");
        assert_eq!((of("svid-file").value.clone(), of("svid-file").source), (Value::Null, Origin::Default));
        let secret: toml::Table = "join = \"a secret\"".parse().unwrap();
        let Command::Run(run) = Arguments::try_read(["signet-proxy", "run"]).unwrap().command else {
            panic!()
        };
        let all = Effective::new(&run.given, Some((Path::new("proxy.toml"), &secret)));
        assert!(!serde_json::to_string(&all).unwrap().contains("a secret"));
    }
}
