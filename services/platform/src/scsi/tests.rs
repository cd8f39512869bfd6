use super::command::{self, Data, ReserveIn, ReserveOut};
use super::decode::{
    BlockLimits, Capabilities, Capacity, FullStatus, Held, Inquiry, Keys, Medium, Reserved, Wwn, caching,
    designators, page, serial, supported_pages, whole_list,
};
use super::discover::{self, Transport};
use super::linux::{self, Outcome, SgIoHdr, judge};
use super::sense::{Sense, key};
use super::{Buffer, LinuxDisk, ScsiDisk, ScsiError, run, status};
use crate::fake::scsi::{FakeDisk, Model};
use proptest::prelude::*;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command as Process;

/// Runs a C program that prints lines of name and number from this machine's headers; `None` (and a line that says why)
/// where there is no compiler or no such header.
pub(crate) fn from_headers(test: &str, source: &str) -> Option<Vec<(String, u64)>> {
    let dir = tempfile::tempdir().unwrap();
    let (file, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&file, source).unwrap();
    let built = Process::new("cc").arg("-o").arg(&program).arg(&file).output();
    match built {
        Err(error) => {
            eprintln!("{test}: SKIPPED, cc cannot be run: {error}");
            return None;
        }
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Only a header that is not there excuses; a wrong field of one that is there is what is looked for.
            assert!(said.contains("No such file"), "{test}: {said}");
            eprintln!("{test}: SKIPPED, {said}");
            return None;
        }
        Ok(_) => {}
    }
    let output = Process::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| {
        let (name, number) = line.split_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    };
    Some(text.lines().map(pair).collect())
}

