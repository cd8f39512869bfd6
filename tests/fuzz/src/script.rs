//! Reads a script for a harness out of the fuzzer's bytes: what has run out is zero, so every input is a script, and
//! cutting the end off one leaves its beginning as it was.

/// The rest of the script.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `length` bytes; fewer at the end.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Exactly `N` bytes, with zeros behind the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, little-endian.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Bytes behind their length, which is a byte.
    pub fn short(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.bytes(length.into())
    }

    /// Bytes behind their length, which is a word.
    pub fn long(&mut self) -> &'a [u8] {
        let length = self.word();
        self.bytes(length.into())
    }
}

/// Puts bytes behind their length, for [`Script::long`].
///
/// # Panics
/// There are more than 65535.
pub fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a part of a seed is short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
