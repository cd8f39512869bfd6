//! Who the volume is: standard INQUIRY data and the pages of vital product data (SPC-4, 6.6 and 7.8).
//!
//! Everything that names the volume is equal on both controllers, so that a host sees one device; only what
//! names the *port* (relative target port and its group) differs.

use super::kind::Kind;
use super::provisioning::Provisioning;
use crate::volume::Identity;
use pollux_api::id::ControllerId;

/// T10 vendor identification: also what multipath configurations match on.
pub const VENDOR: &[u8; 8] = b"POLLUX  ";
/// Product revision level.
pub const REVISION: &[u8; 4] = b"0001";

/// Largest transfer of one command, bytes: bounds what a command may make the target allocate.
pub const MAX_TRANSFER: u32 = 4 * 1024 * 1024;
/// Largest COMPARE AND WRITE, blocks.
pub const MAX_COMPARE_AND_WRITE: u8 = 32;
/// Descriptors in one UNMAP.
pub const MAX_UNMAP_DESCRIPTORS: u32 = 256;
/// Largest UNMAP or WRITE SAME, bytes.
pub const MAX_WRITE_SAME: u64 = 64 * 1024 * 1024;

/// What the port that answers is called.
#[derive(Clone, Copy, Debug)]
pub struct PortNames<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// The controller whose port it is.
    pub controller: ControllerId,
}

/// Relative target port identifier of a controller's port; also the number of its target port group and of its
/// iSCSI portal group.
#[must_use]
pub const fn port_number(controller: ControllerId) -> u16 {
    controller.index() as u16 + 1
}

