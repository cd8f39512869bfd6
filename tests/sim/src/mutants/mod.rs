//! The proof can fail: cores with one sentence missing, each of which the simulator has to catch.
//!
//! A lock is tested with wrong keys, too. The runner copies the repository beside the build, takes one guard, one
//! inequality, one order or one field away from the copy, builds the directed plays and the seeds against it, and plays
//! them until something breaks. What the simulator lets pass is shown to the core's own tests (before it, where
//! plays are known not to lead) and searched exhaustively
//! (tests/model, with --search). A mutant that survives that is a sentence that nothing stands behind, or nothing looks at.
//!
//! ```text
//!  copy -> every find text stands once? -> the unchanged cores pass -> each: edit, build, play, restore -> table
//! ```
//!
//! It must never touch the repository but for the table, and never call a mutant caught because it does not build.

mod list;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Seeds that the unchanged cores and a mutant that nothing else has caught play.
const SEEDS: u64 = 2000;
/// Seeds that a mutant plays first: most that seeds catch are caught by these.
const FIRST_SEEDS: u64 = 150;
/// No play of one mutant lasts longer, seconds.
const PATIENCE: Duration = Duration::from_secs(600);
/// No search lasts longer, with its build: of the unchanged cores it takes a minute.
const SEARCH_PATIENCE: Duration = Duration::from_secs(240);
/// The test of this package that plays seeds until one breaks something.
const SEEDS_TEST: &str = "mutants::seeds_until_something_breaks";
/// How many seeds it plays.
const SEEDS_VARIABLE: &str = "POLLUX_SIM_SEEDS";

/// What is expected to catch a mutant; it is played first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Random faults.
    Seeds,
    /// The same, until there is no hope.
    MoreSeeds,
    /// Directed plays whose names contain this.
    Scenario(&'static str),
    /// The own tests of its core: plays do not lead there, or only now and then.
    Core,
}

/// One change of the cores that must not pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutant {
    name: &'static str,
    /// From the root of the repository.
    file: &'static str,
    /// What stands there, exactly once, and what stands there instead.
    edits: &'static [(&'static str, &'static str)],
    /// The sentence that is missing then.
    removes: &'static str,
    by: By,
}

/// What to do with the list.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only mutants whose names contain one of these; none: all.
    pub only: Vec<String>,
    /// Print the list and do nothing.
    pub list: bool,
    /// Write the rows of the table into the repository; those of other mutants stay.
    pub write: bool,
    /// Search the worlds of tests/model for what nothing else has caught.
    pub search: bool,
}

/// How a mutant ended.
enum End {
    /// What was broken, and who noticed.
    Caught {
        what: String,
        who: String,
    },
    Survived,
}

struct Runner {
    repository: PathBuf,
    searching: bool,
    source: PathBuf,
    target: PathBuf,
}

