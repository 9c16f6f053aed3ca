//! Verified here, from what control or a file holds: control's own word is not taken for it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Value, json};
use signet_proto::v1::GetAuditKeyRequest;

use super::copy;
use crate::audit::{
    AuditEvent, AuditKey, Checkpoint, CheckpointList, Finding, Line, LineError, Report, Start, Verifier,
};
use crate::cli::args::AuditVerify;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::hex;

/// A line of the longest event.
const MAX_LINE: u64 = 16 * 1024 * 1024 + 2;
const MAX_KEY: u64 = 64 * 1024;

pub(super) async fn run(what: AuditVerify, session: &Session, output: Output) -> Result<(), CliError> {
    let key = what.key.as_deref().map(read_key).transpose()?;
    let kept = match &what.checkpoints {
        Some(path) => Some(Lines::open(path)?.checkpoints()?),
        None => None,
    };
    let pinned = key.is_some();
    let report = match &what.file {
        Some(file) => offline(file, kept, key.as_ref())?,
        None => online(session, kept, key).await?,
    };
    if !pinned && report.checkpoints > 0 {
        eprintln!("signet: the key is the one that control names; `--key` takes a copy kept elsewhere");
    }
    tell(&report, output)
}

/// A copy, with the checkpoints in it and those kept elsewhere.
fn offline(file: &Path, kept: Option<Vec<Checkpoint>>, key: Option<&AuditKey>) -> Result<Report, CliError> {
    let own = Lines::open(file)?.checkpoints()?;
    let lists = [Some(own), kept];
    let list = match (key, lists.iter().flatten().all(Vec::is_empty)) {
        (Some(key), _) => merged(lists, key),
        (None, true) => Ok(CheckpointList::default()),
        (None, false) => {
            let error =
                CliError::usage("the checkpoints cannot be verified without the key they are signed with");
            return Err(error.with_hint("add `--key FILE` with what `signet audit key` prints"));
        }
    };
    let list = match list {
        Ok(list) => list,
        Err(finding) => return Ok(Verifier::new(Start::Anywhere, CheckpointList::default()).broken(finding)),
    };
    let mut verifier = Verifier::new(Start::Anywhere, list);
    let bytes = fs::metadata(file).map_err(|error| unreadable(file, &error))?.len();
    let bar = copy::progress(bytes);
    let mut lines = Lines::open(file)?;
    while let Some((length, line)) = lines.next()? {
        bar.inc(length);
        if let Line::Event(event) = line
            && let Err(finding) = verifier.take(&event)
        {
            bar.finish_and_clear();
            return Ok(verifier.broken(finding));
        }
    }
    bar.finish_and_clear();
    Ok(verifier.finish())
}

/// Control's record from its first event on, with its checkpoints and those kept elsewhere.
async fn online(
    session: &Session,
    kept: Option<Vec<Checkpoint>>,
    key: Option<AuditKey>,
) -> Result<Report, CliError> {
    let mut admin = session.admin().await?;
    let key = match key {
        Some(key) => key,
        None => {
            let answer = admin.get_audit_key(GetAuditKeyRequest {}).await?.into_inner();
            AuditKey::from_pem(answer.pem.as_bytes()).map_err(|error| CliError::failed(error.to_string()))?
        }
    };
    let own = copy::checkpoints(&mut admin, 0).await?;
    let list = match merged([Some(own), kept], &key) {
        Ok(list) => list,
        Err(finding) => return Ok(Verifier::new(Start::Genesis, CheckpointList::default()).broken(finding)),
    };
    let mut verifier = Verifier::new(Start::Genesis, list);
    let mut found = None;
    copy::events(&mut admin, 0, |event: &AuditEvent| {
        if found.is_none() {
            found = verifier.take(event).err();
        }
        Ok(())
    })
    .await?;
    Ok(match found {
        Some(finding) => verifier.broken(finding),
        None => verifier.finish(),
    })
}

/// Each list is in order by itself, and they agree.
fn merged(lists: [Option<Vec<Checkpoint>>; 2], key: &AuditKey) -> Result<CheckpointList, Finding> {
    let mut all = Vec::new();
    for list in lists.into_iter().flatten() {
        CheckpointList::verified(list.clone(), key)?;
        all.extend(list);
    }
    all.sort_by_key(|checkpoint| checkpoint.sequence);
    CheckpointList::verified(all, key)
}

fn tell(report: &Report, output: Output) -> Result<(), CliError> {
    let json = json!({
        "intact": report.is_intact(),
        "verified": report.verified,
        "from": report.from,
        "to": report.intact_to,
        "whole": report.is_whole(),
        "given": report.given,
        "head": hex::encode(&report.head),
        "checkpoints": report.checkpoints,
        "covered_to": report.covered_to,
        "tail": report.tail,
        "finding": report.finding.as_ref().map(ToString::to_string),
        "first_bad_event": report.finding.as_ref().map_or(Value::Null, |finding| finding.first_bad_event().into()),
    });
    match &report.finding {
        None => output.print(&json, || format!("{report}head {}\n", hex::encode(&report.head))),
        Some(_) => {
            if output.is_json() {
                output.print(&json, String::new)?;
            }
            Err(CliError::failed(report.to_string().trim_end()))
        }
    }
}

