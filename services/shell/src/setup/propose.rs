//! What a controller becomes: from what is here and what was answered to a whole proposal, or to what has to be asked.
//!
//! A form that fills itself in. What follows from the machine is filled in, what was answered stands over it, what
//! neither says is asked, and what cannot be is refused with its reason. Nothing here looks at the machine or writes to
//! it, so the same facts and answers give the same proposal.
//!
//! Slots: on the first controller the disks have slots 0, 1, ... in the order of their WWNs; the second takes the list
//! of the first, which is among the answers that it is given, and refuses where it does not see every disk of it. So
//! both have the same disk in the same slot, and a disk with one port only, which one of the two cannot see, is found.
//!
//! It must never choose where there is a choice that a person would see, and never give a disk another slot than the
//! list it was given.

use super::facts::{Clock, Disk, Facts, Nic};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_platform::netlink::IfAddr;
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::{Fence, Front, Interconnect, Management, Paths, Profile, Quorum};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Fewest disks with which three are of the quorum area; with fewer it is one.
const ENOUGH_FOR_THREE: usize = 5;
/// UDP port of the heartbeat.
const HEARTBEAT_PORT: u16 = 7700;
/// TCP port of the routers.
const ROUTER_PORT: u16 = 7710;
/// TCP port of forwarded commands.
const FORWARD_PORT: u16 = 7711;
/// TCP port of iSCSI (RFC 7143, 13.1).
const PORTAL_PORT: u16 = 3260;

/// What is decided beforehand, in a file: everything may be left out. Its keys are those of `controller.toml` and
/// `enclosure.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Which of the two this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerId>,
    /// The array, as the first controller has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayId>,
    /// Timing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// The wire to the partner.
    #[serde(default)]
    pub interconnect: InterconnectAnswers,
    /// The side of the hosts.
    #[serde(default)]
    pub front: FrontAnswers,
    /// The disks of the quorum area.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Where those are served who come from afar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,
    /// The disks, each in its slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<Slot>,
    /// The watchdog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Watchdog>,
    /// What switches the partner off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
}

/// Of [`Answers`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterconnectAnswers {
    /// The bond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// This controller's address on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The partner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<IpAddr>,
}

/// Of [`Answers`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontAnswers {
    /// The interface to the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// This controller's own address on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// A disk in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Number by which the array knows it, the same on both controllers.
    pub slot: u16,
    /// Name by which it is found, the same through both of its ports.
    pub wwn: String,
    /// Its size, bytes; a disk of another size is another disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// It is for the quorum alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quorum: bool,
    /// Its data are the kernel's: it is for pools in volume groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel: bool,
}

/// The watchdog of this controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// Its device.
    pub device: PathBuf,
}

/// How the partner is switched off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bmc {
    /// A fence agent's program.
    pub agent: PathBuf,
    /// What it is told.
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
    /// File with the password, readable by its owner alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How long one run of it may take, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// `enclosure.toml`: which hardware stands behind the names of the array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enclosure {
    /// The disks.
    pub disk: Vec<Slot>,
    /// The watchdog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Watchdog>,
    /// The partner's power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
}

/// What the controller becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// `controller.toml`.
    pub controller: ControllerConfig,
    /// `enclosure.toml`.
    pub enclosure: Enclosure,
    /// What the second controller has to be told.
    pub partner: Answers,
    /// Disks that are not taken, and why.
    pub refused: Vec<(String, String)>,
    /// What a person should know or do.
    pub notes: Vec<String>,
}

/// Something that only a person knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Key of the answer, as in the file of answers.
    pub key: &'static str,
    /// What is asked.
    pub text: String,
    /// What can be answered; none: anything of the right kind.
    pub choices: Vec<String>,
}

/// Something that keeps this machine from being a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// How far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is known.
    Ready(Box<Proposal>),
    /// A person has to say.
    Ask(Vec<Question>),
    /// It cannot be.
    Refused(Vec<Problem>),
}

