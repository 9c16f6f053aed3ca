//! Documents from files, directories and standard input, in an order that is always the same.
//!
//! Only regular files of a directory are read, never what a link points to: what is applied is what a review of
//! the directory shows. Sizes and depths are bounded.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::CliError;
use crate::registry::{File, MAX_FILES, MAX_SET_BYTES};

const MAX_DEPTH: usize = 32;

/// All files that these paths mean: of a directory, every `*.yaml` and `*.yml` in it and below, but nothing hidden.
pub(super) fn collect(paths: &[PathBuf]) -> Result<Vec<File>, CliError> {
    let mut found = Found::default();
    for path in paths {
        if path != Path::new("-") && metadata(path)?.is_dir() {
            found.directory(path, 0)?;
        } else {
            found.take(read(path)?)?;
        }
    }
    Ok(found.files)
}

/// One text, and how messages call it.
pub(super) fn read(path: &Path) -> Result<File, CliError> {
    if path == Path::new("-") {
        let yaml = bounded(io::stdin().lock())
            .map_err(|error| CliError::failed(format!("standard input: {error}")))?;
        return Ok(File { name: "stdin".into(), yaml });
    }
    let name = path.display().to_string();
    match fs::File::open(path).and_then(bounded) {
        Ok(yaml) => Ok(File { name, yaml }),
        Err(error) => Err(CliError::usage(format!("{name}: {error}"))),
    }
}

#[derive(Default)]
struct Found {
    files: Vec<File>,
    bytes: usize,
}

impl Found {
    fn directory(&mut self, directory: &Path, depth: usize) -> Result<(), CliError> {
        let wrong = |error: io::Error| CliError::usage(format!("{}: {error}", directory.display()));
        if depth > MAX_DEPTH {
            return Err(CliError::usage(format!(
                "{}: more than {MAX_DEPTH} levels deep",
                directory.display()
            )));
        }
        let mut entries =
            fs::read_dir(directory).map_err(wrong)?.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().map_err(wrong)?);
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let is_document =
                path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            if kind.is_dir() {
                self.directory(&path, depth + 1)?;
            } else if is_document && kind.is_symlink() {
                eprintln!("signet: {}: a link, which is not followed: name it with `-f`", path.display());
            } else if is_document && kind.is_file() {
                self.take(read(&path)?)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, file: File) -> Result<(), CliError> {
        self.bytes = self.bytes.saturating_add(file.yaml.len());
        self.files.push(file);
        if self.files.len() > MAX_FILES || self.bytes > MAX_SET_BYTES {
            return Err(CliError::usage(format!(
                "expected at most {MAX_FILES} files with {MAX_SET_BYTES} bytes together: apply them in parts, \
                 without `--prune`"
            )));
        }
        Ok(())
    }
}

fn metadata(path: &Path) -> Result<fs::Metadata, CliError> {
    fs::metadata(path).map_err(|error| CliError::usage(format!("{}: {error}", path.display())))
}

/// Not more than anybody takes, however long it is.
fn bounded(text: impl Read) -> io::Result<String> {
    let mut read = String::new();
    text.take(MAX_SET_BYTES as u64 + 1).read_to_string(&mut read)?;
    if read.len() > MAX_SET_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_SET_BYTES} bytes")));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_read_in_order_without_links_and_hidden_ones() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (path, text) in [
            ("b.yaml", "b"),
            ("a.yml", "a"),
            ("c/d.yaml", "d"),
            ("c/notes.txt", "no"),
            (".git/x.yaml", "no"),
            (".hidden.yaml", "no"),
            ("yaml", "no"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink(root.join("b.yaml"), root.join("link.yaml")).unwrap();
        symlink(root, root.join("c/loop")).unwrap();
        let texts = |paths: &[PathBuf]| -> Vec<String> {
            collect(paths).unwrap().into_iter().map(|file| file.yaml).collect()
        };
        assert_eq!(texts(&[root.into()]), ["a", "b", "d"]);
        // Whoever names a link means it.
        assert_eq!(texts(&[root.join("link.yaml"), root.join("c")]), ["b", "d"]);
        assert!(collect(&[root.join("missing")]).is_err());
    }

    #[test]
    fn large_files_are_refused_before_they_are_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::File::create(&path).unwrap().set_len(MAX_SET_BYTES as u64 * 100).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger than"));
    }
}
