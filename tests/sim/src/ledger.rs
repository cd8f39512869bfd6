//! The ledger of seeds: which range was played on which commit, and what came of it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// The ledger, in the package that this program was built from.
fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("LEDGER.md")
}

fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .output()
        .map_err(|error| format!("git: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("git: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// The commit that is played: the last one that changed anything but the ledger itself and what is only read by people.
///
/// # Errors
/// There is none, or something is changed that no commit holds: a line could not say what was played.
pub fn commit() -> Result<String, String> {
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    if let Some(line) = changed.lines().find(|line| !line.ends_with(".md")) {
        return Err(format!(
            "{} is not committed: the ledger names commits",
            line.get(3..).unwrap_or(line)
        ));
    }
    git(&["log", "-1", "--format=%h", "--", ":/", ":(exclude,top)*.md"])
}

/// Adds a line.
///
/// # Errors
/// The file cannot be written.
pub fn add(
    commit: &str,
    from: u64,
    seeds: u64,
    events: u64,
    faults: u64,
    result: &str,
) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", path().display());
    let last = from.saturating_add(seeds).saturating_sub(1);
    let mut file = OpenOptions::new().append(true).open(path()).map_err(told)?;
    writeln!(
        file,
        "| {from} to {last} | {seeds} | {commit} | {events} | {faults} | {result} |"
    )
    .map_err(told)
}
