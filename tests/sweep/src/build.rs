//! Builds the copies: the one with all the switches, and the plain one for what cannot be switched.
//!
//! The compiler says which mutants it does not take; they go, and it is asked again, until it takes the rest. A mutant
//! that went is not yet one that does not compile: it may only not fit behind a switch, so it is tried by itself.

use crate::list::{Mutant, PACKAGE, SOURCES};
use crate::schema::{self, Rewritten};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The compiler is asked no more often than that.
const ROUNDS: usize = 30;

/// A copy of the repository and where it is built.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// The sources.
    pub(crate) source: PathBuf,
    /// What is built of them.
    pub(crate) target: PathBuf,
}

/// What cargo says, one line each.
#[derive(Deserialize)]
struct Line {
    reason: String,
    message: Option<Message>,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Message {
    code: Option<Code>,
    level: String,
    rendered: Option<String>,
    spans: Vec<Span>,
    children: Vec<Child>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Child {
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

/// Which mutants are in a copy, and of which the compiler has said that they are no Rust of these types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switched {
    /// They are behind switches.
    pub(crate) placed: BTreeSet<usize>,
    /// They do not compile, behind a switch or not.
    pub(crate) refused: BTreeSet<usize>,
}

/// What the compiler says about borrows, moves and types that it cannot infer may be the fault of the switch. What else
/// it says about a mutant's own text it would say of that text anywhere.
const PERHAPS_THE_SWITCH: &[&str] = &[
    "E0282", "E0283", "E0284", "E0373", "E0381", "E0382", "E0384", "E0499", "E0502", "E0503", "E0505",
    "E0506", "E0507", "E0515", "E0521", "E0594", "E0596", "E0597", "E0621", "E0716",
];

/// How a build ended.
enum Built {
    Programs(BTreeMap<String, PathBuf>),
    Wrong(Vec<Message>, String),
}

impl Copy {
    /// Makes the copy equal to the repository. What has not changed keeps its time, so that it is not built again.
    ///
    /// # Errors
    /// In words: what cannot be read or written.
    pub(crate) fn refresh(&self, repository: &Path) -> Result<(), String> {
        pollux_sim::copy(repository, &self.source)
            .map_err(|error| format!("{}: {error}", self.source.display()))
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Built, String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.source)
            .args(arguments)
            .args(["--offline", "--locked", "--message-format=json"])
            .env("CARGO_TARGET_DIR", &self.target)
            .stdin(Stdio::null());
        let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (mut programs, mut errors) = (BTreeMap::new(), vec![]);
        for line in said.lines().filter(|line| line.starts_with('{')) {
            let line: Line = serde_json::from_str(line).map_err(|error| format!("cargo: {error}: {line}"))?;
            match (line.reason.as_str(), line.message, line.executable, line.target) {
                ("compiler-message", Some(message), ..) if message.level == "error" => errors.push(message),
                ("compiler-artifact", _, Some(program), Some(target)) => {
                    programs.insert(target.name, program);
                }
                _ => {}
            }
        }
        if output.status.success() {
            Ok(Built::Programs(programs))
        } else {
            Ok(Built::Wrong(
                errors,
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ))
        }
    }

    /// Builds the tests of a package; returns its programs by the names of their targets.
    ///
    /// # Errors
    /// In words: what the compiler said.
    pub(crate) fn tests(&self, arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>, String> {
        let all: Vec<&str> = ["test", "--no-run"].iter().chain(arguments).copied().collect();
        match self.cargo(&all)? {
            Built::Programs(programs) => Ok(programs),
            Built::Wrong(errors, said) => Err(format!("it does not build: {}{said}", rendered(&errors))),
        }
    }

    fn check(&self) -> Result<Option<(Vec<Message>, String)>, String> {
        match self.cargo(&["check", "--package", PACKAGE, "--lib"])? {
            Built::Programs(_) => Ok(None),
            Built::Wrong(errors, said) => Ok(Some((errors, said))),
        }
    }

    /// Puts every mutant that fits into this copy.
    ///
    /// # Errors
    /// In words: what the compiler says about what is no mutant's fault.
    pub(crate) fn switch(&self, mutants: &[Mutant], say: &mut dyn FnMut(String)) -> Result<Switched, String> {
        let root = format!("{SOURCES}/lib.rs");
        let plain = self.read(&root)?;
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for mutant in mutants {
            if !texts.contains_key(mutant.file.as_str()) {
                texts.insert(&mutant.file, self.read(&mutant.file)?);
            }
        }
        self.write(&format!("{SOURCES}/mutant.rs"), schema::SWITCHES)?;
        if !mutants.iter().any(|mutant| mutant.file == root) {
            self.write(&root, &format!("{plain}\nmod mutant;\n"))?;
        }
        let mut dropped: BTreeSet<usize> = BTreeSet::new();
        let mut refused: BTreeSet<usize> = BTreeSet::new();
        for round in 1..=ROUNDS {
            let mut files: BTreeMap<&str, Rewritten> = BTreeMap::new();
            for (file, text) in &texts {
                let inside = mutants.iter().enumerate();
                let inside =
                    inside.filter(|(number, mutant)| mutant.file == *file && !dropped.contains(number));
                let inside: Vec<(usize, &Mutant)> = inside.collect();
                let rewritten =
                    schema::rewrite(text, &inside).map_err(|problem| format!("{file}: {problem}"))?;
                let tail = if *file == root { "\nmod mutant;\n" } else { "" };
                self.write(file, &format!("{}{tail}", rewritten.text))?;
                files.insert(file, rewritten);
            }
            let Some((errors, said)) = self.check()? else {
                let placed = files.into_values().flat_map(|file| file.placed).collect();
                return Ok(Switched { placed, refused });
            };
            let before = dropped.len();
            for error in &errors {
                let (guilty, certain) = guilty(error, &files);
                dropped.extend(&guilty);
                if certain {
                    refused.extend(guilty);
                }
            }
            say(format!(
                "round {round}: {} do not fit behind a switch",
                dropped.len()
            ));
            if dropped.len() == before {
                return Err(format!(
                    "the copy with switches does not build: {}{said}",
                    rendered(&errors)
                ));
            }
        }
        Err(format!(
            "the copy with switches does not build after {ROUNDS} rounds"
        ))
    }

    /// Builds one mutant by itself; true: it compiles. The file stays changed.
    ///
    /// # Errors
    /// In words: what cannot be read, written or run.
    pub(crate) fn compiles(&self, mutant: &Mutant) -> Result<bool, String> {
        let mut text = self.read(&mutant.file)?;
        text.replace_range(mutant.span.clone(), &mutant.replacement);
        self.write(&mutant.file, &text)?;
        Ok(self.check()?.is_none())
    }

    fn read(&self, file: &str) -> Result<String, String> {
        fs::read_to_string(self.source.join(file)).map_err(|error| format!("{file}: {error}"))
    }

    /// Writes a file of the copy, unless it says that already.
    ///
    /// # Errors
    /// In words: what cannot be written.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.source.join(file);
        if fs::read_to_string(&path).ok().as_deref() == Some(text) {
            return Ok(());
        }
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn rendered(errors: &[Message]) -> String {
    errors
        .iter()
        .take(3)
        .filter_map(|error| error.rendered.as_deref())
        .collect()
}

/// Which mutants an error is about: that whose own text it points at; else those of the smallest edit around it. And
/// whether it is certain that the fault is theirs.
fn guilty(error: &Message, files: &BTreeMap<&str, Rewritten>) -> (BTreeSet<usize>, bool) {
    let marks = |span: &Span| {
        let file = files.iter().find(|(file, _)| span.file_name.ends_with(**file));
        let around = move |range: &std::ops::Range<usize>| {
            range.start <= span.byte_start && span.byte_end <= range.end
        };
        let marks = file.into_iter().flat_map(|(_, file)| &file.marks);
        marks
            .filter(move |mark| around(&mark.range))
            .min_by_key(|mark| mark.range.len())
            .cloned()
    };
    let primary = || error.spans.iter().filter(|span| span.is_primary);
    let all = || {
        let children = error.children.iter().flat_map(|child| &child.spans);
        error.spans.iter().chain(children)
    };
    let own = |spans: &mut dyn Iterator<Item = &Span>| -> BTreeSet<usize> {
        spans
            .filter_map(marks)
            .filter(|mark| mark.own)
            .flat_map(|mark| mark.mutants)
            .collect()
    };
    let any = |spans: &mut dyn Iterator<Item = &Span>| -> BTreeSet<usize> {
        spans.filter_map(marks).flat_map(|mark| mark.mutants).collect()
    };
    let first = own(&mut primary());
    if !first.is_empty() {
        let code = error.code.as_ref().map(|code| code.code.as_str());
        return (
            first,
            code.is_some_and(|code| !PERHAPS_THE_SWITCH.contains(&code)),
        );
    }
    for found in [own(&mut all()), any(&mut primary())] {
        if !found.is_empty() {
            return (found, false);
        }
    }
    (any(&mut all()), false)
}