#[test]
fn the_structure_of_sg_io_is_that_of_the_headers() {
    let fields: [(&str, usize); 22] = [
        ("interface_id", offset_of!(SgIoHdr, interface_id)),
        ("dxfer_direction", offset_of!(SgIoHdr, dxfer_direction)),
        ("cmd_len", offset_of!(SgIoHdr, cmd_len)),
        ("mx_sb_len", offset_of!(SgIoHdr, mx_sb_len)),
        ("iovec_count", offset_of!(SgIoHdr, iovec_count)),
        ("dxfer_len", offset_of!(SgIoHdr, dxfer_len)),
        ("dxferp", offset_of!(SgIoHdr, dxferp)),
        ("cmdp", offset_of!(SgIoHdr, cmdp)),
        ("sbp", offset_of!(SgIoHdr, sbp)),
        ("timeout", offset_of!(SgIoHdr, timeout)),
        ("flags", offset_of!(SgIoHdr, flags)),
        ("pack_id", offset_of!(SgIoHdr, pack_id)),
        ("usr_ptr", offset_of!(SgIoHdr, usr_ptr)),
        ("status", offset_of!(SgIoHdr, status)),
        ("masked_status", offset_of!(SgIoHdr, masked_status)),
        ("msg_status", offset_of!(SgIoHdr, msg_status)),
        ("sb_len_wr", offset_of!(SgIoHdr, sb_len_wr)),
        ("host_status", offset_of!(SgIoHdr, host_status)),
        ("driver_status", offset_of!(SgIoHdr, driver_status)),
        ("resid", offset_of!(SgIoHdr, resid)),
        ("duration", offset_of!(SgIoHdr, duration)),
        ("info", offset_of!(SgIoHdr, info)),
    ];
    let mut lines = String::new();
    let mut ours: Vec<(String, u64)> = Vec::new();
    let numbers: [(&str, &str, u64); 5] = [
        ("size", "sizeof(struct sg_io_hdr)", size_of::<SgIoHdr>() as u64),
        ("SG_IO", "SG_IO", linux::SG_IO),
        (
            "none",
            "-SG_DXFER_NONE",
            linux::SG_DXFER_NONE.unsigned_abs().into(),
        ),
        (
            "to",
            "-SG_DXFER_TO_DEV",
            linux::SG_DXFER_TO_DEV.unsigned_abs().into(),
        ),
        (
            "from",
            "-SG_DXFER_FROM_DEV",
            linux::SG_DXFER_FROM_DEV.unsigned_abs().into(),
        ),
    ];
    for (name, value, number) in numbers {
        lines += &format!("printf(\"{name} %lu\\n\", (unsigned long)({value}));\n");
        ours.push((name.to_owned(), number));
    }
    for (name, offset) in fields {
        lines += &format!("printf(\"{name} %lu\\n\", (unsigned long)offsetof(struct sg_io_hdr, {name}));\n");
        ours.push((name.to_owned(), offset as u64));
    }
    let source = format!(
        "#include <stdio.h>\n#include <stddef.h>\n#include <scsi/sg.h>\nint main(void) {{\n{lines}return 0;\n}}\n"
    );
    if let Some(theirs) = from_headers("the structure of SG_IO", &source) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn command_blocks_are_those_of_the_standards() {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (command, cdb) in [
        (command::test_unit_ready(), "00 00 00 00 00 00"),
        (command::inquiry(), "12 00 00 00 fc 00"),
        (command::vital(0x83), "12 01 83 00 fc 00"),
        (command::mode_caching(), "1a 08 08 00 c0 00"),
        (command::synchronize_cache(), "35 00 00 00 00 00 00 00 00 00"),
        (
            command::read_capacity(),
            "9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00",
        ),
        (
            command::reserve_in(ReserveIn::ReadKeys, 8192),
            "5e 00 00 00 00 00 00 20 00 00",
        ),
        (
            command::reserve_in(ReserveIn::ReadReservation, 24),
            "5e 01 00 00 00 00 00 00 18 00",
        ),
        (
            command::reserve_in(ReserveIn::ReportCapabilities, 8),
            "5e 02 00 00 00 00 00 00 08 00",
        ),
        (
            command::reserve_in(ReserveIn::ReadFullStatus, 8192),
            "5e 03 00 00 00 00 00 20 00 00",
        ),
        (
            command::reserve_out(ReserveOut::Register, 0, 0, 9, true),
            "5f 00 00 00 00 00 00 00 18 00",
        ),
        (
            command::reserve_out(ReserveOut::Reserve, 5, 9, 0, false),
            "5f 01 05 00 00 00 00 00 18 00",
        ),
        (
            command::reserve_out(ReserveOut::PreemptAndAbort, 5, 9, 7, false),
            "5f 05 05 00 00 00 00 00 18 00",
        ),
        (
            command::reserve_out(ReserveOut::RegisterAndIgnore, 0, 0, 9, true),
            "5f 06 00 00 00 00 00 00 18 00",
        ),
        (
            command::compare_and_write(0x0102_0304_0506, 1, &[1; 512], &[2; 512], true),
            "89 08 00 00 01 02 03 04 05 06 00 00 00 01 00 00",
        ),
    ] {
        assert_eq!(hex(command.cdb()), cdb, "{}", command.name());
    }
    let list = command::reserve_out(ReserveOut::PreemptAndAbort, 5, 0xa1, 0xb2, false);
    assert_eq!(
        *list.data(),
        Data::Out([&0xa1u64.to_be_bytes()[..], &0xb2u64.to_be_bytes(), &[0; 8]].concat())
    );
    let Data::Out(list) = command::reserve_out(ReserveOut::RegisterAndIgnore, 0, 0, 9, true)
        .data()
        .clone()
    else {
        panic!("a parameter list is due");
    };
    assert_eq!(list[20], 1, "APTPL");
}

/// Identification of a SAS disk: NAA of the unit, SAS address of the port, relative port 2, a name of the target.
const SAS_IDENTIFICATION: &[u8] = &[
    0x00, 0x83, 0x00, 0x38, //
    0x01, 0x03, 0x00, 0x08, 0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd7, //
    0x61, 0x93, 0x00, 0x08, 0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd5, //
    0x61, 0x94, 0x00, 0x04, 0x00, 0x00, 0x00, 0x02, //
    0x63, 0xa8, 0x00, 0x10, b'n', b'a', b'a', b'.', b'5', b'0', b'0', b'0', b'C', b'5', b'0', b'0', b'A',
    b'1', b'B', b'2',
];

#[test]
fn what_a_sas_disk_says_of_itself() {
    let names = designators(SAS_IDENTIFICATION).unwrap();
    assert_eq!(names.len(), 4);
    let wwn = Wwn::of(&names).unwrap();
    assert_eq!(
        wwn,
        Wwn::Naa(0x5000_c500_a1b2_c3d7),
        "of the unit, not of its port"
    );
    assert_eq!(wwn.to_string(), "naa.5000c500a1b2c3d7");
    assert_eq!("naa.5000C500A1B2C3D7".parse(), Ok(wwn));
    assert_eq!(wwn.to_bytes()[..8], [0x50, 0, 0xc5, 0, 0xa1, 0xb2, 0xc3, 0xd7]);
    let port = names
        .iter()
        .find(|name| (name.association, name.kind) == (1, 4))
        .unwrap();
    assert_eq!(port.name, [0, 0, 0, 2]);

    let mut inquiry = b"\0\0\x06\x12\x8b\0\x10\x02SEAGATE ST4000NM0023    0004".to_vec();
    inquiry.resize(96, 0);
    let inquiry = Inquiry::decode(&inquiry).unwrap();
    assert_eq!(
        (inquiry.vendor.as_str(), inquiry.product.as_str()),
        ("SEAGATE", "ST4000NM0023")
    );
    assert!(inquiry.multiple_ports && !inquiry.removable && inquiry.device == 0);
    assert_eq!(serial(b"\0\x80\0\x08  Z1ABCD\0\0").unwrap(), "Z1ABCD");
    assert_eq!(
        supported_pages(&[0, 0, 0, 3, 0, 0x80, 0x83]).unwrap(),
        [0, page::SERIAL, page::IDENTIFICATION]
    );
    let mut limits = vec![0, 0xb0, 0, 60, 0, 1];
    limits.resize(64, 0);
    assert_eq!(BlockLimits::decode(&limits).unwrap().compare_and_write, 1);
    assert_eq!(
        Medium::decode(&[0, 0xb1, 0, 2, 0x1c, 0x20]).unwrap(),
        Medium::Rotating(7200)
    );
    assert_eq!(
        Medium::decode(&[0, 0xb1, 0, 2, 0, 1]).unwrap(),
        Medium::SolidState
    );
}

#[test]
fn names_that_are_none_are_refused() {
    for given in [
        "",
        "naa",
        "naa.",
        "naa.5000",
        "naa.+000c500a1b2c3d7",
        "eui.1",
        "t10.x",
        "naa.5000c500a1b2c3d71",
    ] {
        let refusal = given.parse::<Wwn>().unwrap_err();
        assert!(refusal.contains("16 or 32"), "{refusal}");
    }
    let long = "naa.60000000000000000000000000000001".parse::<Wwn>().unwrap();
    assert_eq!(long, Wwn::NaaExtended(0x6000_0000_0000_0000_0000_0000_0000_0001));
    assert!("eui.0011223344556677".parse::<Wwn>().is_ok());
}

#[test]
fn capacity_and_figures_that_no_disk_has() {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(1000u64 - 1).to_be_bytes());
    bytes[8..12].copy_from_slice(&512u32.to_be_bytes());
    bytes[13] = 0x03;
    let capacity = Capacity::decode(&bytes).unwrap();
    assert_eq!((capacity.blocks, capacity.bytes()), (1000, 512_000));
    assert_eq!(capacity.physical_block_size, 4096);
    for (last, block) in [
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (9, 0),
        (9, 520),
        (9, 256),
        (9, 1 << 20),
    ] {
        bytes[..8].copy_from_slice(&u64::to_be_bytes(last));
        bytes[8..12].copy_from_slice(&u32::to_be_bytes(block));
        assert!(Capacity::decode(&bytes).is_err(), "last {last}, block {block}");
    }
    assert!(Capacity::decode(&bytes[..31]).is_err());
}