impl Answers {
    /// What stands already stands unless something else is answered: a second run changes no slot and no identity.
    pub fn keep(&mut self, controller: &ControllerConfig, enclosure: Option<&Enclosure>) {
        self.controller.get_or_insert(controller.controller);
        self.array.get_or_insert(controller.array);
        self.profile.get_or_insert(controller.profile);
        let (wire, front) = (&controller.interconnect, &controller.front);
        self.interconnect
            .interface
            .get_or_insert_with(|| wire.interface.clone());
        self.interconnect.local.get_or_insert(wire.local);
        self.interconnect.partner.get_or_insert(wire.partner);
        self.front
            .interface
            .get_or_insert_with(|| front.interface.clone());
        self.front.address.get_or_insert(front.address);
        self.quorum.get_or_insert_with(|| controller.quorum.clone());
        if self.management.is_none() {
            self.management.clone_from(&controller.management);
        }
        if let Some(enclosure) = enclosure {
            if self.disk.is_empty() {
                self.disk.clone_from(&enclosure.disk);
            }
            if self.watchdog.is_none() {
                self.watchdog.clone_from(&enclosure.watchdog);
            }
            if self.bmc.is_none() {
                self.bmc.clone_from(&enclosure.bmc);
            }
        }
    }

    /// Sets the answer to a question.
    ///
    /// # Errors
    /// What would be right.
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let address = || {
            let right = format!("{text:?} is no IP address; right would be for instance 10.77.0.2");
            text.parse::<IpAddr>().map_err(|_| right)
        };
        match key {
            "interconnect.interface" => self.interconnect.interface = Some(text.into()),
            "interconnect.local" => self.interconnect.local = Some(address()?),
            "interconnect.partner" => self.interconnect.partner = Some(address()?),
            "front.interface" => self.front.interface = Some(text.into()),
            "front.address" => self.front.address = Some(address()?),
            _ => return Err(format!("there is no question {key}")),
        }
        Ok(())
    }
}

/// Why a disk is not taken; nothing: it is.
#[must_use]
pub fn refusal(disk: &Disk, all: &[Disk]) -> Option<String> {
    if let Some(why) = disk.unsuited {
        return Some(why.to_owned());
    }
    let Some(wwn) = &disk.wwn else {
        return Some("it has no WWN (SPC-5, 7.7.6): it could not be told from another disk".into());
    };
    // What is said of one path is true of the disk: a mount names the path that it goes by.
    let paths = || all.iter().filter(|other| other.wwn.as_ref() == Some(wwn));
    if let Some((name, user)) = paths().find_map(|path| Some((&path.name, path.used_by.as_ref()?))) {
        let by = if *name == disk.name {
            String::new()
        } else {
            format!("as {name}: ")
        };
        return Some(format!("this machine uses it ({by}{user})"));
    }
    if let Some(why) = paths().find_map(|path| path.unsuited) {
        return Some(why.to_owned());
    }
    if !matches!(disk.block, 512 | 4096) {
        return Some(format!(
            "blocks of {} bytes; right would be 512 or 4096",
            disk.block
        ));
    }
    if disk.bytes == 0 {
        return Some("it says that it is empty: not ready, or no medium".into());
    }
    // Two paths of this controller to one disk are as good as one. Two disks of one name are not.
    let other = paths().find(|other| other.bytes != disk.bytes);
    other.map(|other| {
        format!(
            "{} has the same WWN and {} bytes where this one has {}: one of them is not what it says",
            other.name, other.bytes, disk.bytes
        )
    })
}

/// The proposal, or what is missing for it. `fresh`: identity of the array if none is given.
#[must_use]
pub fn propose(facts: &Facts, answers: &Answers, fresh: ArrayId) -> Outcome {
    let (mut questions, mut problems, mut notes) = (vec![], vec![], vec![]);
    let wire = interconnect(facts, answers, &mut questions, &mut problems);
    let front = front(facts, answers, wire.as_ref(), &mut questions, &mut problems);
    if let Some(front) = &front {
        strangers(facts, front, &mut notes);
    }
    let controller = wire.as_ref().map(|wire| which(answers, wire));
    let (mut disks, refused) = slots(facts, answers, &mut problems, &mut notes);
    let quorum = quorum(answers, &disks, &mut problems);
    for disk in &mut disks {
        disk.quorum = quorum.disks.contains(&DiskIndex::new(disk.slot));
    }
    if !disks.is_empty() && disks.iter().all(|disk| disk.quorum) {
        notes.push("no disk is left for data: a quorum disk is in no pool".into());
    }
    clock(&facts.clock, &mut notes);
    let watchdog = answers.watchdog.clone().or_else(|| {
        let device = facts.watchdog.clone()?;
        Some(Watchdog { device })
    });
    match (&answers.bmc, &watchdog) {
        (None, None) => notes.push(
            "no watchdog and no BMC: the disks reject a controller that hangs, but nobody resets it; \
             a watchdog device (/dev/watchdog) makes it come back by itself"
                .into(),
        ),
        (None, Some(_)) => notes.push(
            "no BMC: a partner that hangs is waited for until its watchdog has bitten; [bmc] in the file of answers \
             names a fence agent"
                .into(),
        ),
        (Some(_), _) => {}
    }
    if !problems.is_empty() {
        return Outcome::Refused(problems);
    }
    let (Some(controller), Some(wire), Some(front), true) = (controller, wire, front, questions.is_empty())
    else {
        return Outcome::Ask(questions);
    };
    let array = answers.array.unwrap_or(fresh);
    let partner = Answers {
        controller: Some(controller.partner()),
        array: Some(array),
        profile: answers.profile,
        interconnect: InterconnectAnswers {
            interface: None,
            local: Some(wire.partner),
            partner: Some(wire.local),
        },
        quorum: Some(quorum.clone()),
        disk: disks.clone(),
        ..Answers::default()
    };
    let config = ControllerConfig {
        controller,
        array,
        profile: answers.profile.unwrap_or(Profile::Fast),
        paths: paths(),
        interconnect: wire,
        front,
        quorum,
        fence: Fence {
            reservations: true,
            power: answers.bmc.is_some(),
            watchdog: watchdog.is_some(),
        },
        management: answers.management.clone(),
        history: None,
    };
    let wrong = config.problems();
    if !wrong.is_empty() {
        let one = |what: String| Problem::new(what, "correct the file of answers");
        return Outcome::Refused(wrong.into_iter().map(one).collect());
    }
    Outcome::Ready(Box::new(Proposal {
        controller: config,
        enclosure: Enclosure {
            disk: disks,
            watchdog,
            bmc: answers.bmc.clone(),
        },
        partner,
        refused,
        notes,
    }))
}

