//! The host: a stock Linux initiator, one multipath device for each volume, and a writer that checks what it has written.
//!
//! fio is the foreign judge: it writes blocks with checksums to places at random, reads each back some hundred writes later,
//! and ends with an error at the first failed command or wrong block. It runs through the whole case. The pause is the
//! longest time in which none of its commands ended, by the machine's own clock.

use crate::array::{FILES, GAMMA, POOLS, Pool, Volume, install};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::payload::{CHAP_SECRET, CHAP_USER};
use crate::topology::Node;
use crate::wait::wait_for;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

const LOGIN: Duration = Duration::from_secs(300);
/// Of both sessions, as the kernel has them, s: until a ping, for its answer, and until the commands take the other path.
const LIMITS: &str = "2 2 4 4 1 1";
/// fio reads back what it has in hand before it ends.
const END: Duration = Duration::from_secs(600);
/// Blocks between a write and its being read back: those in a takeover are read back after it.
const BACKLOG: u32 = 256;
/// The same on the file system, which is written a quarter as fast.
const FILES_BACKLOG: u32 = BACKLOG / 8;

/// Where on a volume stands what is written once: behind what the writer uses.
const LEDGER_MIB: u32 = 40;

/// Says where sysfs has a device. By its number: where udev is late, libdevmapper makes a node under the name of a map, and udev
/// leaves that where it would have made a link.
const SYSFS: &str = "stat --dereference --format=/sys/dev/block/%Hr:%Lr";

/// How the host writes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Commands under way for each volume.
    pub depth: u16,
    /// Writes a second for each volume at most; without it as many as there can be.
    pub rate: Option<u32>,
}

impl Load {
    /// So little that an emulated processor has time for the rest.
    pub const LIGHT: Self = Self {
        depth: 4,
        rate: Some(40),
    };
    /// As many commands under way as one host commonly has.
    pub const DEEP: Self = Self {
        depth: 64,
        rate: None,
    };
    /// All that there can be.
    pub const FULL: Self = Self {
        depth: 32,
        rate: None,
    };
}

/// Priorities that multipathd's `alua` gives (multipath.conf(5)).
const OPTIMIZED: i32 = 50;
const NON_OPTIMIZED: i32 = 10;

/// Where the host has its file system.
const MOUNT: &str = "/srv/files";

/// What one writer of the host writes to: a device each, and perhaps a file.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Its unit, and the name of its files.
    name: &'static str,
    /// Volumes that it writes as they are.
    pools: &'static [Pool],
    /// A volume on which it has a file system.
    files: Option<Volume>,
}

impl Writer {
    /// The one that runs through every case.
    pub const EVERY: Self = Self {
        name: "lab-fio",
        pools: &POOLS,
        files: Some(FILES),
    };
    /// The one of the pool of the kernel's.
    pub const GAMMA: Self = Self {
        name: "lab-gamma",
        pools: &[GAMMA],
        files: None,
    };

    /// How many volumes it writes.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.pools.len() + usize::from(self.files.is_some())
    }
}

/// The host of a lab.
#[derive(Debug)]
pub struct Host {
    machine: Machine,
}

/// The longest time without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last answer before it, ms since 1970 by the host's clock.
    pub after_ms: u64,
    /// How long, ms.
    pub length_ms: u64,
}

/// What the writer says at its end.
#[derive(Debug)]
pub struct Written {
    /// Commands that were answered.
    pub answered: u64,
    /// The longest time without an answer since the fault, over all volumes.
    pub pause: Gap,
}

impl Host {
    /// The host of this lab.
    ///
    /// # Errors
    /// It is not on.
    pub fn of(lab: &Lab) -> Result<Self> {
        Ok(Self {
            machine: lab.machine(Node::Host)?,
        })
    }

