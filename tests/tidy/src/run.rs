//! The commands of people and CI: steps, one after the other, each with its time, and a summary at the end.
//!
//! A step that fails does not keep the next from running: one run names everything that is wrong. What could not
//! run is SKIPPED with the reason and is counted; nothing is left out in silence.

use crate::debian::{self, Debs};
use crate::fuzz::{Found, Fuzzer};
use crate::report::Report;
use crate::{Repository, check};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What tests and the demo need from Debian, and what for.
const PACKAGES: &[(&str, &str)] = &[
    (
        "libiscsi7",
        "the host of the tests: an initiator that nobody here wrote",
    ),
    (
        "e2fsprogs",
        "mke2fs and e2fsck for the image that the demo copies",
    ),
    (
        "libiscsi-bin",
        "iscsi-test-cu: the target against a foreign test suite",
    ),
    (
        "tshark",
        "a foreign decoder: what the target says of its port groups",
    ),
    (
        "qemu-utils",
        "qemu-io: an initiator that nobody here wrote, through a failover",
    ),
    ("qemu-block-extra", "its iSCSI driver"),
    (
        "dpkg-dev",
        "dpkg-shlibdeps: what the programs of a package need of the system",
    ),
    (
        "mmdebstrap",
        "a clean Debian, to install the packages in and remove them",
    ),
    ("lintian", "Debian's own judge of packages"),
    ("openssh-client", "the way into the machines of the lab"),
    (
        "tgt",
        "a foreign target, against which the host of the tests is checked",
    ),
    ("openipmi", "ipmi_sim: a BMC in software, for the partner's power"),
    ("ipmitool", "what the fence agent speaks IPMI with"),
    (
        "fence-agents",
        "fence_ipmilan: a real agent for the partner's power",
    ),
];
/// Seeds of the simulator in one `verify`.
const SEEDS: &str = "10000";

/// Packages of a whole array with its enclosure and its host.
const WHOLE_ARRAY: [&str; 10] = [
    "pollux-rpc-router",
    "pollux-heartbeat",
    "pollux-config-keeper",
    "pollux-pool-manager",
    "pollux-alua",
    "pollux-block-target",
    "pollux-address",
    "pollux-chassis",
    "pollux-shell",
    "pollux-host",
];

/// What `pollux-lab` ends with where this machine lacks what it needs.
const NO_LAB: i32 = 3;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well, with a word of what was found.
    Passed(String),
    /// Not well.
    Failed(String),
    /// It could not run.
    Skipped(String),
}

struct Step {
    name: String,
    took: Duration,
    outcome: Outcome,
}

/// Runs steps and remembers how they ended.
pub struct Runner {
    repository: Repository,
    steps: Vec<Step>,
    /// Tests that could not run, by the line with which they said so.
    skipped: Vec<String>,
    /// Missing tools are installed instead of named.
    install: bool,
}