#[test]
fn caches_and_their_pages() {
    assert_eq!(
        caching(&[22, 0, 0x10, 0, 0x08, 0x12, 0x04, 0]).unwrap(),
        Some(true)
    );
    assert_eq!(
        caching(&[22, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x12, 0x10]).unwrap(),
        Some(false)
    );
    assert_eq!(caching(&[3, 0, 0, 0]).unwrap(), None, "no page");
    assert!(caching(&[22, 0, 0, 0, 0x0a, 0x0a, 0]).is_err(), "another page");
    assert!(caching(&[22, 0]).is_err());
}

#[test]
fn reservations_as_a_disk_lists_them() {
    let keys = [
        &[0, 0, 0, 7, 0, 0, 0, 16][..],
        &0xa1u64.to_be_bytes(),
        &0xb2u64.to_be_bytes(),
    ]
    .concat();
    assert_eq!(
        Keys::decode(&keys).unwrap(),
        Keys {
            generation: 7,
            keys: vec![0xa1, 0xb2]
        }
    );
    assert!(Keys::decode(&keys[..20]).is_err(), "cut short");
    assert_eq!(whole_list(&keys[..8]), Some(24));
    let held = [
        &[0, 0, 0, 7, 0, 0, 0, 16][..],
        &0xa1u64.to_be_bytes(),
        &[0, 0, 0, 0, 0, 5, 0, 0],
    ]
    .concat();
    let reserved = Reserved::decode(&held).unwrap();
    assert_eq!(reserved.held, Some(Held { key: 0xa1, kind: 5 }));
    assert_eq!(Reserved::decode(&[0, 0, 0, 7, 0, 0, 0, 0]).unwrap().held, None);
    let mut of_an_element = held.clone();
    of_an_element[21] = 0x25;
    assert!(
        Reserved::decode(&of_an_element).is_err(),
        "a scope that disks do not have"
    );
    let capabilities = Capabilities::decode(&[0, 8, 1, 0x81, 0xea, 1, 0, 0]).unwrap();
    assert!(capabilities.persist);
    assert_eq!(
        [1, 2, 3, 4, 5, 6, 7, 8].map(|kind| capabilities.has(kind)),
        [true, false, true, false, true, true, true, true]
    );
    assert!(
        Capabilities::decode(&[0, 8, 0, 0, 0, 0, 0, 0]).unwrap().has(5),
        "a disk that does not say"
    );

    let one = |key: u64, flags: u8, kind: u8, port: u8, id: &[u8]| {
        let mut one = key.to_be_bytes().to_vec();
        one.extend([
            0,
            0,
            0,
            0,
            flags,
            kind,
            0,
            0,
            0,
            0,
            0,
            port,
            0,
            0,
            0,
            id.len() as u8,
        ]);
        one.extend(id);
        one
    };
    let list = [
        one(0xa1, 1, 5, 1, &[6; 24]),
        one(0xb2, 0, 0, 2, b"\x45\0\0\x10iqn.b,i,0x1\0\0"),
    ]
    .concat();
    let mut bytes = vec![0, 0, 0, 9, 0, 0, 0, list.len() as u8];
    bytes.extend(&list);
    let full = FullStatus::decode(&bytes).unwrap();
    let seen: Vec<_> = full
        .registrations
        .iter()
        .map(|one| (one.key, one.holds, one.target_port))
        .collect();
    assert_eq!(
        (full.generation, seen),
        (9, vec![(0xa1, Some(5), 1), (0xb2, None, 2)])
    );
    assert!(FullStatus::decode(&bytes[..bytes.len() - 1]).is_err());
    bytes[8 + 20] = 0xff;
    assert!(FullStatus::decode(&bytes).is_err(), "a length beyond the list");
}