    /// Installs the package for hosts, logs in to both controllers by its steps, and waits until every volume is one device
    /// with two paths, each session with the limits of the package.
    ///
    /// # Errors
    /// A controller refuses, a device does not come together, or a limit is another.
    pub fn login(&self, package: &Path) -> Result<()> {
        install(&self.machine, package)?;
        self.machine.run(&format!(
            "multipathd reconfigure && cat >> /etc/iscsi/iscsid.conf <<'END'
node.session.auth.authmethod = CHAP
node.session.auth.username = {CHAP_USER}
node.session.auth.password = {CHAP_SECRET}
discovery.sendtargets.auth.authmethod = CHAP
discovery.sendtargets.auth.username = {CHAP_USER}
discovery.sendtargets.auth.password = {CHAP_SECRET}
END"
        ))?;
        let portals = Node::CONTROLLERS.map(Node::front).join(" ");
        self.machine
            .run_within(&format!("/usr/libexec/pollux-host/login {portals}"), LOGIN)?;
        self.wait_devices(Writer::EVERY.jobs())?;
        wait_for("the sessions have the limits of the package", LOGIN, || {
            let said = self
                .machine
                .run(
                    "cd /sys/class; head -qn1 iscsi_connection/*/recv_tmo iscsi_connection/*/ping_tmo \
                     iscsi_session/*/recovery_tmo | xargs",
                )
                .map_err(|error| error.to_string())?;
            if said.trim() == LIMITS { Ok(()) } else { Err(said) }
        })
    }