/// Standard INQUIRY data of a logical unit; `None`: this host has no such unit.
#[must_use]
pub fn standard(unit: Option<Kind>) -> Vec<u8> {
    let kind = unit.unwrap_or_default();
    let mut data = vec![0; 74];
    // Peripheral qualifier 011b, device type 1Fh: no such unit can be here.
    data[0] = if unit.is_some() { 0x00 } else { 0x7f };
    data[2] = 0x06; // SPC-4
    data[3] = 0x12; // HiSup, response data format 2
    data[4] = (data.len() - 5) as u8;
    // TPGS 01b: implicit asymmetric access.
    data[5] = if kind.is_asymmetric() { 0x10 } else { 0x00 };
    data[6] = 0x10; // MultiP
    data[7] = 0x02; // CmdQue
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(kind.product());
    data[32..36].copy_from_slice(REVISION);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3, none of them naming a revision.
    for (slot, version) in [0x00a0_u16, 0x0960, 0x0460, 0x04c0].into_iter().enumerate() {
        data[58 + 2 * slot..60 + 2 * slot].copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// A page of vital product data; `None`: there is no such page.
#[must_use]
pub fn vpd(
    page: u8,
    kind: Kind,
    volume: &Identity,
    space: Provisioning,
    port: PortNames<'_>,
) -> Option<Vec<u8>> {
    let body = match page {
        0x00 if kind.is_provisioned() => vec![0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2],
        0x00 => vec![0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1],
        0x80 => volume.serial.as_bytes().to_vec(),
        0x83 => designators(kind, volume, port),
        0x86 => extended(),
        0xb0 => limits(volume.block_size, kind.is_provisioned().then_some(space)),
        0xb1 => characteristics(),
        0xb2 if kind.is_provisioned() => space.page(),
        _ => return None,
    };
    let mut data = vec![0x00, page];
    data.extend_from_slice(&(body.len() as u16).to_be_bytes());
    data.extend_from_slice(&body);
    Some(data)
}

fn designators(kind: Kind, volume: &Identity, port: PortNames<'_>) -> Vec<u8> {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    /// PROTOCOL IDENTIFIER 5h (iSCSI) in the high half, PIV, association 01b: the target port.
    const PORT: u8 = 0x90;
    /// The same, association 10b: the target device.
    const DEVICE: u8 = 0xa0;
    let mut body = Vec::new();
    let mut add = |code_set: u8, kind: u8, value: &[u8]| {
        let protocol = if kind & 0x80 != 0 { 0x50 } else { 0 };
        body.extend_from_slice(&[protocol | code_set, kind, 0, value.len() as u8]);
        body.extend_from_slice(value);
    };
    // NAA 3h, locally assigned: we have no company identifier. 60 random bits of the volume's identity.
    let id = *volume.id.as_bytes();
    let mut naa: [u8; 8] = id[8..].try_into().expect("the last half of sixteen bytes");
    naa[0] = 0x30 | (naa[0] ^ id[0]) & 0x0f;
    add(BINARY, 0x03, &naa);
    let mut t10 = VENDOR.to_vec();
    t10.extend_from_slice(volume.serial.as_bytes());
    add(ASCII, 0x01, &t10);
    // RFC 4122 UUID (SPC-5, 7.8.6.11): the whole identity.
    let mut uuid = vec![0x10, 0x00];
    uuid.extend_from_slice(&id);
    add(BINARY, 0x0a, &uuid);
    let number = port_number(port.controller);
    let [high, low] = number.to_be_bytes();
    add(BINARY, PORT | 0x04, &[0, 0, high, low]);
    if kind.is_asymmetric() {
        add(BINARY, PORT | 0x05, &[0, 0, high, low]);
    }
    add(
        UTF8,
        PORT | 0x08,
        &name_string(&format!("{},t,0x{number:04x}", port.target)),
    );
    add(UTF8, DEVICE | 0x08, &name_string(port.target));
    body
}

/// SCSI name string: ends with a zero and fills whole words.
fn name_string(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}

fn extended() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01; // SIMPSUP
    body[2] = 0x01; // V_SUP: a volume's is there where the operator switches it on
    body[3] = 0x00; // nothing uncorrectable to write
    body
}

fn limits(block_size: u32, space: Option<Provisioning>) -> Vec<u8> {
    let mut body = vec![0; 60];
    let blocks = |bytes: u64| (bytes / u64::from(block_size)) as u32;
    body[0] = 0x00; // WSNZ=0: a WRITE SAME of zero blocks means up to the end
    body[1] = MAX_COMPARE_AND_WRITE;
    body[2..4].copy_from_slice(&1_u16.to_be_bytes());
    body[4..8].copy_from_slice(&blocks(MAX_TRANSFER.into()).to_be_bytes());
    body[8..12].copy_from_slice(&blocks(256 * 1024).to_be_bytes());
    if let Some(space) = space {
        body[16..20].copy_from_slice(&blocks(MAX_WRITE_SAME).to_be_bytes());
        body[20..24].copy_from_slice(&MAX_UNMAP_DESCRIPTORS.to_be_bytes());
        body[24..32].copy_from_slice(&space.unmap_fields());
    }
    body[32..40].copy_from_slice(&u64::from(blocks(MAX_WRITE_SAME)).to_be_bytes());
    body
}

fn characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01; // medium rotation rate: does not rotate
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::VolumeId;

    fn identity() -> Identity {
        Identity {
            id: VolumeId::from_bytes([0xab; 16]),
            serial: "0123456789abcdef".into(),
            block_size: 4096,
        }
    }

    fn designator_values(page: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut rest = &page[4..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(rest[3]);
            found.push((rest[1], rest[4..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
        found
    }

    #[test]
    fn both_controllers_name_one_device_and_different_ports() {
        let of = |controller| {
            let port = PortNames {
                target: "iqn.2026-01.io.pollux:array",
                controller,
            };
            let page = vpd(0x83, Kind::Volume, &identity(), Provisioning::default(), port).expect("page 83h");
            assert_eq!(
                usize::from(u16::from_be_bytes([page[2], page[3]])),
                page.len() - 4
            );
            designator_values(&page)
        };
        let (a, b) = (of(ControllerId::A), of(ControllerId::B));
        let unit = |all: &[(u8, Vec<u8>)]| -> Vec<_> {
            all.iter().filter(|(kind, _)| kind & 0x30 == 0).cloned().collect()
        };
        assert_eq!(unit(&a), unit(&b));
        assert_eq!(unit(&a).len(), 3);
        assert_eq!(unit(&a)[0].1[0] >> 4, 3, "NAA 3h");
        let port = |all: &[(u8, Vec<u8>)]| all.iter().find(|(kind, _)| *kind == 0x94).cloned();
        assert_eq!(port(&a).expect("relative port").1, [0, 0, 0, 1]);
        assert_eq!(port(&b).expect("relative port").1, [0, 0, 0, 2]);
    }

    #[test]
    fn each_listed_page_exists_and_says_its_own_number() {
        let port = PortNames {
            target: "iqn.x",
            controller: ControllerId::A,
        };
        let space = Provisioning::default();
        for (kind, pages) in [(Kind::Volume, 7), (Kind::Disk, 6)] {
            let listed = vpd(0, kind, &identity(), space, port).expect("page 0");
            assert_eq!(listed.len(), 4 + pages);
            for page in 0..=u8::MAX {
                let found = vpd(page, kind, &identity(), space, port);
                assert_eq!(
                    found.is_some(),
                    listed[4..].contains(&page),
                    "{kind:?} {page:#04x}"
                );
                assert!(found.is_none_or(|found| found[1] == page));
            }
        }
    }

    #[test]
    fn a_disk_has_a_cache_and_neither_port_groups_nor_space() {
        let port = PortNames {
            target: "iqn.x",
            controller: ControllerId::B,
        };
        let (of, disk) = (identity(), Some(Kind::Disk));
        assert_eq!((standard(disk)[5], &standard(disk)[16..20]), (0, &b"DISK"[..]));
        let page = |page| vpd(page, Kind::Disk, &of, Provisioning::default(), port).expect("a page");
        let kinds: Vec<u8> = designator_values(&page(0x83))
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, [0x03, 0x01, 0x0a, 0x94, 0x98, 0xa8]);
        assert_eq!(page(0x86)[6], 0x01, "V_SUP");
        assert_eq!(page(0xb0)[20..36], [0; 16], "no UNMAP");
    }
}
