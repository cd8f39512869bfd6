//! Where one message ends and the next begins.

use memchr::memchr;
use pollux_api::error::{Code, RpcError};
use pollux_api::router::{MAX_DEPTH, MAX_MESSAGE};
use pollux_platform::simd::{Marks, marks};

/// A buffer that has grown beyond this gives its memory back when it is empty.
const KEEP: usize = 128 << 10;
/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// The bytes are no message; the rest of the line is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Something else stands where a message should begin.
    NotAMessage,
    /// Longer than [`MAX_MESSAGE`].
    TooLong,
    /// Deeper than [`MAX_DEPTH`].
    TooDeep,
    /// A line ends within a string.
    OpenString,
}

impl From<Malformed> for RpcError {
    fn from(malformed: Malformed) -> Self {
        let (what, remedy) = match malformed {
            Malformed::NotAMessage => (
                "no JSON object where a message should begin".to_owned(),
                "one JSON-RPC object per line".into(),
            ),
            Malformed::TooLong => (
                "message too long".to_owned(),
                format!("at most {MAX_MESSAGE} bytes"),
            ),
            Malformed::TooDeep => (
                "message nested too deep".to_owned(),
                format!("at most {MAX_DEPTH} levels"),
            ),
            Malformed::OpenString => (
                "a line ends within a string".to_owned(),
                "write a newline in a string as \\n".into(),
            ),
        };
        Self::new(Code::Parse, "connection", what).remedy(remedy)
    }
}

/// One message: its bytes, and where its largest part may stand, so that nobody has to look for it again.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// From the first to the last bracket.
    pub bytes: &'a [u8],
    /// Beginning and end of the last array or object directly inside the message; (0, 0) if there is none.
    pub(super) inner: (usize, usize),
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, inner: (0, 0) }
    }
}

/// Finds the ends of messages in a stream whose bytes somebody else keeps.
///
/// 64 bytes are looked at together while nothing unusual is among them; whatever is unusual (an escape in a string, an
/// error, the space between messages) is looked at byte by byte, and that decides.
#[derive(Clone, Debug, Default)]
pub struct Cutter {
    /// Where the message that is being scanned begins.
    begin: usize,
    /// How far it has been scanned.
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Something was wrong: everything up to the end of the line is dropped.
    skipping: bool,
    /// Of the last array or object directly inside the message.
    inner: (usize, usize),
}

impl Cutter {
    /// The next whole message in `bytes`, or `None` until more have come behind them. `bytes` are always the same
    /// ones, from the beginning, until [`Cutter::done`].
    pub fn next_message<'a>(&mut self, bytes: &'a [u8]) -> Option<Result<Message<'a>, Malformed>> {
        while let Some(rest) = bytes.get(self.scanned..).filter(|rest| !rest.is_empty()) {
            if self.skipping {
                let line = memchr(b'\n', rest);
                self.skipping = line.is_none();
                self.scanned += line.map_or(rest.len(), |end| end + 1);
                self.begin = self.scanned;
                continue;
            }
            let length = rest.len().min(BLOCK);
            let ended = if self.depth == 0 || self.escaped {
                self.slow(&rest[..1])
            } else {
                let seen = match rest.first_chunk() {
                    Some(block) => marks(block),
                    None => {
                        let mut block = [0; BLOCK];
                        block[..length].copy_from_slice(rest);
                        marks(&block)
                    }
                };
                match self.fast(seen, length) {
                    Some(ended) => Ok(ended),
                    None => self.slow(&rest[..length]),
                }
            };
            match ended {
                Ok(false) => {}
                Ok(true) => {
                    let begin = std::mem::replace(&mut self.begin, self.scanned);
                    let (first, last) = std::mem::take(&mut self.inner);
                    return Some(Ok(Message {
                        bytes: &bytes[begin..self.scanned],
                        inner: (first.saturating_sub(begin), last.saturating_sub(begin)),
                    }));
                }
                Err(malformed) => return Some(Err(malformed)),
            }
        }
        None
    }

    /// Forgets the bytes of messages that were handed out; how many the caller can drop.
    pub fn done(&mut self) -> usize {
        let done = std::mem::take(&mut self.begin);
        self.scanned -= done;
        self.inner = (
            self.inner.0.saturating_sub(done),
            self.inner.1.saturating_sub(done),
        );
        done
    }

    /// Takes `length` bytes at once; whether the message ends among them. `None`: something is unusual, nothing was
    /// taken.
    fn fast(&mut self, seen: Marks, length: usize) -> Option<bool> {
        // Each bit: an odd number of quotes stands up to there.
        let mut inside = seen.quotes;
        if inside != 0 {
            for shift in [1, 2, 4, 8, 16, 32] {
                inside ^= inside << shift;
            }
        }
        if self.in_string {
            inside = !inside;
        }
        let long = self.scanned + length - self.begin > MAX_MESSAGE;
        if seen.escapes | (seen.newlines & inside) != 0 || long {
            return None;
        }
        let opens = seen.opens & !inside;
        let mut brackets = opens | seen.closes & !inside;
        let before = (self.depth, self.inner);
        while brackets != 0 {
            let place = brackets.trailing_zeros();
            brackets &= brackets - 1;
            let here = self.scanned + place as usize;
            if opens >> place & 1 == 0 {
                if self.close(here) {
                    self.scanned = here + 1;
                    self.in_string = false;
                    return Some(true);
                }
            } else if self.depth == MAX_DEPTH {
                (self.depth, self.inner) = before;
                return None;
            } else {
                self.open(here);
            }
        }
        self.in_string = inside >> (BLOCK - 1) == 1;
        self.scanned += length;
        Some(false)
    }

    fn open(&mut self, here: usize) {
        if self.depth == 1 {
            self.inner.0 = here;
        }
        self.depth += 1;
    }

    /// Whether the message ends here.
    fn close(&mut self, here: usize) -> bool {
        self.depth -= 1;
        if self.depth == 1 {
            self.inner.1 = here + 1;
        }
        self.depth == 0
    }

    /// Takes bytes one by one, until they or the message end.
    fn slow(&mut self, bytes: &[u8]) -> Result<bool, Malformed> {
        for &byte in bytes {
            self.scanned += 1;
            if self.skipping || (self.depth == 0 && byte.is_ascii_whitespace()) {
                self.skipping &= byte != b'\n';
                self.begin = self.scanned;
                continue;
            }
            if let Err(malformed) = self.one(byte) {
                *self = Self {
                    begin: self.scanned,
                    scanned: self.scanned,
                    skipping: byte != b'\n',
                    ..Self::default()
                };
                return Err(malformed);
            }
            if self.depth == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn one(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.scanned - self.begin > MAX_MESSAGE {
            return Err(Malformed::TooLong);
        }
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                b'\n' => return Err(Malformed::OpenString),
                _ => {}
            }
            return Ok(());
        }
        let here = self.scanned - 1;
        match byte {
            b'{' | b'[' if self.depth == MAX_DEPTH => return Err(Malformed::TooDeep),
            b'{' | b'[' => self.open(here),
            _ if self.depth == 0 => return Err(Malformed::NotAMessage),
            b'}' | b']' => {
                self.close(here);
            }
            b'"' => self.in_string = true,
            _ => {}
        }
        Ok(())
    }
}

