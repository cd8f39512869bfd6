//! The demonstration: real files on a real filesystem, copied through a real initiator to an array
//! that loses a part in the middle of it, and then an accounting of everything that was promised.
//!
//! It does what a customer would do by hand, prints what a customer would see, and ends with a
//! line that says PASS or FAIL. PASS means that every audit held; pauses are printed and judged by
//! nobody.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pollux_api::chassis::{Cable, PowerAction};
use pollux_api::id::ControllerId;
use pollux_host::image::Copied;
use pollux_host::time::now_ns;
use pollux_runtime::Profile;
use serde::Serialize;

use crate::array::Options;
use crate::audit::Audit;
use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::rig::{Judgement, Plan, Rig};
use crate::wait::{that, wait_for};

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Controller a loses its power.
    Power,
    /// Every process of controller a stops without a word.
    Hang,
    /// The same with power control and watchdog out of order: only the shelf's reservations are
    /// left. Controller a is let go on later.
    HangUnfenced,
    /// Both legs of the interconnect are cut, and mended later.
    Interconnect,
    /// One leg is cut.
    Leg,
    /// Controller a loses its cable to the shelf.
    ShelfPath,
    /// Nothing breaks: the operator moves pool alpha to controller b.
    Switchover,
    /// Nothing happens.
    None,
}

/// What to show.
#[derive(Clone, Debug)]
pub struct Demo {
    /// What strikes.
    pub fault: Fault,
    /// An image to copy; none: an ext4 filesystem is made out of files of this machine.
    pub image: Option<PathBuf>,
    /// Leave it running.
    pub keep: bool,
    /// Volumes on each pool.
    pub volumes: u16,
    /// Seed.
    pub seed: u64,
    /// Timing profile.
    pub profile: Profile,
    /// The array's directory; none: a scratch directory that vanishes.
    pub directory: Option<PathBuf>,
    /// One JSON object instead of text.
    pub json: bool,
}

/// How it went, for `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Every promise was kept.
    pub pass: bool,
    /// What struck.
    pub fault: Fault,
    /// The seed.
    pub seed: u64,
    /// From the start to the first acknowledged write, ms.
    pub start_to_serving_ms: u64,
    /// Longest time without acknowledgement after the fault, ms.
    pub longest_pause_ms: Option<u64>,
    /// Statuses other than GOOD at the host.
    pub not_good: Vec<(String, u64)>,
    /// The audits: name, promise, right or wrong, what was seen.
    pub audits: Vec<(String, String, bool, String)>,
    /// Time for everything, ms.
    pub took_ms: u64,
}

/// Size of the ext4 image that is made, bytes.
const IMAGE_BYTES: u64 = 24 << 20;
/// How much of real files goes into it, bytes.
const FILES_BYTES: u64 = 14 << 20;
/// Bytes of a volume behind the image, for the streams.
const STREAM_BYTES: u64 = 8 << 20;

/// Tools of Debian's e2fsprogs that are needed.
const TOOLS: [&str; 2] = ["mke2fs", "e2fsck"];

/// Programs of the system; `/sbin` is not on everybody's PATH.
fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Debian packages that this machine lacks.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if let Err(err) = pollux_host::library() {
        // Another problem than absence shows when the host starts, in its own words.
        if matches!(err, pollux_host::LoadError::Missing { .. }) {
            missing.push("libiscsi7");
        }
    }
    if TOOLS.iter().any(|tool| find_tool(tool).is_none()) {
        missing.push("e2fsprogs");
    }
    missing
}

/// Installs what is missing if this user may, and otherwise names it.
pub fn prepare(say: &mut dyn FnMut(&str)) -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let named = || {
        Error::Missing(format!(
            "this machine lacks {list}: run `apt-get install {list}` as root"
        ))
    };
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| {
        use std::os::unix::fs::MetadataExt;
        me.uid() == 0
    });
    if !root || find_tool("apt-get").is_none() {
        return Err(named());
    }
    say(&format!("installing {list}"));
    let install = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&missing);
    // Stale package lists are the usual reason why a first try fails.
    let installed = install(&arguments) || install(&["update", "-qq"]) && install(&arguments);
    if installed && missing_packages().is_empty() {
        Ok(())
    } else {
        Err(named())
    }
}

/// Runs a tool of the system; its output is part of the error.
fn run(tool: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let program =
        find_tool(tool).ok_or_else(|| Error::Missing(format!("{tool} (Debian package e2fsprogs)")))?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|err| Error::step(format!("run {tool}"), err))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = crate::array::last_lines(&String::from_utf8_lossy(&said), 5);
    Err(Error::step(tool, format!("{}: {said}", output.status)))
}

