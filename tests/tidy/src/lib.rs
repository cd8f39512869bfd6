//! The caretaker of the house: walks through every room and says what is not in its place.
//!
//! Each rule is a function from the [`Repository`] to [`Finding`]s; it reads, never writes, and each is shown to
//! find what it is there for. [`check`] runs them all. The binary of this package also runs the commands of people
//! and CI (`cargo verify`, `cargo demo`, ...), so that both do the same.
//!
//! | rule | what it holds |
//! |---|---|
//! | [`structure::direction`] | tests -> daemons -> runtime -> platform -> api; nothing the other way |
//! | [`structure::purity`] | cores are `no_std` and depend on nothing that knows a clock, a socket or a thread |
//! | [`structure::lints`] | every manifest has the workspace's lints, or its own and a reason |
//! | [`structure::reasons`] | every crate that is not ours has a line that says why |
//! | [`structure::dead_files`] | every `.rs` file is part of some target |
//! | [`text::markers`] | nothing was left for later |
//! | [`text::machines`] | no path of one machine |
//! | [`text::lengths`] | files, functions and lines that can be read |
//! | [`text::links`] | every relative link leads somewhere; a promise's test exists by name |
//! | [`licence::licences`] | every dependency's licence is on the list in `deny.toml` |

#![forbid(unsafe_code)]

pub mod debian;
pub mod fuzz;
pub mod licence;
pub mod report;
pub mod run;
pub mod structure;
pub mod text;

use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that is not in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File, and line where there is one.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.what, self.remedy)
    }
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// A file of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What `cargo metadata` says of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    #[serde(default)]
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
    /// Absolute path of the manifest.
    pub manifest_path: PathBuf,
    /// Direct dependencies.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// Libraries, binaries, tests.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// None: a member of this workspace (or a path dependency).
    pub source: Option<String>,
}

/// A dependency of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Dependency {
    /// Name of the package.
    pub name: String,
    /// None: normal; `dev`, `build`.
    pub kind: Option<String>,
}

/// A target of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Target {
    /// Absolute path of its first file.
    pub src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

/// The repository as the rules see it.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// Where it stands.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Text files.
    pub files: Vec<File>,
    /// Every package of the graph.
    pub packages: Vec<Package>,
}

/// The repository cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    what: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Unreadable {}

/// Kinds of files that are read.
const TEXT: [&str; 9] = [
    "rs", "toml", "md", "service", "target", "slice", "sh", "yml", "conf",
];

impl Repository {
    /// Reads the repository that this package was built in.
    ///
    /// # Errors
    /// In words: a file that cannot be read, or what cargo said.
    pub fn read() -> Result<Self, Unreadable> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap_or(Path::new("."))
            .to_owned();
        // Only this platform: what other systems would need is not even downloaded here.
        let host = host()?;
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                &host,
            ])
            .current_dir(&root)
            .output()
            .map_err(|error| Unreadable {
                what: format!("cannot run cargo metadata: {error}"),
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Unreadable {
                what: format!("cargo metadata failed: {said}"),
            });
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| Unreadable {
            what: format!("cargo metadata makes no sense: {error}"),
        })?;
        let mut files = vec![];
        walk(&root, &root, &metadata.target_directory, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            root,
            target: metadata.target_directory,
            files,
            packages: metadata.packages,
        })
    }

    /// Packages of this workspace, with the folder of each from the root.
    pub fn members(&self) -> impl Iterator<Item = (&Package, String)> {
        self.packages
            .iter()
            .filter(|package| package.source.is_none())
            .map(|package| {
                let folder = package
                    .manifest_path
                    .parent()
                    .and_then(|folder| folder.strip_prefix(&self.root).ok());
                (
                    package,
                    folder.map_or_else(String::new, |folder| folder.to_string_lossy().into_owned()),
                )
            })
    }

    /// A file by its path from the root.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// The platform of this machine, as rustc calls it.
fn host() -> Result<String, Unreadable> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .map_err(|error| Unreadable {
            what: format!("cannot run rustc: {error}"),
        })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Unreadable {
        what: format!("rustc -vV names no host: {said}"),
    })
}

fn walk(root: &Path, folder: &Path, target: &Path, files: &mut Vec<File>) -> Result<(), Unreadable> {
    let unreadable = |path: &Path, error: std::io::Error| Unreadable {
        what: format!("{}: {error}", path.display()),
    };
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != ".git" && name != "target" && path != target {
                walk(root, &path, target, files)?;
            }
        } else if path
            .extension()
            .is_some_and(|kind| TEXT.iter().any(|text| kind == *text))
            || name == "run"
        {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            let path = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .replace('\\', "/");
            files.push(File { path, text });
        }
    }
    Ok(())
}

/// A rule: its name and what it finds.
pub type Rule = (&'static str, fn(&Repository) -> Vec<Finding>);

/// Every rule.
pub const RULES: &[Rule] = &[
    ("direction", structure::direction),
    ("purity", structure::purity),
    ("lints", structure::lints),
    ("reasons", structure::reasons),
    ("dead files", structure::dead_files),
    ("markers", text::markers),
    ("machines", text::machines),
    ("lengths", text::lengths),
    ("links", text::links),
    ("licences", licence::licences),
];

/// What every rule finds, rule by rule; only rules that find something.
#[must_use]
pub fn check(repository: &Repository) -> Vec<(&'static str, Vec<Finding>)> {
    let found = RULES.iter().map(|(name, rule)| (*name, rule(repository)));
    found.filter(|(_, findings)| !findings.is_empty()).collect()
}
