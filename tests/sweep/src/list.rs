//! The list of mutants, as cargo-mutants makes it: what is mutated is not chosen by whoever is judged.
//!
//! A line of the list names a stretch of the source by lines and columns; here it becomes a range of bytes, with the
//! text around it, so that a mutant keeps its name when lines move.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

/// The package whose mutants are judged.
pub(crate) const PACKAGE: &str = "pollux-heartbeat-core";
/// Its sources, from the root of the repository.
pub(crate) const SOURCES: &str = "heartbeat/core/src";

/// What kind of change a mutant is: the words of cargo-mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub(crate) enum Genre {
    /// The body of a function is a fixed value.
    FnValue,
    /// `==` is `!=`, and so on.
    BinaryOperator,
    /// `!` or `-` is missing.
    UnaryOperator,
    /// An arm of a match is missing.
    MatchArm,
    /// The guard of an arm is always true, or never.
    MatchArmGuard,
    /// A field of a structure comes from its base.
    StructField,
}

/// One change of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// From the root of the repository.
    pub(crate) file: String,
    /// Which bytes of the file are replaced.
    pub(crate) span: Range<usize>,
    /// What stands there instead.
    pub(crate) replacement: String,
    /// The kind.
    pub(crate) genre: Genre,
    /// The function that it is in, with its type; empty: none.
    pub(crate) function: String,
    /// What is changed, in the words of cargo-mutants, without the place and the function.
    pub(crate) change: String,
    /// Line, from 1: for people.
    pub(crate) line: usize,
    /// The lines that are changed, their white space made one. Empty for a whole body.
    pub(crate) text: String,
    /// Which of several that are alike in all of this, from 0.
    pub(crate) ordinal: usize,
}

impl Mutant {
    /// A name that stays when lines move.
    #[must_use]
    pub(crate) fn key(&self) -> String {
        let Self {
            file,
            function,
            change,
            text,
            ordinal,
            ..
        } = self;
        format!("{file} | {function} | {change} | {text} | {ordinal}")
    }

    /// The name of the file alone, from the folder of the sources.
    #[must_use]
    pub(crate) fn short_file(&self) -> &str {
        self.file
            .strip_prefix(SOURCES)
            .map_or(&self.file, |rest| rest.trim_start_matches('/'))
    }
}

#[derive(Deserialize)]
struct Entry {
    file: String,
    function: Option<Function>,
    genre: Genre,
    name: String,
    replacement: String,
    span: Span,
}

#[derive(Deserialize)]
struct Function {
    function_name: String,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

#[derive(Clone, Copy, Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// Asks cargo-mutants for the mutants of the package in the repository at `root`.
///
/// # Errors
/// In words: cargo-mutants is not there, or says what makes no sense.
pub(crate) fn read(root: &Path) -> Result<Vec<Mutant>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["mutants", "--list", "--json", "--package", PACKAGE])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo mutants: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "cargo mutants --list: {said}(is it there? cargo install --locked cargo-mutants)"
        ));
    }
    parse(&output.stdout, |file| {
        fs::read_to_string(root.join(file)).map_err(|error| format!("{file}: {error}"))
    })
}

fn parse(json: &[u8], source: impl Fn(&str) -> Result<String, String>) -> Result<Vec<Mutant>, String> {
    let entries: Vec<Entry> =
        serde_json::from_slice(json).map_err(|error| format!("cargo mutants --list: {error}"))?;
    let mut texts = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut mutants = Vec::with_capacity(entries.len());
    for entry in entries {
        if !texts.contains_key(&entry.file) {
            texts.insert(entry.file.clone(), source(&entry.file)?);
        }
        let text = &texts[&entry.file];
        let (start, end) = (offset(text, entry.span.start), offset(text, entry.span.end));
        let span = start
            .zip(end)
            .filter(|(start, end)| start <= end)
            .map(|(start, end)| start..end)
            .ok_or_else(|| format!("{}: there is no such place in the file", entry.name))?;
        let function = entry
            .function
            .map_or_else(String::new, |function| function.function_name);
        let mut mutant = Mutant {
            change: change(&entry.name, &function),
            line: entry.span.start.line,
            text: if entry.genre == Genre::FnValue {
                String::new()
            } else {
                lines(text, &span)
            },
            file: entry.file,
            span,
            replacement: entry.replacement,
            genre: entry.genre,
            function,
            ordinal: 0,
        };
        let count = seen.entry(mutant.key()).or_insert(0);
        mutant.ordinal = *count;
        *count += 1;
        mutants.push(mutant);
    }
    Ok(mutants)
}

/// What is changed: `file:line:column: CHANGE in FUNCTION` without all else.
fn change(name: &str, function: &str) -> String {
    let change = name.split_once(": ").map_or(name, |(_, change)| change);
    let change = change.strip_suffix(&format!(" in {function}")).unwrap_or(change);
    one_space(change)
}

/// The byte at a place; columns count characters, and both count from 1.
fn offset(text: &str, place: Place) -> Option<usize> {
    let before: usize = text
        .split_inclusive('\n')
        .take(place.line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let line = text.get(before..)?.split('\n').next()?;
    let column = place.column.checked_sub(1)?;
    let within = line
        .char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .nth(column)?;
    Some(before + within)
}

/// The whole first line of a stretch.
fn lines(text: &str, span: &Range<usize>) -> String {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.start..]
        .find('\n')
        .map_or(text.len(), |at| span.start + at);
    one_space(&text[start..end])
}

fn one_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f(a: u8) -> bool {\n    // äöü\n    a == 1\n        || a == 1\n}\n";

    fn entry(line: usize, column: usize) -> String {
        format!(
            "{{\"file\":\"x.rs\",\"function\":{{\"function_name\":\"f\",\"return_type\":\"-> bool\"}},\
             \"genre\":\"BinaryOperator\",\"name\":\"x.rs:{line}:{column}: replace == with != in f\",\
             \"replacement\":\"!=\",\"span\":{{\"start\":{{\"line\":{line},\"column\":{column}}},\
             \"end\":{{\"line\":{line},\"column\":{}}}}}}}",
            column + 2
        )
    }

    #[test]
    fn a_place_of_the_list_is_a_range_of_bytes() {
        let json = format!("[{},{}]", entry(3, 7), entry(4, 14));
        let mutants = parse(json.as_bytes(), |_| Ok(SOURCE.to_owned())).unwrap();
        assert_eq!(mutants.len(), 2);
        for mutant in &mutants {
            assert_eq!(&SOURCE[mutant.span.clone()], "==");
            assert_eq!(mutant.change, "replace == with !=");
        }
        assert_eq!(mutants[0].text, "a == 1");
        assert_eq!(mutants[1].text, "|| a == 1");
        assert_ne!(mutants[0].key(), mutants[1].key());
    }

    #[test]
    fn two_that_are_alike_are_counted() {
        let json = format!("[{0},{0}]", entry(3, 7));
        let mutants = parse(json.as_bytes(), |_| Ok(SOURCE.to_owned())).unwrap();
        assert_eq!((mutants[0].ordinal, mutants[1].ordinal), (0, 1));
    }

    #[test]
    fn a_place_that_is_not_in_the_file_is_refused() {
        let json = format!("[{}]", entry(9, 1));
        let problem = parse(json.as_bytes(), |_| Ok(SOURCE.to_owned())).unwrap_err();
        assert!(
            problem.contains("x.rs:9:1") && problem.contains("no such place"),
            "{problem}"
        );
    }
}