/// Where everything is on a machine that is one controller; the units and the package know the same places.
#[must_use]
pub fn paths() -> Paths {
    let run = PathBuf::from("/run/pollux");
    let var = PathBuf::from("/var/lib/pollux");
    Paths {
        port: run.join("port"),
        bmc: run.join("bmc.sock"),
        keys: var.join("keys"),
        log: "/var/log/pollux".into(),
        run,
        var,
    }
}

/// The wire: the bond that is there, its one address, and the other address of a network for two.
fn interconnect(
    facts: &Facts,
    answers: &Answers,
    questions: &mut Vec<Question>,
    problems: &mut Vec<Problem>,
) -> Option<Interconnect> {
    let given = &answers.interconnect;
    let bonds: Vec<&Nic> = facts.nics.iter().filter(|nic| !nic.legs.is_empty()).collect();
    let nic = match (&given.interface, &bonds[..]) {
        (Some(name), _) => find(facts, name, "interconnect.interface", problems)?,
        (None, [one]) => one,
        (None, []) => {
            problems.push(Problem::new(
                "there is no bond: the wire to the partner is two cables bonded into one",
                "make it (examples: /usr/share/doc/pollux/examples/network), or name another interface as \
                 interconnect.interface in a file of answers",
            ));
            return None;
        }
        (None, _) => {
            questions.push(Question {
                key: "interconnect.interface",
                text: "Which bond leads to the partner?".into(),
                choices: bonds.iter().map(|nic| nic.name.clone()).collect(),
            });
            return None;
        }
    };
    let legs = if nic.legs.is_empty() {
        vec![nic.name.clone()]
    } else {
        nic.legs.clone()
    };
    let local = own_address(nic, given.local, "interconnect.local", questions, problems)?;
    let Some(partner) = given.partner.or_else(|| the_other_of_two(local)) else {
        questions.push(Question {
            key: "interconnect.partner",
            text: format!(
                "Address of the partner on {} (this controller has {local})?",
                nic.name
            ),
            choices: vec![],
        });
        return None;
    };
    Some(Interconnect {
        interface: nic.name.clone(),
        legs,
        local: local.address,
        partner,
        heartbeat_port: HEARTBEAT_PORT,
        router_port: ROUTER_PORT,
        forward_port: FORWARD_PORT,
    })
}