/// A [`Cutter`] that keeps the bytes itself.
#[derive(Debug, Default)]
pub struct Framer {
    pub(super) buffer: Vec<u8>,
    cutter: Cutter,
}

impl Framer {
    /// The buffer to append received bytes to, and nothing else. It forgets what has been handed out, so it never
    /// holds more than one message and one read.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.cutter.done());
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            self.buffer.reserve(16 << 10);
        }
        &mut self.buffer
    }

    /// The next whole message, or `None` until more bytes have come.
    pub fn next_message(&mut self) -> Option<Result<&[u8], Malformed>> {
        let message = self.cutter.next_message(&self.buffer)?;
        Some(message.map(|message| message.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, with every byte taken for itself.
    fn by_bytes(bytes: &[u8]) -> Vec<Result<Vec<u8>, Malformed>> {
        let (mut cutter, mut found) = (Cutter::default(), Vec::new());
        for place in 0..bytes.len() {
            match cutter.slow(&bytes[place..=place]) {
                Ok(false) => {}
                Ok(true) => found.push(Ok(
                    bytes[std::mem::replace(&mut cutter.begin, place + 1)..=place].to_vec()
                )),
                Err(malformed) => found.push(Err(malformed)),
            }
        }
        found
    }

    fn by_blocks(bytes: &[u8], step: usize) -> Vec<Result<Vec<u8>, Malformed>> {
        let (mut framer, mut found) = (Framer::default(), Vec::new());
        for piece in bytes.chunks(step) {
            framer.buffer().extend_from_slice(piece);
            while let Some(message) = framer.next_message() {
                found.push(message.map(<[u8]>::to_vec));
            }
        }
        found
    }

    #[test]
    fn the_inner_part_is_where_the_envelope_says() {
        for (text, inner) in [
            (r#"{"a":1}"#, ""),
            (r#"{"a":"{"}"#, ""),
            (r#"{"a":{"b":[{}]},"c":1}"#, r#"{"b":[{}]}"#),
            (r#" {"a":[1],"c":["]",{"d":"\\\""}]}"#, r#"["]",{"d":"\\\""}]"#),
        ] {
            // At every distance from the beginning of a block.
            for fill in 0..130 {
                let text = text.replacen(':', &format!("{}:", " ".repeat(fill)), 1);
                let mut cutter = Cutter::default();
                let message = cutter.next_message(text.as_bytes()).unwrap().unwrap();
                let (first, last) = message.inner;
                assert_eq!(&message.bytes[first..last], inner.as_bytes(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn blocks_cut_where_bytes_do(
            parts in proptest::collection::vec(
                "(\\{|\\}|\\[|\\]|\"|\\\\|\n| |,|:|a|\\{\"a\":\"[b-z]{0,90}\"\\}|\\{\"k\":\\[\\{\"[a-z{}]{0,70}\":1\\}\\]\\}\n)",
                0..40,
            ),
            step in 1..400_usize,
        ) {
            let text = parts.concat();
            prop_assert_eq!(by_blocks(text.as_bytes(), step), by_bytes(text.as_bytes()));
        }
    }
}
