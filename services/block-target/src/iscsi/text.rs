//! Text: `key=value`, each ended by a zero byte (RFC 7143, 6.1).

use super::limits::KEYS_MAX;

/// Longest key.
const KEY_MAX: usize = 63;

/// Why a text segment is no list of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// A piece without a sound key.
    #[error("`{0}` is no key=value in UTF-8 with a key of 1 to {KEY_MAX} visible characters")]
    Piece(String),
    /// Too many.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// Splits a text segment. Empty pieces (padding) are left out.
///
/// # Errors
/// The first piece that is no `key=value`; more than [`KEYS_MAX`] pieces.
pub fn split(data: &[u8]) -> Result<Vec<(String, String)>, BadText> {
    let pieces = || data.split(|byte| *byte == 0).filter(|piece| !piece.is_empty());
    // Counted before anything is copied.
    if pieces().nth(KEYS_MAX).is_some() {
        return Err(BadText::TooMany);
    }
    let parse = |piece: &[u8]| {
        // Only the key is shown: a value may be a response to a challenge.
        let bad = || {
            let shown = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
            let shown = String::from_utf8_lossy(&shown[..shown.len().min(80)]);
            BadText::Piece(shown.escape_debug().to_string())
        };
        let (key, value) = std::str::from_utf8(piece)
            .ok()
            .and_then(|text| text.split_once('='))
            .ok_or_else(bad)?;
        let sound = (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        match sound {
            true => Ok((key.to_owned(), value.to_owned())),
            false => Err(bad()),
        }
    };
    pieces().map(parse).collect()
}

/// Appends a key.
pub fn push(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A number in decimal or, after `0x`, hexadecimal.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // The library also takes a sign, which no number on this wire has.
    match digits.starts_with('+') {
        true => None,
        false => u32::from_str_radix(digits, base).ok(),
    }
}

/// Bytes in hexadecimal digits (`0x`) or base64 (`0b`); at most `longest` of them.
#[must_use]
pub fn binary(text: &str, longest: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" if digits.len().div_ceil(2) <= longest => hexadecimal_digits(digits.as_bytes()),
        "0b" | "0B" if digits.len() <= longest.div_ceil(3) * 4 => base64(digits.as_bytes()),
        _ => None,
    };
    bytes.filter(|bytes| bytes.len() <= longest)
}

fn hexadecimal_digits(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    // An odd number of digits: the first byte has one.
    let (first, rest) = digits.split_at(digits.len() % 2);
    let head = first.iter().map(|digit| value(*digit));
    let tail = rest
        .chunks_exact(2)
        .map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?));
    head.chain(tail).collect()
}

/// RFC 4648, section 4, with its padding.
fn base64(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => Some(u32::from(digit - b'A')),
        b'a'..=b'z' => Some(u32::from(digit - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(digit - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let sound = &digits[..digits.len() - padding];
    for group in sound.chunks(4) {
        let mut bits = 0;
        for at in 0..4 {
            bits = bits << 6 | group.get(at).map_or(Some(0), |digit| value(*digit))?;
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len().max(1)]);
    }
    Some(out)
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("0x".to_owned()).chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_split_or_are_refused(data: Vec<u8>) {
            let _ = split(&data);
        }

        #[test]
        fn what_is_pushed_is_split(keys in proptest::collection::vec(("[A-Z][a-zA-Z]{0,62}", "[ -~]{0,200}"), 0..8)) {
            let mut out = Vec::new();
            for (key, value) in &keys {
                push(&mut out, key, value);
            }
            prop_assert_eq!(split(&out).expect("sound"), keys);
        }

        #[test]
        fn bytes_are_read_back(bytes: Vec<u8>) {
            prop_assert_eq!(binary(&hexadecimal(&bytes), bytes.len()), Some(bytes.clone()));
            if !bytes.is_empty() {
                prop_assert_eq!(binary(&hexadecimal(&bytes), bytes.len() - 1), None);
            }
        }

        #[test]
        fn any_text_is_bytes_or_none(text in "0[xXbB][0-9a-zA-Z+/=]{0,40}") {
            let _ = binary(&text, 24);
        }
    }

    #[test]
    fn numbers_of_both_bases() {
        assert_eq!((number("65536"), number("0x10000")), (Some(65536), Some(65536)));
        assert_eq!((number("+1"), number("0x+1"), number("-1")), (None, None, None));
        assert_eq!(
            (number(""), number("0x"), number("99999999999")),
            (None, None, None)
        );
    }

    /// RFC 4648, section 10.
    #[test]
    fn base64_has_its_known_answers() {
        for (text, bytes) in [
            ("0b", ""),
            ("0bZg==", "f"),
            ("0bZm8=", "fo"),
            ("0bZm9v", "foo"),
            ("0bZm9vYg==", "foob"),
            ("0bZm9vYmFy", "foobar"),
        ] {
            assert_eq!(binary(text, 8).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for bad in [
            "", "0", "x", "0c00", "0bZ", "0bZg=", "0b====", "0bZ=g=", "0xg0", "ä",
        ] {
            assert_eq!(binary(bad, 8), None, "{bad}");
        }
        assert_eq!(binary("0x1ff", 8), Some(vec![1, 0xff]));
    }

    #[test]
    fn a_text_bomb_is_counted_before_it_is_copied() {
        let bomb = b"A=\0".repeat(KEYS_MAX + 1);
        assert_eq!(split(&bomb), Err(BadText::TooMany));
        assert_eq!(split(&bomb[3..]).map(|keys| keys.len()), Ok(KEYS_MAX));
        let Err(bad) = split(b"no key\x1b[31m") else {
            panic!("no `=`")
        };
        assert!(!bad.to_string().contains('\x1b'), "{bad}");
    }
}
