//! The programs the demo shows: built by cargo, or taken from a folder.

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::account::Account;

/// Where each program is.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// The control service.
    pub(crate) control: PathBuf,
    /// The proxy.
    pub(crate) proxy: PathBuf,
    /// The operators' command line.
    pub(crate) signet: PathBuf,
    /// This program, for the apps.
    pub(crate) demo: PathBuf,
}

impl Binaries {
    /// From `folder` if given; otherwise built from the checkout that cargo runs this from.
    pub(crate) async fn find(folder: Option<&Path>, account: &mut Account) -> Result<Self> {
        let programs = match folder {
            Some(folder) => in_folder(folder)?,
            None => build(account).await?,
        };
        let take = |name: &str| {
            programs
                .get(name)
                .cloned()
                .with_context(|| format!("there is no program `{name}` among those built"))
        };
        Ok(Self {
            control: take("signet-control")?,
            proxy: take("signet-proxy")?,
            signet: take("signet")?,
            demo: env::current_exe().context("cannot tell where the demo's own program is")?,
        })
    }
}

fn in_folder(folder: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut programs = HashMap::new();
    for name in ["signet-control", "signet-proxy", "signet"] {
        let path = folder.join(name);
        let path = path.canonicalize().with_context(|| format!("no program at {}", path.display()))?;
        programs.insert(name.to_owned(), path);
    }
    Ok(programs)
}

async fn build(account: &mut Account) -> Result<HashMap<String, PathBuf>> {
    account.gap()?;
    account.say("Building signet-control, signet and signet-proxy; the first time takes some minutes.")?;
    let started = Instant::now();
    let mut bar = BuildBar::new(account, packages_to_build().await);
    let mut child =
        cargo(&["build", "--profile", PROFILE, "--bins", "--message-format", "json-render-diagnostics"])
            .args(PACKAGES)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start cargo")?;
    let (programs, said) = watch(&mut child, &mut bar, account).await?;
    let status = child.wait().await?;
    bar.finish();
    if !status.success() {
        bail!("the build failed:\n{}", said.join("\n"));
    }
    account.say(&format!("Built in {:.0} s.", started.elapsed().as_secs_f64()))?;
    Ok(programs)
}

/// What ships, built faster: the profile that the tests use too, so that neither builds for the other again.
const PROFILE: &str = "e2e";
const PACKAGES: [&str; 4] = ["-p", "signet-control", "-p", "signet-proxy"];

/// Reads what cargo reports: one JSON message for each finished piece, and text for people.
async fn watch(
    child: &mut Child,
    bar: &mut BuildBar,
    account: &mut Account,
) -> Result<(HashMap<String, PathBuf>, Vec<String>)> {
    let mut messages = lines_of(child.stdout.take())?;
    let mut texts: Lines<BufReader<ChildStderr>> =
        BufReader::new(child.stderr.take().context("no output of cargo")?).lines();
    let (mut programs, mut done, mut said) = (HashMap::new(), BTreeSet::new(), Vec::new());
    let mut text_ended = false;
    loop {
        tokio::select! {
            message = messages.next_line() => {
                let Some(message) = message? else { break };
                let Ok(message) = serde_json::from_str::<Value>(&message) else { continue };
                if let Some(package) = message.get("package_id").and_then(Value::as_str) {
                    done.insert(package.to_owned());
                    bar.reached(done.len(), account)?;
                }
                if let Some((name, path)) = program(&message) {
                    programs.insert(name, path);
                }
            }
            text = texts.next_line(), if !text_ended => match text? {
                Some(text) => { bar.says(text.trim()); said.push(text); }
                None => text_ended = true,
            }
        }
    }
    while let Some(text) = texts.next_line().await? {
        said.push(text);
    }
    Ok((programs, said))
}

fn lines_of(stdout: Option<ChildStdout>) -> Result<Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(stdout.context("no output of cargo")?).lines())
}

fn program(message: &Value) -> Option<(String, PathBuf)> {
    let path = message.get("executable")?.as_str()?;
    Some((message.pointer("/target/name")?.as_str()?.to_owned(), PathBuf::from(path)))
}

/// How many packages the build takes, or none if cargo cannot tell: only for the bar.
async fn packages_to_build() -> Option<usize> {
    let tree =
        cargo(&["tree", "--prefix", "none", "--edges", "normal,build"]).args(PACKAGES).output().await.ok()?;
    let tree = String::from_utf8(tree.stdout).ok()?;
    let packages: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name, rest.split(' ').next()))
        .collect();
    (!packages.is_empty()).then_some(packages.len())
}

/// The cargo that runs this, in the checkout it runs this from.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(folder) = env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(folder);
    }
    command
}

/// A bar on a terminal; a line for every fifth of the way elsewhere.
struct BuildBar {
    bar: Option<ProgressBar>,
    total: Option<usize>,
    marked: usize,
    next_line: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(15);

impl BuildBar {
    fn new(account: &Account, total: Option<usize>) -> Self {
        let bar = account.is_terminal().then(|| {
            let bar = ProgressBar::new(total.and_then(|total| u64::try_from(total).ok()).unwrap_or_default());
            if let Ok(style) = ProgressStyle::with_template("   {bar:30} {pos}/{len} {elapsed} {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, total, marked: 0, next_line: Instant::now() + LINE_EVERY }
    }

    fn reached(&mut self, done: usize, account: &mut Account) -> Result<()> {
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(done).unwrap_or_default());
        } else if Instant::now() >= self.next_line && done > self.marked {
            self.next_line = Instant::now() + LINE_EVERY;
            self.marked = done;
            let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
            account.say(&format!("  {done}{of} packages"))?;
        }
        Ok(())
    }

    fn says(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_messages_about_a_program_name_one() {
        let built =
            json!({"reason": "compiler-artifact", "target": {"name": "signet"}, "executable": "/t/signet"});
        assert_eq!(program(&built), Some(("signet".to_owned(), PathBuf::from("/t/signet"))));
        assert_eq!(program(&json!({"reason": "compiler-artifact", "executable": null})), None);
    }

    #[test]
    fn a_folder_without_the_programs_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = in_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("signet-control"), "{error}");
    }
}
