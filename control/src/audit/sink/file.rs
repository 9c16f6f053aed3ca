//! A file of lines that only grows, readable by its owner alone.
//!
//! It may be renamed at any time (rotation): the next line begins a new file under the name. It may end in the
//! middle of a line (power lost): that line is cut off, it was never acknowledged. What it holds is read from its end,
//! so what it says about itself counts, not what was remembered about it.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::durable;
use crate::audit::line::{Line, MAX_LINE};

/// Read from the end at first; twice as much each time nothing was found in it.
const TAIL: u64 = 256 * 1024;
/// A checkpoint is looked for this far back, and a line's beginning as far as a line may be long.
const FARTHEST: u64 = 4 * MAX_LINE as u64;

/// Of a copy.
const PRIVATE: u32 = 0o600;

/// What a file ends with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::audit) struct Held {
    /// Sequence and hash of the last event.
    pub(in crate::audit) event: Option<(u64, [u8; 32])>,
    /// The last checkpoint.
    pub(in crate::audit) checkpoint: Option<Checkpoint>,
}

/// The file, open as long as it has its name.
#[derive(Debug)]
pub(in crate::audit) struct FileSink {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: (u64, u64),
    held: Held,
}

impl FileSink {
    pub(in crate::audit) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// What it ends with, after repairing its end.
    pub(in crate::audit) fn held(&mut self) -> io::Result<Held> {
        Ok(self.current()?.held.clone())
    }

    /// Appends whole lines, to stay. After a failure none of them is there.
    pub(in crate::audit) fn append(&mut self, lines: &str) -> io::Result<()> {
        let open = self.current()?;
        let before = open.file.metadata()?.len();
        let written = open.file.write_all(lines.as_bytes()).and_then(|()| open.file.sync_data());
        if written.is_err() {
            // What is half there is cut off now, or else when the file is opened again.
            let _ = open.file.set_len(before).and_then(|()| open.file.sync_data());
            self.open = None;
            return written;
        }
        if let Some(Held { event, checkpoint }) = last_of(lines.as_bytes(), true) {
            open.held.event = event.or(open.held.event);
            open.held.checkpoint = checkpoint.or(open.held.checkpoint.take());
        }
        Ok(())
    }

    /// The file that has the name now.
    fn current(&mut self) -> io::Result<&mut Open> {
        let named = match std::fs::symlink_metadata(&self.path) {
            Ok(found) => Some((found.dev(), found.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = self.open.take().filter(|open| named == Some(open.inode));
        let open = match kept {
            Some(open) => open,
            None => open(&self.path)?,
        };
        Ok(self.open.insert(open))
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(PRIVATE).custom_flags(no_link);
    let mut file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => io::Error::other("a symbolic link: name the file itself"),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    require_own(&file, &found)?;
    durable::sync_directory(path)?;
    let (held, whole) = read_end(&mut file, found.len())?;
    if whole < found.len() {
        tracing::warn!(path = %path.display(), cut = found.len() - whole, "torn last line cut off");
        file.set_len(whole)?;
        file.sync_all()?;
    }
    Ok(Open { file, inode: (found.dev(), found.ino()), held })
}

/// The copy is as secret as the audit, and only as true as those who can write it: nobody else's file, under no other
/// name, and for nobody else to read.
fn require_own(file: &File, found: &Metadata) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        let owner = found.uid();
        return Err(io::Error::other(format!(
            "the file of user {owner}: expected one of user {own}, or none yet"
        )));
    }
    if found.nlink() > 1 {
        return Err(io::Error::other("it has another name (a hard link): expected a file of its own"));
    }
    if found.mode() & 0o7777 & !PRIVATE != 0 {
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        tracing::warn!("a copy of the audit could be read or written by others: it is private now");
    }
    Ok(())
}

/// The newest checkpoint in a file; nothing is changed in it. `None` if there is no file.
pub(in crate::audit) fn newest_in_file(path: &Path) -> io::Result<Option<Checkpoint>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    Ok(read_end(&mut file, length)?.0.checkpoint)
}

/// What the file's whole lines end with, and where they end.
fn read_end(file: &mut File, length: u64) -> io::Result<(Held, u64)> {
    let foreign =
        || io::Error::other("does not end with lines of an audit: it is something else, left as it is");
    let mut reach = TAIL;
    loop {
        let from = length.saturating_sub(reach);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.take(length - from).read_to_end(&mut tail)?;
        let whole = match tail.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => Some(at + 1),
            None => (from == 0).then_some(0),
        };
        if let Some(whole) = whole {
            let (lines, torn) = tail.split_at_checked(whole).unwrap_or((&tail, &[]));
            let held = last_of(lines, from == 0).filter(|_| may_be_torn(torn)).ok_or_else(foreign)?;
            if from == 0 || reach >= FARTHEST || held.event.is_some() && held.checkpoint.is_some() {
                return Ok((held, from + whole as u64));
            }
        } else if reach >= FARTHEST {
            return Err(foreign());
        }
        reach *= 2;
    }
}

/// What whole lines end with; `None` if the very last one is none of ours. The first one may be only part of one
/// unless they are from the start of the file.
fn last_of(lines: &[u8], from_start: bool) -> Option<Held> {
    let mut held = Held::default();
    let mut end = lines.len();
    while end > 0 && (held.event.is_none() || held.checkpoint.is_none()) {
        let line = lines.get(..end - 1).unwrap_or_default();
        let start = match line.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if from_start => 0,
            None => break,
        };
        let text = line.get(start..).and_then(|text| std::str::from_utf8(text).ok());
        match text.map(Line::parse) {
            Some(Ok(Line::Event(event))) => _ = held.event.get_or_insert((event.sequence, event.hash)),
            Some(Ok(Line::Checkpoint(checkpoint))) => _ = held.checkpoint.get_or_insert(checkpoint),
            _ if end == lines.len() => return None,
            // Damage further back is for `signet audit verify` to find.
            _ => break,
        }
        end = start;
    }
    Some(held)
}

