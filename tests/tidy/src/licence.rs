//! Under which terms others' code is used.
//!
//! `deny.toml` holds the list, for `cargo deny` and for this rule, which needs neither network nor another program.

use crate::{Finding, Repository};
use serde::Deserialize;

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

/// Every package of the graph may be used under a licence of the list.
#[must_use]
pub fn licences(repository: &Repository) -> Vec<Finding> {
    let list = repository
        .file("deny.toml")
        .and_then(|file| toml::from_str::<Deny>(&file.text).ok());
    let Some(Deny {
        licenses: Licenses { allow },
    }) = list
    else {
        return vec![Finding::new(
            "deny.toml",
            "no list of licences",
            "`[licenses]` with `allow = [...]`",
        )];
    };
    let mut findings = vec![];
    for package in &repository.packages {
        let place = format!("{} {}", package.name, package.version);
        match &package.license {
            None => findings.push(Finding::new(
                place,
                "says no licence",
                "a crate that says under which terms it may be used",
            )),
            Some(expression) if !permits(expression, &allow) => {
                let remedy = format!("one of {} (deny.toml)", allow.join(", "));
                findings.push(Finding::new(place, format!("is under {expression}"), remedy));
            }
            Some(_) => {}
        }
    }
    findings
}

/// Whether an SPDX expression (with `/` as an old spelling of OR) is met by the list.
fn permits(expression: &str, allow: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words, allow) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allow: &[String]) -> bool {
    let mut good = both(words, allow);
    while words.next_if_eq(&"OR").is_some() {
        good |= both(words, allow);
    }
    good
}

fn both(words: &mut Words<'_>, allow: &[String]) -> bool {
    let mut good = one(words, allow);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(words, allow);
    }
    good
}

fn one(words: &mut Words<'_>, allow: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let good = either(words, allow);
        return words.next_if_eq(&")").is_some() && good;
    }
    let Some(name) = words.next() else { return false };
    let mut name = name.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    allow.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allow: Vec<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            .map(Into::into)
            .into();
        for (expression, good) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT AND Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("(GPL-2.0 OR Apache-2.0) AND MIT", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH Linux-syscall-note", false),
            ("", false),
            ("MIT OR", true),
            ("(MIT", false),
            ("MIT Apache-2.0", false),
        ] {
            assert_eq!(permits(expression, &allow), good, "{expression}");
        }
    }
}
