//! The corpus, the seeds, and a short blind search, on every target.
//!
//! One test, because the memory of a target is counted for the whole process.

use pollux_fuzz::{TARGETS, blind};
use std::time::Duration;

/// Inputs per target, and the time after which a slow machine stops: this is the part that always runs.
const RUNS: u64 = 3_000;
const TIME: Duration = Duration::from_millis(1_500);
/// All corpora together, bytes.
const CORPUS_MAX: usize = 200 * 1024;

#[test]
fn corpus_replays() {
    let mut bytes = 0;
    for target in TARGETS {
        let corpus = target.corpus().expect("a corpus that can be read");
        for (path, input) in &corpus {
            assert!(blind::survives(target, input), "broken by {}", path.display());
            bytes += input.len();
        }
        let mut known = (target.seeds)();
        assert!(!known.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in known.iter().enumerate() {
            assert!(
                seed.len() <= target.longest,
                "seed {number} of {} is too long",
                target.name
            );
        }
        known.extend(corpus.into_iter().map(|(_, input)| input));
        match blind::search(target, &known, 1, RUNS, TIME) {
            Ok(searched) => println!(
                "{}: {} inputs, {} of them known",
                target.name, searched.runs, searched.known
            ),
            Err(broken) => panic!("{} is broken by {:02x?}", target.name, broken.input),
        }
    }
    assert!(
        bytes <= CORPUS_MAX,
        "the corpora take {bytes} bytes; at most {CORPUS_MAX}"
    );
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).expect("the corpora");
    for folder in folders {
        let name = folder.expect("a folder").file_name();
        let known = name
            .to_str()
            .is_some_and(|name| pollux_fuzz::target(name).is_some());
        assert!(known, "corpus/{} is of no target", name.display());
    }
}