    /// Asks both controllers which volumes there are, and waits until there are so many devices of two paths.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn rescan(&self, devices: usize) -> Result<()> {
        self.machine
            .run_within("iscsiadm --mode session --rescan", LOGIN)?;
        self.wait_devices(devices)
    }

    fn wait_devices(&self, count: usize) -> Result<()> {
        wait_for("every volume is one device with two paths", LOGIN, || {
            let said = self
                .machine
                .run(
                    "multipathd show maps raw format '%n %N' | while read -r name paths; do \
                     [ -b /dev/mapper/$name ] && node=there || node=missing; echo $name $paths $node; done",
                )
                .map_err(|error| error.to_string())?;
            // Who writes to a name that udev has not made yet, writes to a file in memory.
            let whole = said.lines().filter(|line| line.ends_with(" 2 there")).count();
            if whole == count { Ok(()) } else { Err(said) }
        })
    }

    /// Forgets the device of a volume, with its paths: before the volume is taken away from it.
    ///
    /// # Errors
    /// Somebody uses it.
    pub fn forget(&self, pool: Pool) -> Result<()> {
        let device = self.device(pool.volume, pool.lun)?;
        self.machine
            .run(&format!(
                "for disk in $(basename -a $(readlink -f /dev/disk/by-path/*-lun-{})); do echo $disk; done > /var/tmp/paths; \
                 multipath -f $(basename {device}) && for disk in $(cat /var/tmp/paths); do \
                 echo 1 > /sys/block/$disk/device/delete; done && rm -f /var/tmp/ledger-{}",
                pool.lun, pool.volume
            ))
            .map(drop)
    }

    /// The device of a volume, by the number under which the host sees it.
    fn device(&self, volume: &str, lun: u16) -> Result<String> {
        let script = format!(
            "for disk in /dev/disk/by-path/*-lun-{}; do \
             cat /sys/block/\"$(basename \"$(readlink -f \"$disk\")\")\"/holders/*/dm/name; done | sort --unique",
            lun
        );
        let said = self.machine.run(&script)?;
        match said.split_whitespace().collect::<Vec<_>>()[..] {
            [name] => Ok(format!("/dev/mapper/{name}")),
            _ => Err(Error::step(
                format!("find the device of {volume}"),
                format!("one is needed, there are: {said:?}"),
            )),
        }
    }

    /// Waits until every path is usable again.
    ///
    /// # Errors
    /// One stays away.
    pub fn wait_paths(&self) -> Result<()> {
        for pool in POOLS {
            for node in Node::CONTROLLERS {
                self.wait_path(pool, node, |priority| priority >= NON_OPTIMIZED)?;
            }
        }
        Ok(())
    }

    /// Waits until the host's own kernel and multipathd say that a pool's volume is reached best through that controller.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_optimized(&self, pool: Pool, node: Node) -> Result<()> {
        self.wait_path(pool, node, |priority| priority >= OPTIMIZED)?;
        self.wait_path(pool, node.partner(), |priority| priority < OPTIMIZED)
    }

    /// Waits until the host's kernel has both paths of a pool's volume as its move to `node` has made them.
    ///
    /// # Errors
    /// It does not: it was not told, and asks only when a path fails.
    pub fn wait_access(&self, pool: Pool, node: Node) -> Result<()> {
        let wanted = [
            (node, "active/optimized"),
            (node.partner(), "active/non-optimized"),
        ];
        wait_for("the host's kernel knows of the move", LOGIN, || {
            for (node, state) in wanted {
                let said = self.machine.run(&format!(
                    "cat /sys/block/$(basename $(readlink -f /dev/disk/by-path/ip-{}:*-lun-{}))/device/access_state",
                    node.front(),
                    pool.lun
                ));
                let said = said.map_err(|error| error.to_string())?;
                if said.trim() != state {
                    return Err(format!("through {node}: {}", said.trim()));
                }
            }
            Ok(())
        })
    }

    fn wait_path(&self, pool: Pool, node: Node, wanted: impl Fn(i32) -> bool) -> Result<()> {
        let script = format!(
            "disk=$(basename $(readlink -f /dev/disk/by-path/ip-{}:*-lun-{})); \
             multipathd show paths raw format '%d %p %t' | grep \"^$disk \"",
            node.front(),
            pool.lun
        );
        wait_for(
            &format!("{} as wanted through {node}", pool.volume),
            LOGIN,
            || {
                let said = self.machine.run(&script).map_err(|error| error.to_string())?;
                match said.split_whitespace().collect::<Vec<_>>()[..] {
                    [_, priority, "active"] if priority.parse().is_ok_and(&wanted) => Ok(()),
                    _ => Err(said),
                }
            },
        )
    }

    /// Starts a writer on all that is its and waits until it writes.
    ///
    /// # Errors
    /// It does not.
    pub fn load(&self, writer: Writer, load: Load) -> Result<()> {
        let Load { depth, rate } = load;
        let limit = |rate: Option<u32>| rate.map_or(String::new(), |rate| format!("rate_iops={rate}\n"));
        let name = writer.name;
        // At full speed an hour of single times would not fit into the host's memory.
        let times = if rate.is_some() { "" } else { "log_avg_msec=50\n" };
        let mut job = format!(
            "[global]\nioengine=libaio\ndirect=1\nallow_file_create=0\nbs=4k\nrw=randwrite\n\
             verify=crc32c\nverify_backlog={BACKLOG}\nverify_fatal=1\nverify_dump=0\n\
             time_based\nruntime=24h\nlog_unix_epoch=1\nwrite_lat_log=/var/tmp/{name}\n{times}"
        );
        for Pool { volume, lun, .. } in writer.pools {
            let device = self.device(volume, *lun)?;
            self.put_ledger(&device, volume)?;
            let limit = limit(rate);
            job += &format!("[{volume}]\nfilename={device}\nsize=32m\niodepth={depth}\n{limit}");
        }
        if let Some(Volume { name, lun, .. }) = writer.files {
            let device = self.device(name, lun)?;
            // A file system that was told of an error stays read-only, and the next write fails.
            self.machine.run(&format!(
                "mountpoint --quiet {MOUNT} || {{ blkid {device} || mkfs.ext4 -q {device}; mkdir -p {MOUNT} && \
                 mount -o errors=remount-ro {device} {MOUNT}; }}"
            ))?;
            // Each write is followed by an fsync: a block and the journal, too.
            let limit = limit(rate.map(|rate| rate / 4));
            job += &format!(
                "[{name}]\nfilename={MOUNT}/data\nsize=16m\niodepth=1\nfsync=1\nallow_file_create=1\n\
                 verify_backlog={FILES_BACKLOG}\n{limit}"
            );
        }
        let script = format!(
            "systemctl stop {name} 2>/dev/null; systemctl reset-failed {name} 2>/dev/null; \
             rm -f /var/tmp/{name}[._]* && cat > /var/tmp/{name}.job <<'END'\n{job}END\n\
             systemd-run --unit={name} --property=KillSignal=SIGINT --property=TimeoutStopSec=600 \
             fio --output-format=json --output=/var/tmp/{name}.json /var/tmp/{name}.job"
        );
        let counts = self.counts(writer)?;
        self.machine.run(&format!("{counts} > /var/tmp/start-{name}"))?;
        self.machine.run(&script)?;
        self.wait_progress_of(writer)
    }

    /// Writes once, behind what the writer uses, what has to be there to the end; it is never written again.
    fn put_ledger(&self, device: &str, volume: &str) -> Result<()> {
        let kept = format!("/var/tmp/ledger-{volume}");
        self.machine
            .run(&format!(
                "[ -e {kept} ] || {{ dd if=/dev/urandom of={kept} bs=1M count=4 status=none && \
                 dd if={kept} of={device} bs=1M seek={LEDGER_MIB} oflag=direct conv=fsync,nocreat,notrunc status=none; }}"
            ))
            .map(drop)
    }

    /// Reads it back, past the host's cache.
    fn ledger_stands(&self, device: &str, volume: &str) -> Result<()> {
        let read = format!(
            "dd if={device} bs=1M skip={LEDGER_MIB} count=4 iflag=direct status=none | cmp - /var/tmp/ledger-{volume}"
        );
        let said = self.machine.try_run(&read, END)?;
        if said.status.success() {
            return Ok(());
        }
        Err(Error::broken(
            "what was written and answered once is there to the end",
            format!("{volume}: {}{}", said.out, said.err),
        ))
    }

    /// Waits until commands of every volume are answered that were not when it was called.
    ///
    /// # Errors
    /// The writer has ended, or gets no answer.
    pub fn wait_progress(&self) -> Result<()> {
        self.wait_progress_of(Writer::EVERY)
    }

    /// The same of one writer.
    ///
    /// # Errors
    /// As there.
    pub fn wait_progress_of(&self, writer: Writer) -> Result<()> {
        let mut devices = vec![];
        for Pool { volume, lun, .. } in writer.pools {
            devices.push(self.device(volume, *lun)?);
        }
        if let Some(Volume { name, lun, .. }) = writer.files {
            devices.push(self.device(name, lun)?);
        }
        let counts = || -> std::result::Result<Vec<u64>, String> {
            let said = self
                .machine
                .run(&format!(
                    "systemctl is-active --quiet {} && for map in {}; do \
                     cat $({SYSFS} $map)/stat; done | awk '{{ print $1 + $5 }}'",
                    writer.name,
                    devices.join(" ")
                ))
                .map_err(|error| error.to_string())?;
            said.split_whitespace()
                .map(|word| word.parse().map_err(|_| format!("{word:?} is no number")))
                .collect()
        };
        let mut before = None;
        wait_for("every volume is written", LOGIN, || {
            let now = counts()?;
            let first = before.get_or_insert_with(|| now.clone());
            let moved =
                first.len() == now.len() && first.iter().zip(&now).all(|(old, new)| new >= &(old + 20));
            if moved {
                Ok(())
            } else {
                Err(format!("{first:?}, then {now:?}"))
            }
        })
    }

    /// A script that writes a line for each device of a writer: how many reads and writes it has done.
    fn counts(&self, writer: Writer) -> Result<String> {
        let mut devices = vec![];
        for Pool { volume, lun, .. } in writer.pools {
            devices.push(self.device(volume, *lun)?);
        }
        if let Some(Volume { name, lun, .. }) = writer.files {
            devices.push(self.device(name, lun)?);
        }
        Ok(format!(
            "for map in {}; do cat $({SYSFS} $map)/stat; done | awk '{{ print $1, $5 }}'",
            devices.join(" ")
        ))
    }

    /// Waits until each volume has been read back since the writer was started: one that was not proves nothing.
    ///
    /// # Errors
    /// As [`Host::wait_progress`].
    pub fn wait_read_back(&self, writer: Writer) -> Result<()> {
        self.wait_progress_of(writer)?;
        let counts = self.counts(writer)?;
        wait_for("every volume is read back", LOGIN, || {
            let said = self
                .machine
                .run(&format!("cat /var/tmp/start-{}; echo; {counts}", writer.name))
                .map_err(|error| error.to_string())?;
            match said.split_once("\n\n") {
                Some((start, now)) if is_read_back(start, now, writer) => Ok(()),
                _ => Err(said),
            }
        })
    }

    /// Waits until so many commands of a pool's volume are under way at once.
    ///
    /// # Errors
    /// There never are.
    pub fn wait_in_flight(&self, pool: Pool, least: u16) -> Result<()> {
        let device = self.device(pool.volume, pool.lun)?;
        wait_for(
            &format!("{least} commands of {} are under way", pool.volume),
            LOGIN,
            || {
                let said = self
                    .machine
                    .run(&format!("cat $({SYSFS} {device})/inflight"))
                    .map_err(|error| error.to_string())?;
                let count: u32 = said
                    .split_whitespace()
                    .filter_map(|word| word.parse::<u32>().ok())
                    .sum();
                if count >= u32::from(least) {
                    Ok(())
                } else {
                    Err(format!("{count} are"))
                }
            },
        )
    }

    /// The host's clock, ms since 1970.
    ///
    /// # Errors
    /// It does not answer.
    pub fn now_ms(&self) -> Result<u64> {
        let said = self.machine.run("date +%s%3N")?;
        said.trim()
            .parse()
            .map_err(|error| Error::step("read the host's clock", error))
    }

    /// Ends a writer and judges what it says: no command failed, no block was wrong, and its file system is whole.
    /// `since_ms`: the fault, by the host's clock.
    ///
    /// # Errors
    /// [`Error::Broken`]: a command failed or a block was wrong.
    pub fn judge(&self, writer: Writer, since_ms: u64) -> Result<Written> {
        let promise = "no I/O error and no lost write at the host";
        let name = writer.name;
        let active = self
            .machine
            .try_run(&format!("systemctl is-active {name}"), END)?;
        if active.out.trim() != "active" {
            let why = self.machine.try_run(
                &format!("cat /var/tmp/{name}.json; journalctl --no-pager --unit={name} --lines=20"),
                END,
            )?;
            return Err(Error::broken(
                promise,
                format!("the writer has ended by itself: {}", why.out),
            ));
        }
        self.machine.run_within(&format!("systemctl stop {name}"), END)?;
        let answered = verdict(
            &self.machine.run(&format!("cat /var/tmp/{name}.json"))?,
            writer.jobs(),
        )
        .map_err(|seen| Error::broken(promise, seen))?;
        for Pool { volume, lun, .. } in writer.pools {
            self.ledger_stands(&self.device(volume, *lun)?, volume)?;
        }
        let mut pause: Option<Gap> = None;
        for job in 1..=writer.jobs() {
            let log = self
                .machine
                .run(&format!("cut -d, -f1 /var/tmp/{name}_clat.{job}.log"))?;
            let gap = longest_gap(&log, since_ms)
                .ok_or_else(|| Error::broken(promise, format!("job {job} got no answer after the fault")))?;
            if pause.is_none_or(|longest| longest.length_ms < gap.length_ms) {
                pause = Some(gap);
            }
        }
        if let Some(Volume { name, lun, .. }) = writer.files {
            let device = self.device(name, lun)?;
            let said = self.machine.try_run(
                &format!(
                    "findmnt --noheadings --options rw {MOUNT} && umount {MOUNT} && e2fsck -f -n {device} 2>&1"
                ),
                END,
            )?;
            if !said.status.success() {
                return Err(Error::broken(
                    "the host's file system is whole, and was never told of an error",
                    format!("{}: {}{}", said.status, said.out, said.err),
                ));
            }
        }
        let pause = pause.ok_or_else(|| Error::step("read the writer's log", "it is empty"))?;
        Ok(Written { answered, pause })
    }
}

