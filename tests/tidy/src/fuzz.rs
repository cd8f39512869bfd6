//! The search for inputs that break a decoder: builds libFuzzer around the targets of `tests/fuzz` and starts it.
//!
//! A stable compiler counts coverage, too: the pass is LLVM's own. It is built for a named target, so that build
//! scripts and procedural macros are spared, and in a folder of its own, so that no other build is thrown away.
//!
//! ```text
//! target/fuzz/              build           target/fuzz/found/<target>/   inputs that reached something new
//! target/fuzz/seeds/        seeds           target/fuzz/broken/           inputs that broke a promise
//! ```

use crate::Repository;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Counters inline, a table of what they count, and every comparison traced.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Seconds for each target in a smoke run, beside those that replaying takes.
const SMOKE_SECONDS: u64 = 2;
/// Targets that are searched at the same time.
const AT_ONCE: usize = 2;
/// Resident memory at which libFuzzer stops, MiB. The targets bound what they allocate themselves, far below.
const RESIDENT_MIB: u64 = 1024;

/// Why a search did not end well.
#[derive(Debug)]
pub enum Found {
    /// There is no C++ compiler.
    NoCompiler(String),
    /// It does not build, or cannot be started.
    Unusable(String),
    /// Something was found.
    Broken(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCompiler(why) | Self::Unusable(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Found {
    fn from(error: io::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// The program, built.
#[derive(Debug)]
pub struct Fuzzer {
    root: PathBuf,
    folder: PathBuf,
    program: PathBuf,
    /// Name and longest input of each target.
    targets: Vec<(String, String)>,
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

impl Fuzzer {
    /// Builds it.
    ///
    /// # Errors
    /// [`Found::NoCompiler`] or [`Found::Unusable`].
    pub fn build(repository: &Repository) -> Result<Self, Found> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut probe = Command::new(&compiler);
        let probe = probe
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            return Err(Found::NoCompiler(format!(
                "there is no C++ compiler ({compiler})"
            )));
        }
        let folder = repository.target.join("fuzz");
        let triple = host()?;
        let build = cargo()
            .current_dir(&repository.root)
            .env("RUSTFLAGS", FLAGS.join(" "))
            .args([
                "build",
                "--locked",
                "--profile",
                "fuzz",
                "--package",
                "pollux-fuzz",
                "--features",
                "guided",
            ])
            .args(["--bin", "pollux-fuzz-guided", "--target", &triple, "--target-dir"])
            .arg(&folder)
            .status()?;
        if !build.success() {
            return Err(Found::Unusable(format!("the fuzzer does not build: {build}")));
        }
        let program = folder.join(&triple).join("fuzz").join("pollux-fuzz-guided");
        let mut fuzzer = Self {
            root: repository.root.join("tests/fuzz"),
            folder,
            program,
            targets: vec![],
        };
        fuzzer.targets = fuzzer
            .helper(&["list"])?
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, longest)| (name.to_owned(), longest.to_owned()))
            .collect();
        Ok(fuzzer)
    }

    /// The plain program, which knows the targets. It is built as everything else is.
    fn helper(&self, arguments: &[&str]) -> Result<String, Found> {
        let output = cargo()
            .current_dir(&self.root)
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "pollux-fuzz",
                "--bin",
                "pollux-fuzz",
                "--",
            ])
            .args(arguments)
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Found::Unusable(format!(
                "pollux-fuzz {}: {said}",
                arguments.join(" ")
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the search on one target; what it says goes to a file. New inputs go to a folder of the build, never
    /// into the corpus: what is kept there is chosen by a person.
    fn start(&self, (name, longest): &(String, String), seconds: u64) -> Result<(Child, PathBuf), Found> {
        let place = |what: &str| self.folder.join(what).join(name);
        let (found, seeds) = (place("found"), place("seeds"));
        let broken = self.folder.join("broken");
        for folder in [&found, &seeds, &broken] {
            std::fs::create_dir_all(folder)?;
        }
        self.helper(&["seeds", name, &seeds.to_string_lossy()])?;
        let said = self.folder.join(format!("{name}.txt"));
        let file = File::create(&said)?;
        let mut command = Command::new(&self.program);
        command
            .env("POLLUX_FUZZ_TARGET", name)
            .args([
                format!("-max_total_time={seconds}"),
                format!("-max_len={longest}"),
                format!("-artifact_prefix={}/{name}-", broken.display()),
                format!("-rss_limit_mb={RESIDENT_MIB}"),
                "-timeout=20".to_owned(),
                "-use_value_profile=1".to_owned(),
                "-print_final_stats=1".to_owned(),
            ])
            .args([&found, &seeds])
            .args(Some(self.root.join("corpus").join(name)).filter(|folder| folder.is_dir()))
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok((command.spawn()?, said))
    }

    /// A short search on every target.
    ///
    /// # Errors
    /// [`Found::Broken`] names the targets and where the inputs are.
    pub fn smoke(&self) -> Result<String, Found> {
        let (mut broken, mut runs) = (vec![], 0);
        for pair in self.targets.chunks(AT_ONCE) {
            let started: Vec<_> = pair
                .iter()
                .map(|target| self.start(target, SMOKE_SECONDS))
                .collect();
            for ((name, _), started) in pair.iter().zip(started) {
                let (mut child, said) = started?;
                if child.wait()?.success() {
                    runs += executed(&said)?;
                } else {
                    broken.push(format!("{name} ({})", said.display()));
                }
            }
        }
        if broken.is_empty() {
            Ok(format!(
                "{} targets, {runs} inputs, guided by coverage",
                self.targets.len()
            ))
        } else {
            Err(Found::Broken(format!(
                "broken: {}; the inputs are in {}",
                broken.join(", "),
                self.folder.join("broken").display()
            )))
        }
    }

    /// A long search on one target.
    ///
    /// # Errors
    /// [`Found::Broken`] names where the input is.
    pub fn long(&self, target: &str, seconds: u64) -> Result<(), Found> {
        let Some(target) = self.targets.iter().find(|(name, _)| name == target) else {
            let names: Vec<&str> = self.targets.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Found::Unusable(format!(
                "no target {target}; there are {}",
                names.join(", ")
            )));
        };
        let (mut child, said) = self.start(target, seconds)?;
        println!("searching {} for {seconds} s; {}", target.0, said.display());
        let status = child.wait()?;
        let text = std::fs::read_to_string(&said)?;
        let last: Vec<&str> = text.lines().rev().take(20).collect();
        for line in last.iter().rev() {
            println!("{line}");
        }
        if status.success() {
            return Ok(());
        }
        let folder = self.folder.join("broken");
        Err(Found::Broken(format!(
            "{status}; {}; the input is in {}",
            said.display(),
            folder.display()
        )))
    }
}

/// Inputs that libFuzzer says it has run.
fn executed(said: &Path) -> io::Result<u64> {
    let text = String::from_utf8_lossy(&std::fs::read(said)?).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

/// The triple for which this machine's compiler builds.
fn host() -> Result<String, Found> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .ok_or_else(|| Found::Unusable("rustc -vV names no host".to_owned()))
}
