//! What is done to a store besides serving it: migration, backup, restore, another seal key, recovery.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

use crate::audit::{Checkpoint, SinkAddress, newest_checkpoint};
use crate::ca::{self, Resealed, SealPlace};
use crate::config::{Config, Task};
use crate::recover::recover;
use crate::store::{Store, Summary};
use crate::time;

/// Does it, and says what was done.
///
/// # Errors
/// What went wrong; the store is as it was.
pub fn run(task: &Task, config: &Config) -> anyhow::Result<()> {
    match task {
        Task::Run => Ok(()),
        Task::Recover(recovery) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            if !runtime.block_on(recover(recovery, config))? {
                anyhow::bail!("control cannot be run yet: the lines above say what is next");
            }
            Ok(())
        }
        Task::Migrate { dry_run } => migrate(config, *dry_run),
        Task::Backup(out) => backup(config, out),
        Task::Restore(from) => restore(config, from),
        Task::Reseal(to) => reseal(config, to),
    }
}

fn migrate(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let steps = Store::migrate(&config.store, dry_run)?;
    if steps.is_empty() {
        println!("the schema is up to date");
    }
    for step in steps {
        println!("{} {} {}", if dry_run { "would apply" } else { "applied" }, step.version, step.name);
    }
    Ok(())
}

/// Readable by nobody else, and there under its name only once it is whole.
fn backup(config: &Config, out: &Path) -> anyhow::Result<()> {
    let part = out.with_added_extension("part");
    if out.exists() {
        anyhow::bail!("{}: exists already", out.display());
    }
    let result = write(config, &part).and_then(|summary| {
        std::fs::rename(&part, out).with_context(|| out.display().to_string())?;
        Ok(summary)
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    let Summary { rows, trust_domain, revision, sequence, .. } = result?;
    println!(
        "{rows} rows of trust domain `{trust_domain}`, up to revision {revision} and audit event {sequence}, are in {}",
        out.display()
    );
    Ok(())
}

fn write(config: &Config, part: &Path) -> anyhow::Result<Summary> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .with_context(|| part.display().to_string())?;
    let mut buffered = BufWriter::new(file);
    let summary = Store::backup(&config.store, &mut buffered)?;
    buffered.flush().with_context(|| part.display().to_string())?;
    buffered.get_ref().sync_all().with_context(|| part.display().to_string())?;
    Ok(summary)
}

fn restore(config: &Config, from: &Path) -> anyhow::Result<()> {
    let file = File::open(from).with_context(|| from.display().to_string())?;
    let Summary { rows, trust_domain, revision, sequence, taken_at } =
        Store::restore(&config.store, &mut BufReader::new(file))?;
    println!(
        "{rows} rows of trust domain `{trust_domain}` restored, as of {taken_at}: revision {revision}, audit event \
         {sequence}. What was revoked since then has to be revoked again"
    );
    let file_sinks = config.audit_sinks.iter().filter_map(SinkAddress::file);
    match newest_checkpoint(&config.data_dir, file_sinks) {
        Ok(newest) => {
            if let Some(told) = newest.and_then(|newest| older(sequence, &newest)) {
                println!("{told}");
            }
        }
        Err(error) => println!("whether the backup is the newest one is not known: {error}"),
    }
    Ok(())
}

fn reseal(config: &Config, to: &SealPlace) -> anyhow::Result<()> {
    if *to == config.seal_key {
        anyhow::bail!("--to: expected another place than that of the seal key now, found `{to}`");
    }
    let store = Store::open(config.store.clone(), &config.trust_domain)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = match to {
        SealPlace::File(path) => format!("--seal-key-file {}", path.display()),
        place => format!("--seal-key {place}"),
    };
    let done = runtime.block_on(ca::reseal(&store, &config.seal_key, to))?;
    let told = match done {
        Resealed::Done(keys) => format!("{keys} keys are sealed anew; run control with {name} from now on"),
        Resealed::Already(keys) => {
            format!("all {keys} keys are sealed with it already: run control with {name}")
        }
    };
    println!("{told}");
    Ok(())
}

/// What a start will say to a backup that ends with the event `sequence`.
fn older(sequence: u64, newest: &Checkpoint) -> Option<String> {
    let from = sequence + 1;
    (newest.sequence > sequence).then(|| {
        format!(
            "the backup is older than the store was: audit events {from} to {} of {} are not in it. `signet-control \
             run` will refuse to start unless it is told once with `--accept-older-store`; restore a newer backup if \
             there is one",
            newest.sequence,
            time::rfc3339(newest.at)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing;

    #[test]
    fn backup_older_than_the_newest_checkpoint_is_said_to_be() {
        let newest = testing::checkpoint(&testing::signer(), &testing::chain(20)[19]);
        assert_eq!(older(20, &newest), None);
        let told = older(12, &newest).unwrap();
        assert!(told.contains("events 13 to 20") && told.contains("--accept-older-store"), "{told}");
    }
}
