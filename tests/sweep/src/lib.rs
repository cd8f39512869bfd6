//! The sweep: every small change of the decision core, and who notices it.
//!
//! A night watchman tries every door handle of the house, thousands of them, and writes down which alarm rang. That no
//! alarm rings means that a door stands open, or that nothing is behind it; a person looks and says which
//! (`explained.toml`).
//!
//! ```text
//!  cargo-mutants' list -> all of it behind switches, in one program -> each: core's tests, plays, seeds, worlds -> table
//!                    \-> what fits behind no switch: does it compile by itself? built and judged by itself
//! ```
//!
//! One build serves thousands of mutants, which is why this can be run at all. What a mutant is, the list says and not
//! this program; the sources are edited in a copy.
//!
//! It must never touch the repository but for the table, and never count a mutant that does not compile.

mod build;
mod judge;
mod list;
mod schema;
#[cfg(test)]
#[allow(dead_code)]
mod switches;
mod table;

use build::Copy;
use judge::{JUDGES, Seated};
use list::Mutant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only mutants of files whose names contain this.
    pub file: Option<String>,
    /// Only these numbers.
    pub only: Vec<usize>,
    /// Print the list with its numbers and do nothing.
    pub list: bool,
    /// Write the table into the repository.
    pub write: bool,
    /// What an earlier run saw caught is caught, though something has changed since.
    pub trust_caught: bool,
    /// Only the judges before the directed plays are asked, and what they let pass is still to be judged.
    pub quick: bool,
    /// How many mutants are judged at the same time.
    pub workers: usize,
}

/// How a mutant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// The compiler does not take it.
    Unviable,
    /// Who noticed, and what.
    Caught { by: String, what: String },
    /// Nobody. Whether anybody came by it at all.
    Survived { reached: bool },
}

/// A line of the file of results.
#[derive(Serialize, Deserialize)]
struct Result_ {
    state: u64,
    key: String,
    end: End,
}

/// Judges the mutants. True: enough were caught, and what was not is explained.
///
/// # Errors
/// What could not be copied, built, found or written, in words.
pub fn run(wanted: &Wanted, say: &mut dyn FnMut(String)) -> Result<bool, String> {
    let repository = repository();
    let mutants = list::read(&repository)?;
    let chosen: Vec<usize> = mutants
        .iter()
        .enumerate()
        .filter(|(_, mutant)| {
            wanted
                .file
                .as_ref()
                .is_none_or(|part| mutant.short_file().contains(part.as_str()))
        })
        .filter(|(number, _)| wanted.only.is_empty() || wanted.only.contains(number))
        .map(|(number, _)| number)
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "none of {} mutants is asked for: see --list",
            mutants.len()
        ));
    }
    if wanted.list {
        chosen
            .iter()
            .for_each(|number| say(line(*number, &mutants[*number])));
        return Ok(true);
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let own = target.join("sweep");
    let copy = |name: &str| Copy {
        source: own.join(name).join("source"),
        target: own.join(name).join("target"),
    };
    let results = Results::open(
        own.join("results.jsonl"),
        state(&repository)?,
        wanted.trust_caught,
    )?;
    let open: Vec<usize> = chosen
        .iter()
        .copied()
        .filter(|number| results.of(&mutants[*number]).is_none())
        .collect();
    say(format!(
        "{} mutants, {} of them are still to be judged",
        chosen.len(),
        open.len()
    ));
    if !open.is_empty() {
        let switched = copy("switched");
        switched.refresh(&repository)?;
        let placed = switched.switch(&mutants, say)?;
        let mut judges = vec![];
        for judge in JUDGES
            .iter()
            .filter(|judge| !wanted.quick || judge.name != "plays")
        {
            let seated = Seated::new(*judge, &switched)?;
            say(format!(
                "{}: passes with nothing on in {:.1} s and comes by {} mutants",
                seated.name(),
                seated.takes.as_secs_f64(),
                seated.reached.len()
            ));
            judges.push(seated);
        }
        let (together, alone): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|number| placed.contains(number));
        side_by_side(&together, &mutants, &judges, &results, wanted, say)?;
        if wanted.quick {
            return Ok(false);
        }
        let plain = copy("plain");
        for number in alone {
            plain.refresh(&repository)?;
            let end = alone_(&plain, &mutants[number])?;
            say(format!("{}: {}", line(number, &mutants[number]), words(&end)));
            results.put(&mutants[number], end)?;
        }
    }
    let ends: Vec<(&Mutant, End)> = chosen
        .iter()
        .filter_map(|number| Some((&mutants[*number], results.of(&mutants[*number])?)))
        .collect();
    let explained = table::Explained::read(&repository.join("tests/sweep/explained.toml"))?;
    let whole = chosen.len() == mutants.len();
    let verdict = table::Verdict::new(&ends, &explained, whole);
    say(verdict.summary());
    if wanted.write {
        if !whole {
            return Err("--write: the table is of all mutants, so all have to be judged".to_owned());
        }
        let path = repository.join("heartbeat/core/MUTANTS.md");
        fs::write(&path, verdict.table()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(verdict.good())
}

fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

fn line(number: usize, mutant: &Mutant) -> String {
    let Mutant {
        line,
        function,
        change,
        text,
        ..
    } = mutant;
    format!(
        "{number:>5} {}:{line} {function}: {change}   {text}",
        mutant.short_file()
    )
}

fn words(end: &End) -> String {
    match end {
        End::Unviable => "does not compile".to_owned(),
        End::Caught { by, what } => format!("caught by {by}: {what}"),
        End::Survived { reached: true } => "SURVIVED".to_owned(),
        End::Survived { reached: false } => "SURVIVED, and nobody comes by it".to_owned(),
    }
}

/// Judges mutants that are behind switches.
fn side_by_side(
    numbers: &[usize],
    mutants: &[Mutant],
    judges: &[Seated],
    results: &Results,
    wanted: &Wanted,
    say: &mut dyn FnMut(String),
) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..wanted.workers.max(1) {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let end = judged(judges, *number);
                    let failed = end.is_err();
                    let kept = end.and_then(|end| {
                        if !wanted.quick || matches!(end, End::Caught { .. }) {
                            results.put(&mutants[*number], end.clone())?;
                        }
                        Ok((*number, end))
                    });
                    if sender.send(kept).is_err() || failed {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        for one in receiver {
            let (number, end) = one?;
            done += 1;
            if !matches!(end, End::Caught { .. }) {
                say(format!("{}: {}", line(number, &mutants[number]), words(&end)));
            }
            if done % 100 == 0 {
                say(format!("{done} of {}", numbers.len()));
            }
        }
        Ok(())
    })
}