/// Runs the mutants. True: every one was caught.
///
/// # Errors
/// What could not be copied, built or found, in words.
pub fn run(wanted: &Wanted, say: &mut dyn FnMut(String)) -> Result<bool, String> {
    let chosen: Vec<&Mutant> = list::MUTANTS
        .iter()
        .filter(|mutant| wanted.only.is_empty() || wanted.only.iter().any(|part| mutant.name.contains(part)))
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "no mutant is called {:?}: see --mutants --list",
            wanted.only
        ));
    }
    if wanted.list {
        for mutant in chosen {
            say(format!("{:<42} {}: {}", mutant.name, mutant.file, mutant.removes));
        }
        return Ok(true);
    }
    let runner = Runner::new(wanted.search)?;
    let stale = stale(&runner.repository, list::MUTANTS);
    if !stale.is_empty() {
        return Err(format!("the list is out of date:\n{}", stale.join("\n")));
    }
    runner.copy()?;
    let began = Instant::now();
    let program = runner.build()?;
    if let End::Caught { what, who } = runner.play(&program, By::Scenario("scenario::"))? {
        return Err(format!("the unchanged cores do not pass: {who}: {what}"));
    }
    if let End::Caught { what, who } = runner.play(&program, By::MoreSeeds)? {
        return Err(format!("the unchanged cores do not pass: {who}: {what}"));
    }
    say(format!(
        "the unchanged cores pass; {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    let path = runner.repository.join("tests/sim/MUTANTS.md");
    let mut rows = rows(&fs::read_to_string(&path).unwrap_or_default());
    let mut survivors = Vec::new();
    for mutant in chosen {
        let began = Instant::now();
        let end = runner.judge(mutant)?;
        let took = began.elapsed().as_secs_f64();
        let (what, who) = match end {
            End::Caught { what, who } => (what, who),
            End::Survived => {
                survivors.push(mutant.name);
                (
                    "SURVIVED".to_owned(),
                    format!("{SEEDS} seeds, every scenario, the core's tests"),
                )
            }
        };
        say(format!("{:<42} {what:<9} {who:<70} {took:>5.0} s", mutant.name));
        let file = mutant.file.rsplit('/').next().unwrap_or(mutant.file);
        let row = format!(
            "| {} | {file} | {} | {what} | {who} | {took:.0} s |",
            mutant.name, mutant.removes
        );
        rows.insert(mutant.name.to_owned(), row);
        // After each: whoever ends the run early keeps what it has found.
        if wanted.write {
            fs::write(&path, table(&rows)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    if survivors.is_empty() {
        return Ok(true);
    }
    say(format!("{} survived: {}", survivors.len(), survivors.join(", ")));
    Ok(false)
}

const HEAD: &str = "# Mutants\n\nGenerated by `cargo sim -- --mutants --write`. Each line is the shipped core with one sentence \
missing, and what noticed first: an invariant (S1 to S8, I4), a promise of progress (L1, L2), the driver's contract, or what \
a directed play demands; where the simulator let it pass, a test of the core or a world of `cargo model`. The unchanged core passes all of it before.\n\n\
| mutant | file | what is missing | broken | noticed by | time |\n|---|---|---|---|---|---|\n";

/// The rows of a table by the names of their mutants.
fn rows(table: &str) -> BTreeMap<String, String> {
    let named = |line: &str| {
        let name = line.strip_prefix("| ")?.split(" | ").next()?;
        let known = list::MUTANTS.iter().any(|mutant| mutant.name == name);
        known.then(|| (name.to_owned(), line.to_owned()))
    };
    table.lines().filter_map(named).collect()
}

/// The table, in the order of the list.
fn table(rows: &BTreeMap<String, String>) -> String {
    let mut table = String::from(HEAD);
    for row in list::MUTANTS.iter().filter_map(|mutant| rows.get(mutant.name)) {
        table.push_str(row);
        table.push('\n');
    }
    table
}

/// Entries of the list whose find text does not stand exactly once in its file.
fn stale(repository: &Path, mutants: &[Mutant]) -> Vec<String> {
    let mut stale = Vec::new();
    for mutant in mutants {
        match fs::read_to_string(repository.join(mutant.file)) {
            Ok(text) => {
                for (find, _) in mutant.edits {
                    let count = text.matches(find).count();
                    if count != 1 {
                        let (name, file) = (mutant.name, mutant.file);
                        stale.push(format!(
                            "{name}: expected once in {file}, found {count} times: {find:?}"
                        ));
                    }
                }
            }
            Err(error) => stale.push(format!("{}: {}: {error}", mutant.name, mutant.file)),
        }
    }
    stale
}

fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

impl Runner {
    fn new(searching: bool) -> Result<Self, String> {
        let repository = repository();
        if !repository.join("Cargo.lock").is_file() {
            let place = repository.display();
            return Err(format!(
                "{place} is not the repository that this program was built from"
            ));
        }
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| repository.join("target"), PathBuf::from);
        let own = target.join("mutants");
        Ok(Self {
            repository,
            searching,
            source: own.join("source"),
            target: own.join("target"),
        })
    }

    /// The copy becomes what the repository is. What has not changed keeps its time, so that it is not built again.
    fn copy(&self) -> Result<(), String> {
        copy(&self.repository, &self.source).map_err(|error| format!("{}: {error}", self.source.display()))
    }

    fn judge(&self, mutant: &Mutant) -> Result<End, String> {
        let path = self.source.join(mutant.file);
        let told = |error: io::Error| format!("{}: {error}", path.display());
        let whole = fs::read_to_string(&path).map_err(told)?;
        let text = mutant.edits.iter().fold(whole.clone(), |text, (find, replace)| {
            text.replacen(find, replace, 1)
        });
        fs::write(&path, text).map_err(told)?;
        let end = self.caught(mutant);
        fs::write(&path, whole).map_err(told)?;
        end.map_err(|error| format!("{}: {error}", mutant.name))
    }

    fn caught(&self, mutant: &Mutant) -> Result<End, String> {
        let core = |core: bool| match core {
            true => self.core_tests(mutant.file),
            false => Ok(End::Survived),
        };
        let expected = mutant.by == By::Core;
        if let end @ End::Caught { .. } = core(expected)? {
            return Ok(end);
        }
        let program = self.build()?;
        let rest: &[By] = match mutant.by {
            By::Seeds | By::MoreSeeds => &[mutant.by, By::Scenario("scenario::")],
            By::Scenario(_) => &[mutant.by, By::Seeds, By::Scenario("scenario::")],
            By::Core => &[By::Seeds, By::Scenario("scenario::")],
        };
        for by in rest {
            if let end @ End::Caught { .. } = self.play(&program, *by)? {
                return Ok(end);
            }
        }
        if let end @ End::Caught { .. } = core(!expected)? {
            return Ok(end);
        }
        if let end @ End::Caught { .. } = self.play(&program, By::MoreSeeds)? {
            return Ok(end);
        }
        // The worlds of the search know nothing of the configuration.
        if self.searching && !mutant.file.starts_with("config-keeper/") {
            self.search()
        } else {
            Ok(End::Survived)
        }
    }

    /// Cargo in the copy. Simulator, core's tests and search share one profile, so that a mutant is compiled once for
    /// each of them and nothing else is. Building takes longer than playing: what saves it is worth more than fast code.
    fn cargo(&self, command: &str) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.source)
            .args([command, "--release", "--offline", "--locked"])
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .stdin(Stdio::null());
        cargo
    }

    /// Runs the own tests of the core that a file belongs to.
    fn core_tests(&self, file: &str) -> Result<End, String> {
        let package = match file.split('/').next() {
            Some("heartbeat") => "pollux-heartbeat-core",
            Some("config-keeper") => "pollux-config-core",
            Some("alua") => "pollux-alua-core",
            _ => return Err(format!("{file} is not of a core that is played")),
        };
        let mut cargo = self.cargo("test");
        cargo.args(["--no-fail-fast", "--package", package]);
        let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
        if output.status.success() {
            return Ok(End::Survived);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = said
            .lines()
            .find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let failed = failed.ok_or_else(|| {
            let why = String::from_utf8_lossy(&output.stderr);
            format!("the tests of {package} say neither that it is right nor what is wrong:\n{said}{why}")
        })?;
        Ok(End::Caught {
            what: "test".to_owned(),
            who: format!("`{package}: {failed}`"),
        })
    }

    /// Searches the worlds of tests/model.
    fn search(&self) -> Result<End, String> {
        let mut cargo = self.cargo("run");
        cargo.args(["--quiet", "--package", "pollux-model"]);
        let log = self.target.join("search.log");
        // What has no end within the patience has found nothing, at least.
        if bounded(&mut cargo, &log, SEARCH_PATIENCE)?.is_none_or(|status| status.success()) {
            return Ok(End::Survived);
        }
        let said = words(&log)?;
        match broken_world(&said) {
            Some((what, world)) => Ok(End::Caught {
                what,
                who: format!("world {world}"),
            }),
            None => Err(format!(
                "the search says neither that it is right nor what is wrong:\n{said}"
            )),
        }
    }

    /// Builds the tests of this package in the copy; returns the program.
    fn build(&self) -> Result<PathBuf, String> {
        let mut cargo = self.cargo("test");
        cargo.args(["--package", "pollux-sim"]).args([
            "--lib",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("it does not build:\n{said}"));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let mark = "\"executable\":\"";
        let program = said.lines().find_map(|line| {
            let rest = &line[line.find(mark)? + mark.len()..];
            Some(PathBuf::from(&rest[..rest.find('"')?]))
        });
        program.ok_or_else(|| "cargo named no program".to_owned())
    }

    fn play(&self, program: &Path, by: By) -> Result<End, String> {
        let mut command = Command::new(program);
        match by {
            By::Seeds | By::MoreSeeds => {
                let seeds = if matches!(by, By::Seeds) {
                    FIRST_SEEDS
                } else {
                    SEEDS
                };
                command
                    .args(["--exact", SEEDS_TEST, "--ignored"])
                    .env(SEEDS_VARIABLE, seeds.to_string())
            }
            By::Scenario(part) => {
                let all = if part.starts_with("scenario::") {
                    part.to_owned()
                } else {
                    format!("scenario::{part}")
                };
                command.arg(all)
            }
            By::Core => return Err("the tests of a core are no play".to_owned()),
        };
        let log = self.target.join("play.log");
        let status = bounded(command.current_dir(&self.source), &log, PATIENCE)?;
        let Some(status) = status else {
            let what = "no end".to_owned();
            let who = format!("{by:?} after {} s", PATIENCE.as_secs());
            return Ok(End::Caught { what, who });
        };
        if status.success() {
            return Ok(End::Survived);
        }
        Ok(read(&words(&log)?, by))
    }
}

/// Runs a program that says what it has to say into a file; none: it had no end, and was ended.
fn bounded(command: &mut Command, log: &Path, patience: Duration) -> Result<Option<ExitStatus>, String> {
    let program = Path::new(command.get_program()).display().to_string();
    let told = |error: io::Error| format!("{program}: {error}");
    let file = fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = file.try_clone().map_err(told)?;
    let child = command.stdin(Stdio::null()).stderr(errors).stdout(file).spawn();
    let mut child = child.map_err(told)?;
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().map_err(told)? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill().map_err(told)?;
            child.wait().map_err(told)?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a program has said.
fn words(log: &Path) -> Result<String, String> {
    let said = fs::read(log).map_err(|error| format!("{}: {error}", log.display()))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Which promise the search found broken, and in which world.
fn broken_world(said: &str) -> Option<(String, String)> {
    let mark = " IS BROKEN";
    let at = said.find(mark)?;
    let what = said[..at].lines().last()?.trim().to_owned();
    // The name of a world is the only line that is not set in.
    let world = said[..at]
        .lines()
        .rev()
        .find(|line| !line.is_empty() && !line.starts_with(' '))?;
    Some((what, world.to_owned()))
}

/// What the tests' own words say about the first of them that failed.
fn read(said: &str, by: By) -> End {
    let failed = said
        .lines()
        .find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .unwrap_or("the program");
    let seed = said
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("seed ")?.split_once(" breaks "));
    if let (By::Seeds | By::MoreSeeds, Some((seed, rest))) = (by, seed) {
        let what = rest.split(' ').next().unwrap_or(rest).to_owned();
        let who = format!("seed {seed}");
        return End::Caught { what, who };
    }
    let named = said
        .find("invariant: \"")
        .and_then(|at| said[at..].split('"').nth(1));
    let what = match (named, by) {
        (Some(name), _) => name,
        (None, By::Scenario(_)) => "demand",
        (None, By::Seeds | By::MoreSeeds | By::Core) => "panic",
    };
    let who = format!("`{}`", failed.trim_start_matches("scenario::"));
    End::Caught {
        what: what.to_owned(),
        who,
    }
}

/// Makes `to` equal to the sources in `from`, without what is built. What has not changed keeps its time.
///
/// # Errors
/// What could not be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let skipped = name == ".git" || name == "target";
        let (from, to, kind) = (entry.path(), to.join(&name), entry.file_type()?);
        if kind.is_dir() && !skipped {
            copy(&from, &to)?;
        } else if kind.is_file() {
            let bytes = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&bytes) {
                fs::write(&to, bytes)?;
            }
        }
    }
    // What is gone there goes here: a stale file could be built.
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_find_text_stands_once() {
        let stale = stale(&repository(), list::MUTANTS);
        assert!(stale.is_empty(), "the list is out of date:\n{}", stale.join("\n"));
    }

    #[test]
    fn a_stale_entry_is_named() {
        let gone = Mutant {
            edits: &[("no such text stands here", "")],
            ..list::MUTANTS[0]
        };
        let stale = stale(&repository(), &[gone]);
        assert_eq!(stale.len(), 1);
        assert!(
            stale[0].contains(gone.name) && stale[0].contains("found 0 times"),
            "{stale:?}"
        );
    }

    #[test]
    fn names_are_different_and_every_edit_changes_something() {
        for (at, mutant) in list::MUTANTS.iter().enumerate() {
            assert!(
                list::MUTANTS[..at].iter().all(|other| other.name != mutant.name),
                "{}",
                mutant.name
            );
            assert!(
                mutant.edits.iter().all(|(find, replace)| find != replace),
                "{}",
                mutant.name
            );
        }
    }

    #[test]
    fn rows_of_other_mutants_stay() {
        let [first, second] = [list::MUTANTS[0].name, list::MUTANTS[1].name];
        let kept =
            format!("{HEAD}| {second} | a | b | S1 | seed 1 | 3 s |\n| gone | a | b | S1 | seed 1 | 3 s |\n");
        let mut rows = rows(&kept);
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.insert(first.to_owned(), format!("| {first} | new |"));
        let table = table(&rows);
        assert!(
            table.find(first) < table.find(second) && table.contains("seed 1"),
            "{table}"
        );
    }

    #[test]
    fn what_the_search_says_is_read() {
        let said = "fine\n  bound: x\n  9 states\ntakeover\n  bound: y\n  8 states\n  S1 IS BROKEN (2 faults): two\n";
        let found = broken_world(said);
        assert_eq!(found, Some(("S1".to_owned(), "takeover".to_owned())));
        assert_eq!(broken_world("fine\n  9 states\n"), None);
    }

    #[test]
    fn what_tests_say_is_read() {
        let seeds = "\nseed 17 breaks S2 at 33.5 s: two records\n";
        let End::Caught { what, who } = read(seeds, By::Seeds) else {
            panic!("not read");
        };
        assert_eq!((what.as_str(), who.as_str()), ("S2", "seed 17"));
        let scenario =
            "test scenario::quorum::k02 ... FAILED\n x; Some(Violation { at: 1, invariant: \"S1\", what";
        let End::Caught { what, who } = read(scenario, By::Scenario("quorum")) else {
            panic!("not read");
        };
        assert_eq!((what.as_str(), who.as_str()), ("S1", "`quorum::k02`"));
    }
}

/// Not a test by itself: the runner plays it with mutants.
#[cfg(test)]
#[test]
#[ignore = "the runner of the mutants plays it"]
fn seeds_until_something_breaks() {
    let seeds = std::env::var(SEEDS_VARIABLE).map_or(Ok(1), |text| text.parse());
    let seeds: u64 = seeds.unwrap_or_else(|error| panic!("{SEEDS_VARIABLE}: {error}"));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Some(failure) = crate::run_all(0..seeds, threads, false).failures.first() {
        panic!("\n{}", failure.last_line());
    }
}
