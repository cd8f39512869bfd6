//! Who may notice a mutant, in order of cost, and how one is asked.
//!
//! Each judge first runs with no mutant on: it has to pass, and it writes down which switches it came by. A mutant that
//! it never comes by it cannot notice, and is not asked about. A judge that has no end within a multiple of the time
//! that it needs otherwise, or eats all the memory that it may, has noticed as well.

use crate::build::Copy;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many seeds of the simulator are played.
pub(crate) const SEEDS: u64 = 200;
/// How many, where it has to be quick.
pub(crate) const QUICK_SEEDS: u64 = 15;
/// A judge may take this many times as long as without a mutant,
const TIMES: u32 = 6;
/// and this longer: the machine may be busy.
const GRACE: Duration = Duration::from_secs(20);
/// Memory that a judge may use, KiB.
const MEMORY: u64 = 4 << 20;

/// Tests that are quicker than this together are run by one program.
const TOGETHER: Duration = Duration::from_millis(400);
/// A test with nothing on, or a program that was built for one mutant, ends within that.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Somebody who may notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judge {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// The folder of its package: tests look for their files from there.
    pub(crate) folder: &'static str,
    /// What cargo has to build: package and targets.
    build: &'static [&'static str],
    /// The names of the programs among what was built.
    programs: &'static [&'static str],
    /// Their tests whose names contain this; none: all.
    only: Option<&'static str>,
    /// Arguments.
    arguments: &'static [&'static str],
}

/// All of them, the cheapest first: seeds end at the first that breaks something, which is seldom a late one.
pub(crate) const JUDGES: &[Judge] = &[
    Judge {
        name: "core's tests",
        folder: "heartbeat/core",
        build: &["--package", "pollux-heartbeat-core"],
        programs: &["pollux_heartbeat_core", "decision_table"],
        only: None,
        arguments: &[],
    },
    Judge {
        name: "seeds",
        folder: "tests/sim",
        build: &["--package", "pollux-sim", "--lib"],
        programs: &["pollux_sim"],
        only: Some("mutants::seeds_until_something_breaks"),
        arguments: &["--ignored"],
    },
    Judge {
        name: "worlds",
        folder: "tests/model",
        build: &["--package", "pollux-model", "--test", "worlds"],
        programs: &["worlds"],
        only: None,
        arguments: &[],
    },
    Judge {
        name: "plays",
        folder: "tests/sim",
        build: &["--package", "pollux-sim", "--lib"],
        programs: &["pollux_sim"],
        only: Some("scenario::"),
        arguments: &[],
    },
];

/// A judge that is built and was seen to pass.
#[derive(Clone, Debug)]
pub(crate) struct Seated {
    judge: Judge,
    seeds: u64,
    folder: PathBuf,
    /// The quickest first.
    tests: Vec<Test>,
    /// The switches that it comes by.
    pub(crate) reached: BTreeSet<usize>,
    /// How long it takes when nothing is wrong.
    pub(crate) takes: Duration,
}

/// One test of a judge.
#[derive(Clone, Debug)]
struct Test {
    program: PathBuf,
    name: String,
    takes: Duration,
    reached: BTreeSet<usize>,
}

/// What is asked of a program.
struct Asked<'a> {
    program: &'a Path,
    names: Vec<&'a str>,
    mutant: Option<usize>,
    /// Where to write which switches were reached.
    reached: Option<&'a Path>,
    limit: Duration,
}

impl Seated {
    /// Builds the judge in that copy, and lets each of its tests run with nothing on.
    ///
    /// # Errors
    /// In words: it does not build, or does not pass.
    pub(crate) fn new(judge: Judge, copy: &Copy, seeds: u64) -> Result<Self, String> {
        let mut seated = Self {
            judge,
            seeds,
            folder: copy.source.join(judge.folder),
            tests: vec![],
            reached: BTreeSet::new(),
            takes: Duration::ZERO,
        };
        let list = copy.target.join("reached");
        for program in programs(&judge, copy)? {
            for name in seated.list(&program)? {
                fs::write(&list, "").map_err(|error| format!("{}: {error}", list.display()))?;
                let began = Instant::now();
                let asked = Asked {
                    program: &program,
                    names: vec![&name],
                    mutant: None,
                    reached: Some(&list),
                    limit: PATIENCE,
                };
                if let Some(what) = seated.run(&asked)? {
                    return Err(format!("{} do not pass with nothing on: {what}", judge.name));
                }
                let takes = began.elapsed();
                let lines = fs::read_to_string(&list).unwrap_or_default();
                let reached: BTreeSet<usize> = lines.lines().filter_map(|line| line.parse().ok()).collect();
                seated.takes += takes;
                seated.reached.extend(&reached);
                let program = program.clone();
                seated.tests.push(Test {
                    program,
                    name,
                    takes,
                    reached,
                });
            }
        }
        seated.tests.sort_by_key(|test| test.takes);
        Ok(seated)
    }

