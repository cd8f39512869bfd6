//! The sweep: every small change of the decision core, and who notices it.
//!
//! A night watchman tries every door handle of the house, thousands of them, and writes down which alarm rang. That no
//! alarm rings means that a door stands open, or that nothing is behind it; a person looks and says which
//! (`explained.toml`).
//!
//! ```text
//!  cargo-mutants' list -> all of it behind switches, in one program -> each: tests, seeds, worlds, plays -> table
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
mod results;
mod schema;
#[cfg(test)]
#[allow(dead_code)]
mod switches;
mod table;

use build::Copy;
use judge::{JUDGES, QUICK_SEEDS, SEEDS, Seated};
use list::Mutant;
use results::{Results, Trust};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
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
    /// Only the core's tests and few seeds are asked: what passes is still to be judged.
    pub quick: bool,
    /// Nobody is asked: only what is known already is shown or written.
    pub known: bool,
    /// How many mutants are judged at the same time.
    pub workers: usize,
}

/// How a mutant ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The compiler does not take it.
    Unviable,
    /// Who noticed.
    Caught { by: String },
    /// Nobody. Whether anybody came by it at all.
    Survived { reached: bool },
    /// It is still to be judged.
    Open,
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
    let trust = match (wanted.known, wanted.trust_caught) {
        (true, _) => Trust::All,
        (false, true) => Trust::Caught,
        (false, false) => Trust::Nothing,
    };
    let results = Results::open(own.join("results.jsonl"), &repository, trust)?;
    refuse_chained(&repository, &mutants, &results)?;
    let open: Vec<usize> = chosen
        .iter()
        .copied()
        .filter(|number| results.end(&mutants[*number]).is_none())
        .collect();
    say(format!(
        "{} mutants, {} of them are still to be judged",
        chosen.len(),
        open.len()
    ));
    if !open.is_empty() && !wanted.known {
        let switched = copy("switched");
        switched.refresh(&repository)?;
        let in_it = switched.switch(&mutants, say)?;
        for number in open.iter().filter(|number| in_it.refused.contains(number)) {
            let said = "does not compile".to_owned();
            results.keep(&mutants[*number], results::COMPILER, Some(said), true)?;
        }
        let open: Vec<usize> = open
            .into_iter()
            .filter(|number| !in_it.refused.contains(number))
            .collect();
        let mut judges = vec![];
        for judge in JUDGES
            .iter()
            .filter(|judge| !wanted.quick || !matches!(judge.name, "worlds" | "plays"))
        {
            let seeds = if wanted.quick { QUICK_SEEDS } else { SEEDS };
            let seated = Seated::new(*judge, &switched, seeds)?;
            say(format!(
                "{}: {} tests pass with nothing on in {:.1} s and come by {} mutants",
                seated.name(),
                seated.count(),
                seated.takes.as_secs_f64(),
                seated.reached.len()
            ));
            judges.push(seated);
        }
        let (together, alone): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|number| in_it.placed.contains(number));
        side_by_side(&together, &mutants, &judges, &results, wanted, say)?;
        if wanted.quick {
            return Ok(false);
        }
        let plain = copy("plain");
        for number in alone {
            plain.refresh(&repository)?;
            let said = by_itself(&plain, &mutants[number], &results)?;
            say(format!("{}: {said}", line(number, &mutants[number])));
        }
    }
    let mut ends = vec![];
    let mut earlier = 0;
    for number in &chosen {
        // Who is not judged yet stands in the table as such.
        let (end, present) = results.end(&mutants[*number]).unwrap_or((End::Open, true));
        earlier += usize::from(!present);
        ends.push((&mutants[*number], end));
    }
    let explained = table::Explained::read(&repository.join("tests/sweep/explained.toml"))?;
    let whole = chosen.len() == mutants.len();
    let verdict = table::Verdict::new(&ends, &explained, whole, earlier);
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

/// What the grammar refuses needs no compiler.
fn refuse_chained(repository: &Path, mutants: &[Mutant], results: &Results) -> Result<(), String> {
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        files.entry(&mutant.file).or_default().push((number, mutant));
    }
    for (file, inside) in files {
        let told = |problem: String| format!("{file}: {problem}");
        let text = fs::read_to_string(repository.join(file)).map_err(|error| told(error.to_string()))?;
        for number in schema::rewrite(&text, &inside).map_err(told)?.chained {
            if results.heard(&mutants[number], results::COMPILER).is_none() {
                let said = "only && joins a let".to_owned();
                results.keep(&mutants[number], results::COMPILER, Some(said), true)?;
            }
        }
    }
    Ok(())
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
                    let kept = judged(judges, *number, &mutants[*number], results, wanted.quick);
                    let failed = kept.is_err();
                    if sender.send(kept).is_err() || failed {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        for one in receiver {
            done += 1;
            if let Some((number, reached)) = one? {
                let unseen = if reached { "" } else { ", and nobody comes by it" };
                say(format!("{}: SURVIVED{unseen}", line(number, &mutants[number])));
            }
            if done % 100 == 0 {
                say(format!("{done} of {}", numbers.len()));
            }
        }
        Ok(())
    })
}

/// Asks the judges, one after the other, until one has noticed it. Otherwise its number, and whether anybody comes by
/// it.
fn judged(
    judges: &[Seated],
    number: usize,
    mutant: &Mutant,
    results: &Results,
    quick: bool,
) -> Result<Option<(usize, bool)>, String> {
    let mut reached = false;
    for judge in judges {
        let comes_by = judge.reached.contains(&number);
        reached |= comes_by;
        let said = match results.heard(mutant, judge.name()) {
            Some(said) => said,
            None if comes_by => judge.judge(number)?,
            None => None,
        };
        // A few seeds that see nothing are not what is asked for.
        if said.is_some() || !(quick && judge.name() == "seeds") {
            results.keep(mutant, judge.name(), said.clone(), comes_by)?;
        }
        if said.is_some() {
            return Ok(None);
        }
    }
    Ok(Some((number, reached)))
}

/// Builds and judges one mutant that fits behind no switch; says how it ended.
fn by_itself(plain: &Copy, mutant: &Mutant, results: &Results) -> Result<String, String> {
    if !plain.compiles(mutant)? {
        let said = "does not compile".to_owned();
        results.keep(mutant, results::COMPILER, Some(said.clone()), true)?;
        return Ok(said);
    }
    for judge in JUDGES {
        let said = match results.heard(mutant, judge.name) {
            Some(said) => said,
            None => Seated::look(*judge, plain)?,
        };
        results.keep(mutant, judge.name, said.clone(), true)?;
        if let Some(what) = said {
            return Ok(format!("caught by {}: {what}", judge.name));
        }
    }
    Ok("SURVIVED".to_owned())
}