/// Makes an ext4 filesystem out of files that this machine has.
fn make_image(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    let image = directory.join("files.ext4");
    let copied = gather_files(&tree).map_err(|err| Error::step("gather files for the image", err))?;
    if copied == 0 {
        return Err(Error::step(
            "gather files for the image",
            "no readable file under /usr/share or /usr/bin",
        ));
    }
    let size = format!("{}k", IMAGE_BYTES / 1024);
    let arguments = ["-q", "-F", "-t", "ext4", "-d"].map(std::ffi::OsString::from);
    let mut all: Vec<&std::ffi::OsStr> = arguments.iter().map(|argument| argument.as_os_str()).collect();
    all.extend([tree.as_os_str(), image.as_os_str(), size.as_ref()]);
    run("mke2fs", &all)?;
    Ok(image)
}

/// Copies files, in the order of their names, until there are enough.
fn gather_files(tree: &Path) -> std::io::Result<u64> {
    let mut total = 0;
    let mut directories = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/share/doc")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                directories.push(path);
            } else if meta.is_file() && meta.len() > 0 && meta.len() < FILES_BYTES / 8 {
                let relative = path.strip_prefix("/").unwrap_or(&path);
                let target = tree.join(relative);
                std::fs::create_dir_all(target.parent().unwrap_or(tree))?;
                // Files that this user may not read are left out.
                if let Ok(bytes) = std::fs::copy(&path, &target) {
                    total += bytes;
                }
            }
            if total >= FILES_BYTES {
                return Ok(total);
            }
        }
    }
    Ok(total)
}

/// Prints a step with the time since the start.
struct Teller {
    start: Instant,
    quiet: bool,
}

impl Teller {
    fn say(&self, text: &str) {
        if !self.quiet {
            println!("[{:6.2} s] {text}", self.start.elapsed().as_secs_f64());
        }
    }

    fn block(&self, title: &str, text: &str) {
        if !self.quiet {
            println!("\n-- {title}\n{}\n", text.trim_end());
        }
    }
}

impl Demo {
    /// Runs it. `Ok(outcome)` says whether every promise was kept; an error means that it could
    /// not be shown.
    pub fn run(&self) -> Result<Outcome> {
        let teller = Teller {
            start: Instant::now(),
            quiet: self.json,
        };
        prepare(&mut |text| teller.say(text))?;
        let programs = Programs::beside_this()?;
        let scratch = tempfile::Builder::new()
            .prefix("pollux-")
            .tempdir()
            .map_err(|err| Error::step("make a scratch directory", err))?;
        let directory = self.directory.clone().unwrap_or_else(|| scratch.path().join("a"));
        let image = match &self.image {
            Some(image) => image.clone(),
            None => {
                teller.say("making an ext4 filesystem out of files of this machine");
                make_image(scratch.path())?
            }
        };
        let length = std::fs::metadata(&image)
            .map_err(|err| Error::step(format!("read {}", image.display()), err))?
            .len();
        if length == 0 {
            return Err(Error::step(
                format!("read {}", image.display()),
                "it is empty; an image has bytes",
            ));
        }
        let plan = self.plan(&directory, length);
        teller.say(&format!("starting the array in {}", directory.display()));
        let serving = Instant::now();
        let mut rig = Rig::build(&programs, plan)?;
        rig.load()?;
        let start_to_serving_ms = serving.elapsed().as_millis() as u64;
        teller.say("two controllers, two pools, every volume over two paths, streams flow");
        teller.block("before", &self.pollux(&rig, &["status"]));

        teller.say(&format!(
            "copying {} ({} KiB) to volume {}",
            image.display(),
            length / 1024,
            rig.volumes[0].name
        ));
        let copy = rig.host.copy_in(rig.volumes[0].lun, image);
        wait_for("half of the image is copied", Duration::from_secs(120), || {
            let done = rig.host.copy_progress(rig.volumes[0].lun)?;
            that(done >= length / 2, || format!("{done} of {length} bytes"))
        })?;
        let struck = self.strike(&rig, &teller)?;
        rig.wait_progress(200, crate::rig::MOVE)?;
        let copied = copy.wait().map_err(|err| Error::step("copy the image", err));
        self.aftermath(&rig, &teller)?;
        teller.say("stopping the streams, reading everything back");
        let mut judgement = rig.judge(struck)?;
        judgement
            .audits
            .push(check_image(&rig, copied, self.image.is_none(), scratch.path()));
        teller.block("after", &self.pollux(&rig, &["status"]));
        teller.block("timeline", &self.pollux(&rig, &["timeline"]));
        let outcome = self.outcome(&judgement, start_to_serving_ms, teller.start);
        self.tell(&judgement, &outcome, &teller);
        if self.keep {
            self.leave_running(rig, scratch, &directory)?;
        } else {
            drop(rig);
        }
        Ok(outcome)
    }

