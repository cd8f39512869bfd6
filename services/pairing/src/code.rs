//! The code that a person carries from one controller to the other, and how often it may be tried.

use std::fmt;
use std::time::Duration;

/// Digits of a code.
const DIGITS: usize = 8;
/// Wrong tries that end a pairing: with 10^8 codes, one chance in 33 million.
pub const TRIES: u8 = 3;
/// How long a code is good.
pub const GOOD_FOR: Duration = Duration::from_secs(300);

/// Eight digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Code([u8; DIGITS]);

/// What was typed is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code has {DIGITS} digits, as in 1234-5678")]
pub struct NoCode;

impl Code {
    /// A new one; `None` if the system has no random bytes.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut digits = [0; DIGITS];
        for digit in &mut digits {
            // 250 of 256 values are 25 times each digit; the rest would favour the low ones.
            *digit = loop {
                let mut byte = [0];
                getrandom::fill(&mut byte).ok()?;
                if byte[0] < 250 {
                    break b'0' + byte[0] % 10;
                }
            };
        }
        Some(Self(digits))
    }

    /// What a person typed, with or without hyphens and spaces.
    ///
    /// # Errors
    /// [`NoCode`].
    pub fn read(typed: &str) -> Result<Self, NoCode> {
        let digits: Vec<u8> = typed
            .trim()
            .bytes()
            .filter(|byte| !matches!(byte, b'-' | b' '))
            .collect();
        match <[u8; DIGITS]>::try_from(digits) {
            Ok(digits) if digits.iter().all(u8::is_ascii_digit) => Ok(Self(digits)),
            _ => Err(NoCode),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For the eyes of the person who carries it: `1234-5678`.
    #[must_use]
    pub fn show(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let (one, other) = text.split_at(DIGITS / 2);
        format!("{one}-{other}")
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(secret)")
    }
}

/// Why a code is good no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Tried too often.
    #[error("the code was wrong {TRIES} times; begin again, with a new code")]
    Guessed,
    /// Too old.
    #[error("the code has expired after {} minutes; begin again, with a new code", GOOD_FOR.as_secs() / 60)]
    Expired,
}

/// What the side that shows the code remembers of the tries. A function of what it is told; it reads no clock.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    wrong: u8,
}

impl Watch {
    /// Nobody has tried.
    #[must_use]
    pub const fn new() -> Self {
        Self { wrong: 0 }
    }

    /// Whether one more try is heard, so long after the code was shown.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn admits(&self, age: Duration) -> Result<(), Ended> {
        if self.wrong >= TRIES {
            Err(Ended::Guessed)
        } else if age >= GOOD_FOR {
            Err(Ended::Expired)
        } else {
            Ok(())
        }
    }

    /// A try was wrong; how many are left.
    pub const fn wrong(&mut self) -> u8 {
        self.wrong = self.wrong.saturating_add(1);
        TRIES.saturating_sub(self.wrong)
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code = Code::random().unwrap();
        let shown = code.show();
        assert_eq!(shown.len(), DIGITS + 1);
        for typed in [
            shown.clone(),
            shown.replace('-', ""),
            format!(" {}\n", shown.replace('-', " ")),
        ] {
            assert_eq!(Code::read(&typed), Ok(code.clone()));
        }
        for typed in ["", "1234-567", "1234-56789", "1234-567x", "١٢٣٤٥٦٧٨"] {
            assert_eq!(Code::read(typed), Err(NoCode), "{typed}");
        }
        assert!(!format!("{code:?}").contains(&shown[..4]));
    }

    #[test]
    fn three_wrong_tries_or_five_minutes_end_it() {
        let mut watch = Watch::new();
        let young = Duration::from_secs(1);
        assert_eq!([watch.wrong(), watch.wrong()], [2, 1]);
        assert_eq!(watch.admits(young), Ok(()));
        assert_eq!(watch.admits(GOOD_FOR), Err(Ended::Expired));
        assert_eq!(watch.wrong(), 0);
        assert_eq!(watch.admits(young), Err(Ended::Guessed));
    }
}