fn judged(judges: &[Seated], number: usize) -> Result<End, String> {
    let mut reached = false;
    for judge in judges.iter().filter(|judge| judge.reached.contains(&number)) {
        reached = true;
        if let Some(what) = judge.judge(number)? {
            return Ok(End::Caught {
                by: judge.name().to_owned(),
                what,
            });
        }
    }
    Ok(End::Survived { reached })
}

/// Builds and judges one mutant by itself.
fn alone_(plain: &Copy, mutant: &Mutant) -> Result<End, String> {
    if !plain.compiles(mutant)? {
        return Ok(End::Unviable);
    }
    for judge in JUDGES {
        if let Some(what) = Seated::look(*judge, plain)? {
            return Ok(End::Caught {
                by: judge.name.to_owned(),
                what,
            });
        }
    }
    Ok(End::Survived { reached: true })
}

/// What the judging depends on, as a number: the sources of the core, of what it uses and of its judges.
fn state(repository: &Path) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    for folder in [
        "rpc-router/api",
        "heartbeat/core",
        "config-keeper/core",
        "alua/core",
        "tests/sim",
        "tests/model",
        "tests/sweep/src",
    ] {
        let mut files = BTreeSet::new();
        walk(&repository.join(folder), &mut files)?;
        for path in files {
            let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.strip_prefix(repository).unwrap_or(&path), text).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
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

/// What was found, kept in a file so that a run that was ended goes on where it was.
struct Results {
    state: u64,
    path: PathBuf,
    ends: Mutex<BTreeMap<String, End>>,
}

impl Results {
    fn open(path: PathBuf, state: u64, trust_caught: bool) -> Result<Self, String> {
        let mut ends = BTreeMap::new();
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            // The last line of a run that was ended may be half of one.
            let Ok(kept) = serde_json::from_str::<Result_>(line) else {
                continue;
            };
            if kept.state == state || trust_caught && !matches!(kept.end, End::Survived { .. }) {
                ends.insert(kept.key, kept.end);
            }
        }
        Ok(Self {
            state,
            path,
            ends: Mutex::new(ends),
        })
    }

    fn of(&self, mutant: &Mutant) -> Option<End> {
        self.ends.lock().ok()?.get(&mutant.key()).cloned()
    }

    fn put(&self, mutant: &Mutant, end: End) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let kept = Result_ {
            state: self.state,
            key: mutant.key(),
            end: end.clone(),
        };
        let mut line = serde_json::to_string(&kept).map_err(|error| error.to_string())?;
        line.push('\n');
        let mut ends = self
            .ends
            .lock()
            .map_err(|_| "another worker has failed".to_owned())?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(told)?;
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(told)?;
        ends.insert(kept.key, end);
        Ok(())
    }
}