fn read_key(path: &Path) -> Result<AuditKey, CliError> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY).read_to_end(&mut pem))
        .map_err(|error| unreadable(path, &error))?;
    AuditKey::from_pem(&pem).map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

/// A file line by line, however large.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { path, file: BufReader::new(file), number: 0 })
    }

    /// The next line and its length. An unfinished one at the end is passed over: a sink is writing it, or was
    /// when the power went.
    fn next(&mut self) -> Result<Option<(u64, Line)>, CliError> {
        let mut text = Vec::new();
        let length = (&mut self.file)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text)
            .map_err(|error| unreadable(self.path, &error))?;
        self.number += 1;
        let wrong = |why: &dyn std::fmt::Display| {
            CliError::failed(format!("{}:{}: {why}", self.path.display(), self.number))
        };
        if text.pop_if(|last| *last == b'\n').is_none() {
            return match length as u64 {
                MAX_LINE => Err(wrong(&LineError::Length)),
                _ => Ok(None),
            };
        }
        let text = std::str::from_utf8(&text).map_err(|error| wrong(&error))?;
        let line = Line::parse(text).map_err(|error| wrong(&error))?;
        Ok(Some((length as u64, line)))
    }

    fn checkpoints(mut self) -> Result<Vec<Checkpoint>, CliError> {
        let mut found = Vec::new();
        while let Some((_, line)) = self.next()? {
            if let Line::Checkpoint(checkpoint) = line {
                found.push(checkpoint);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;
    use crate::audit::AuditSigner;
    use crate::audit::testing::{chain, checkpoint, signer};
    use crate::cli::args::Format;

    /// A copy of nine events with two checkpoints in it.
    fn copy(signer: &AuditSigner) -> Vec<String> {
        let events = chain(9);
        let lines = events.into_iter().flat_map(|event| {
            let checkpoint = [4, 7].contains(&event.sequence).then(|| checkpoint(signer, &event));
            [Some(Line::Event(event)), checkpoint.map(Line::Checkpoint)].into_iter().flatten()
        });
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn written(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn copy_is_verified_without_control() {
        let (directory, signer) = (tempfile::tempdir().unwrap(), signer());
        let lines = copy(&signer);
        let file = written(directory.path(), "copy", &(lines.concat() + "{\"event\":{\"seq"));
        let report = offline(&file, None, Some(signer.public())).unwrap();
        assert_eq!((report.is_intact(), report.covered_to, report.tail), (true, 7, 2), "{report}");
        let without = offline(&file, None, None).unwrap_err();
        assert_eq!(without.exit_code(), ExitCode::from(2));
        assert!(without.hint().unwrap().contains("signet audit key"));
        let chain_only: String =
            lines.iter().filter(|line| line.starts_with("{\"event\"")).cloned().collect();
        let file = written(directory.path(), "chain", &chain_only);
        assert_eq!(offline(&file, None, None).unwrap().tail, 9);
    }

    #[test]
    fn broken_copy_names_the_first_bad_event_and_is_exit_code_1() {
        let (directory, signer) = (tempfile::tempdir().unwrap(), signer());
        let mut lines = copy(&signer);
        lines[2] = lines[2].replace("workload.created", "workload.crested");
        let file = written(directory.path(), "altered", &lines.concat());
        let report = offline(&file, None, Some(signer.public())).unwrap();
        assert_eq!(report.finding, Some(Finding::Altered(3)));
        let error = tell(&report, Output::new(Format::Table)).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::from(1));
        assert!(error.to_string().contains("event 3 was altered"), "{error}");
        let file = written(directory.path(), "no lines", "{}\n");
        assert!(offline(&file, None, None).unwrap_err().to_string().contains("no lines:1: "));
    }

    #[test]
    fn checkpoints_kept_elsewhere_show_that_the_end_was_cut() {
        let (directory, signer) = (tempfile::tempdir().unwrap(), signer());
        let lines = copy(&signer);
        let kept = written(directory.path(), "kept", &lines.concat());
        let cut = written(directory.path(), "cut", &lines[..6].concat());
        assert!(offline(&cut, None, Some(signer.public())).unwrap().is_intact());
        let kept = Lines::open(&kept).unwrap().checkpoints().unwrap();
        let report = offline(&cut, Some(kept.clone()), Some(signer.public())).unwrap();
        assert!(matches!(report.finding, Some(Finding::Truncated { from: 6, to: 7, .. })), "{report}");
        let mut contrary = kept;
        contrary[0].revision += 1;
        contrary[0].signature = signer.sign(&contrary[0].signed_bytes()).unwrap();
        let report = offline(&cut, Some(contrary), Some(signer.public())).unwrap();
        assert!(report.to_string().contains("two different ones"), "{report}");
    }
}
