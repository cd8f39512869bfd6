//! What stands in the files.

use crate::{File, Finding, Repository};

/// Words that say that something was left for later. Put together here, so that this file has none of them.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("HA", "CK"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Beginnings of paths that exist on one machine only.
const MACHINES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Use", "rs/"),
    concat!("C:", "\\\\"),
];

/// Longest line (characters), but for tables and links of Markdown.
const LINE: usize = 160;
/// Longest file (lines).
const FILE: usize = 2000;
/// Longest function (lines).
const FUNCTION: usize = 200;

fn lines(file: &File) -> impl Iterator<Item = (String, &str)> {
    file.text
        .lines()
        .enumerate()
        .map(|(number, line)| (format!("{}:{}", file.path, number + 1), line))
}

/// The word stands in the line as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !letter(line[..at].chars().next_back()) && !letter(line[at + word.len()..].chars().next())
    })
}

/// Nothing was left for later: what is to be done stands in the tracker, what is wrong is mended.
#[must_use]
pub fn markers(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for file in repository
        .files
        .iter()
        .filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".toml"))
    {
        for (place, line) in lines(file) {
            for marker in MARKERS.iter().filter(|marker| has_word(line, marker)) {
                findings.push(Finding::new(
                    place.clone(),
                    format!("`{marker}`"),
                    "do it now, or write it where work is planned",
                ));
            }
        }
    }
    findings
}

/// No path of the machine on which somebody wrote this.
#[must_use]
pub fn machines(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for file in &repository.files {
        for (place, line) in lines(file) {
            // Not the tail of a longer path, as in /usr/share.
            let own = |path: &&&str| {
                line.match_indices(**path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_')
                })
            };
            for path in MACHINES.iter().filter(own) {
                findings.push(Finding::new(
                    place.clone(),
                    format!("a path under `{path}`"),
                    "a path that exists on every machine: relative, or from the environment",
                ));
            }
        }
    }
    findings
}

/// Files, functions and lines that can be read.
#[must_use]
pub fn lengths(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for file in repository.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let count = file.text.lines().count();
        if count > FILE {
            findings.push(Finding::new(
                &file.path,
                format!("{count} lines"),
                format!("at most {FILE}: split it by what its parts are about"),
            ));
        }
        let mut open: Option<(String, String, usize)> = None;
        for (number, (place, line)) in lines(file).enumerate() {
            if line.chars().count() > LINE {
                findings.push(Finding::new(
                    place.clone(),
                    format!("{} characters", line.chars().count()),
                    format!("at most {LINE}"),
                ));
            }
            let indent: String = line.chars().take_while(|c| *c == ' ').collect();
            // rustfmt closes a function with a brace in the column in which it began.
            match &open {
                None if is_function(line.trim_start()) && !line.ends_with(';') && !line.ends_with('}') => {
                    open = Some((indent, place, number))
                }
                Some((column, place, start))
                    if line == format!("{column}}}") || line == format!("{column};") =>
                {
                    let long = number - start + 1;
                    if long > FUNCTION {
                        findings.push(Finding::new(
                            place.clone(),
                            format!("a function of {long} lines"),
                            format!("at most {FUNCTION}"),
                        ));
                    }
                    open = None;
                }
                _ => {}
            }
        }
    }
    findings
}

fn is_function(line: &str) -> bool {
    let line = line
        .strip_prefix("pub(crate) ")
        .or_else(|| line.strip_prefix("pub(super) "))
        .or_else(|| line.strip_prefix("pub "))
        .unwrap_or(line);
    let line = line.strip_prefix("const ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("unsafe ").unwrap_or(line).starts_with("fn ")
}

/// Every relative link of Markdown leads to something. A link whose text is a test's name (in backticks, with
/// underscores) and that leads to a `.rs` file is a promise: the test stands in that file.
#[must_use]
pub fn links(repository: &Repository) -> Vec<Finding> {
    let mut findings = vec![];
    for file in repository.files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut fenced = false;
        for (place, line) in lines(file) {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for (text, link) in links_of(line) {
                if link.contains("://") || link.starts_with("mailto:") || link.starts_with('#') {
                    continue;
                }
                let path = link.split('#').next().unwrap_or(link);
                let there = repository.root.join(folder).join(path);
                if !there.exists() {
                    findings.push(Finding::new(
                        place.clone(),
                        format!("`{link}` leads nowhere"),
                        "a path from this file",
                    ));
                    continue;
                }
                let name = text
                    .strip_prefix('`')
                    .and_then(|text| text.strip_suffix('`'))
                    .unwrap_or("");
                let test = path.ends_with(".rs")
                    && name.contains('_')
                    && name.chars().all(|c| c.is_alphanumeric() || c == '_');
                let body = std::fs::read_to_string(&there).unwrap_or_default();
                if test && !body.contains(&format!("fn {name}(")) && !body.contains(&format!("\"{name}\"")) {
                    findings.push(Finding::new(
                        place.clone(),
                        format!("there is no test `{name}` in {path}"),
                        "the name of a test in the file to which the link leads",
                    ));
                }
            }
        }
    }
    findings
}

/// Pairs of text and target: `[text](target)`.
fn links_of(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.match_indices("](").filter_map(move |(at, _)| {
        let text = &line[line[..at].rfind('[')? + 1..at];
        let rest = &line[at + 2..];
        Some((text, &rest[..rest.find(')')?]))
    })
}
