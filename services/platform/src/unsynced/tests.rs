use super::*;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// A file in memory.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Below for Bytes {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = self.0.get(offset as usize + at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        self.0.resize(self.0.len().max(end), 0);
        self.0[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.0.resize(size as usize, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn size(&mut self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

#[test]
fn what_is_written_is_read_and_only_what_was_flushed_is_sure() {
    for seed in 0..200 {
        let dice = Dice(AtomicU64::new(seed));
        let habits = Habits::new(seed);
        let below = |n| dice.next() % n;
        let (mut memory, mut disk, mut truth) = (Memory::default(), Bytes::default(), Bytes::default());
        let mut flushed = truth.clone();
        // Places that were written since the last flush: there, either may stand.
        let mut open = vec![];
        for _ in 0..60 {
            match below(10) {
                0..6 => {
                    let (offset, length) = (below(4000), below(1500) as usize + 1);
                    let bytes = vec![below(256) as u8; length];
                    memory.write(&mut disk, &bytes, offset, &habits).unwrap();
                    truth.write(&bytes, offset).unwrap();
                    open.push(offset / SECTOR * SECTOR..(offset + length as u64).next_multiple_of(SECTOR));
                }
                6 => {
                    let size = below(5000);
                    open.push(size.min(truth.0.len() as u64)..6000);
                    memory.truncate(&mut disk, size, &habits).unwrap();
                    truth.truncate(size).unwrap();
                }
                7 => {
                    memory.sync(&mut disk, &habits).unwrap();
                    assert!(
                        disk.0 == truth.0,
                        "seed {seed}: after a flush, the file is what was written"
                    );
                    flushed = truth.clone();
                    open.clear();
                }
                _ => {
                    let (offset, length) = (below(5000), below(2000) as usize + 1);
                    let (mut found, mut wanted) = (vec![1; length], vec![2; length]);
                    let whole = memory.read(&mut disk, &mut found, offset).unwrap();
                    truth.read(&mut wanted, offset).unwrap();
                    assert!(found == wanted, "seed {seed}");
                    assert_eq!(whole, offset + length as u64 <= truth.0.len() as u64);
                }
            }
            assert_eq!(
                memory.size(&mut disk).unwrap(),
                truth.0.len() as u64,
                "seed {seed}"
            );
            // The power goes now: what was flushed and not written since is there.
            for (at, byte) in flushed.0.iter().enumerate() {
                let sure = !open.iter().any(|open| open.contains(&(at as u64)));
                assert!(
                    !sure || disk.0.get(at) == Some(byte),
                    "seed {seed}: byte {at} was flushed and is lost"
                );
            }
        }
    }
}

/// Commits, and after each of them a power cut: how many of the changes that were acknowledged are missing then, at
/// most; none, if what is there is no database.
fn lost_in_power_cuts(name: &str, habits: Habits, synchronous: &str) -> Option<i64> {
    let dir = tempfile::tempdir().unwrap();
    register(name, habits).unwrap();
    let path = dir.path().join("config.db");
    let db = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), name).unwrap();
    let pragmas = format!(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
         PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB NOT NULL);"
    );
    db.execute_batch(&pragmas).unwrap();
    let mut most = 0;
    for n in 1..=40 {
        // Some of more than one page.
        db.execute("INSERT INTO t VALUES (?1, zeroblob(?2))", [n, (n % 7) * 2000])
            .unwrap();
        if n % 9 == 0 {
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .unwrap();
        }
        let after = dir.path().join(format!("after-{n}"));
        std::fs::create_dir(&after).unwrap();
        for file in ["config.db", "config.db-wal"] {
            std::fs::copy(dir.path().join(file), after.join(file)).unwrap();
        }
        let found = count(&after.join("config.db"))?;
        most = most.max(n - found);
    }
    Some(most)
}

fn count(path: &Path) -> Option<i64> {
    let db = Connection::open(path).ok()?;
    let verdict: String = db
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .ok()?;
    let counted = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
    counted.ok().filter(|_| verdict == "ok")
}

#[test]
fn with_flushes_nothing_that_was_acknowledged_is_lost() {
    for seed in 0..3 {
        let lost = lost_in_power_cuts(&format!("full-{seed}"), Habits::new(seed), "FULL");
        assert_eq!(lost, Some(0), "seed {seed}");
    }
}

#[test]
fn without_flushes_or_on_a_disk_that_lies_acknowledged_changes_are_lost() {
    for seed in 0..2 {
        let lost = lost_in_power_cuts(&format!("off-{seed}"), Habits::new(seed), "OFF");
        assert!(lost.is_none_or(|lost| lost > 0), "seed {seed}: {lost:?}");
        let lost = lost_in_power_cuts(&format!("lies-{seed}"), Habits::new(seed).lying(), "FULL");
        assert!(lost.is_none_or(|lost| lost > 0), "seed {seed}: {lost:?}");
    }
}
