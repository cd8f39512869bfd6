//! Where Debian's packages are fetched: from wherever this machine fetches its own.
//!
//! No address stands in the repository. A machine whose own packages come from a mirror, a proxy or a snapshot lets the
//! lab's come from there too.

use crate::error::{Error, Result};
use std::fs;
use std::path::Path;

/// Folder and file of apt's sources.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];
/// The key of Debian's archive, which signs every release.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The first source of this machine that is an archive of Debian itself.
///
/// # Errors
/// There is none, or the archive's key is not here.
pub fn debian() -> Result<String> {
    if !Path::new(KEYRING).is_file() {
        return Err(Error::Missing(format!(
            "{KEYRING} is not here: apt install debian-archive-keyring"
        )));
    }
    let mut texts = vec![];
    for place in SOURCES.map(Path::new) {
        if place.is_dir() {
            let entries = fs::read_dir(place).map_err(Error::file("read", place))?;
            let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            texts.extend(files.iter().filter_map(|file| fs::read_to_string(file).ok()));
        } else {
            texts.extend(fs::read_to_string(place).ok());
        }
    }
    texts.iter().find_map(|text| archive(text)).ok_or_else(|| {
        Error::Missing(format!(
            "no archive of Debian in {}; the lab fetches from where this machine does",
            SOURCES.join(" and ")
        ))
    })
}

/// The first archive of Debian that a file of sources names, in either of apt's formats (sources.list(5)).
#[must_use]
pub fn archive(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let words = match line.strip_prefix("URIs:") {
            Some(rest) => rest,
            None => line.strip_prefix("deb ")?,
        };
        words
            .split_whitespace()
            .map(|word| word.trim_end_matches('/'))
            // The archive of security updates has another layout of suites.
            .find(|word| word.contains("://") && word.ends_with("/debian"))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_other_archives_passed_over() {
        let deb822 = "Types: deb\nURIs: https://example.org/node\nSuites: x\n\nTypes: deb\nURIs: http://example.net/debian/\n";
        assert_eq!(archive(deb822).as_deref(), Some("http://example.net/debian"));
        let list =
            "# deb http://example.org/debian x main\ndeb [arch=amd64] http://example.org/debian x main\n";
        assert_eq!(archive(list).as_deref(), Some("http://example.org/debian"));
        assert_eq!(archive("deb http://example.org/debian-security x main"), None);
        assert_eq!(archive(""), None);
    }
}
