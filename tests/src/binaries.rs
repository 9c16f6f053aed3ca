//! The programs under test. They are built once per run, in the profile `e2e` (what ships, built faster),
//! or taken from `SIGNET_BIN_DIR`.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// Where the three programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `signet-control`
    pub control: PathBuf,
    /// `signet`, the operators' command line
    pub signet: PathBuf,
    /// `signet-proxy`
    pub proxy: PathBuf,
}

/// The programs under test. The first call may build them; cargo's own lock keeps two test programs from
/// building at the same time.
///
/// # Panics
/// When they do not build, or `SIGNET_BIN_DIR` lacks one.
#[must_use]
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| match env::var_os("SIGNET_BIN_DIR") {
        Some(directory) => in_directory(Path::new(&directory)),
        None => build(),
    })
}

/// A copy of a program that every user may run, wherever it was built.
#[derive(Debug)]
pub struct Copy {
    /// The copy.
    pub path: PathBuf,
    _directory: TempDir,
}

impl Copy {
    /// Copies `program`.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        let open = Permissions::from_mode(0o755);
        let directory =
            tempfile::Builder::new().permissions(open.clone()).tempdir().expect("a temporary directory");
        let path = directory.path().join(program.file_name().expect("a program has a name"));
        fs::copy(program, &path).expect("it is there");
        fs::set_permissions(&path, open).expect("our own file");
        Self { path, _directory: directory }
    }
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the workspace").to_path_buf()
}

fn in_directory(directory: &Path) -> Binaries {
    let program = |name: &str| {
        let path = directory.join(name);
        assert!(path.is_file(), "SIGNET_BIN_DIR has no {name}: {} is not a file", path.display());
        path
    };
    Binaries { control: program("signet-control"), signet: program("signet"), proxy: program("signet-proxy") }
}

fn build() -> Binaries {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--profile", "e2e", "--bins", "-p", "signet-control", "-p", "signet-proxy"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the programs under test do not build");

    let messages = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let built: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    let program = |name: &str| {
        built
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .cloned()
            .unwrap_or_else(|| panic!("cargo built no {name}"))
    };
    Binaries { control: program("signet-control"), signet: program("signet"), proxy: program("signet-proxy") }
}