/// The side of the hosts: the one interface with an address that is neither the wire nor the way out.
fn front(
    facts: &Facts,
    answers: &Answers,
    wire: Option<&Interconnect>,
    questions: &mut Vec<Question>,
    problems: &mut Vec<Problem>,
) -> Option<Front> {
    let given = &answers.front;
    let wire = wire?;
    let can = |nic: &&Nic| {
        nic.name != "lo"
            && nic.name != wire.interface
            && !wire.legs.contains(&nic.name)
            && nic.bond.is_none()
            && nic.addresses.iter().any(usable)
    };
    let candidates: Vec<&Nic> = facts.nics.iter().filter(can).collect();
    let nic = match (&given.interface, &candidates[..]) {
        (Some(name), _) if name == "lo" || *name == wire.interface => {
            problems.push(Problem::new(
                format!("front.interface = {name:?}: the array would hold back what else uses it"),
                "an interface that leads to the hosts and has no other work",
            ));
            return None;
        }
        (Some(name), _) => find(facts, name, "front.interface", problems)?,
        (None, [one]) => one,
        (None, []) => {
            problems.push(Problem::new(
                "no interface but that of the wire has an address: there is no way to the hosts",
                "give the interface to the hosts its address (examples: /usr/share/doc/pollux/examples/network)",
            ));
            return None;
        }
        (None, _) => {
            questions.push(Question {
                key: "front.interface",
                text: "Which interface leads to the hosts?".into(),
                choices: candidates.iter().map(|nic| nic.name.clone()).collect(),
            });
            return None;
        }
    };
    let own = own_address(nic, given.address, "front.address", questions, problems)?;
    Some(Front {
        interface: nic.name.clone(),
        address: own.address,
        prefix: own.prefix,
        portal_port: PORTAL_PORT,
        gate: true,
    })
}

/// On the interface to the hosts everything but the controller's own address is held back while it has no lease: whoever
/// came in by another one is told before that happens.
fn strangers(facts: &Facts, front: &Front, notes: &mut Vec<String>) {
    let nic = facts.nics.iter().find(|nic| nic.name == front.interface);
    let others = nic.into_iter().flat_map(|nic| &nic.addresses);
    for other in others.filter(|other| usable(other) && other.address != front.address) {
        notes.push(format!(
            "{other} on {}: it will answer only while this controller has its lease, as a floating address does; \
             whatever needs it (a login, a backup) needs {} or another interface",
            front.interface, front.address
        ));
    }
}

fn find<'f>(facts: &'f Facts, name: &str, key: &str, problems: &mut Vec<Problem>) -> Option<&'f Nic> {
    let found = facts.nics.iter().find(|nic| nic.name == name);
    if found.is_none() {
        let names: Vec<&str> = facts.nics.iter().map(|nic| nic.name.as_str()).collect();
        problems.push(Problem::new(
            format!("{key} = {name:?}: there is no such interface"),
            format!("one of {}", names.join(", ")),
        ));
    }
    found
}

/// Not of a link alone, and not of this machine alone.
fn usable(address: &IfAddr) -> bool {
    match address.address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    }
}

/// The address of an interface: the one that was given, or the only one.
fn own_address(
    nic: &Nic,
    given: Option<IpAddr>,
    key: &'static str,
    questions: &mut Vec<Question>,
    problems: &mut Vec<Problem>,
) -> Option<IfAddr> {
    let addresses: Vec<IfAddr> = nic.addresses.iter().copied().filter(usable).collect();
    let listed = || {
        addresses
            .iter()
            .map(|own| own.address.to_string())
            .collect::<Vec<_>>()
    };
    match (given, &addresses[..]) {
        (Some(address), _) => {
            let found = addresses.iter().copied().find(|own| own.address == address);
            if found.is_none() {
                problems.push(Problem::new(
                    format!("{key} = {address}: {} has no such address", nic.name),
                    match &listed()[..] {
                        [] => format!("give it to {}", nic.name),
                        listed => format!("it has {}", listed.join(", ")),
                    },
                ));
            }
            found
        }
        (None, [one]) => Some(*one),
        (None, []) => {
            problems.push(Problem::new(
                format!("{} has no address", nic.name),
                "give it one (examples: /usr/share/doc/pollux/examples/network)",
            ));
            None
        }
        (None, _) => {
            questions.push(Question {
                key,
                text: format!("Which address of {} is this controller's own?", nic.name),
                choices: listed(),
            });
            None
        }
    }
}

/// The partner's address where the network has room for two: a /31 (RFC 3021) or a /30.
fn the_other_of_two(own: IfAddr) -> Option<IpAddr> {
    let IpAddr::V4(address) = own.address else {
        return None;
    };
    let bits = u32::from(address);
    match (own.prefix, bits & 3) {
        (31, _) => Some(IpAddr::V4((bits ^ 1).into())),
        (30, 1 | 2) => Some(IpAddr::V4((bits ^ 3).into())),
        _ => None,
    }
}

/// a has the lower address on the wire: both controllers come to opposite answers without being asked.
fn which(answers: &Answers, wire: &Interconnect) -> ControllerId {
    answers.controller.unwrap_or(if wire.local < wire.partner {
        ControllerId::A
    } else {
        ControllerId::B
    })
}

