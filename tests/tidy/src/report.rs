//! The output of tests, read line by line: what failed and why, what was skipped and why, and the numbers.
//!
//! Both `cargo test -- --show-output` and `cargo nextest run --success-output final` are understood. Tests that passed
//! are counted and not shown: what a person (or the end of a log) needs is the one that did not.

/// What a run of tests said of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were ignored.
    pub ignored: u64,
    /// Tests that cannot run here, with the reason that they gave.
    pub skipped: Vec<String>,
    /// The test whose output is being read.
    test: String,
    /// It passed: its output is of no interest.
    hidden: bool,
}

impl Report {
    /// Takes the next line; true if it is to be shown.
    pub fn read(&mut self, line: &str) -> bool {
        let text = line.trim_start();
        // Nextest shows the results of single tests as well, further to the right.
        if line.starts_with("test result:") || text.starts_with("Summary [") {
            self.hidden = false;
            self.count(text);
            return true;
        }
        if let Some((word, name)) = nextest(text) {
            self.hidden = word == "PASS";
            name.clone_into(&mut self.test);
            return !self.hidden;
        }
        match line {
            "successes:" => self.hidden = true,
            "failures:" => self.hidden = false,
            _ => {}
        }
        if let Some(name) = text.strip_prefix("---- ").and_then(|rest| rest.split(' ').next()) {
            name.clone_into(&mut self.test);
        } else if let Some((_, reason)) = line.split_once("SKIPPED") {
            let reason = reason.trim_start_matches([':', ' ']);
            self.skipped.push(format!("{}: {reason}", self.test));
            return true;
        }
        !(self.hidden || line.starts_with("test ") && line.ends_with(" ... ok"))
    }

    fn count(&mut self, summary: &str) {
        let number = |word: &str, part: &str| {
            part.trim()
                .strip_suffix(word)
                .and_then(|text| text.trim().rsplit(' ').next().unwrap_or("").parse::<u64>().ok())
                .unwrap_or(0)
        };
        for part in summary.split([';', ',', ':', ']']) {
            self.passed += number(" passed", part);
            self.failed += number(" failed", part);
            self.ignored += number(" ignored", part) + number(" skipped", part);
        }
    }
}

/// The word and the name in a line of nextest like `PASS [   0.009s] ( 28/378) package module::test`.
fn nextest(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_once(" [")?;
    let (time, name) = rest.split_once(']')?;
    let upper = !word.is_empty()
        && word
            .chars()
            .all(|letter| letter.is_ascii_uppercase() || letter == ' ');
    let name = name.trim_start();
    let name = match name.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        Some((_, name)) => name,
        None => name,
    };
    (upper && time.ends_with('s')).then_some((word, name))
}
