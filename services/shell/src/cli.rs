//! The words that `pollux` understands, from which help and errors are made.

use crate::error::EXIT_CODES;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pollux_api::action::ActionId;
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_api::role::Role;
use pollux_api::size::Size;
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "pollux", version, about = "Looks at and operates a dual-controller array", after_help = EXIT_CODES)]
pub struct Line {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Directory of one controller, DIR/a; the other one is asked through it.
    // An id of its own: commands have an argument `controller` too, and ids are one namespace.
    #[arg(
        id = "controller_dir",
        long = "controller",
        global = true,
        value_name = "DIR",
        env = "POLLUX_CONTROLLER"
    )]
    pub controller: Option<PathBuf>,
    /// Directory of an array that runs on this machine; each controller is asked itself.
    #[arg(long, global = true, value_name = "DIR", env = "POLLUX_DIR")]
    pub dir: Option<PathBuf>,
    /// The controller to ask first, and the one that acts where one has to.
    #[arg(long, global = true, value_name = "a|b")]
    pub on: Option<ControllerId>,
    /// Print JSON with stable member names instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Do a change under this action_id: what was done already is not done again, and is answered alike.
    #[arg(long, global = true, value_name = "ID")]
    pub action: Option<ActionId>,
}

/// `pollux setup`.
#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// What is decided beforehand; the first controller writes this file for the second
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Write over files that differ
    #[arg(long)]
    pub replace: bool,
}

