//! What is proposed, from machines that are described here.

use super::facts::{Clock, Disk, Facts, Nic, bonded, user_of};
use super::files::{self, State, Wanted, differences, shelf_rules};
use super::propose::{Answers, Bmc, FrontAnswers, Outcome, Problem, Proposal, Slot, propose, refusal};
use super::{conclude, read_answers};
use crate::cli::Setup;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::Quorum;
use std::path::Path;

const FRESH: ArrayId = ArrayId::from_bytes([9; 16]);

fn disk(name: &str, wwn: u64) -> Disk {
    Disk {
        name: name.into(),
        model: "SEAGATE ST1200".into(),
        wwn: Some(format!("naa.{wwn:016x}")),
        bytes: 1_200_243_695_616,
        block: 512,
        unsuited: None,
        used_by: None,
    }
}

fn nic(name: &str, addresses: &[&str]) -> Nic {
    Nic {
        name: name.into(),
        legs: vec![],
        bond: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

/// A machine as it should be: a bond of two legs, a way to the hosts, six disks in no order.
fn machine(own: &str) -> Facts {
    let mut bond = nic("bond0", &[&format!("10.77.0.{own}/30"), "fe80::1/64"]);
    bond.legs = vec!["eth1".into(), "eth2".into()];
    let leg = |name: &str| Nic {
        bond: Some("bond0".into()),
        ..nic(name, &[])
    };
    Facts {
        disks: [4, 2, 6, 1, 5, 3]
            .map(|n| disk(&format!("sd{n}"), 0x5000_c500_0000_0000 + n))
            .into(),
        nics: vec![
            nic("lo", &["127.0.0.1/8"]),
            bond,
            leg("eth1"),
            leg("eth2"),
            nic("eth0", &[&format!("10.78.0.{own}/24")]),
        ],
        watchdog: Some("/dev/watchdog".into()),
        clock: Clock::Synchronized,
    }
}

fn ready(facts: &Facts, answers: &Answers) -> Proposal {
    match propose(facts, answers, FRESH) {
        Outcome::Ready(proposal) => *proposal,
        other => panic!("{other:?}"),
    }
}

fn refused(facts: &Facts, answers: &Answers) -> Vec<Problem> {
    match propose(facts, answers, FRESH) {
        Outcome::Refused(problems) => problems,
        other => panic!("{other:?}"),
    }
}

fn asked(facts: &Facts, answers: &Answers) -> Vec<&'static str> {
    match propose(facts, answers, FRESH) {
        Outcome::Ask(questions) => questions.into_iter().map(|question| question.key).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_as_it_should_be_asks_nothing() {
    let proposal = ready(&machine("1"), &Answers::default());
    let config = &proposal.controller;
    assert_eq!(config.controller, ControllerId::A);
    assert_eq!(config.array, FRESH);
    assert_eq!(config.interconnect.interface, "bond0");
    assert_eq!(config.interconnect.legs, ["eth1", "eth2"]);
    assert_eq!(config.interconnect.partner.to_string(), "10.77.0.2");
    assert_eq!(
        (config.front.interface.as_str(), config.front.prefix),
        ("eth0", 24)
    );
    assert!(
        config.front.gate,
        "an appliance holds back what it has no lease for"
    );
    assert_eq!(config.quorum.disks, [0, 1, 2].map(DiskIndex::new));
    assert!(config.fence.reservations && config.fence.watchdog && !config.fence.power);
    let slots: Vec<(u16, &str)> = proposal
        .enclosure
        .disk
        .iter()
        .map(|disk| (disk.slot, disk.wwn.as_str()))
        .collect();
    assert_eq!(slots[0], (0, "naa.5000c50000000001"));
    assert_eq!(slots[5], (5, "naa.5000c50000000006"));
    assert!(proposal.refused.is_empty());
}

#[test]
fn both_controllers_have_the_same_disk_in_the_same_slot() {
    let first = ready(&machine("1"), &Answers::default());
    // The second sees the disks in another order, under other names, and one that is its own.
    let mut facts = machine("2");
    facts.disks.reverse();
    for (disk, name) in facts.disks.iter_mut().zip('a'..) {
        disk.name = format!("sd{name}");
    }
    facts.disks.insert(0, disk("sdz", 1));
    let second = ready(&facts, &first.partner);
    assert_eq!(second.enclosure.disk, first.enclosure.disk);
    assert_eq!(second.controller.quorum, first.controller.quorum);
    assert_eq!(second.controller.array, first.controller.array);
    assert_eq!(second.controller.controller, ControllerId::B);
    assert_eq!(
        second.controller.interconnect.partner,
        first.controller.interconnect.local
    );
    assert_eq!(
        second.controller.interconnect.local,
        first.controller.interconnect.partner
    );
    let [note] = &second
        .notes
        .iter()
        .filter(|note| note.contains("sdz"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", second.notes);
    };
    assert!(note.contains("not in the list"), "{note}");
}

#[test]
fn a_disk_that_one_controller_alone_sees_is_found() {
    let first = ready(&machine("1"), &Answers::default());
    let mut facts = machine("2");
    let gone = facts.disks.iter().position(|disk| disk.name == "sd4").unwrap();
    facts.disks.remove(gone);
    let [problem] = &refused(&facts, &first.partner)[..] else {
        panic!("one disk is missing");
    };
    let mut other = machine("2");
    other.disks[0].bytes = 1 << 40;
    assert!(
        refused(&other, &first.partner)[0]
            .what
            .contains("the list says 1200243695616")
    );
    assert!(
        problem
            .what
            .contains("disk-03 (naa.5000c50000000004) is not seen here"),
        "{}",
        problem.what
    );
    assert!(problem.remedy.contains("one port"), "{}", problem.remedy);
}

#[test]
fn disks_that_cannot_be_shared_are_refused_with_the_reason() {
    let good = disk("sda", 1);
    let change = |with: &dyn Fn(&mut Disk)| {
        let mut changed = disk("sdb", 2);
        with(&mut changed);
        refusal(&changed, &[good.clone(), changed.clone()])
    };
    assert_eq!(change(&|_| ()), None);
    for (why, with) in [
        (
            "no WWN",
            &(|disk: &mut Disk| disk.wwn = None) as &dyn Fn(&mut Disk),
        ),
        ("SATA", &|disk| disk.unsuited = Some("SATA: one port")),
        (
            "NVMe shelves are not supported: the kernel's NVMe target has no reservations",
            &|disk| disk.unsuited = Some(pollux_platform::scsi::discover::NVME),
        ),
        ("mounted on /", &|disk| disk.used_by = Some("mounted on /".into())),
        ("520 bytes", &|disk| disk.block = 520),
        ("not ready", &|disk| disk.bytes = 0),
        ("sda has the same WWN", &|disk| {
            disk.wwn = Some("naa.0000000000000001".into());
            disk.bytes /= 2;
        }),
    ] {
        let said = change(with).unwrap_or_else(|| panic!("taken: {why}"));
        assert!(said.contains(why), "{said}");
    }
    let mut facts = machine("1");
    for disk in &mut facts.disks {
        disk.unsuited = Some("SATA: one port");
    }
    let [problem] = &refused(&facts, &Answers::default())[..] else {
        panic!("no disk is left");
    };
    assert!(
        problem.what.contains("sd4 SEAGATE ST1200: SATA"),
        "{}",
        problem.what
    );
}

#[test]
fn two_paths_to_a_disk_are_one_disk() {
    let mut facts = machine("1");
    let count = facts.disks.len();
    let mut second = facts.disks[1].clone();
    second.name = "sdz".into();
    facts.disks.push(second);
    let proposal = ready(&facts, &Answers::default());
    assert_eq!(proposal.enclosure.disk.len(), count);
    assert!(proposal.refused.is_empty(), "{:?}", proposal.refused);
    // The system is on it: a mount names one path of the two.
    facts.disks[1].used_by = Some("mounted on /".into());
    let proposal = ready(&facts, &Answers::default());
    assert_eq!(proposal.enclosure.disk.len(), count - 1);
    let [(first, why), (second, other)] = &proposal.refused[..] else {
        panic!("{:?}", proposal.refused);
    };
    assert!(
        first.starts_with("sd2") && why.contains("(mounted on /)"),
        "{first}: {why}"
    );
    assert!(
        second.starts_with("sdz") && other.contains("(as sd2: mounted on /)"),
        "{second}: {other}"
    );
}

#[test]
fn answers_that_are_not_there_are_named_with_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("partner.toml");
    let missing = read_answers(&file).unwrap_err().to_string();
    for told in [
        file.to_str().unwrap(),
        "answers cannot be read",
        "the first controller writes it",
    ] {
        assert!(missing.contains(told), "{missing}");
    }
    std::fs::write(&file, "contoller = \"a\"\n").unwrap();
    let wrong = read_answers(&file).unwrap_err().to_string();
    assert!(
        wrong.contains("partner.toml") && wrong.contains("contoller"),
        "{wrong}"
    );
}

#[test]
fn fewer_than_five_disks_have_one_quorum_disk() {
    let mut facts = machine("1");
    facts.disks.truncate(4);
    assert_eq!(
        ready(&facts, &Answers::default()).controller.quorum.disks.len(),
        1
    );
    facts = machine("1");
    facts.disks.truncate(5);
    assert_eq!(
        ready(&facts, &Answers::default()).controller.quorum.disks.len(),
        3
    );
    assert!(
        !ready(&facts, &Answers::default())
            .notes
            .iter()
            .any(|note| note.contains("left for data"))
    );
    // The smallest ones, wherever they are.
    facts = machine("1");
    for name in ["sd6", "sd2"] {
        facts
            .disks
            .iter_mut()
            .find(|disk| disk.name == name)
            .unwrap()
            .bytes = 4 << 30;
    }
    let proposal = ready(&facts, &Answers::default());
    assert_eq!(proposal.controller.quorum.disks, [0, 1, 5].map(DiskIndex::new));
    let marked: Vec<u16> = proposal
        .enclosure
        .disk
        .iter()
        .filter(|disk| disk.quorum)
        .map(|disk| disk.slot)
        .collect();
    assert_eq!(marked, [0, 1, 5]);
    let mut one = machine("1");
    one.disks.truncate(1);
    assert!(
        ready(&one, &Answers::default())
            .notes
            .iter()
            .any(|note| note.contains("left for data"))
    );
    let answers = Answers {
        quorum: Some(Quorum {
            disks: [0, 1, 7].map(DiskIndex::new).into(),
        }),
        ..Answers::default()
    };
    assert!(refused(&facts, &answers)[0].what.contains("disk-07"));
}

#[test]
fn what_does_not_follow_is_asked_and_the_answer_taken() {
    let mut facts = machine("1");
    facts.nics.push(nic("eth7", &["192.168.0.5/24"]));
    facts.nics[1].addresses = vec!["10.77.0.1/24".parse().unwrap()];
    let mut answers = Answers::default();
    assert_eq!(asked(&facts, &answers), ["interconnect.partner"]);
    assert!(
        answers
            .set("interconnect.partner", "10.77.0")
            .unwrap_err()
            .contains("10.77.0.2")
    );
    answers.set("interconnect.partner", "10.77.0.9").unwrap();
    assert_eq!(asked(&facts, &answers), ["front.interface"]);
    answers.set("front.interface", "eth7").unwrap();
    let config = ready(&facts, &answers).controller;
    assert_eq!(config.front.address.to_string(), "192.168.0.5");
    assert_eq!(config.interconnect.partner.to_string(), "10.77.0.9");

    answers.set("front.interface", "eth9").unwrap();
    assert!(refused(&facts, &answers)[0].remedy.contains("eth7"));
    let mut two = machine("1");
    two.nics[4].addresses.push("10.78.0.99/24".parse().unwrap());
    assert_eq!(asked(&two, &Answers::default()), ["front.address"]);
    let own = Answers {
        front: FrontAnswers {
            interface: None,
            address: Some("10.78.0.1".parse().unwrap()),
        },
        ..Answers::default()
    };
    let notes = ready(&two, &own).notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("10.78.0.99/24 on eth0") && note.contains("has its lease")),
        "{notes:?}"
    );
    for wrong in ["lo", "bond0"] {
        answers.set("front.interface", wrong).unwrap();
        assert!(
            refused(&facts, &answers)[0].what.contains("would hold back"),
            "{wrong}"
        );
    }
    let mut bonds = machine("1");
    bonds.nics.push(Nic {
        name: "bond1".into(),
        ..bonds.nics[1].clone()
    });
    assert_eq!(asked(&bonds, &Answers::default()), ["interconnect.interface"]);
}

#[test]
fn a_machine_without_a_wire_is_told_what_would_be_right() {
    let mut facts = machine("1");
    facts.nics.remove(1);
    assert!(
        refused(&facts, &Answers::default())[0]
            .what
            .contains("there is no bond")
    );
    let mut facts = machine("1");
    facts.nics[1].addresses.clear();
    assert!(
        refused(&facts, &Answers::default())[0]
            .what
            .contains("bond0 has no address")
    );
    let mut facts = machine("1");
    facts.nics.pop();
    assert!(
        refused(&facts, &Answers::default())[0]
            .what
            .contains("no way to the hosts")
    );
}

#[test]
fn a_second_run_changes_no_slot_and_no_identity() {
    let first = ready(&machine("1"), &Answers::default());
    let mut facts = machine("1");
    facts.disks.push(disk("sd0", 0x5000_c500_0000_0000));
    // A floating address is up beside the controller's own.
    facts.nics[4].addresses.push("10.78.0.50/24".parse().unwrap());
    let mut answers = Answers::default();
    answers.keep(&first.controller, Some(&first.enclosure));
    let again = ready(&facts, &answers);
    assert_eq!(again.controller, first.controller);
    assert_eq!(again.enclosure, first.enclosure);
    assert!(
        again.notes.iter().any(|note| note.contains("sd0")),
        "{:?}",
        again.notes
    );
}

#[test]
fn every_file_is_read_back_as_what_was_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("pollux");
    std::fs::create_dir(&folder).unwrap();
    let answers = Answers {
        bmc: Some(Bmc {
            agent: "/usr/sbin/fence_ipmilan".into(),
            arguments: [("ip".into(), "10.79.0.2".into())].into(),
            password_file: Some("/etc/pollux/bmc.password".into()),
            deadline_s: None,
        }),
        ..Answers::default()
    };
    let proposal = ready(&machine("1"), &answers);
    assert!(proposal.controller.fence.power);
    let wanted = files::wanted(&folder, &proposal);
    for file in &wanted {
        assert_eq!(file.state().unwrap(), State::New);
        std::fs::create_dir_all(file.path.parent().unwrap()).unwrap();
        std::fs::write(&file.path, &file.text).unwrap();
        assert_eq!(file.state().unwrap(), State::Same);
    }
    assert_eq!(
        ControllerConfig::load(&folder.join("controller.toml")).unwrap(),
        proposal.controller
    );
    assert_eq!(
        files::read_enclosure(&folder).unwrap().unwrap(),
        proposal.enclosure
    );
    let partner = std::fs::read_to_string(folder.join(files::PARTNER)).unwrap();
    assert_eq!(toml::from_str::<Answers>(&partner).unwrap(), proposal.partner);
    assert!(dir.path().join(files::SHELF_RULES).exists());
}