#[test]
fn sense_in_both_formats() {
    let mut fixed = [0; 18];
    (fixed[0], fixed[2], fixed[7], fixed[12], fixed[13]) = (0xf0, 0x0e, 10, 0x1d, 0);
    fixed[3..7].copy_from_slice(&700u32.to_be_bytes());
    let sense = Sense::decode(&fixed).unwrap();
    assert_eq!(
        (sense.key, sense.code, sense.information),
        (key::MISCOMPARE, 0x1d, Some(700))
    );
    let descriptor = [
        0x72, 0x06, 0x2a, 0x05, 0, 0, 0, 16, 0x02, 0x02, 0, 0, 0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x01,
        0x02,
    ];
    let sense = Sense::decode(&descriptor).unwrap();
    assert!(
        sense.is_unit_attention() && sense.information == Some(0x102),
        "{sense:?}"
    );
    assert_eq!(sense.to_string(), "unit attention (sense 6/2a/05)");
    assert!(
        Sense::decode(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0])
            .unwrap()
            .is_unsupported()
    );
    assert!(Sense::decode(&[0x71, 0, 6]).is_some_and(|sense| sense.deferred && !sense.is_unit_attention()));
    assert_eq!(
        [&[][..], &[0x70], &[0x72, 6, 0x29], &[0x12, 0, 6]].map(Sense::decode),
        [None; 4]
    );
}

