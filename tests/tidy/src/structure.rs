//! Who may depend on whom, and whether everything that stands here belongs to something.

use crate::{Finding, Repository};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders of the crates that the daemons share, lowest first. What is not here is a daemon, or a test.
const SHARED: &[(&str, u8)] = &[
    ("rpc-router/api", 0),
    ("config-keeper/document", 1),
    ("heartbeat/core", 2),
    ("config-keeper/core", 2),
    ("alua/core", 2),
    ("services/platform", 3),
    ("services/block-frame", 3),
    ("services/pairing", 4),
    ("services/runtime", 4),
];
const DAEMON: u8 = 5;
const TEST: u8 = 6;
/// Folders of crates without I/O.
const CORES: &[&str] = &[
    "rpc-router/api",
    "heartbeat/core",
    "config-keeper/core",
    "config-keeper/document",
    "alua/core",
];
/// What a core may use: nothing in here knows a clock, a socket, a file or a thread.
const PURE: &[&str] = &[
    "pollux-api",
    "serde",
    "serde_json",
    "crc32c",
    "blake3",
    "bitflags",
    "schemars",
];
/// What the tests of daemons may use beside what is below them: it plays their disks, and the networks that they are in.
const AIDS: &[&str] = &["pollux-chassis", "pollux-networks"];

fn layer(folder: &str) -> u8 {
    let shared = SHARED
        .iter()
        .find(|(name, _)| *name == folder)
        .map(|(_, layer)| *layer);
    shared.unwrap_or(if folder.starts_with("tests/") {
        TEST
    } else {
        DAEMON
    })
}

/// Dependencies go down: tests -> daemons -> runtime -> platform -> api. A core is its own daemon's alone.
#[must_use]
pub fn direction(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for (package, folder) in repository.members() {
        let own = layer(&folder);
        for dependency in &package.dependencies {
            let Some((_, to)) = repository
                .members()
                .find(|(other, _)| other.name == dependency.name)
            else {
                continue;
            };
            let below = layer(&to);
            let aid = dependency.kind.as_deref() == Some("dev") && AIDS.contains(&dependency.name.as_str());
            let test = own == TEST || aid;
            let foreign_core = to
                .strip_suffix("/core")
                .is_some_and(|daemon| own != TEST && folder != daemon);
            if below >= own && !test || foreign_core {
                let what = format!("{} depends on {} ({to})", package.name, dependency.name);
                findings.push(Finding::new(
                    format!("{folder}/Cargo.toml"),
                    what,
                    "dependencies go tests -> daemons -> runtime -> platform -> api; a daemon calls another by message",
                ));
            }
        }
    }
    findings
}

/// Cores are `no_std` and use nothing that could tell the time or reach the world.
#[must_use]
pub fn purity(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for (package, folder) in repository
        .members()
        .filter(|(_, folder)| CORES.contains(&folder.as_str()))
    {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.is_none())
        {
            if !PURE.contains(&dependency.name.as_str()) {
                let remedy = format!("one of {}, or leave it to the daemon", PURE.join(", "));
                findings.push(Finding::new(
                    format!("{folder}/Cargo.toml"),
                    format!("a core depends on {}", dependency.name),
                    remedy,
                ));
            }
        }
        let root = format!("{folder}/src/lib.rs");
        if repository
            .file(&root)
            .is_none_or(|file| !file.text.contains("#![no_std]"))
        {
            findings.push(Finding::new(
                root,
                "a core without #![no_std]",
                "#![no_std], so that clocks and threads are compile errors",
            ));
        }
        let sources = repository
            .files
            .iter()
            .filter(|file| file.path.starts_with(&format!("{folder}/src/")));
        for file in sources {
            let mut before = "";
            for (number, line) in file.text.lines().enumerate() {
                if line.trim_start().starts_with("extern crate std") && !before.contains("cfg(test)") {
                    let place = format!("{}:{}", file.path, number + 1);
                    findings.push(Finding::new(
                        place,
                        "a core takes std in",
                        "core and alloc; std only under #[cfg(test)]",
                    ));
                }
                before = line;
            }
        }
    }
    findings
}

