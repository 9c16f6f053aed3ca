//! The rules in the kernel, by way of the program `nft`: a transaction is all or nothing.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use aws_lc_rs::digest::{SHA256, digest};

use super::{NAMES, Rules, TABLE};

/// What begins the comment of our table; the digest of the installed rules follows, as the kernel lists them.
const COMMENT: &str = "signet capture, sha256:";
const UNSEALED: &str = "signet capture, being installed";

/// What is installed.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// The rules, as they were installed.
    Installed,
    /// Nothing of ours.
    Absent,
    /// Something else than was installed.
    Altered(Altered),
}

/// How the rules differ from those that were installed.
#[derive(Debug, PartialEq, Eq)]
pub struct Altered {
    /// Names of rules that are gone, as in their comments, with their chain.
    pub missing: Vec<String>,
    /// The rules as they are now.
    pub listing: String,
}

impl From<String> for Altered {
    fn from(listing: String) -> Self {
        let mut missing = Vec::new();
        for chain in listing.split("\tchain ").skip(1) {
            let name = chain.split(' ').next().unwrap_or_default();
            let comment =
                |line: &str| line.trim().strip_prefix("comment \"")?.strip_prefix(NAMES).map(str::to_owned);
            let Some(names) = chain.lines().find_map(comment) else { continue };
            let gone = names
                .trim_end_matches('"')
                .split(';')
                .filter(|rule| !chain.lines().any(|line| line.ends_with(&format!(" comment \"{rule}\""))));
            missing.extend(gone.map(|rule| format!("{name}: {rule}")));
        }
        Self { missing, listing }
    }
}

impl fmt::Display for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.missing.is_empty() {
            writeln!(f, "missing rules: {}", self.missing.join(", "))?;
        }
        write!(f, "installed now:\n{}", self.listing)
    }
}

/// The rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// No nft.
    #[error("the program `nft` was not found: install the package nftables")]
    NoProgram,
    /// It could not be run.
    #[error("cannot run `nft`: {0}")]
    Run(#[from] io::Error),
    /// The kernel does not let us.
    #[error(
        "not permitted: rules of this network namespace are changed and read with CAP_NET_ADMIN (run as root there)"
    )]
    NotPermitted,
    /// nft or the kernel does not take the rules.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// Installs the rules, in place of those that are installed.
///
/// # Errors
/// When nft is not there or not permitted; nothing is changed then.
pub fn install(rules: &Rules) -> Result<(), RulesError> {
    // Only what the kernel lists can be compared later: the first transaction is for reading it back.
    replace(&rules.table(UNSEALED))?;
    let listing = listing()?.unwrap_or_default();
    replace(&rules.table(&seal(&listing)))
}

/// Removes the rules, if there are any. Returns whether there were.
///
/// # Errors
/// When nft is not there or not permitted.
pub fn remove() -> Result<bool, RulesError> {
    if listing()?.is_none() {
        return Ok(false);
    }
    nft(&["-f", "-"], &format!("delete table {TABLE}\n")).map(|_| true)
}

/// Compares what is installed with what was installed.
///
/// # Errors
/// When nft is not there or not permitted.
pub fn check() -> Result<State, RulesError> {
    Ok(match listing()? {
        None => State::Absent,
        Some(listing) if listing.contains(&format!("comment \"{}\"", seal(&listing))) => State::Installed,
        Some(listing) => State::Altered(listing.into()),
    })
}

fn replace(table: &str) -> Result<(), RulesError> {
    // Deleting needs something to delete.
    let transaction = format!("add table {TABLE}\ndelete table {TABLE}\n{table}");
    nft(&["-f", "-"], &transaction).map(drop)
}

/// Our table as the kernel has it, without counters and handles.
fn listing() -> Result<Option<String>, RulesError> {
    // Listing all tables tells apart what is not there and what may not be read.
    let tables = nft(&["list", "tables"], "")?;
    if !tables.lines().any(|line| line.trim() == format!("table {TABLE}")) {
        return Ok(None);
    }
    let [family, name] =
        [TABLE.split(' ').next(), TABLE.split(' ').next_back()].map(Option::unwrap_or_default);
    nft(&["--stateless", "list", "table", family, name], "").map(Some)
}

/// The comment for rules that are listed like this.
fn seal(listing: &str) -> String {
    let rules: String =
        listing.lines().filter(|line| !line.trim_start().starts_with("comment \"signet")).collect();
    let digest = digest(&SHA256, rules.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{COMMENT}{hex}")
}

fn nft(arguments: &[&str], input: &str) -> Result<String, RulesError> {
    let output = match run("nft", arguments, input) {
        // Not on the path of everybody.
        Err(error) if error.kind() == io::ErrorKind::NotFound => run("/usr/sbin/nft", arguments, input),
        ran => ran,
    };
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RulesError::NoProgram,
        _ => RulesError::Run(error),
    })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false if said.contains("Operation not permitted") => Err(RulesError::NotPermitted),
        false => Err(RulesError::Refused(said)),
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it did not read it did not need; its exit says the rest.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}
