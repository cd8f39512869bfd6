//! Archives that the kernel unpacks before its first process: the format "newc" of cpio(5).

/// An archive that grows.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// Length of everything is a multiple of it.
const ALIGN: usize = 4;

impl Archive {
    /// A folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// A file that can be run.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        self.entry(name, 0o120_777, to.as_bytes());
    }

    /// The whole, with its end.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields: [u32; 13] = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_110_bytes_and_everything_is_aligned() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("init", b"12345");
        archive.link("bin/sh", "busybox");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % ALIGN, 0);
        assert_eq!(&bytes[..6], b"070701");
        // The folder: 110 bytes of header, `bin` and its zero, padded to 116.
        assert_eq!(&bytes[110..114], b"bin\0");
        let file = &bytes[116..];
        assert_eq!(&file[..6], b"070701");
        assert_eq!(&file[54..62], b"00000005", "its size");
        assert_eq!(&file[110..115], b"init\0");
        assert_eq!(&file[116..121], b"12345");
        let end = bytes.windows(10).any(|window| window == b"TRAILER!!!");
        assert!(end);
    }
}