    fn plan(&self, directory: &Path, image_bytes: u64) -> Plan {
        let reserved_bytes = image_bytes.next_multiple_of(1 << 20);
        let volume_bytes = reserved_bytes + STREAM_BYTES;
        let mut options = Options::new(directory);
        options.seed = self.seed;
        options.profile = self.profile;
        // Labels and rounding to extents take a little of each disk.
        options.disk_size = (volume_bytes * u64::from(self.volumes) + (64 << 20)).next_multiple_of(1 << 20);
        let mut plan = Plan::new(options);
        plan.volumes_per_pool = self.volumes;
        plan.volume_bytes = volume_bytes;
        plan.reserved_bytes = reserved_bytes;
        plan
    }

    /// Lets the fault strike, waits until the array has coped, and returns when it struck.
    fn strike(&self, rig: &Rig, teller: &Teller) -> Result<u64> {
        use ControllerId::{A, B};
        let array = &rig.array;
        let alpha = rig.pool_of(A).id;
        let before = now_ns();
        let done = match self.fault {
            Fault::None => return Ok(before),
            Fault::Power => {
                teller.say("FAULT: controller a loses its power");
                array.power(A, PowerAction::Off)?
            }
            Fault::Hang => {
                teller.say("FAULT: controller a stops without a word");
                array.hang(A, true)?
            }
            Fault::HangUnfenced => {
                array.bmc(B, false)?;
                array.watchdog(A, false)?;
                teller.say("FAULT: controller a stops; no power control, no watchdog");
                array.hang(A, true)?
            }
            Fault::Interconnect => {
                teller.say("FAULT: both legs of the interconnect are cut");
                array.interconnect(Cable::Cut)?
            }
            Fault::Leg => {
                teller.say("FAULT: leg 0 of the interconnect is cut");
                array.leg(0, Cable::Cut)?
            }
            Fault::ShelfPath => {
                teller.say("FAULT: controller a loses its cable to the shelf");
                array.disk_path(A, None, false)?
            }
            Fault::Switchover => {
                teller.say("moving pool alpha to controller b");
                array
                    .switchover(A, alpha)
                    .map_err(|err| Error::step("switchover", crate::rig::refusal(&err)))?;
                rig.wait_taken(B, alpha)?;
                teller.say("controller b serves pool alpha");
                return Ok(before);
            }
        };
        match self.fault {
            Fault::Interconnect | Fault::Leg | Fault::Switchover | Fault::None => {}
            Fault::Power | Fault::Hang | Fault::HangUnfenced | Fault::ShelfPath => {
                rig.wait_taken(B, alpha)?;
                teller.say("controller b serves pool alpha");
            }
        }
        Ok(done.began_ns)
    }

    /// What follows once the host goes on: the array has to notice, cables are mended, the hung
    /// controller is let go.
    fn aftermath(&self, rig: &Rig, teller: &Teller) -> Result<()> {
        use ControllerId::{A, B};
        let alpha = rig.pool_of(A).id;
        match self.fault {
            Fault::HangUnfenced => {
                teller.say("controller a goes on, and must notice by itself that it was replaced");
                rig.array.hang(A, false)?;
                wait_for("a stops serving alpha by itself", crate::rig::MOVE, || {
                    that(rig.array.serves(A, alpha).is_err(), || {
                        "it still says that it serves it".into()
                    })
                })?;
                rig.wait_progress(200, crate::rig::MOVE)?;
                rig.array.wait_owner(B, alpha, crate::rig::MOVE)?;
                rig.array.wait_joined(crate::rig::MOVE + crate::rig::BOOT)?;
                teller.say("it did, and has joined again");
            }
            Fault::Interconnect => {
                rig.wait_locked()?;
                teller.say("both have locked the configuration; streams go on, nothing moves");
                rig.wait_progress(200, crate::rig::MOVE)?;
                rig.nothing_moved()?;
                rig.array.interconnect(Cable::Whole)?;
                rig.array.wait_joined(crate::rig::MOVE)?;
                teller.say("mended, joined, unlocked");
            }
            Fault::Leg => {
                rig.wait_alarm("leg_down", true)?;
                teller.say("both have raised the alarm; streams go on, nothing moves");
                rig.wait_progress(200, crate::rig::MOVE)?;
                rig.nothing_moved()?;
                rig.array.leg(0, Cable::Whole)?;
                rig.wait_alarm("leg_down", false)?;
                teller.say("mended, and the alarm is gone");
            }
            Fault::Power | Fault::Hang | Fault::ShelfPath | Fault::Switchover | Fault::None => {}
        }
        Ok(())
    }

