//! Text: `key=value`, each ended by a zero byte (RFC 7143, 6.1).

/// Longest key.
const KEY_MAX: usize = 63;

/// Why a text segment is no list of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no key=value in UTF-8 with a key of 1 to {KEY_MAX} characters")]
pub struct BadText(String);

/// Splits a text segment. Empty pieces (padding) are left out.
///
/// # Errors
/// The first piece that is no `key=value`.
pub fn split(data: &[u8]) -> Result<Vec<(String, String)>, BadText> {
    let pieces = data.split(|byte| *byte == 0).filter(|piece| !piece.is_empty());
    let parse = |piece: &[u8]| {
        let bad = || BadText(String::from_utf8_lossy(&piece[..piece.len().min(80)]).into_owned());
        let (key, value) = std::str::from_utf8(piece)
            .ok()
            .and_then(|text| text.split_once('='))
            .ok_or_else(bad)?;
        match (1..=KEY_MAX).contains(&key.len()) {
            true => Ok((key.to_owned(), value.to_owned())),
            false => Err(bad()),
        }
    };
    pieces.map(parse).collect()
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
}