#[test]
fn how_a_command_ended() {
    let sense = |key, code| {
        let mut bytes = [0; 18];
        (bytes[0], bytes[2], bytes[7], bytes[12]) = (0x70, key, 10, code);
        bytes
    };
    let end = |status, host, driver, sense: &[u8]| judge("X", &Outcome { status, host, driver }, sense);
    assert!(end(status::GOOD, 0, 0, &[]).is_ok());
    assert!(
        end(status::CHECK_CONDITION, 0, 8, &sense(1, 0x17)).is_ok(),
        "recovered"
    );
    assert!(
        matches!(
            end(status::GOOD, 3, 0, &[]),
            Err(ScsiError::Transport { host: 3, .. })
        ),
        "a timeout"
    );
    assert!(matches!(
        end(status::GOOD, 0, 6, &[]),
        Err(ScsiError::Transport { driver: 6, .. })
    ));
    assert!(matches!(
        end(0x18, 0, 0, &[]),
        Err(ScsiError::ReservationConflict { .. })
    ));
    assert!(matches!(
        end(0x40, 0, 0, &[]),
        Err(ScsiError::Status { status: 0x40, .. })
    ));
    assert!(matches!(end(2, 0, 8, &sense(3, 0x11)), Err(ScsiError::Check { sense, .. }) if sense.key == 3));
    assert!(
        matches!(end(2, 0, 0, &[]), Err(ScsiError::Status { .. })),
        "no sense is no good end"
    );
}

#[test]
fn unit_attentions_are_let_pass_and_nothing_else_is_sent_twice() {
    let disk = FakeDisk::new(Model::new(Wwn::Naa(0x5000_0000_0000_0001)));
    let port = disk.port(1);
    disk.attention(1, 0x29, 0);
    disk.attention(1, 0x2a, 5);
    run(&port, &command::test_unit_ready()).unwrap();
    assert_eq!(
        disk.received(0, 0),
        1,
        "what is answered with an attention was not begun"
    );
    let wrong = command::reserve_out(ReserveOut::Reserve, 5, 1, 0, false);
    assert!(matches!(
        run(&port, &wrong),
        Err(ScsiError::ReservationConflict { .. })
    ));
    assert_eq!(disk.received(0x5f, 1), 1);
    for _ in 0..20 {
        disk.attention(1, 0x3f, 0x0e);
    }
    let error = run(&port, &command::test_unit_ready()).unwrap_err();
    assert!(error.sense().is_some_and(Sense::is_unit_attention), "{error}");
}

