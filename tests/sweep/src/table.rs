//! What the sweep found, for people: how much of each file is held by what, and why the rest is not.

use crate::End;
use crate::judge::{JUDGES, SEEDS};
use crate::list::Mutant;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// Of a hundred viable mutants, that many have to be caught.
const ENOUGH: usize = 95;

/// Why mutants that survive may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Explained {
    /// One by one.
    #[serde(default)]
    explained: Vec<Explanation>,
}

/// Why one may, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explanation {
    /// The file, from the folder of the sources.
    file: String,
    /// The function, with its type.
    function: String,
    /// What is changed.
    change: String,
    /// The line that is changed; left out: any.
    #[serde(default)]
    text: String,
    /// Why nobody can notice, or need not.
    why: String,
}

impl Explanation {
    fn fits(&self, mutant: &Mutant) -> bool {
        self.file == mutant.short_file()
            && self.function == mutant.function
            && self.change == mutant.change
            && mutant.text.contains(&self.text)
    }
}

impl Explained {
    /// Reads the explanations.
    ///
    /// # Errors
    /// In words: what is wrong with the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
        let read: Self = toml::from_str(&text).map_err(|error| told(&error))?;
        match read.explained.iter().find(|one| one.why.trim().is_empty()) {
            Some(one) => Err(told(&format!("{}: {}: no reason", one.function, one.change))),
            None => Ok(read),
        }
    }
}

/// What stands at the end.
#[derive(Debug)]
pub(crate) struct Verdict<'a> {
    ends: &'a [(&'a Mutant, End)],
    /// Survivors with their explanations.
    survivors: Vec<(&'a Mutant, bool, Option<&'a str>)>,
    /// Explanations of what does not survive.
    stale: Vec<String>,
    /// How many ends were seen on an earlier state of the core or of its judges.
    earlier: usize,
}

impl<'a> Verdict<'a> {
    /// Puts it together; `whole`: these are all mutants, so an explanation without a survivor is stale.
    #[must_use]
    pub(crate) fn new(
        ends: &'a [(&'a Mutant, End)],
        explained: &'a Explained,
        whole: bool,
        earlier: usize,
    ) -> Self {
        let mut used = BTreeSet::new();
        let mut survivors = vec![];
        for (mutant, end) in ends {
            let End::Survived { reached } = end else { continue };
            let found = explained
                .explained
                .iter()
                .enumerate()
                .find(|(_, one)| one.fits(mutant));
            used.extend(found.map(|(at, _)| at));
            survivors.push((*mutant, *reached, found.map(|(_, one)| one.why.as_str())));
        }
        let unused = explained
            .explained
            .iter()
            .enumerate()
            .filter(|(at, _)| whole && !used.contains(at));
        let stale = unused
            .map(|(_, one)| format!("{} {}: {}", one.file, one.function, one.change))
            .collect();
        Self {
            ends,
            survivors,
            stale,
            earlier,
        }
    }

    fn count(&self) -> Count {
        self.ends
            .iter()
            .fold(Count::default(), |count, (_, end)| count.and(end))
    }

    /// Enough were caught, all others are explained, and no explanation is stale.
    #[must_use]
    pub(crate) fn good(&self) -> bool {
        let count = self.count();
        count.enough()
            && count.open == 0
            && self.survivors.iter().all(|(.., why)| why.is_some())
            && self.stale.is_empty()
    }

    /// For the terminal.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (mutant, reached, _) in self.survivors.iter().filter(|(.., why)| why.is_none()) {
            let Mutant {
                line,
                function,
                change,
                text: at,
                ..
            } = mutant;
            let unseen = if *reached { "" } else { " (nobody comes by it)" };
            let file = mutant.short_file();
            let _ = writeln!(
                text,
                "not explained: {file}:{line} {function}: {change}{unseen}   {at}"
            );
        }
        for stale in &self.stale {
            let _ = writeln!(text, "explains no survivor: {stale}");
        }
        let count = self.count();
        let explained = self.survivors.iter().filter(|(.., why)| why.is_some()).count();
        let _ = write!(
            text,
            "{} mutants, {} not judged, {} viable, {} caught ({}), {} survived, {explained} of them explained",
            count.all,
            count.open,
            count.viable(),
            count.caught(),
            count.share(),
            self.survivors.len()
        );
        text
    }

    /// For the repository.
    #[must_use]
    pub(crate) fn table(&self) -> String {
        let earlier = match self.earlier {
            0 => String::new(),
            count => {
                format!(" {count} of these ends were seen on an earlier state of the core or of its tests.")
            }
        };
        let open = match self.count().open {
            0 => String::new(),
            count => format!(" {count} are still to be judged and are not counted as viable."),
        };
        let mut text = format!(
            "# Mutants\n\nGenerated by `cargo sweep -- --write`. Every mutant that cargo-mutants knows of this core, and \
             who noticed it first: the core's own tests, {SEEDS} seeds of the simulator, the smallest worlds of the \
             model, the directed plays of the simulator. A mutant that does not compile is not viable.\
             {earlier}{open}\n\n| file | mutants | viable |"
        );
        for judge in JUDGES {
            let _ = write!(text, " {} |", judge.name);
        }
        text.push_str(" survived | caught |\n|---|--:|--:|");
        text.push_str(&"--:|".repeat(JUDGES.len() + 2));
        text.push('\n');
        let mut files: BTreeMap<&str, Count> = BTreeMap::new();
        for (mutant, end) in self.ends {
            let count = files.remove(mutant.short_file()).unwrap_or_default();
            files.insert(mutant.short_file(), count.and(end));
        }
        for (file, count) in &files {
            let _ = writeln!(text, "| {file} {count}");
        }
        let _ = writeln!(text, "| all {}", self.count());
        text.push_str(
            "\n## Survivors\n\n| function | mutant | why nobody notices, or need not |\n|---|---|---|\n",
        );
        for (mutant, _, why) in &self.survivors {
            let cell = |text: &str| text.replace('|', "\\|");
            let at = if mutant.text.is_empty() {
                String::new()
            } else {
                format!(" in `{}`", cell(&mutant.text))
            };
            let _ = writeln!(
                text,
                "| {}: {} | {}{at} | {} |",
                mutant.short_file(),
                cell(&mutant.function),
                cell(&mutant.change),
                cell(why.unwrap_or("NOT EXPLAINED"))
            );
        }
        text
    }
}