#[test]
fn nothing_is_written_unasked_and_nothing_over_without_saying_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("pollux");
    let facts = machine("1");
    let proposal = ready(&facts, &Answers::default());
    let setup = |dry_run: bool, replace: bool| Setup {
        dry_run,
        yes: true,
        answers: None,
        replace,
    };
    let there = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let said = |setup: &Setup| match conclude(&folder, &proposal, &facts, setup) {
        Ok(shown) => shown.text,
        Err(error) => format!("refused: {error}"),
    };
    let text = said(&setup(true, false));
    assert!(text.contains("slot = 5") && text.contains("disk-05"), "{text}");
    assert_eq!(there("controller.toml"), None);

    let text = said(&setup(false, false));
    assert!(
        text.contains("pollux pair show") && text.contains("pollux quorum format"),
        "{text}"
    );
    assert!(there("controller.toml").is_some() && there("enclosure.toml").is_some());
    let text = said(&setup(false, false));
    assert!(text.contains("nothing was written"), "{text}");

    let changed = there("enclosure.toml")
        .unwrap()
        .replace("/dev/watchdog", "/dev/watchdog1");
    std::fs::write(folder.join("enclosure.toml"), &changed).unwrap();
    let text = said(&setup(false, false));
    assert!(text.starts_with("refused: "), "{text}");
    assert!(text.contains("- watchdog.device = \"/dev/watchdog1\""), "{text}");
    assert_eq!(there("enclosure.toml").unwrap(), changed);
    said(&setup(false, true));
    assert!(!there("enclosure.toml").unwrap().contains("watchdog1"));
}

