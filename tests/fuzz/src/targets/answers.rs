//! What disks of the shelf say: INQUIRY, vital product data, READ CAPACITY, MODE SENSE, PERSISTENT RESERVE IN, sense data.

use pollux_platform::fake::scsi::{FakeDisk, Model};
use pollux_platform::scsi::command::{self, Command, ReserveIn, ReserveOut};
use pollux_platform::scsi::decode::{
    BlockLimits, Capabilities, Capacity, FullStatus, Inquiry, Keys, Medium, Reserved, Wwn, caching,
    designators, page, serial, supported_pages, whole_list,
};
use pollux_platform::scsi::{ScsiError, Sense, run};

/// Pages, each with what reads it.
const PAGES: [u8; 5] = [
    page::SUPPORTED,
    page::SERIAL,
    page::IDENTIFICATION,
    page::BLOCK_LIMITS,
    page::CHARACTERISTICS,
];

/// One answer, to every question: as it came, and with a header that lets more of it pass.
pub(super) fn answers(data: &[u8]) {
    plain(data);
    lists(data);
    for code in PAGES {
        let mut bytes = data.to_vec();
        if let Some(byte) = bytes.get_mut(1) {
            *byte = code;
        }
        pages(&bytes);
        // A page that is as long as it says.
        if let (Ok(length), Some(header)) =
            (u16::try_from(bytes.len().saturating_sub(4)), bytes.get_mut(2..4))
        {
            header.copy_from_slice(&length.to_be_bytes());
            pages(&bytes);
        }
    }
    let mut list = data.to_vec();
    if let (Ok(length), Some(header)) = (u32::try_from(list.len().saturating_sub(8)), list.get_mut(4..8)) {
        header.copy_from_slice(&length.to_be_bytes());
        lists(&list);
    }
}

fn plain(bytes: &[u8]) {
    for code in PAGES {
        // Asked for this page, whatever came.
        let read: Result<(), ScsiError> = match code {
            page::SUPPORTED => supported_pages(bytes).map(drop),
            page::SERIAL => serial(bytes).map(drop),
            page::IDENTIFICATION => designators(bytes).map(drop),
            page::BLOCK_LIMITS => BlockLimits::decode(bytes).map(drop),
            _ => Medium::decode(bytes).map(drop),
        };
        let named = bytes.get(1) == Some(&code);
        assert!(read.is_err() || named, "page {code:#x} was read from another one");
    }
    if let Ok(inquiry) = Inquiry::decode(bytes) {
        for text in [&inquiry.vendor, &inquiry.product, &inquiry.revision] {
            assert!(printable(text), "{text:?}");
        }
    }
    if let Ok(capacity) = Capacity::decode(bytes) {
        assert!(
            capacity.blocks > 0 && capacity.bytes() <= i64::MAX as u64,
            "{capacity:?}"
        );
        assert!(
            capacity.physical_block_size >= capacity.block_size,
            "{capacity:?}"
        );
    }
    let _ = caching(bytes);
    if let Ok(capabilities) = Capabilities::decode(bytes) {
        // Asked for every type, also those that do not exist.
        for kind in 0..16 {
            let _ = capabilities.has(kind);
        }
    }
    if let Some(sense) = Sense::decode(bytes) {
        assert!(sense.key <= 0xf && printable(&sense.to_string()), "{sense:?}");
        assert!(
            !(sense.is_unit_attention() && sense.is_unsupported()),
            "{sense:?}"
        );
    }
}

fn printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

fn pages(bytes: &[u8]) {
    if let Ok(names) = designators(bytes) {
        let size: usize = names.iter().map(|name| name.name.len() + 4).sum();
        assert!(size + 4 <= bytes.len(), "names of bytes that did not come");
        if let Some(wwn) = Wwn::of(&names) {
            assert_eq!(
                wwn.to_string().parse(),
                Ok(wwn),
                "a name is read as it is written"
            );
        }
    }
    if let Ok(text) = serial(bytes) {
        assert!(printable(&text) && text.len() + 4 <= bytes.len(), "{text:?}");
    }
    if let Ok(pages) = supported_pages(bytes) {
        assert!(pages.len() + 4 <= bytes.len());
    }
    if let Ok(Medium::Rotating(rate)) = Medium::decode(bytes) {
        assert!(rate > 1);
    }
    let _ = BlockLimits::decode(bytes);
}

fn lists(bytes: &[u8]) {
    let whole = whole_list(bytes);
    let came = |size: usize| {
        assert!(size + 8 <= bytes.len(), "an entry of bytes that did not come");
        assert!(
            whole.is_some_and(|whole| whole <= bytes.len() as u64),
            "less came than was announced"
        );
    };
    if let Ok(keys) = Keys::decode(bytes) {
        came(keys.keys.len() * 8);
    }
    if let Ok(full) = FullStatus::decode(bytes) {
        came(
            full.registrations
                .iter()
                .map(|one| 24 + one.transport_id.len())
                .sum(),
        );
    }
    if let Ok(reserved) = Reserved::decode(bytes) {
        came(if reserved.held.is_some() { 16 } else { 0 });
    }
}

/// What a disk of the tests answers, which does not use the functions that are tried here.
pub(super) fn answer_seeds() -> Vec<Vec<u8>> {
    let disk = FakeDisk::new(Model::new(Wwn::Naa(0x5000_c500_a1b2_c3d7)));
    let port = disk.port(1);
    let ask = |command: Command| run(&port, &command).expect("the disk answers");
    let mut seeds: Vec<Vec<u8>> = PAGES.map(|page| ask(command::vital(page))).into();
    seeds.push(ask(command::inquiry()));
    seeds.push(ask(command::read_capacity()));
    let lists = [
        ReserveIn::ReadKeys,
        ReserveIn::ReadReservation,
        ReserveIn::ReadFullStatus,
        ReserveIn::ReportCapabilities,
    ];
    seeds.extend(lists.map(|action| ask(command::reserve_in(action, 512))));
    for (action, key, new) in [(ReserveOut::Register, 0, 0x77), (ReserveOut::Reserve, 0x77, 0)] {
        ask(command::reserve_out(action, 5, key, new, true));
    }
    seeds.extend(lists.map(|action| ask(command::reserve_in(action, 512))));
    // MODE SENSE of the caching page; sense data, fixed and with descriptors.
    seeds.push([&[23, 0, 0x10, 0, 8, 18, 4][..], &[0; 17]].concat());
    seeds.push(vec![
        0xf0, 0, 0xe, 0, 0, 0, 77, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0,
    ]);
    seeds.push(vec![
        0x72, 0x6, 0x29, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 9,
    ]);
    seeds
}