/// What is read past the page cache, written, flushed and zeroed, on a file: the same calls as on a device.
#[test]
fn the_calls_on_a_node_do_what_they_say() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("node");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let disk = match LinuxDisk::open(&path, true, super::Sharing::Alone) {
        Ok(disk) => disk,
        // Not every file system has direct I/O.
        Err(error) => return eprintln!("calls on a node: SKIPPED, {}: {error}", path.display()),
    };
    disk.write(4096, &[1; 8192], false).unwrap();
    disk.write(8192, &[2; 4096], true).unwrap();
    disk.flush().unwrap();
    assert_eq!(
        disk.read(4096, 8192).unwrap().as_ref(),
        [[1; 4096], [2; 4096]].concat()
    );
    disk.zero(0, 8192).unwrap();
    assert_eq!(
        disk.read(0, 12288).unwrap().as_ref(),
        [[0; 4096], [0; 4096], [2; 4096]].concat()
    );
    assert!(disk.read(1 << 20, 4096).is_err(), "behind the end");
    let error = disk.execute(&command::test_unit_ready()).unwrap_err();
    assert!(
        matches!(error, ScsiError::Io { .. }),
        "a file takes no commands: {error}"
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn buffers_are_aligned() {
    for length in [0, 1, 512, 4096, 1 << 20] {
        let buffer = Buffer::zeroed(length);
        assert_eq!(buffer.as_ref().len(), length);
        assert!(buffer.as_ref().as_ptr().addr().is_multiple_of(4096));
    }
    assert_eq!(Buffer::copy_of(&[1, 2, 3]).as_ref(), [1, 2, 3]);
}

fn attribute(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A device in a tree like that of sysfs, and its link in the class.
fn plant(sysfs: &Path, way: &str, name: &str, identification: &[u8]) {
    let device = sysfs.join(way);
    for (attr, content) in [
        ("type", "0\n"),
        ("vendor", "SEAGATE \n"),
        ("model", "ST4000NM0023    \n"),
    ] {
        attribute(&device, attr, content);
    }
    attribute(&device, "state", "running\n");
    attribute(&device, "vpd_pg83", identification);
    attribute(&device, "vpd_pg80", b"\0\x80\0\x06Z1ABCD");
    let block = device.join("block").join(name);
    attribute(&block, "size", "7814037168\n");
    attribute(&block, "queue/logical_block_size", "512\n");
    attribute(&block, "queue/write_cache", "write back\n");
    let class = sysfs.join("class/scsi_device").join(device.file_name().unwrap());
    std::fs::create_dir_all(&class).unwrap();
    std::os::unix::fs::symlink(&device, class.join("device")).unwrap();
}

#[test]
fn disks_are_found_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let sysfs = dir.path();
    assert_eq!(discover::scan(sysfs).unwrap(), [], "no SCSI at all");
    let sas = "devices/pci0/host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0";
    plant(sysfs, sas, "sdq", SAS_IDENTIFICATION);
    attribute(&sysfs.join(sas).join("block/sdq"), "holders/dm-3/dev", "254:3\n");
    attribute(&sysfs.join(sas), "inquiry", [0, 0, 6, 2, 0x5b, 0, 0x10, 2]);
    plant(
        sysfs,
        "devices/pci0/ata1/host10/target10:0:0/10:0:0:0",
        "sda",
        b"\0\x83\0\x04\xff\xff\xff\xff",
    );
    attribute(&sysfs.join("devices/x/host1/target1:0:0/1:0:0:0"), "type", "13\n");
    let found = discover::scan(sysfs).unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|one| (one.address.as_str(), one.transport, one.wwn))
        .collect();
    assert_eq!(
        seen,
        [
            ("2:0:0:0", Transport::Sas, Some(Wwn::Naa(0x5000_c500_a1b2_c3d7))),
            ("10:0:0:0", Transport::Sata, None),
        ]
    );
    let block = found[0].block.as_ref().unwrap();
    assert_eq!((block.name.as_str(), block.bytes), ("sdq", 4_000_787_030_016));
    assert!(block.write_back && block.holders == ["dm-3"]);
    assert_eq!(found[0].serial.as_deref(), Some("Z1ABCD"));
    assert_eq!(found[0].multiple_ports, Some(true));
    assert_eq!(found[1].multiple_ports, None, "the kernel has kept nothing");
    attribute(&sysfs.join(sas), "inquiry", [0, 0, 6, 2, 0x5b, 0, 0, 2]);
    assert_eq!(discover::scan(sysfs).unwrap()[0].multiple_ports, Some(false));
    // NVMe: a namespace, a partition of it, and a path to it that the kernel hides.
    for (name, attributes) in [
        (
            "nvme0n1",
            &[
                ("size", "2048\n"),
                ("queue/logical_block_size", "512\n"),
                ("hidden", "0\n"),
            ][..],
        ),
        ("nvme0n1p1", &[("size", "1024\n"), ("partition", "1\n")]),
        ("nvme0c1n1", &[("size", "2048\n"), ("hidden", "1\n")]),
    ] {
        let device = sysfs.join("class/block").join(name);
        attribute(&device, "wwid", "eui.0025385971b02b1e\n");
        attribute(&device, "device/model", "A QUICK ONE   \n");
        for (attr, content) in attributes {
            attribute(&device, attr, content);
        }
    }
    let found = discover::scan(sysfs).unwrap();
    let [.., last] = &found[..] else {
        unreachable!("three")
    };
    assert_eq!(
        (found.len(), last.address.as_str(), last.transport),
        (3, "nvme0n1", Transport::Nvme)
    );
    assert_eq!(
        (last.wwn, last.product.as_str()),
        (Some(Wwn::Eui(0x0025_3859_71b0_2b1e)), "A QUICK ONE")
    );
    std::fs::remove_dir_all(sysfs.join("class/block")).unwrap();
    std::fs::remove_dir_all(sysfs.join(sas)).unwrap();
    assert_eq!(
        discover::scan(sysfs).unwrap().len(),
        1,
        "one that went away is none"
    );
}