    /// What the tests of a judge say about a copy as it stands; none: nothing is wrong.
    ///
    /// # Errors
    /// In words: a program cannot be run.
    pub(crate) fn look(judge: Judge, copy: &Copy) -> Result<Option<String>, String> {
        // Some changes are noticed while the tests are compiled.
        let programs = match programs(&judge, copy) {
            Ok(programs) => programs,
            Err(_) => return Ok(Some("the tests do not compile".to_owned())),
        };
        let folder = copy.source.join(judge.folder);
        let seated = Self {
            judge,
            seeds: SEEDS,
            folder,
            tests: vec![],
            reached: BTreeSet::new(),
            takes: Duration::ZERO,
        };
        for program in &programs {
            let names = seated.list(program)?;
            let names = names.iter().map(String::as_str).collect();
            let asked = Asked {
                program,
                names,
                mutant: None,
                reached: None,
                limit: PATIENCE,
            };
            if let Some(what) = seated.run(&asked)? {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// The name in the table.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        self.judge.name
    }

    /// How many tests it has.
    pub(crate) fn count(&self) -> usize {
        self.tests.len()
    }

    /// The names of the tests of a program that this judge asks.
    fn list(&self, program: &Path) -> Result<Vec<String>, String> {
        let mut command = Command::new(program);
        command
            .args(["--list", "--format", "terse"])
            .args(self.judge.arguments);
        let output = command
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let names = said.lines().filter_map(|line| line.strip_suffix(": test"));
        let part = |name: &&str| self.judge.only.is_none_or(|part| name.contains(part));
        Ok(names.filter(part).map(str::to_owned).collect())
    }

    /// What it says about this mutant; none: it has noticed nothing.
    ///
    /// # Errors
    /// In words: a program cannot be run.
    pub(crate) fn judge(&self, mutant: usize) -> Result<Option<String>, String> {
        let tests: Vec<&Test> = self
            .tests
            .iter()
            .filter(|test| test.reached.contains(&mutant))
            .collect();
        let mut rest = tests.as_slice();
        while let Some(first) = rest.first() {
            // A few at a time: the first that fails ends it.
            let mut count = 0;
            let mut takes = Duration::ZERO;
            while count < rest.len() && rest[count].program == first.program && takes < TOGETHER {
                takes += rest[count].takes;
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            let asked = Asked {
                program: &first.program,
                names: now.iter().map(|test| test.name.as_str()).collect(),
                mutant: Some(mutant),
                reached: None,
                limit: takes * TIMES + GRACE,
            };
            if let Some(what) = self.run(&asked)? {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// Runs tests of a program; what failed, if something did.
    fn run(&self, asked: &Asked<'_>) -> Result<Option<String>, String> {
        let told = |error: std::io::Error| format!("{}: {error}", asked.program.display());
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")])
            .arg(asked.program)
            .args(["--test-threads=1", "--exact"])
            .args(self.judge.arguments)
            .args(&asked.names)
            .current_dir(&self.folder)
            .env("POLLUX_SIM_SEEDS", self.seeds.to_string())
            .env("PROPTEST_RNG_SEED", "1")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
            .env("RUST_BACKTRACE", "0")
            .env_remove("POLLUX_BLESS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(mutant) = asked.mutant {
            command.env("POLLUX_MUTANT", mutant.to_string());
        }
        if let Some(reached) = asked.reached {
            command.env("POLLUX_MUTANTS_REACHED", reached);
        }
        let mut child = command.spawn().map_err(told)?;
        let output = child
            .stdout
            .take()
            .ok_or("no output of a program that was started")?;
        let failed = AtomicBool::new(false);
        let end = Instant::now() + asked.limit;
        std::thread::scope(|scope| {
            let failed = &failed;
            let reader = scope.spawn(move || {
                let mut said = String::new();
                for line in BufReader::new(output).split(b'\n') {
                    let Ok(line) = line else { break };
                    let line = String::from_utf8_lossy(&line);
                    if line.ends_with("FAILED") {
                        failed.store(true, Ordering::Relaxed);
                    }
                    said.push_str(&line);
                    said.push('\n');
                }
                said
            });
            let mut status = None;
            let mut late = false;
            while status.is_none() {
                status = child.try_wait().map_err(told)?;
                late = Instant::now() >= end;
                // One that is alone ends by itself, and says more at its end.
                let enough = failed.load(Ordering::Relaxed) && asked.names.len() > 1;
                if status.is_none() && (late || enough) {
                    child.kill().map_err(told)?;
                    child.wait().map_err(told)?;
                    break;
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            let said = reader
                .join()
                .map_err(|_| "the reader of a program's output failed".to_owned())?;
            Ok(match status {
                Some(status) if status.success() && said.contains("test result: ok. 0 passed") => {
                    return Err(format!(
                        "{}: no test ran of {:?}",
                        asked.program.display(),
                        asked.names
                    ));
                }
                Some(status) if status.success() => None,
                None if late && !failed.load(Ordering::Relaxed) => Some(format!(
                    "{}, without end",
                    asked.names.first().copied().unwrap_or("the program")
                )),
                _ => Some(culprit(&said)),
            })
        })
    }
}

/// Builds a judge's programs.
fn programs(judge: &Judge, copy: &Copy) -> Result<Vec<PathBuf>, String> {
    let built = copy.tests(judge.build)?;
    let find = |name: &&str| {
        let program = built.get(*name).cloned();
        program.ok_or_else(|| format!("{}: cargo built no program {name}", judge.name))
    };
    judge.programs.iter().map(find).collect()
}

/// What a program's words name as that which failed.
fn culprit(said: &str) -> String {
    let seed = said
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("seed ")?.split_once(" breaks "));
    if let Some((seed, what)) = seed {
        return format!("seed {seed}: {}", what.split(' ').next().unwrap_or(what));
    }
    let failed = said
        .lines()
        .find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    if let Some(failed) = failed {
        return failed.trim_start_matches("scenario::").to_owned();
    }
    // It did not end by itself: the last test that it began.
    let begun = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    begun.map_or_else(
        || "the program".to_owned(),
        |(name, _)| format!("{name}, which did not end well"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_read_out_of_what_was_said() {
        assert_eq!(culprit("test a ... ok\ntest scenario::b::c ... FAILED\n"), "b::c");
        assert_eq!(
            culprit("x\nseed 17 breaks S2 at 33.5 s: two records\ntest s ... FAILED"),
            "seed 17: S2"
        );
        assert_eq!(culprit("test a ... ok\ntest b ... "), "b, which did not end well");
    }
}
