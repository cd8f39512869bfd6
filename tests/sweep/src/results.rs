//! What every judge has said about every mutant, kept in a file: a run that was ended goes on where it was, and a judge
//! is asked again only when he, or what he judges, has changed.

use crate::End;
use crate::judge::{JUDGES, SEEDS};
use crate::list::{Mutant, SOURCES};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The compiler, as one that is asked before all judges.
pub(crate) const COMPILER: &str = "compiler";

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    judge: String,
    /// What he and what he judges was, as a number.
    state: u64,
    /// What he has noticed.
    said: Option<String>,
    /// He comes by it at all.
    reached: bool,
}

/// What of that which was said on an earlier state of the core, or by an earlier judge, still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Nothing,
    /// What was caught once is caught.
    Caught,
    /// Everything: for whoever only looks.
    All,
}

/// What is known.
pub(crate) struct Results {
    path: PathBuf,
    states: BTreeMap<&'static str, u64>,
    trust: Trust,
    kept: Mutex<BTreeMap<(String, String), Line>>,
}

impl Results {
    /// Reads what is known of the repository at `root`.
    ///
    /// # Errors
    /// In words: what cannot be read.
    pub(crate) fn open(path: PathBuf, root: &Path, trust: Trust) -> Result<Self, String> {
        let mut kept: BTreeMap<_, Line> = BTreeMap::new();
        let states = states(root)?;
        let present = |line: &Line| states.get(line.judge.as_str()) == Some(&line.state);
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            // The last line of a run that was ended may be half of one.
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            let known = (line.key.clone(), line.judge.clone());
            let before = kept.get(&known);
            if !before.is_some_and(|before| present(before) || before.said.is_some() && !present(&line)) {
                kept.insert(known, line);
            }
        }
        let kept = Mutex::new(kept);
        Ok(Self {
            path,
            states,
            trust,
            kept,
        })
    }

    fn line(&self, mutant: &Mutant, judge: &str) -> Option<Line> {
        let line = self
            .kept
            .lock()
            .ok()?
            .get(&(mutant.key(), judge.to_owned()))?
            .clone();
        let counts = match self.trust {
            Trust::Nothing => self.present(&line),
            Trust::Caught => self.present(&line) || line.said.is_some(),
            Trust::All => true,
        };
        counts.then_some(line)
    }

    fn present(&self, line: &Line) -> bool {
        self.states.get(line.judge.as_str()) == Some(&line.state)
    }

    /// What a judge has said about a mutant; none: he has to be asked.
    pub(crate) fn heard(&self, mutant: &Mutant, judge: &str) -> Option<Option<String>> {
        self.line(mutant, judge).map(|line| line.said)
    }

    /// How a mutant ended, as far as that is known, and whether that was seen on what stands there now.
    pub(crate) fn end(&self, mutant: &Mutant) -> Option<(End, bool)> {
        if let Some(line) = self.line(mutant, COMPILER).filter(|line| line.said.is_some()) {
            return Some((End::Unviable, self.present(&line)));
        }
        let lines: Vec<Option<Line>> = JUDGES.iter().map(|judge| self.line(mutant, judge.name)).collect();
        let mut caught: Vec<&Line> = lines
            .iter()
            .flatten()
            .filter(|line| line.said.is_some())
            .collect();
        caught.sort_by_key(|line| !self.present(line));
        if let Some(line) = caught.first() {
            let by = line.judge.clone();
            return Some((End::Caught { by }, self.present(line)));
        }
        let all: Option<Vec<Line>> = lines.into_iter().collect();
        let all = all?;
        let reached = all.iter().any(|line| line.reached);
        Some((
            End::Survived { reached },
            all.iter().all(|line| self.present(line)),
        ))
    }

    /// Keeps what a judge has said.
    ///
    /// # Errors
    /// In words: what cannot be written.
    pub(crate) fn keep(
        &self,
        mutant: &Mutant,
        judge: &str,
        said: Option<String>,
        reached: bool,
    ) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let state = self.states.get(judge).copied().unwrap_or_default();
        let (key, judge) = (mutant.key(), judge.to_owned());
        let line = Line {
            key,
            judge,
            state,
            said,
            reached,
        };
        let mut text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        text.push('\n');
        let mut kept = self
            .kept
            .lock()
            .map_err(|_| "another worker has failed".to_owned())?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(told)?;
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(told)?;
        kept.insert((line.key.clone(), line.judge.clone()), line);
        Ok(())
    }
}