/// How two controllers become partners.
#[derive(Debug, Subcommand)]
pub enum Pair {
    /// Show a code, and wait until it is typed on the other controller
    Show,
    /// Ask for the code that the other controller shows
    Enter,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The array on one screen
    Status,
    /// Make this machine a controller: find disks and interfaces, propose, ask, write its files
    Setup(Setup),
    /// Make two stopped controllers partners: a code that one shows is typed on the other
    #[command(subcommand)]
    Pair(Pair),
    /// What now blocks takeover, switchover, giveback or the configuration, and what clears it
    Why,
    /// Phases of takeovers and switchovers as bars
    Timeline {
        /// The action of one of them; without it, the newest
        id: Option<ActionId>,
        /// At most so many
        #[arg(long, default_value_t = 3)]
        limit: u32,
    },
    /// Everything that an action caused, on both controllers
    Trace {
        /// The action; without it, the newest actions that nobody else caused
        id: Option<ActionId>,
        /// At most so many messages
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// List also actions that only looked something up
        #[arg(long)]
        all: bool,
    },
    /// Long work: what goes on, how far it is, and how it is called off
    #[command(subcommand)]
    Action(Work),
    /// Move a pool to the partner of its owner, planned
    Switchover {
        /// Name or identity of the pool
        pool: String,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
    /// Move pools to their homes
    Giveback {
        /// Only this pool
        pool: Option<String>,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
    /// Take what the partner owns; it is fenced first
    Takeover {
        /// Say that the partner is meant
        #[arg(long, required_unless_present = "override_epoch")]
        partner: bool,
        /// Go on although this is the highest epoch and names the partner alone: changes that only the partner
        /// holds are lost
        #[arg(long = "override", value_name = "EPOCH")]
        override_epoch: Option<u64>,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
    /// Shut the whole array down in good order, or with --on one controller, and power off the machines
    Shutdown {
        /// Why, for the logs
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
    /// Shut the controller of --on down in good order, and start its machine again
    Reboot {
        /// Why, for the logs
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
    /// Abort a planned move before its point of no return
    Abort {
        /// Name or identity of the pool
        pool: String,
    },
    /// The disks that decide who serves
    Quorum {
        /// What to do; without it they are shown
        #[command(subcommand)]
        what: Option<Quorum>,
    },
    /// Disks, and the reservation keys on them that are none of this array's
    #[command(subcommand)]
    Disk(Disk),
    /// Pools
    #[command(subcommand)]
    Pool(Pool),
    /// Volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Snapshots of volumes
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Hosts and their initiators
    #[command(subcommand)]
    Host(Host),
    /// Which host sees which volume under which number
    #[command(subcommand)]
    Map(Map),
    /// Floating addresses
    #[command(subcommand)]
    Address(Address),
    /// The configuration as a whole
    #[command(subcommand)]
    Config(Config),
    /// Tokens: who may come in over the management address, and what for
    #[command(subcommand)]
    Token(Token),
    /// The management address of each controller, and the fingerprint of its certificate
    Management,
    /// The enclosure in software: power, cables, faults
    #[command(subcommand)]
    Chassis(Chassis),
    /// Call a method of a service and print its answer
    Call {
        /// service.method, partner/service.method, a/service.method
        method: String,
        /// Parameters as JSON
        params: Option<String>,
    },
    /// Print what makes a shell complete these words
    Completion {
        /// For which
        shell: clap_complete::Shell,
    },
    /// Disarm the watchdog of this controller, whose daemons are stopped: what their units do last
    #[command(hide = true)]
    Disarm,
    /// This controller lets go of everything and says good-bye: what its units do first when they are stopped
    #[command(hide = true)]
    Leave,
    /// Take this machine down, as heartbeat has left word
    #[command(hide = true)]
    Machine,
    /// Write the manual pages of every command into a folder
    #[command(hide = true)]
    Manual {
        /// The folder; it is made
        folder: PathBuf,
    },
    /// The whole array on this machine, with a fault in mid-write; arguments go to pollux-demo
    #[command(disable_help_flag = true)]
    Demo {
        /// Arguments of pollux-demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// `pollux action`.
#[derive(Debug, Subcommand)]
pub enum Work {
    /// Long work that goes on, on both controllers
    List {
        /// Also what has ended
        #[arg(long)]
        all: bool,
    },
    /// Show how far a piece of work is until it ends
    Watch {
        /// The action under which it was asked for
        id: ActionId,
    },
    /// Ask for a piece of work to end, where that is safe
    Cancel {
        /// The action under which it was asked for
        id: ActionId,
    },
}

/// `pollux token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and show it, this once
    Add {
        /// Its name, by which traces show who did what
        name: String,
        /// What it opens: viewer looks, operator moves and changes, admin makes tokens and overrides
        #[arg(long, value_name = "viewer|operator|admin")]
        role: Role,
        /// It is good for so many days; for ever if not said
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
        expires: Option<u32>,
    },
    /// Every token, without what is secret
    List,
    /// Take a token away; whoever is connected with it is disconnected
    Remove {
        /// Its name
        name: String,
    },
}

/// How to go about something dangerous.
#[derive(Clone, Copy, Debug, Args)]
pub struct Care {
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Wait so many seconds for the end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
}

/// What a pool is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Class {
    /// Latency
    Fast,
    /// Capacity
    Ordinary,
}

/// How a pool survives the loss of disks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Redundancy {
    /// Every disk holds everything
    Mirror,
    /// One disk, whose loss is the loss of the pool
    Single,
}

/// Reads `3` or `disk-03`.
fn disk(text: &str) -> Result<DiskIndex, String> {
    let number = text.strip_prefix("disk-").unwrap_or(text);
    number
        .parse()
        .map(DiskIndex::new)
        .map_err(|_| format!("`{text}` is no disk: its place, 3 or disk-03"))
}

/// `pollux quorum`
#[derive(Debug, Subcommand)]
pub enum Quorum {
    /// Show them, as each controller sees them
    Show,
    /// Write an empty quorum area on the quorum disks, once in the life of an array; they have to be blank
    Format,
    /// Put another disk in the place of one of them
    Replace {
        /// The quorum disk that leaves
        #[arg(value_parser = disk)]
        old: DiskIndex,
        /// The disk that joins: no pool has it, and it is blank
        #[arg(value_parser = disk)]
        new: DiskIndex,
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
}

/// `pollux disk`
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// Keys on the disks that nobody of this array has registered, and how each is removed
    Keys,
    /// Remove such keys from a disk, with their reservation; commands of whoever has them are aborted. Refused while a
    /// controller of this array has a key there. From a quorum disk all keys go at once, and nothing is aborted
    ClearKey {
        /// The disk
        #[arg(value_parser = disk)]
        disk: DiskIndex,
        /// The keys, as `pollux disk keys` shows them; of a quorum disk all that stand there
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// Say what would happen, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `pollux pool`
#[derive(Debug, Subcommand)]
pub enum Pool {
    /// Make a pool and wait until volumes can be made on it
    Create {
        /// Its name
        name: String,
        /// What it is for
        #[arg(long, value_enum, default_value = "fast")]
        class: Class,
        /// Where it belongs
        #[arg(long, value_name = "a|b")]
        home: ControllerId,
        /// How it survives the loss of disks
        #[arg(long, value_enum, default_value = "mirror")]
        redundancy: Redundancy,
        /// Its disks, 3,4 or disk-03,disk-04
        #[arg(long, value_delimiter = ',', required = true, value_parser = disk, value_name = "DISK,...")]
        disks: Vec<DiskIndex>,
        /// Wait so many seconds until it is ready; 0: do not wait
        #[arg(long, value_name = "SECONDS", default_value_t = 20)]
        wait: u64,
    },
    /// Every pool
    List,
    /// One pool
    Show {
        /// Name or identity
        name: String,
    },
    /// Give it another home
    Home {
        /// Name or identity
        name: String,
        /// Where it belongs from now on
        home: ControllerId,
    },
    /// Delete it
    Delete {
        /// Name or identity
        name: String,
    },
}

/// `pollux volume`
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make a volume
    Create {
        /// Its name
        name: String,
        /// The pool to make it on
        #[arg(long)]
        pool: String,
        /// Its size: 4096, 512M, 1.5G
        #[arg(long)]
        size: Size,
        /// It takes space of the pool when it is first written, and gives back what hosts unmap
        #[arg(long)]
        thin: bool,
    },
    /// Every volume
    List,
    /// One volume
    Show {
        /// Name or identity
        name: String,
    },
    /// Grow it, while hosts use it
    Resize {
        /// Name or identity
        name: String,
        /// Its new size; a volume does not shrink
        #[arg(long)]
        size: Size,
    },
    /// Let it take space when it is written, or give it all its space, while hosts use it
    Convert {
        /// Name or identity
        name: String,
        /// How it has its space from now on
        #[arg(long, value_name = "thin|thick")]
        to: Provisioning,
    },
    /// Let writes stay in the disks' caches until a host flushes them, or not; while hosts use it. A controller that
    /// dies takes nothing with it; disks that lose their power take what was not flushed
    WriteCache {
        /// Name or identity
        name: String,
        /// What it is from now on
        #[arg(long, value_name = "on|off")]
        to: Switch,
    },
    /// Delete it
    Delete {
        /// Name or identity
        name: String,
    },
}

/// How a volume has its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Provisioning {
    /// When it is first written
    Thin,
    /// All of it, from the beginning
    Thick,
}

/// `pollux snapshot`
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Keep what a volume is now, while hosts use it
    Create {
        /// Its name
        name: String,
        /// The volume
        #[arg(long)]
        volume: String,
        /// Wait so many seconds until it stands
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u64,
    },
    /// Every snapshot of a volume, and whether it stands
    List,
    /// Delete one
    Delete {
        /// Name or identity
        name: String,
        /// It goes with its data
        #[arg(long)]
        discard_data: bool,
    },
    /// Make a volume that no host sees what it was; the snapshot stays
    Rollback {
        /// Name or identity
        name: String,
        /// What was written since goes
        #[arg(long)]
        discard_data: bool,
    },
}

/// `pollux host`
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Make a host
    Create {
        /// Its name
        name: String,
        /// Name of an initiator; may be given several times
        #[arg(long, required = true)]
        iqn: Vec<String>,
    },
    /// Every host
    List,
    /// One host
    Show {
        /// Name or identity
        name: String,
    },
    /// Delete it
    Delete {
        /// Name or identity
        name: String,
    },
}

/// `pollux map`
#[derive(Debug, Subcommand)]
pub enum Map {
    /// Show a volume to a host
    Create {
        /// The volume
        volume: String,
        /// The host
        host: String,
        /// The number under which it sees it; the lowest free one if not given
        #[arg(long)]
        lun: Option<u16>,
    },
    /// Every mapping
    List,
    /// Mappings of one volume or host
    Show {
        /// Name or identity of the volume or the host
        name: String,
    },
    /// Show a volume to a host no longer
    Delete {
        /// The volume
        volume: String,
        /// The host
        host: String,
    },
}

/// `pollux address`
#[derive(Debug, Subcommand)]
pub enum Address {
    /// Make a floating address
    Create {
        /// Address with prefix length, 10.78.0.50/24
        address: String,
        /// The pool with which it moves
        #[arg(long)]
        pool: String,
    },
    /// Every floating address
    List,
    /// One address
    Show {
        /// The address or its identity
        address: String,
    },
    /// Delete it
    Delete {
        /// The address or its identity
        address: String,
    },
}

/// How to bring the configuration to what is written.
#[derive(Clone, Copy, Debug, Args)]
pub struct Bring {
    /// Show the difference, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Delete pools and volumes with their data
    #[arg(long)]
    pub discard_data: bool,
    /// Wait so many seconds for the space of a pool that is made
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
}

/// `pollux config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Everything that is configured
    Show,
    /// Every change and what it did, oldest first
    #[command(visible_alias = "log")]
    History {
        /// Only changes after this index
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// What differs between the configuration after one change and after another
    Diff {
        /// Index of the earlier change; 0: before the first
        from: u64,
        /// Index of the later change; the last if it is left out
        to: Option<u64>,
    },
    /// Make the configuration what it was after a change, by a new change
    Rollback {
        /// Index of that change
        index: u64,
        /// How to go about it
        #[command(flatten)]
        how: Bring,
    },
    /// Write the configuration as a text that can be edited and imported
    Export {
        /// Where to; the standard output if it is left out
        file: Option<PathBuf>,
    },
    /// Make the configuration what a text says, after showing the difference
    Import {
        /// The text, as `export` writes it; - reads the standard input
        file: PathBuf,
        /// How to go about it
        #[command(flatten)]
        how: Bring,
    },
    /// Write every change into a file, from which a lost database can be restored
    Backup {
        /// Where to
        file: PathBuf,
    },
    /// Give a controller that has lost its database the changes of a backup; where none is lost, make the array what it was
    /// at the end of the backup, after showing the difference
    Restore {
        /// What `backup` has written
        file: PathBuf,
        /// How to go about it
        #[command(flatten)]
        how: Bring,
    },
    /// Things of a kind that has no command of its own: networks, ports, shares, users, schedules ...
    List {
        /// The kind: controller, network, port, disk, host-group, file-system, schedule, snapshot, access-role, user,
        /// share, token, key, policy, settings
        kind: String,
    },
    /// One of them, as the exported text has it
    Get {
        /// Its kind
        kind: String,
        /// Its name or identity
        name: String,
    },
    /// Make one, or change fields of it
    Set {
        /// Its kind
        kind: String,
        /// Its name
        name: String,
        /// field=value, the value as in the exported text; field=@FILE or field=@- for what nobody else should read;
        /// field= takes it out
        fields: Vec<String>,
        /// Show what would change; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete one to which nothing refers
    Delete {
        /// Its kind
        kind: String,
        /// Its name or identity
        name: String,
        /// A file system or a snapshot goes with its data
        #[arg(long)]
        discard_data: bool,
        /// Show what would change; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Where the log stands on each controller
    Status,
    /// Check the hash chain, the tables and the database of each controller
    Verify,
    /// Let a lone controller change the configuration: its partner cannot go on without it any more
    Open {
        /// How to go about it
        #[command(flatten)]
        care: Care,
    },
}

/// In or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Plug {
    /// Plugged in
    In,
    /// Pulled out
    Out,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// A power button.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Button {
    /// Power on
    On,
    /// Cut the power
    Off,
    /// Off and on
    Reset,
}

/// State of a cable.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Cable {
    /// Carries both ways
    Whole,
    /// Cut
    Cut,
    /// Only what a sends arrives
    OnlyAToB,
    /// Only what b sends arrives
    OnlyBToA,
}

/// What happens to a daemon.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Deed {
    /// SIGKILL; it is started again
    Kill,
    /// SIGTERM; it is started again
    Restart,
    /// SIGSTOP
    Stop,
    /// SIGCONT
    Continue,
}

/// `pollux chassis`
#[derive(Debug, Subcommand)]
pub enum Chassis {
    /// Controllers, daemons, cables and disks as the enclosure knows them
    Status,
    /// The power button of a controller
    Power {
        /// Which
        controller: ControllerId,
        /// What
        button: Button,
    },
    /// Stop every process of a controller
    Hang {
        /// Which
        controller: ControllerId,
    },
    /// Let a hung controller go on
    Resume {
        /// Which
        controller: ControllerId,
    },
    /// Restart a controller in order
    Reboot {
        /// Which
        controller: ControllerId,
    },
    /// One daemon of a controller
    Daemon {
        /// Which controller
        controller: ControllerId,
        /// Name of its program, heartbeatd
        daemon: String,
        /// What
        deed: Deed,
    },
    /// One cable of the interconnect
    Leg {
        /// 0 or 1
        #[arg(value_parser = clap::value_parser!(u8).range(0..=1))]
        leg: u8,
        /// What becomes of it
        cable: Cable,
    },
    /// Both cables of the interconnect
    Interconnect {
        /// What becomes of them
        cable: Cable,
    },
    /// The front-end cable of a controller
    HostPort {
        /// Which
        controller: ControllerId,
        /// In or out
        plug: Plug,
    },
    /// The path of a controller to one disk, or to all
    DiskPath {
        /// Whose
        controller: ControllerId,
        /// A disk, or `all`
        #[arg(value_parser = disk_or_all)]
        disk: AllOr,
        /// In or out
        plug: Plug,
    },
    /// Make a disk misbehave, or behave again (`none`)
    DiskFault {
        /// Which
        #[arg(value_parser = disk)]
        disk: DiskIndex,
        /// none, slow, failing, failing-reads, failing-writes, read-only, stuck, torn-write, misdirected-write, lost-write
        fault: Fault,
        /// Through one controller's port only
        #[arg(long)]
        port: Option<ControllerId>,
        /// Delay of `slow`, ms
        #[arg(long, default_value_t = 200)]
        slow_ms: u64,
    },
    /// Power of the shelf; what was not flushed is lost
    ShelfPower {
        /// What
        button: Button,
    },
    /// May a controller reach the power control of its partner?
    Bmc {
        /// Which asks
        controller: ControllerId,
        /// On or off
        switch: Switch,
    },
    /// Does the watchdog of a controller act?
    Watchdog {
        /// Whose
        controller: ControllerId,
        /// On or off
        switch: Switch,
    },
    /// Everything as new; power stays as it is
    Heal,
    /// Write a line into the enclosure's journal
    Note {
        /// The line
        text: String,
    },
    /// The enclosure's journal
    Events {
        /// Only events with a higher number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// End everything
    Shutdown,
}

/// A disk, or all of them.
#[derive(Clone, Copy, Debug)]
pub struct AllOr(pub Option<DiskIndex>);

fn disk_or_all(text: &str) -> Result<AllOr, String> {
    if text == "all" {
        Ok(AllOr(None))
    } else {
        disk(text).map(|disk| AllOr(Some(disk)))
    }
}

/// How a disk misbehaves.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Fault {
    /// As new
    None,
    /// Every command takes a while longer
    Slow,
    /// Reads and writes fail
    Failing,
    /// Reads fail
    FailingReads,
    /// Writes fail
    FailingWrites,
    /// Writes are refused
    ReadOnly,
    /// Commands are never answered
    Stuck,
    /// The next write of more than one block is torn
    TornWrite,
    /// The next write lands elsewhere
    MisdirectedWrite,
    /// The next write is lost
    LostWrite,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn every_command_is_read_with_every_common_option() {
        let commands = "status|why|setup --dry-run|setup --answers /x/p.toml --yes --replace\
            |timeline|trace|action list --all|action watch 01890a5d-ac96-774b-bcce-b302099a8057\
            |action cancel 01890a5d-ac96-774b-bcce-b302099a8057|switchover p --dry-run|giveback|giveback p --yes|takeover --partner\
            |abort p|quorum|quorum show|quorum format|quorum replace 1 disk-07 --yes\
            |pool create p --home a --disks 0,disk-01|pool list|pool show p|pool home p b|pool delete p\
            |volume create v --pool p --size 1G --thin|volume list|volume show v|volume resize v --size 2G|volume delete v\
            |volume convert v --to thin|volume convert v --to thick\
            |volume write-cache v --to on|volume write-cache v --to off|snapshot create s --volume v|snapshot list\
            |snapshot delete s --discard-data|snapshot rollback s --discard-data\
            |host create h --iqn iqn.2025-01.x:h|host list|host show h|host delete h|map create v h --lun 3|map list\
            |map show v|map delete v h|address create 10.78.0.50/24 --pool p|address list|address show 10.78.0.50/24\
            |address delete 10.78.0.50/24|config show|config log|config history --after 3|config diff 0|config diff 3 5\
            |config rollback 3 --dry-run\
            |config export|config export /x/y.toml|config import /x/y.toml --yes --discard-data|config import - --dry-run\
            |config status|config verify|chassis status\
            |chassis power a off|chassis hang a|chassis resume a|chassis reboot b|chassis daemon a heartbeatd kill\
            |shutdown --yes --reason ups|reboot --dry-run|leave|machine\
            |chassis leg 1 cut|chassis interconnect only-a-to-b|chassis host-port a out|chassis disk-path b all out\
            |chassis disk-path b 3 in|chassis disk-fault 2 slow --slow-ms 9|chassis shelf-power off|chassis bmc a off\
            |completion bash|manual /x|disarm|token add ops --role operator --expires 30|token list|token remove ops|management\
            |chassis watchdog b on|chassis heal|chassis note x|chassis events|chassis shutdown|call pool.status null";
        for command in commands.split('|') {
            let words = [
                "pollux",
                "--controller",
                "/x/a",
                "--dir",
                "/x",
                "--on",
                "b",
                "--json",
            ];
            let line = words.into_iter().chain(command.split_whitespace());
            let line = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{command}: {error}"));
            assert_eq!(line.common.on, Some(ControllerId::B));
            assert_eq!(line.common.controller, Some("/x/a".into()));
        }
    }

    #[test]
    fn what_makes_no_sense_names_what_would_be_right() {
        for (command, right) in [
            ("status --verbose", "--verbose"),
            ("frobnicate", "frobnicate"),
            ("pool create p --home c --disks 0", "`a` or `b`"),
            ("pool create p --home a --disks x", "3 or disk-03"),
            ("volume create v --pool p --size 12Q", "512M or 1.5G"),
            ("chassis leg 2 cut", "0..=1"),
            ("trace 17", "UUID"),
            ("token add ops --role root", "viewer, operator or admin"),
            ("token add ops", "--role"),
            ("token add ops --role admin --expires 0", "1..=3650"),
            ("takeover", "--partner"),
        ] {
            let line = ["pollux"].into_iter().chain(command.split_whitespace());
            let refusal = Line::try_parse_from(line).expect_err(command).to_string();
            assert!(refusal.contains(right), "{command}: {refusal}");
        }
    }
}
