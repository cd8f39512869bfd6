//! A look at 64 bytes at once, for readers of JSON: where quotes, brackets and the like stand.
//!
//! On x86_64 with SSE2, which every such processor has; elsewhere byte by byte, with the same result.

/// What a reader of JSON stops at; bit `i` stands for byte `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `"`
    pub quotes: u64,
    /// `\`
    pub escapes: u64,
    /// `{` and `[`
    pub opens: u64,
    /// `}` and `]`
    pub closes: u64,
    /// Line feed.
    pub newlines: u64,
}

/// Where in `block` the marks stand.
#[inline]
#[must_use]
pub fn marks(block: &[u8; 64]) -> Marks {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: SSE2 is part of x86_64, so the processor has it.
        unsafe { with_sse2(block) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    byte_by_byte(block)
}

/// `{` and `[`, and `}` and `]`, differ in this bit alone; no third byte becomes one of them by it.
const FOLD: u8 = 0x20;

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn with_sse2(block: &[u8; 64]) -> Marks {
    use core::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let all = |byte: u8| _mm_set1_epi8(byte.cast_signed());
    let mut marks = Marks::default();
    for lane in 0..4 {
        // SAFETY: four lanes of 16 bytes lie within the 64 of the block; the load needs no alignment.
        let bytes = unsafe { _mm_loadu_si128(block.as_ptr().add(16 * lane).cast()) };
        let folded = _mm_or_si128(bytes, all(FOLD));
        let equal = |bytes, byte: u8| {
            let found = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, all(byte)));
            u64::from(found.cast_unsigned()) << (16 * lane)
        };
        marks.quotes |= equal(bytes, b'"');
        marks.escapes |= equal(bytes, b'\\');
        marks.opens |= equal(folded, b'{');
        marks.closes |= equal(folded, b'}');
        marks.newlines |= equal(bytes, b'\n');
    }
    marks
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn byte_by_byte(block: &[u8; 64]) -> Marks {
    let mut marks = Marks::default();
    for (place, byte) in block.iter().enumerate() {
        let bit = 1 << place;
        match byte {
            b'"' => marks.quotes |= bit,
            b'\\' => marks.escapes |= bit,
            b'\n' => marks.newlines |= bit,
            _ if byte | FOLD == b'{' => marks.opens |= bit,
            _ if byte | FOLD == b'}' => marks.closes |= bit,
            _ => {}
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_see_the_same_for_every_byte_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..64 {
                let mut block = [b'x'; 64];
                block[place] = byte;
                let seen = marks(&block);
                assert_eq!(seen, byte_by_byte(&block), "{byte:#x} at {place}");
                let bit = 1 << place;
                let expected = match byte {
                    b'"' => seen.quotes,
                    b'\\' => seen.escapes,
                    b'{' | b'[' => seen.opens,
                    b'}' | b']' => seen.closes,
                    b'\n' => seen.newlines,
                    _ => {
                        assert_eq!(seen, Marks::default(), "{byte:#x} is no mark");
                        continue;
                    }
                };
                assert_eq!(expected, bit, "{byte:#x} at {place}");
            }
        }
    }
}