/// Whether this can be the beginning of a line of ours: only that is ever cut off. Some file systems leave zeros where
/// the rest would be.
fn may_be_torn(piece: &[u8]) -> bool {
    let written = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let piece = piece.get(..written).unwrap_or_default();
    ["{\"event\":{", "{\"checkpoint\":{"].iter().any(|head| {
        let shorter = head.len().min(piece.len());
        head.as_bytes().get(..shorter) == piece.get(..shorter)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::audit::testing::{self, chain, checkpoint};

    fn lines() -> (Vec<String>, Vec<Line>) {
        let (events, signer) = (chain(4), testing::signer());
        let mut lines = vec![Line::Event(events[0].clone()), Line::Event(events[1].clone())];
        lines.push(Line::Checkpoint(checkpoint(&signer, &events[1])));
        lines.extend(events[2..].iter().cloned().map(Line::Event));
        (lines.iter().map(|line| format!("{line}\n")).collect(), lines)
    }

    #[test]
    fn file_is_private_and_says_what_it_ends_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (text, parsed) = lines();
        let mut sink = FileSink::new(path.clone());
        assert_eq!(sink.held().unwrap(), Held::default());
        sink.append(&text[..3].concat()).unwrap();
        sink.append(&text[3]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), text[..4].concat());
        let held = FileSink::new(path.clone()).held().unwrap();
        assert_eq!(held.event.unwrap().0, 3);
        assert_eq!(held.checkpoint.map(Line::Checkpoint), Some(parsed[2].clone()));
        assert_eq!(newest_in_file(&path).unwrap().map(Line::Checkpoint), Some(parsed[2].clone()));
    }

    #[test]
    fn line_torn_at_any_byte_is_cut_off_and_what_is_before_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (text, _) = lines();
        let all = text.concat();
        for length in 0..=all.len() {
            fs::write(&path, &all.as_bytes()[..length]).unwrap();
            let whole: String = text
                .iter()
                .scan(0, |end, line| {
                    *end += line.len();
                    (*end <= length).then_some(line.as_str())
                })
                .collect();
            let mut sink = FileSink::new(path.clone());
            let held = sink.held().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "torn at {length}");
            let events = whole.lines().filter(|line| line.starts_with("{\"event\"")).count() as u64;
            assert_eq!(held.event.map_or(0, |(sequence, _)| sequence), events, "torn at {length}");
            let rest: String = text.iter().map(String::as_str).skip(whole.lines().count()).collect();
            sink.append(&rest).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), all, "continued after {length}");
        }
    }

    #[test]
    fn long_file_is_read_from_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (events, signer) = (chain(3000), testing::signer());
        let mut all = format!("{}\n", Line::Checkpoint(checkpoint(&signer, &events[0])));
        for event in &events {
            all.push_str(&format!("{}\n", Line::Event(event.clone())));
        }
        assert!(all.len() as u64 > 2 * TAIL);
        fs::write(&path, format!("{all}{{\"event\":{{\"sequ")).unwrap();
        let held = FileSink::new(path.clone()).held().unwrap();
        assert_eq!(held.event, Some((3000, events[2999].hash)));
        assert_eq!(held.checkpoint.unwrap().sequence, 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), all);
    }

    #[test]
    fn renamed_file_is_left_alone_and_another_one_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let rotated = directory.path().join("audit.jsonl.1");
        let (text, _) = lines();
        let mut sink = FileSink::new(path.clone());
        sink.append(&text[0]).unwrap();
        fs::rename(&path, &rotated).unwrap();
        sink.append(&text[1]).unwrap();
        sink.append(&text[2]).unwrap();
        fs::remove_file(&path).unwrap();
        sink.append(&text[3]).unwrap();
        assert_eq!(fs::read_to_string(&rotated).unwrap(), text[0]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text[3]);
    }

    #[test]
    fn file_that_others_can_read_becomes_private_and_that_of_another_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (text, _) = lines();
        fs::write(&path, &text[0]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        FileSink::new(path.clone()).append(&text[1]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);

        let linked = directory.path().join("linked");
        fs::hard_link(&path, &linked).unwrap();
        let refused = FileSink::new(path.clone()).append(&text[2]).unwrap_err();
        assert!(refused.to_string().contains("hard link"), "{refused}");
        fs::remove_file(&linked).unwrap();
        std::os::unix::fs::symlink(&path, &linked).unwrap();
        let refused = FileSink::new(linked).append(&text[2]).unwrap_err();
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        FileSink::new(path.clone()).append(&text[2]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text[..3].concat());
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            let refused = FileSink::new(path.clone()).append(&text[3]).unwrap_err();
            assert!(refused.to_string().contains("the file of user 65534"), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text[..3].concat());
        }
    }

    #[test]
    fn file_that_is_something_else_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        for content in ["root:x:0:0\nuser:x:1:1\n", "one line without end", "a line\n{\"event\":"] {
            fs::write(&path, content).unwrap();
            assert!(FileSink::new(path.clone()).append("x\n").is_err(), "{content}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert!(FileSink::new(directory.path().to_owned()).held().is_err());
        assert!(FileSink::new("/dev/null".into()).held().is_err());
    }
}