proptest! {
    /// Whatever comes, it is a value or an error, and no value is made of bytes that did not come.
    #[test]
    fn no_bytes_break_a_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (Sense::decode(&bytes), Inquiry::decode(&bytes), Capacity::decode(&bytes), caching(&bytes));
        let _ = (BlockLimits::decode(&bytes), Medium::decode(&bytes), serial(&bytes), supported_pages(&bytes));
        let _ = (Reserved::decode(&bytes), Capabilities::decode(&bytes), whole_list(&bytes));
        if let Ok(names) = designators(&bytes) {
            prop_assert!(names.iter().map(|name| name.name.len() + 4).sum::<usize>() + 4 <= bytes.len());
        }
        if let Ok(keys) = Keys::decode(&bytes) {
            prop_assert!(keys.keys.len() * 8 + 8 <= bytes.len());
        }
        if let Ok(full) = FullStatus::decode(&bytes) {
            let size: usize = full.registrations.iter().map(|one| 24 + one.transport_id.len()).sum();
            prop_assert!(size + 8 <= bytes.len());
        }
    }

    /// The same with a beginning that lets more of them pass.
    #[test]
    fn no_page_breaks_a_decoder(page in any::<u8>(), length in 0u16..400, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let header = [0, page, (length >> 8) as u8, length as u8];
        let bytes = [&header[..], &rest].concat();
        for page in [0x00, 0x80, 0x83, 0xb0, 0xb1] {
            let mut bytes = bytes.clone();
            bytes[1] = page;
            let _ = (serial(&bytes), supported_pages(&bytes), BlockLimits::decode(&bytes), Medium::decode(&bytes));
            if let Ok(names) = designators(&bytes) {
                let _ = Wwn::of(&names);
            }
        }
        let list = [&[0, 0, 0, 1, 0, 0][..], &length.to_be_bytes(), &rest].concat();
        let _ = (Keys::decode(&list), FullStatus::decode(&list), Reserved::decode(&list));
    }
}