/// The disks in their slots, and those that are not taken.
fn slots(
    facts: &Facts,
    answers: &Answers,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) -> (Vec<Slot>, Vec<(String, String)>) {
    let mut here = BTreeMap::new();
    let mut refused = vec![];
    for disk in &facts.disks {
        match (refusal(disk, &facts.disks), &disk.wwn) {
            // Of several paths the first one stands for the disk.
            (None, Some(wwn)) => drop(here.entry(wwn.clone()).or_insert(disk)),
            (why, _) => refused.push((disk.to_string(), why.unwrap_or_default())),
        }
    }
    if answers.disk.is_empty() {
        if here.is_empty() {
            let mut what = "there is no disk that both controllers can share".to_owned();
            for (disk, why) in &refused {
                what += &format!("\n    {disk}: {why}");
            }
            problems.push(Problem::new(
                what,
                "SAS disks with two ports, one of them cabled to this controller",
            ));
        }
        let numbered = (0..).zip(&here);
        let slots = numbered.map(|(slot, (wwn, disk))| Slot {
            slot,
            wwn: wwn.clone(),
            bytes: Some(disk.bytes),
            quorum: false,
            kernel: false,
        });
        return (slots.collect(), refused);
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for Slot { slot, wwn, bytes, .. } in &answers.disk {
        let disk = DiskIndex::new(*slot);
        if !numbers.insert(*slot) {
            problems.push(Problem::new(
                format!("{disk} is listed twice"),
                "one disk for each slot",
            ));
        }
        if !names.insert(wwn.clone()) {
            problems.push(Problem::new(
                format!("{wwn} is listed twice"),
                "one slot for each disk",
            ));
        }
        if let (Some(found), Some(bytes)) = (here.get(wwn), bytes)
            && found.bytes != *bytes
        {
            problems.push(Problem::new(
                format!(
                    "{disk} ({wwn}) has {} bytes here, the list says {bytes}",
                    found.bytes
                ),
                "the same disk on both controllers",
            ));
        }
        if !here.contains_key(wwn) {
            let seen = facts.disks.iter().find(|found| found.wwn.as_ref() == Some(wwn));
            let why = seen.and_then(|found| refusal(found, &facts.disks));
            problems.push(Problem::new(
                match why {
                    Some(why) => format!("{disk} ({wwn}): {why}"),
                    None => format!("{disk} ({wwn}) is not seen here"),
                },
                "every disk of the list is cabled to both controllers; a disk with one port is seen by one of them alone",
            ));
        }
    }
    for (wwn, disk) in here.iter().filter(|(wwn, _)| !names.contains(*wwn)) {
        notes.push(format!("{disk} ({wwn}) is here but not in the list: it is left alone; to add it, append it with the next free slot to enclosure.toml on \
             both controllers"));
    }
    (answers.disk.clone(), refused)
}

/// Three of five disks or more, else one: with three the array decides on when one of them is lost. No pool has them, so
/// they are the smallest; of equal ones those in the first slots.
fn quorum(answers: &Answers, disks: &[Slot], problems: &mut Vec<Problem>) -> Quorum {
    let Some(given) = &answers.quorum else {
        let count = if disks.len() >= ENOUGH_FOR_THREE { 3 } else { 1 };
        let mut by_size: Vec<(Option<u64>, u16)> = disks.iter().map(|disk| (disk.bytes, disk.slot)).collect();
        by_size.sort_unstable();
        let mut chosen: Vec<u16> = by_size.into_iter().take(count).map(|(_, slot)| slot).collect();
        chosen.sort_unstable();
        return Quorum {
            disks: chosen.into_iter().map(DiskIndex::new).collect(),
        };
    };
    for disk in given
        .disks
        .iter()
        .filter(|disk| disks.iter().all(|slot| slot.slot != disk.get()))
    {
        problems.push(Problem::new(
            format!("quorum.disks names {disk}, which is in no slot"),
            "slots of the list of disks",
        ));
    }
    given.clone()
}

fn clock(clock: &Clock, notes: &mut Vec<String>) {
    notes.extend(match clock {
        Clock::Synchronized => None,
        Clock::Waiting => Some(
            "the clock is not synchronized yet, though something works at it: timedatectl timesync-status, or chronyc tracking"
                .to_owned(),
        ),
        Clock::Alone => Some(
            "nothing synchronizes the clock, and times in logs of both controllers would not fit: \
             setup does timedatectl set-ntp true"
                .to_owned(),
        ),
        Clock::Unknown(why) => Some(format!("whether the clock is synchronized is unknown: {why}")),
    });
}