impl Runner {
    /// A runner over the repository; `install`: missing tools are installed.
    #[must_use]
    pub fn new(repository: Repository, install: bool) -> Self {
        Self {
            repository,
            steps: vec![],
            skipped: vec![],
            install,
        }
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Outcome) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work(self);
        let (word, text) = describe(&outcome);
        let took = start.elapsed();
        println!(
            "== {name}: {word} in {:.1} s{}{text}",
            took.as_secs_f64(),
            if text.is_empty() { "" } else { ": " }
        );
        let good = !matches!(outcome, Outcome::Failed(_));
        self.steps.push(Step {
            name: name.into(),
            took,
            outcome,
        });
        good
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.repository.root);
        command
    }

    fn plain(&self, arguments: &[&str]) -> Outcome {
        outcome(self.cargo(arguments))
    }

    /// Tests: all that they print goes to a file; the terminal gets what failed, what was skipped, and the results.
    fn tests(&mut self, arguments: &[&str]) -> Outcome {
        let name = self.folder().join(format!("{}-tests.txt", self.steps.len()));
        match self.report(arguments, &name) {
            Ok((status, mut report)) => {
                self.skipped.append(&mut report.skipped);
                let text = format!(
                    "{} passed, {} failed, {} ignored",
                    report.passed, report.failed, report.ignored
                );
                match status {
                    status if !status.success() => {
                        Outcome::Failed(format!("{text}; {status}; all output is in {}", name.display()))
                    }
                    _ if report.passed == 0 => Outcome::Failed(format!("{text}: no test ran")),
                    _ => Outcome::Passed(text),
                }
            }
            Err(error) => Outcome::Failed(format!("cargo {}: {error}", arguments.join(" "))),
        }
    }

    /// Where the outputs of the steps are kept.
    fn folder(&self) -> PathBuf {
        self.repository.target.join("verify")
    }

    fn report(&self, arguments: &[&str], file: &Path) -> io::Result<(ExitStatus, Report)> {
        std::fs::create_dir_all(self.folder())?;
        let mut file = File::create(file)?;
        // One pipe for both: nextest reports on one stream, the tests of cargo on the other.
        let (reader, writer) = io::pipe()?;
        let mut command = self.cargo(arguments);
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn()?;
        // The ends for writing are the child's alone: its end is the end of the output.
        drop(command);
        let mut report = Report::default();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line?;
            file.write_all(&line)?;
            file.write_all(b"\n")?;
            let line = String::from_utf8_lossy(&line);
            if report.read(&line) {
                println!("{line}");
            }
        }
        Ok((child.wait()?, report))
    }

    /// Everything before a commit: formatting, lints, licences, tidy, all tests that this machine can run.
    pub fn verify(mut self) -> ExitCode {
        self.step("packages", |runner| packages(runner.install));
        self.step("format", |runner| runner.plain(&["fmt", "--all", "--check"]));
        self.step("tidy and licences", |runner| tidy(&runner.repository));
        self.step("cargo deny", Self::deny);
        self.step("lints", |runner| {
            runner.plain(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        });
        // Tests of whole arrays start the daemons' programs.
        let built = self.step("build", |runner| {
            runner.plain(&["build", "--workspace", "--bins", "--locked"])
        });
        self.step("tests", |runner| {
            let mut arguments = if has("cargo-nextest", &["nextest", "--version"]) {
                vec!["nextest", "run", "--success-output", "final"]
            } else {
                vec!["test", "--no-fail-fast"]
            };
            arguments.extend([
                "--workspace",
                "--locked",
                "--exclude",
                "pollux-pair",
                "--exclude",
                "pollux-tidy",
            ]);
            if arguments[0] == "test" {
                arguments.extend(["--", "--show-output"]);
            }
            runner.tests(&arguments)
        });
        // One array at a time: their pauses are measured.
        self.step("tests of whole arrays", |runner| {
            if built {
                runner.tests(&[
                    "test",
                    "--no-fail-fast",
                    "--locked",
                    "-p",
                    "pollux-pair",
                    "--",
                    "--test-threads=1",
                    "--show-output",
                ])
            } else {
                Outcome::Skipped("the daemons do not build".into())
            }
        });
        self.step("tests of the rules", |runner| {
            runner.tests(&["test", "--locked", "-p", "pollux-tidy", "--test", "rules"])
        });
        self.step("Debian packages", |runner| {
            if built {
                runner.tests(&[
                    "test",
                    "--locked",
                    "-p",
                    "pollux-tidy",
                    "--test",
                    "packages",
                    "--",
                    "--show-output",
                ])
            } else {
                Outcome::Skipped("the daemons do not build".into())
            }
        });
        self.step("lab", |runner| {
            if built {
                runner.quick_lab()
            } else {
                Outcome::Skipped("the daemons do not build".into())
            }
        });
        self.step("simulation", |runner| {
            outcome(runner.built_for_speed("pollux-sim", &["--seeds".into(), SEEDS.into()]))
        });
        self.step("exhaustive search", |runner| {
            outcome(runner.built_for_speed("pollux-model", &[]))
        });
        self.step("fuzzing", |runner| smoke(&runner.repository));
        self.summary()
    }

    /// A second or two of search on every target.
    pub fn fuzz_smoke(mut self) -> ExitCode {
        self.step("fuzzing", |runner| smoke(&runner.repository));
        self.summary()
    }

    /// A long search on one target.
    pub fn fuzz_long(mut self, target: &str, seconds: u64) -> ExitCode {
        self.step("fuzzing", |runner| {
            match Fuzzer::build(&runner.repository).and_then(|fuzzer| fuzzer.long(target, seconds)) {
                Ok(()) => Outcome::Passed(String::new()),
                Err(found) => Outcome::Failed(found.to_string()),
            }
        });
        self.summary()
    }

    /// One of the programs that search: package and program have one name.
    fn built_for_speed(&self, program: &str, arguments: &[String]) -> Command {
        let mut command = self.cargo(&[
            "run",
            "--profile",
            "search",
            "--locked",
            "--package",
            program,
            "--bin",
            program,
            "--",
        ]);
        command.args(arguments);
        command
    }

    fn deny(&mut self) -> Outcome {
        if !has("cargo-deny", &["deny", "--version"]) {
            // It runs for a second and is built for minutes: what optimizes it costs more than it gains.
            let install = ["install", "--locked", "--debug", "cargo-deny"];
            if !self.install {
                return Outcome::Skipped(
                    "cargo-deny is not here: `cargo install --locked cargo-deny`".into(),
                );
            }
            if let failed @ Outcome::Failed(_) = self.plain(&install) {
                return failed;
            }
        }
        if let failed @ Outcome::Failed(_) =
            self.plain(&["deny", "--locked", "check", "bans", "licenses", "sources"])
        {
            return failed;
        }
        // The database of advisories is a repository of its own: a machine that reaches only package registries
        // cannot have it, and says so.
        let mut advisories = self.cargo(&["deny", "--locked", "check", "--disable-fetch", "advisories"]);
        match advisories.output() {
            Ok(output) if output.status.success() => Outcome::Passed(String::new()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                if said.contains("advisory database") || said.contains("fetch") {
                    return Outcome::Skipped(
                        "bans, licences and sources are right; the database of advisories is not on this machine: `cargo deny fetch`"
                            .into(),
                    );
                }
                eprintln!("{said}");
                Outcome::Failed("cargo deny found advisories".into())
            }
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Repairs what can be repaired by a program.
    pub fn fix_all(mut self) -> ExitCode {
        self.step("lints", |runner| {
            runner.plain(&[
                "clippy",
                "--fix",
                "--allow-dirty",
                "--allow-staged",
                "--workspace",
                "--all-targets",
            ])
        });
        self.step("format", |runner| runner.plain(&["fmt", "--all"]));
        self.summary()
    }

    /// Only the rules of the repository.
    pub fn check(mut self) -> ExitCode {
        self.step("tidy and licences", |runner| tidy(&runner.repository));
        self.summary()
    }

    /// Builds everything and runs `pollux demo`; its exit code is the command's.
    pub fn demo(self, arguments: &[String]) -> ExitCode {
        if let Outcome::Failed(what) = self.plain(&["build", "--workspace", "--bins", "--locked"]) {
            eprintln!("the demo does not build: {what}");
            return ExitCode::FAILURE;
        }
        let program = self.repository.target.join("debug").join("pollux");
        pass_on(Command::new(&program).arg("demo").args(arguments))
    }

    /// Runs the simulator or the exhaustive search, built for speed.
    pub fn fast(self, program: &str, arguments: &[String]) -> ExitCode {
        pass_on(&mut self.built_for_speed(program, arguments))
    }

    /// Runs a program of this repository as the tests are built: most of what it needs is there already.
    pub fn plain_run(self, program: &str, arguments: &[String]) -> ExitCode {
        let mut command = self.cargo(&["run", "--quiet", "--locked", "--package", program, "--"]);
        pass_on(command.args(arguments))
    }

    /// Builds the lab, and its shelf with it, and runs it.
    pub fn lab(self, arguments: &[String]) -> ExitCode {
        let bins = [
            "build",
            "--quiet",
            "--locked",
            "--bins",
            "--package",
            "pollux-lab",
            "--package",
            "pollux-lab-shelf",
        ];
        if let Outcome::Failed(what) = self.plain(&bins) {
            eprintln!("the lab does not build: {what}");
            return ExitCode::FAILURE;
        }
        let program = self.repository.target.join("debug").join("pollux-lab");
        pass_on(Command::new(program).args(arguments))
    }

    /// The few cases of the lab that fit into a build, with packages of the programs as the tests have them.
    fn quick_lab(&self) -> Outcome {
        let target = &self.repository.target;
        let packages = Debs {
            root: self.repository.root.clone(),
            programs: target.join("debug"),
            out: target.join("lab").join("debian"),
            version: None,
            quick: true,
        };
        if let Err(error) = packages.build() {
            return Outcome::Failed(format!("no packages: {error}"));
        }
        let mut lab = Command::new(target.join("debug").join("pollux-lab"));
        lab.args(["all", "--quick", "--packages"]).arg(&packages.out);
        match lab.status() {
            Ok(status) if status.success() => Outcome::Passed(String::new()),
            Ok(status) if status.code() == Some(NO_LAB) => Outcome::Skipped("see above".into()),
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(error) => Outcome::Failed(format!("cannot start {lab:?}: {error}")),
        }
    }

    /// Builds the daemons that are measured, for speed, and runs a benchmark.
    pub fn measure(self, arguments: &[String]) -> ExitCode {
        // The first word says what is measured, and so what has to be there.
        let programs: &[&str] = match arguments.first().map(String::as_str) {
            Some("target" | "takeover") => &WHOLE_ARRAY,
            Some("router" | "keeper") => &["pollux-rpc-router", "pollux-config-keeper"],
            // Only its help.
            _ => &[],
        };
        let mut daemons = vec!["build", "--release", "--locked", "--bins"];
        daemons.extend(programs.iter().flat_map(|program| ["--package", *program]));
        if !programs.is_empty()
            && let Outcome::Failed(what) = self.plain(&daemons)
        {
            eprintln!("the daemons do not build: {what}");
            return ExitCode::FAILURE;
        }
        // It starts the daemons that stand beside it.
        let package = "pollux-measure";
        let mut command = self.cargo(&[
            "run",
            "--release",
            "--locked",
            "--package",
            package,
            "--bin",
            package,
            "--",
        ]);
        pass_on(command.args(arguments))
    }

    /// Makes the Debian packages and names them; programs that are not given are built for it.
    pub fn debs(self, programs: Option<PathBuf>, out: Option<PathBuf>, version: Option<String>) -> ExitCode {
        let target = &self.repository.target;
        if programs.is_none() {
            let mut arguments = vec!["build", "--release", "--locked", "--bins"];
            arguments.extend(
                debian::PROGRAMS
                    .iter()
                    .flat_map(|program| ["--package", *program]),
            );
            if let Outcome::Failed(what) = self.plain(&arguments) {
                eprintln!("the programs do not build: {what}");
                return ExitCode::FAILURE;
            }
        }
        let built = programs.unwrap_or_else(|| target.join("release"));
        let debs = Debs {
            root: self.repository.root.clone(),
            programs: built,
            out: out.unwrap_or_else(|| target.join("debian")),
            version,
            quick: false,
        };
        match debs.build() {
            Ok(files) => {
                for file in files {
                    println!("{}", file.display());
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    fn summary(self) -> ExitCode {
        println!("\n{:<24} {:>8}  result", "step", "time");
        for Step { name, took, outcome } in &self.steps {
            let (word, text) = describe(outcome);
            println!(
                "{name:<24} {:>6.1} s  {word}{}{text}",
                took.as_secs_f64(),
                if text.is_empty() { "" } else { ": " }
            );
        }
        if !self.skipped.is_empty() {
            println!("\n{} tests were SKIPPED:", self.skipped.len());
            for line in &self.skipped {
                println!("  {line}");
            }
        }
        let failed = self
            .steps
            .iter()
            .filter(|step| matches!(step.outcome, Outcome::Failed(_)))
            .count();
        let skipped = self
            .steps
            .iter()
            .filter(|step| matches!(step.outcome, Outcome::Skipped(_)))
            .count();
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        println!(
            "\n{} in {:.0} s: {failed} steps failed, {skipped} skipped",
            if failed == 0 { "PASS" } else { "FAIL" },
            total.as_secs_f64()
        );
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// The search that coverage guides; where that cannot be built, the blind one of the tests has to do, which is said.
fn smoke(repository: &Repository) -> Outcome {
    match Fuzzer::build(repository).and_then(|fuzzer| fuzzer.smoke()) {
        Ok(text) => Outcome::Passed(text),
        Err(Found::NoCompiler(why)) => Outcome::Skipped(format!(
            "{why}: `apt install g++`; corpora were replayed and mutated without coverage by the tests"
        )),
        Err(found) => Outcome::Failed(found.to_string()),
    }
}

fn describe(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Passed(text) => ("passed", text),
        Outcome::Failed(text) => ("FAILED", text),
        Outcome::Skipped(text) => ("SKIPPED", text),
    }
}

fn outcome(mut command: Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed(String::new()),
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("cannot start {command:?}: {error}")),
    }
}

fn pass_on(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) => status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            eprintln!("cannot start {command:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A cargo subcommand is installed.
fn has(what: &str, probe: &[&str]) -> bool {
    let probed = Command::new("cargo")
        .args(probe)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let there = probed.is_ok_and(|status| status.success());
    if !there {
        println!("{what} is not installed");
    }
    there
}

fn tidy(repository: &Repository) -> Outcome {
    let found = check(repository);
    for (rule, findings) in &found {
        for finding in findings {
            println!("{rule}: {finding}");
        }
    }
    match found.iter().map(|(_, findings)| findings.len()).sum::<usize>() {
        0 => Outcome::Passed(format!(
            "{} files, {} packages",
            repository.files.len(),
            repository.packages.len()
        )),
        count => Outcome::Failed(format!("{count} findings")),
    }
}

/// Installs what Debian has and this machine lacks, or names it.
fn packages(install: bool) -> Outcome {
    let first = install_missing(install);
    let missing = PACKAGES.iter().any(|(name, _)| !is_installed(name));
    match first {
        // What came may have pushed out what was there: QEMU's iSCSI driver wants the tools of its own version.
        Outcome::Passed(_) if missing => install_missing(install),
        first => first,
    }
}

fn install_missing(install: bool) -> Outcome {
    let missing: Vec<&(&str, &str)> = PACKAGES.iter().filter(|(name, _)| !is_installed(name)).collect();
    if missing.is_empty() {
        return Outcome::Passed("all are here".into());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    if root || install {
        println!("installing {}", names.join(" "));
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null());
            outcome(command)
        };
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(&names);
        // The lists may be old, or missing altogether.
        if apt(&arguments) == Outcome::Passed(String::new())
            || apt(&["update"]) == Outcome::Passed(String::new())
                && apt(&arguments) == Outcome::Passed(String::new())
        {
            return Outcome::Passed(format!("installed {}", names.join(" ")));
        }
    }
    for (name, what_for) in missing {
        println!("{name}: {what_for}");
    }
    Outcome::Skipped(format!(
        "tests that need them are skipped: `apt install {}`",
        names.join(" ")
    ))
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Status}", package])
        .output();
    output.is_ok_and(|output| output.stdout == b"install ok installed")
}