#[test]
fn what_differs_is_named_with_its_place() {
    let there = "# old\ncontroller = \"a\"\n[front]\nprefix = 24\n[[disk]]\nslot = 0\nwwn = \"naa.1\"\n[[disk]]\nslot = 1\nwwn = \"naa.2\"\n";
    let wanted = there.replace("24", "25").replace("naa.2", "naa.3");
    assert_eq!(
        differences(there, &wanted),
        "    - front.prefix = 24\n    - disk.slot = 1, wwn = \"naa.2\"\n    + front.prefix = 25\n    + disk.slot = 1, wwn = \"naa.3\"\n"
    );
    assert!(differences(there, &format!("# new\n{there}")).contains("only in comments"));
    let dir = tempfile::tempdir().unwrap();
    let file = Wanted {
        path: dir.path().join("x"),
        text: wanted,
    };
    std::fs::write(&file.path, there).unwrap();
    assert!(matches!(file.state().unwrap(), State::Differs(lines) if lines.contains("+ front.prefix = 25")));
}

#[test]
fn rules_of_udev_touch_the_disks_of_the_list_alone() {
    let rules = shelf_rules(&[Slot {
        slot: 3,
        wwn: "naa.5000c50000000004".into(),
        bytes: None,
        quorum: false,
        kernel: false,
    }]);
    assert!(
        rules.contains("ATTRS{wwid}==\"naa.5000c50000000004\", GOTO=\"pollux_shelf_disk\"")
            && rules
                .contains("ENV{ID_WWN_WITH_EXTENSION}==\"0x5000c50000000004\", GOTO=\"pollux_shelf_disk\""),
        "{rules}"
    );
    let lines: Vec<&str> = rules.lines().filter(|line| !line.starts_with('#')).collect();
    let goes = lines
        .iter()
        .position(|line| *line == "GOTO=\"pollux_shelf_end\"")
        .unwrap();
    let acts = lines.iter().position(|line| line.contains("nowatch")).unwrap();
    assert!(
        goes < acts,
        "a disk that is not listed must not come to the rules:\n{rules}"
    );
}