/// How many ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    unviable: usize,
    by: BTreeMap<String, usize>,
    survived: usize,
    /// Not judged yet: they count as neither caught nor viable.
    open: usize,
}

impl Count {
    fn and(mut self, end: &End) -> Self {
        self.all += 1;
        match end {
            End::Unviable => self.unviable += 1,
            End::Caught { by } => *self.by.entry(by.clone()).or_insert(0) += 1,
            End::Survived { .. } => self.survived += 1,
            End::Open => self.open += 1,
        }
        self
    }

    fn viable(&self) -> usize {
        self.all - self.unviable - self.open
    }

    fn caught(&self) -> usize {
        self.viable() - self.survived
    }

    fn enough(&self) -> bool {
        self.caught() * 100 >= self.viable() * ENOUGH
    }

    fn share(&self) -> String {
        if self.viable() == 0 {
            return "-".to_owned();
        }
        // Rounded down: 94.96 is not 95.
        let tenths = self.caught() * 1000 / self.viable();
        format!("{}.{} %", tenths / 10, tenths % 10)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "| {} | {} |", self.all, self.viable())?;
        for judge in JUDGES {
            write!(f, " {} |", self.by.get(judge.name).copied().unwrap_or_default())?;
        }
        write!(f, " {} | {} |", self.survived, self.share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{Genre, SOURCES};

    fn mutant(function: &str) -> Mutant {
        Mutant {
            file: format!("{SOURCES}/x.rs"),
            span: 0..1,
            replacement: "!=".to_owned(),
            genre: Genre::BinaryOperator,
            function: function.to_owned(),
            change: "replace == with !=".to_owned(),
            line: 1,
            text: "if a == b || c {".to_owned(),
            ordinal: 0,
        }
    }

    fn explained(function: &str, text: &str) -> Explained {
        Explained {
            explained: vec![Explanation {
                file: "x.rs".to_owned(),
                function: function.to_owned(),
                change: "replace == with !=".to_owned(),
                text: text.to_owned(),
                why: "because".to_owned(),
            }],
        }
    }

    fn caught() -> End {
        End::Caught {
            by: JUDGES[0].name.to_owned(),
        }
    }

    #[test]
    fn a_survivor_has_to_be_explained_and_an_explanation_needs_a_survivor() {
        let (one, other) = (mutant("f"), mutant("g"));
        let mut ends = vec![(&one, End::Survived { reached: true })];
        ends.extend((0..19).map(|_| (&other, caught())));
        let none = Explained::default();
        assert!(!Verdict::new(&ends, &none, true, 0).good());
        let fits = explained("f", "a == b");
        let verdict = Verdict::new(&ends, &fits, true, 0);
        assert!(verdict.good(), "{}", verdict.summary());
        assert!(
            verdict
                .table()
                .contains("| x.rs: f | replace == with != in `if a == b \\|\\| c {` | because |")
        );
        for wrong in [explained("g", ""), explained("f", "other")] {
            let verdict = Verdict::new(&ends, &wrong, true, 0);
            assert!(!verdict.good());
            let summary = verdict.summary();
            assert!(
                summary.contains("not explained: x.rs:1 f") && summary.contains("explains no survivor"),
                "{summary}"
            );
            assert!(
                !Verdict::new(&ends, &wrong, false, 0)
                    .summary()
                    .contains("explains no survivor")
            );
        }
    }

    #[test]
    fn fewer_than_enough_are_not_enough_and_what_does_not_compile_counts_for_nothing() {
        let one = mutant("f");
        let mut ends = vec![(&one, End::Survived { reached: false })];
        ends.extend((0..18).map(|_| (&one, caught())));
        ends.extend((0..99).map(|_| (&one, End::Unviable)));
        let fits = explained("f", "");
        let verdict = Verdict::new(&ends, &fits, true, 0);
        assert!(!verdict.good());
        assert!(
            verdict
                .summary()
                .contains("118 mutants, 0 not judged, 19 viable, 18 caught (94.7 %)"),
            "{}",
            verdict.summary()
        );
        ends.push((&one, caught()));
        assert!(Verdict::new(&ends, &fits, true, 0).good());
    }
}