/// From the counts of reads and writes of each device at the start of a writer and now. A device that is written as it is is read by
/// its writer alone. A file system reads of its own accord; each write of the file is some writes of the device there.
fn is_read_back(start: &str, now: &str, writer: Writer) -> bool {
    let counts = |text: &str| -> Option<Vec<(u64, u64)>> {
        text.lines()
            .map(|line| {
                let (reads, writes) = line.split_once(' ')?;
                Some((reads.parse().ok()?, writes.trim().parse().ok()?))
            })
            .collect()
    };
    let (Some(start), Some(now)) = (counts(start), counts(now)) else {
        return false;
    };
    let enough = u64::from(FILES_BACKLOG) * 8;
    start.len() == writer.jobs()
        && now.len() == start.len()
        && start.iter().zip(&now).enumerate().all(|(job, (start, now))| {
            if job < writer.pools.len() {
                now.0 > start.0
            } else {
                now.1 >= start.1 + enough
            }
        })
}

#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    jobname: String,
    /// What ended it; it goes on after no error, so there is never a second one.
    error: i32,
    write: Side,
    read: Side,
}

#[derive(Deserialize)]
struct Side {
    total_ios: u64,
}

/// What fio's report says: how many commands were answered, or which job failed and why.
fn verdict(text: &str, jobs: usize) -> std::result::Result<u64, String> {
    // fio notes in words above its JSON that a signal ended it.
    let start = text.find('{').ok_or_else(|| format!("no report: {text:?}"))?;
    let report: Report =
        serde_json::from_str(&text[start..]).map_err(|error| format!("no report: {error}"))?;
    let mut answered = 0;
    for job in &report.jobs {
        if job.error != 0 {
            return Err(format!("{}: error {}", job.jobname, job.error));
        }
        // A job that wrote and read nothing back has proven nothing.
        if job.write.total_ios == 0 || job.read.total_ios == 0 {
            return Err(format!(
                "{}: {} writes, {} read back",
                job.jobname, job.write.total_ios, job.read.total_ios
            ));
        }
        answered += job.write.total_ios + job.read.total_ios;
    }
    if report.jobs.len() == jobs {
        Ok(answered)
    } else {
        Err(format!("{} jobs where {jobs} were started", report.jobs.len()))
    }
}