#[test]
fn the_clock_is_judged_by_what_the_kernel_says() {
    assert_eq!(Clock::of("NTP=yes\nNTPSynchronized=yes\n"), Clock::Synchronized);
    assert_eq!(Clock::of("NTP=no\nNTPSynchronized=yes\n"), Clock::Synchronized);
    assert_eq!(Clock::of("NTP=yes\nNTPSynchronized=no\n"), Clock::Waiting);
    assert_eq!(Clock::of("NTP=no\nNTPSynchronized=no\n"), Clock::Alone);
    assert!(matches!(Clock::of("?"), Clock::Unknown(_)));
    let mut facts = machine("1");
    facts.clock = Clock::Alone;
    assert!(
        ready(&facts, &Answers::default())
            .notes
            .iter()
            .any(|note| note.contains("timedatectl set-ntp true"))
    );
}

#[test]
fn the_users_of_a_disk_are_found_by_its_partitions() {
    let (mounts, swaps) = (
        "/dev/sda2 / ext4 rw 0 0\nproc /proc proc rw 0 0\n",
        "Filename Type Size\n/dev/sdb1 partition 1\n",
    );
    let parts = |disk: &str| vec![format!("{disk}1"), format!("{disk}2")];
    assert_eq!(
        user_of("sda", &parts("sda"), mounts, swaps).as_deref(),
        Some("mounted on /")
    );
    assert_eq!(
        user_of("sdb", &parts("sdb"), mounts, swaps).as_deref(),
        Some("swap space /dev/sdb1")
    );
    assert_eq!(user_of("sdaa", &parts("sdaa"), mounts, swaps), None);
}

#[test]
fn bonds_are_read_from_sysfs() {
    let sysfs = tempfile::tempdir().unwrap();
    let class = sysfs.path();
    std::fs::create_dir_all(class.join("bond0/bonding")).unwrap();
    std::fs::write(class.join("bond0/bonding/slaves"), "eth1 eth2\n").unwrap();
    std::fs::create_dir_all(class.join("eth1/bonding_slave")).unwrap();
    std::os::unix::fs::symlink("../bond0", class.join("eth1/master")).unwrap();
    std::fs::create_dir_all(class.join("eth0")).unwrap();
    let of = |name: &str| bonded(&class.join(Path::new(name)));
    assert_eq!(of("bond0"), (vec!["eth1".into(), "eth2".into()], None));
    assert_eq!(of("eth1"), (vec![], Some("bond0".into())));
    assert_eq!(of("eth0"), (vec![], None));
}
