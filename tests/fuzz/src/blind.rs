//! A search without eyes: mutates what is there, at random but the same for one seed, and sees only panics. It needs
//! nothing but this program, so it runs everywhere; what it finds is what a short look finds.

use crate::Target;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An input that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The input.
    pub input: Vec<u8>,
}

/// What a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// Inputs that were tried.
    pub runs: u64,
    /// Of them, the corpus and the seeds.
    pub known: u64,
}

static PANICS: AtomicU64 = AtomicU64::new(0);
static HOOK: Once = Once::new();

/// Runs the target; false: something panicked, here or in a task that a runtime shields.
#[must_use]
pub fn survives(target: &Target, input: &[u8]) -> bool {
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            report(panic);
        }));
    });
    let before = PANICS.load(Ordering::Relaxed);
    let run = panic::catch_unwind(AssertUnwindSafe(|| target.run(input)));
    run.is_ok() && PANICS.load(Ordering::Relaxed) == before
}

/// Replays `known`, then mutates it until `runs` inputs were tried or `time` is over.
///
/// # Errors
/// [`Broken`]: the first input that broke a promise; what was broken was printed.
pub fn search(
    target: &Target,
    known: &[Vec<u8>],
    seed: u64,
    runs: u64,
    time: Duration,
) -> Result<Searched, Broken> {
    let end = Instant::now() + time;
    let mut searched = Searched::default();
    let attempt = |input: &[u8]| match survives(target, input) {
        true => Ok(()),
        false => Err(Broken {
            input: input.to_vec(),
        }),
    };
    for input in known {
        attempt(input)?;
        searched.known += 1;
        searched.runs += 1;
    }
    let mut dice = Dice(seed);
    while searched.runs < runs && Instant::now() < end {
        let mut input = known.get(dice.below(known.len())).cloned().unwrap_or_default();
        for _ in 0..=dice.below(4) {
            mutate(&mut input, known, &mut dice, target.longest);
        }
        attempt(&input)?;
        searched.runs += 1;
    }
    Ok(searched)
}

/// xorshift64*: good enough to roll bytes, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`; zero if that is zero.
    fn below(&mut self, limit: usize) -> usize {
        (self.roll() >> 16) as usize % limit.max(1)
    }
}

fn mutate(input: &mut Vec<u8>, known: &[Vec<u8>], dice: &mut Dice, longest: usize) {
    let at = dice.below(input.len() + 1);
    let length = dice.below(17).min(input.len() - at);
    match dice.below(7) {
        0 if at < input.len() => input[at] ^= 1 << dice.below(8),
        1 if at < input.len() => {
            input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', dice.roll() as u8][dice.below(8)]
        }
        2 => drop(input.drain(at..at + length)),
        3 => {
            let copy = input[at..at + length].to_vec();
            let to = dice.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        4 => input.insert(at, dice.roll() as u8),
        5 => input.truncate(at),
        _ => {
            let other = known.get(dice.below(known.len())).map_or(&[][..], Vec::as_slice);
            let from = dice.below(other.len() + 1);
            let length = dice.below(65).min(other.len() - from);
            input.splice(at..at, other[from..from + length].iter().copied());
        }
    }
    input.truncate(longest);
}