/// The longest time between two answers of which the later came after `since_ms`. One time a line, ms, in any order.
fn longest_gap(text: &str, since_ms: u64) -> Option<Gap> {
    let mut times: Vec<u64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    times.sort_unstable();
    times
        .windows(2)
        .filter(|pair| pair[1] >= since_ms)
        .map(|pair| Gap {
            after_ms: pair[0],
            length_ms: pair[1] - pair[0],
        })
        .max_by_key(|gap| gap.length_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_one_that_ended_after_the_fault() {
        let log = "1000\n9000\n9010\n9500\n9400\n12400\n12410\n";
        let gap = longest_gap(log, 9200);
        assert_eq!(
            gap,
            Some(Gap {
                after_ms: 9500,
                length_ms: 2900
            })
        );
        assert_eq!(longest_gap("1000\n1001\n", 5000), None);
        assert_eq!(longest_gap("", 0), None);
    }

    #[test]
    fn a_volume_is_read_back_when_its_own_counts_say_so() {
        let start = "7 10\n3 5\n9 20\n";
        assert!(is_read_back(start, "8 300\n4 290\n9 276\n", Writer::EVERY));
        assert!(
            !is_read_back(start, "7 300\n4 290\n9 276\n", Writer::EVERY),
            "not the first"
        );
        assert!(
            !is_read_back(start, "8 300\n4 290\n99 275\n", Writer::EVERY),
            "not the files"
        );
        assert!(!is_read_back(start, "8 300\n4 290\n", Writer::EVERY));
        assert!(!is_read_back("", "", Writer::EVERY));
        assert!(is_read_back("7 10\n", "8 11\n", Writer::GAMMA));
    }

    #[test]
    fn a_report_with_an_error_or_without_a_block_read_back_is_no_good() {
        let job = |name: &str, error: u32, reads: u32| {
            format!(
                "{{\"jobname\":\"{name}\",\"error\":{error},\
                 \"write\":{{\"total_ios\":10}},\"read\":{{\"total_ios\":{reads}}}}}"
            )
        };
        let report =
            |jobs: &[String]| format!("fio: terminating on signal 2\n{{\"jobs\":[{}]}}", jobs.join(","));
        let good = report(&[job("x", 0, 5), job("y", 0, 6)]);
        assert_eq!(verdict(&good, 2), Ok(31));
        let wrong = verdict(&report(&[job("x", 0, 5), job("y", 84, 6)]), 2).expect_err("a wrong block");
        assert!(wrong.contains("y: error 84"), "{wrong}");
        assert!(verdict(&report(&[job("x", 0, 0), job("y", 0, 6)]), 2).is_err());
        assert!(verdict(&report(&[job("x", 0, 5)]), 2).is_err());
        assert!(verdict("nothing", 2).is_err());
    }
}