/// What each judge is, and the core that he judges, as a number. The tests of the core are no part of the core.
fn states(root: &Path) -> Result<BTreeMap<&'static str, u64>, String> {
    let core = folders(root, &[SOURCES, "rpc-router/api/src"], true)?;
    let mut states = BTreeMap::from([(COMPILER, core)]);
    for judge in JUDGES {
        let own: &[&str] = match judge.folder {
            "tests/sim" => &["tests/sim", "config-keeper/core", "alua/core"],
            folder => &[folder],
        };
        let mut hasher = DefaultHasher::new();
        (core, folders(root, own, false)?, SEEDS, judge.name).hash(&mut hasher);
        states.insert(judge.name, hasher.finish());
    }
    Ok(states)
}

fn folders(root: &Path, folders: &[&str], without_tests: bool) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    for folder in folders {
        let mut files = BTreeSet::new();
        walk(&root.join(folder), &mut files)?;
        for path in files {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            if without_tests && (name.ends_with("_tests.rs") || name.ends_with("/bench.rs")) {
                continue;
            }
            let mut text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            if without_tests {
                text = shipped(&text).map_err(|error| format!("{name}: {error}"))?;
            }
            (name, text).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// A source without its tests, its white space made one.
fn shipped(text: &str) -> Result<String, syn::Error> {
    use syn::spanned::Spanned;
    let mut rest = text.to_owned();
    for item in syn::parse_file(text)?.items.iter().rev() {
        let range = item.span().byte_range();
        if text[range.clone()].contains("#[cfg(test)]") && matches!(item, syn::Item::Mod(_)) {
            rest.replace_range(range, "");
        }
    }
    Ok(rest.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "toml")
        {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Genre;

    fn mutant() -> Mutant {
        Mutant {
            file: "x.rs".to_owned(),
            span: 0..1,
            replacement: String::new(),
            genre: Genre::FnValue,
            function: "f".to_owned(),
            change: "c".to_owned(),
            line: 1,
            text: String::new(),
            ordinal: 0,
        }
    }

    /// A repository with one line in each place.
    fn repository() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let judges = JUDGES.iter().map(|judge| judge.folder);
        let places = [SOURCES, "rpc-router/api/src", "config-keeper/core", "alua/core"];
        for place in judges.chain(places) {
            fs::create_dir_all(root.path().join(place)).unwrap();
            fs::write(root.path().join(place).join("x.rs"), "fn f() {}\n").unwrap();
        }
        root
    }

    fn open(root: &tempfile::TempDir, trust: Trust) -> Results {
        Results::open(root.path().join("results"), root.path(), trust).unwrap()
    }

    #[test]
    fn a_mutant_has_survived_when_everybody_was_asked() {
        let root = repository();
        for (at, judge) in JUDGES.iter().enumerate() {
            assert_eq!(open(&root, Trust::Nothing).end(&mutant()), None);
            open(&root, Trust::Nothing)
                .keep(&mutant(), judge.name, None, at == 1)
                .unwrap();
        }
        assert_eq!(
            open(&root, Trust::Nothing).end(&mutant()),
            Some((End::Survived { reached: true }, true))
        );
    }

    #[test]
    fn who_has_changed_is_asked_again() {
        let root = repository();
        let by = JUDGES[0].name;
        open(&root, Trust::Nothing)
            .keep(&mutant(), by, Some("t".to_owned()), true)
            .unwrap();
        let caught = End::Caught { by: by.to_owned() };
        assert_eq!(
            open(&root, Trust::Nothing).end(&mutant()),
            Some((caught.clone(), true))
        );
        fs::write(root.path().join(SOURCES).join("x_tests.rs"), "fn g() {}\n").unwrap();
        assert_eq!(open(&root, Trust::Nothing).heard(&mutant(), by), None);
        assert_eq!(open(&root, Trust::Caught).end(&mutant()), Some((caught, false)));
    }

    #[test]
    fn tests_of_the_core_are_no_part_of_it() {
        let with = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        assert_eq!(shipped(with).unwrap(), "fn f() {}");
        assert_eq!(shipped("fn f() {\n    g()\n}\n").unwrap(), "fn f() { g() }");
    }
}