    /// Runs the operator's command against the array; what it prints, or why it could not.
    fn pollux(&self, rig: &Rig, arguments: &[&str]) -> String {
        // The controller that is surely there, whatever struck.
        let directory = rig.array.directory();
        let output = Command::new(rig.array.programs().pollux())
            .arg("--dir")
            .arg(directory)
            .args(["--on", "b"])
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => format!(
                "pollux {}: {}: {}",
                arguments.join(" "),
                output.status,
                crate::array::last_lines(&String::from_utf8_lossy(&output.stderr), 3)
            ),
            Err(err) => format!("pollux {}: {err}", arguments.join(" ")),
        }
    }

    fn outcome(&self, judgement: &Judgement, start_to_serving_ms: u64, start: Instant) -> Outcome {
        Outcome {
            pass: judgement.is_clean(),
            fault: self.fault,
            seed: self.seed,
            start_to_serving_ms,
            longest_pause_ms: judgement.pause.map(|pause| pause.as_millis() as u64),
            not_good: not_good(judgement),
            audits: judgement
                .audits
                .iter()
                .map(|audit| {
                    let (right, detail) = match &audit.finding {
                        Ok(detail) => (true, detail.clone()),
                        Err(detail) => (false, detail.clone()),
                    };
                    (audit.name.into(), audit.promise.into(), right, detail)
                })
                .collect(),
            took_ms: start.elapsed().as_millis() as u64,
        }
    }

    fn tell(&self, judgement: &Judgement, outcome: &Outcome, teller: &Teller) {
        let mut text = String::new();
        for audit in &judgement.audits {
            let _ = writeln!(text, "{audit}");
        }
        teller.block("audits", &text);
        let mut text = String::new();
        for (status, count) in &outcome.not_good {
            let _ = writeln!(text, "{count:6} x {status}");
        }
        if text.is_empty() {
            text.push_str("none");
        }
        teller.block("statuses other than GOOD at the host", &text);
        let pause = judgement.pause.map_or("below 20 ms".into(), |pause| {
            format!("{:.3} s", pause.as_secs_f64())
        });
        teller.say(&format!("the host's longest pause: {pause}"));
    }

    /// Hands the running array to the user until they interrupt.
    fn leave_running(&self, rig: Rig, scratch: tempfile::TempDir, directory: &Path) -> Result<()> {
        let shown = directory.display();
        println!(
            "\nIt is still running. Try, in another terminal:\n\
             \x20 pollux --dir {shown} status\n\
             \x20 pollux --dir {shown} chassis power a on\n\
             \x20 pollux --dir {shown} timeline\n\
             Ctrl-C here ends it and leaves nothing behind."
        );
        while !crate::wait::interrupted() {
            crate::wait::pause(Duration::from_millis(50));
        }
        drop(rig);
        drop(scratch);
        Ok(())
    }
}

fn not_good(judgement: &Judgement) -> Vec<(String, u64)> {
    let line = |what: &pollux_host::engine::Counted| {
        let lun = what.lun.map_or(String::new(), |lun| format!(" LUN {lun}"));
        format!(
            "port {}{lun}, {}: {}",
            if what.port == 0 { "a" } else { "b" },
            what.class,
            what.status
        )
    };
    judgement
        .report
        .counts
        .iter()
        .map(|(what, count)| (line(what), *count))
        .collect()
}

/// The image that came out is the image that went in, and its filesystem is whole.
fn check_image(rig: &Rig, copied: Result<Copied>, is_ext4: bool, scratch: &Path) -> Audit {
    let look = || -> std::result::Result<String, String> {
        let copied = copied.map_err(|err| err.to_string())?;
        let back = scratch.join("back.img");
        let read = rig
            .host
            .copy_out(rig.volumes[0].lun, copied.bytes, back.clone())?;
        that(read.digest == copied.digest, || {
            format!("digest {} went in, {} came out", copied.digest, read.digest)
        })?;
        let mut seen = format!("{} KiB, digest {:.16}", copied.bytes / 1024, copied.digest);
        if is_ext4 {
            run("e2fsck", &["-fn".as_ref(), back.as_os_str()]).map_err(|err| err.to_string())?;
            seen.push_str(", e2fsck clean");
        }
        Ok(seen)
    };
    Audit {
        name: "img",
        promise: "the image came out as it went in",
        finding: look(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_of_real_files_and_is_whole() {
        if TOOLS.iter().any(|tool| find_tool(tool).is_none()) {
            eprintln!("SKIPPED: mke2fs and e2fsck are not installed (Debian package e2fsprogs)");
            return;
        }
        let directory = tempfile::tempdir().expect("scratch directory");
        let image = make_image(directory.path()).expect("made");
        assert_eq!(std::fs::metadata(&image).expect("there").len(), IMAGE_BYTES);
        run("e2fsck", &["-fn".as_ref(), image.as_os_str()]).expect("whole");
        // And a damaged one is noticed: the check can fail.
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .expect("writable");
        file.write_all_at(&[0xff; 4096], 8192).expect("damaged");
        assert!(run("e2fsck", &["-fn".as_ref(), image.as_os_str()]).is_err());
    }
}
