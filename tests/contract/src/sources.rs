//! What services call, as their sources say: every constant of another service's contract that a service's code names.
//!
//! A constant is the name of its method in capitals, so `target::FLIP` in the sources of alua is a call of
//! `target.flip`. A call whose method is put together from text would not be seen; the router refuses it at run time if
//! it goes downhill.

use pollux_api::contract::SERVICES;
use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// Services that register at the router, and where their sources are.
pub const FOLDERS: &[(&str, &str)] = &[
    ("heartbeat", "heartbeat/src"),
    ("address", "services/address/src"),
    ("alua", "alua/src"),
    ("target", "services/block-target/src"),
    ("pool", "pool-manager/src"),
    ("config", "config-keeper/src"),
    ("template", "services/template/src"),
];

/// Methods of other services that the sources in `folder` of service `own` name.
///
/// # Errors
/// A file cannot be read.
pub fn calls(own: &str, folder: &Path) -> io::Result<BTreeSet<&'static str>> {
    let mut text = String::new();
    gather(folder, &mut text)?;
    let mut found = BTreeSet::new();
    for service in SERVICES.iter().filter(|service| service.name != own) {
        let words = named(&text, service.name);
        let methods = service.methods.iter().map(|method| method.name);
        found.extend(methods.filter(|name| words.contains(&constant(name))));
    }
    Ok(found)
}

/// The constant that names a method.
pub fn constant(method: &str) -> String {
    method
        .split_once('.')
        .map_or(method, |(_, name)| name)
        .to_uppercase()
}

/// Words that follow `module::`, alone or in braces.
fn named(text: &str, module: &str) -> BTreeSet<String> {
    let path = format!("{module}::");
    let mut words = BTreeSet::new();
    for (at, _) in text.match_indices(&path) {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + path.len()..];
        let part = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(list),
            None => rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or(rest),
        };
        words.extend(
            part.split(|c: char| !c.is_alphanumeric() && c != '_')
                .map(str::to_owned),
        );
    }
    words
}

/// The code of a folder, without its tests: those may play any part.
fn gather(folder: &Path, text: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            gather(&path, text)?;
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let code = fs::read_to_string(&path)?;
            text.push_str(code.split("#[cfg(test)]").next().unwrap_or(&code));
        }
    }
    Ok(())
}