/// Every manifest has the workspace's lints, or a table of its own with a comment above that says why.
#[must_use]
pub fn lints(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for (package, folder) in repository.members() {
        let path = format!("{folder}/Cargo.toml");
        let Some(file) = repository.file(&path) else {
            findings.push(Finding::new(
                path,
                format!("{} has no manifest here", package.name),
                "a package in its folder",
            ));
            continue;
        };
        let shared = file.text.contains("[lints]\nworkspace = true");
        let lines: Vec<&str> = file.text.lines().collect();
        let own = lines.iter().position(|line| *line == "[lints.rust]");
        let reason = own.is_some_and(|at| at > 0 && lines[at - 1].starts_with("# "));
        let strict = file.text.contains("undocumented_unsafe_blocks = \"deny\"");
        if !(shared || reason && strict) {
            let remedy = "`[lints]` with `workspace = true`, or a table of its own that denies \
                          undocumented_unsafe_blocks, its reason above";
            findings.push(Finding::new(path, "no lints", remedy));
        }
    }
    findings
}

/// Every crate that is not ours has a comment above it that names it and says why.
#[must_use]
pub fn reasons(repository: &Repository) -> Vec<Finding> {
    let Some(manifest) = repository.file("Cargo.toml") else {
        return vec![];
    };
    let (mut findings, mut comment, mut fresh) = (vec![], String::new(), false);
    let section = manifest
        .text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| *line != "[workspace.dependencies]")
        .skip(1);
    for (number, line) in section.take_while(|(_, line)| !line.starts_with('[')) {
        if let Some(text) = line.strip_prefix('#') {
            if !std::mem::replace(&mut fresh, true) {
                comment.clear();
            }
            comment.push_str(text);
            continue;
        }
        fresh = false;
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        let named = comment
            .split(':')
            .next()
            .is_some_and(|names| names.split([',', ' ']).any(|word| word == name));
        if !value.contains("path = ") && !named {
            let place = format!("Cargo.toml:{}", number + 1);
            findings.push(Finding::new(
                place,
                format!("{name} has no reason"),
                format!("a line above: `# {name}: what it is for`"),
            ));
        }
    }
    findings
}

/// Every `.rs` file is reached by `mod` from some target.
#[must_use]
pub fn dead_files(repository: &Repository) -> Vec<Finding> {
    let mut alive = BTreeSet::new();
    for (package, _) in repository.members() {
        for target in &package.targets {
            reach(repository, &target.src_path, true, &mut alive);
        }
    }
    let sources = repository.files.iter().filter(|file| file.path.ends_with(".rs"));
    let dead = sources.filter(|file| !alive.contains(&repository.root.join(&file.path)));
    dead.map(|file| Finding::new(&file.path, "no `mod` leads here", "declare it, or delete it"))
        .collect()
}

fn reach(repository: &Repository, path: &Path, root: bool, alive: &mut BTreeSet<PathBuf>) {
    let relative = path
        .strip_prefix(&repository.root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned();
    let Some(file) = repository.file(&relative) else {
        return;
    };
    if !alive.insert(path.to_owned()) {
        return;
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default();
    let inside = if root || stem == "mod" {
        folder.to_owned()
    } else {
        folder.join(stem)
    };
    let mut given = None;
    for line in file.text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.split('"').next())
        {
            given = Some(folder.join(name));
            continue;
        }
        if let Some(name) = module(line) {
            match given.take() {
                Some(path) => reach(repository, &path, false, alive),
                None => {
                    reach(repository, &inside.join(format!("{name}.rs")), false, alive);
                    reach(repository, &inside.join(name).join("mod.rs"), false, alive);
                }
            }
        } else if !line.starts_with("#[") && !line.starts_with("//") && !line.is_empty() {
            given = None;
        }
    }
}

/// The name in `mod name;`, with whatever visibility before it.
fn module(line: &str) -> Option<&str> {
    let rest = line.strip_suffix(';')?;
    let (before, name) = rest
        .rsplit_once("mod ")
        .or_else(|| rest.strip_prefix("mod ").map(|name| ("", name)))?;
    let visible =
        before.is_empty() || before.starts_with("pub") || before.ends_with(' ') && before.starts_with("#[");
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (visible && plain).then_some(name)
}
