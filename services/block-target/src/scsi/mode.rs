//! Mode pages: what the volume's behaviour is, for hosts that ask (SPC-4, 7.5; SBC-3, 6.5). Nothing is changeable.

use super::provisioning::Provisioning;
use super::sense::Sense;

/// Caching page. WCE says whether GOOD means durable, or durable after the next SYNCHRONIZE CACHE (SBC-3, 6.5.5); the
/// operator decides, not a host.
const fn caching(write_cache: bool) -> [u8; 20] {
    let mut page = [0; 20];
    page[0] = 0x08;
    page[1] = 18;
    page[2] = if write_cache { 0x04 } else { 0 };
    page
}
/// Control page: commands may be reordered (QUEUE ALGORITHM MODIFIER 1), fixed format sense.
const CONTROL: [u8; 12] = {
    let mut page = [0; 12];
    page[0] = 0x0a;
    page[1] = 10;
    page[3] = 0x10;
    page
};
/// Informational exceptions control page: none are reported.
const EXCEPTIONS: [u8; 12] = {
    let mut page = [0; 12];
    page[0] = 0x1c;
    page[1] = 10;
    page
};

/// The medium takes DPO and FUA.
const DPOFUA: u8 = 0x10;

/// A MODE SENSE, as far as the pages are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The ten byte form.
    pub ten: bool,
    /// No block descriptor.
    pub no_block_descriptor: bool,
    /// The long block descriptor is accepted.
    pub long_lba: bool,
    /// Which values.
    pub control: u8,
    /// Page code.
    pub page: u8,
    /// Subpage code.
    pub subpage: u8,
}

/// What the pages speak of.
#[derive(Clone, Copy, Debug)]
pub struct Medium {
    /// Its size.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// How its blocks get their space.
    pub space: Provisioning,
    /// Writes may stay in a cache until they are flushed.
    pub write_cache: bool,
}

/// The mode parameter list.
///
/// # Errors
/// No such page, or saved values, of which there are none.
pub fn sense(query: Query, medium: &Medium) -> Result<Vec<u8>, Sense> {
    let Medium {
        blocks, block_size, ..
    } = *medium;
    if query.control == 3 {
        // SAVING PARAMETERS NOT SUPPORTED has a code of its own.
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    let caching = caching(medium.write_cache);
    let threshold = medium.space.mode_page();
    let of_space = threshold.as_ref().map(|page| &page[..]);
    let mut pages: Vec<&[u8]> = match (query.page, query.subpage) {
        (0x3f, 0x00 | 0xff) => vec![&caching, &CONTROL, &EXCEPTIONS],
        (0x08, 0x00 | 0xff) => vec![&caching],
        (0x0a, 0x00 | 0xff) => vec![&CONTROL],
        (0x1c, 0x00 | 0xff) => vec![&EXCEPTIONS],
        (0x1c, 0x02) if of_space.is_some() => vec![],
        (0x3f | 0x08 | 0x0a | 0x1c, _) => return Err(Sense::invalid_field(3)),
        _ => return Err(Sense::invalid_field(2)),
    };
    // Subpages come with their own number, or with all of them.
    if matches!(query.page, 0x1c | 0x3f) && matches!(query.subpage, 0x02 | 0xff) {
        pages.extend(of_space);
    }
    let mut body = Vec::new();
    let long = query.long_lba && blocks > u64::from(u32::MAX);
    if !query.no_block_descriptor {
        if long {
            body.extend_from_slice(&blocks.to_be_bytes());
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(&block_size.to_be_bytes());
        } else {
            body.extend_from_slice(&u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(&(block_size & 0x00ff_ffff).to_be_bytes());
        }
    }
    let descriptor = body.len();
    for page in pages {
        let start = body.len();
        body.extend_from_slice(page);
        if query.control == 1 {
            // A subpage has a longer header.
            let header = if page[0] & 0x40 == 0 { 2 } else { 4 };
            body[start + header..].fill(0);
        }
    }
    let mut list = if query.ten {
        let mut header = vec![0; 8];
        header[..2].copy_from_slice(&((body.len() + 6) as u16).to_be_bytes());
        header[3] = DPOFUA;
        header[4] = u8::from(long && descriptor > 0);
        header[6..8].copy_from_slice(&(descriptor as u16).to_be_bytes());
        header
    } else {
        vec![(body.len() + 3) as u8, 0, DPOFUA, descriptor as u8]
    };
    list.append(&mut body);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THICK: Provisioning = Provisioning {
        thin: false,
        extent_blocks: 2048,
        pool_extents: 100,
        low_percent: 10,
    };
    const fn of(blocks: u64, block_size: u32) -> Medium {
        Medium {
            blocks,
            block_size,
            space: THICK,
            write_cache: false,
        }
    }

    const ALL: Query = Query {
        ten: false,
        no_block_descriptor: false,
        long_lba: false,
        control: 0,
        page: 0x3f,
        subpage: 0,
    };

    #[test]
    fn lengths_describe_what_follows_and_the_write_cache_is_off() {
        let list = sense(ALL, &of(1000, 4096)).expect("all pages");
        assert_eq!(usize::from(list[0]) + 1, list.len());
        assert_eq!(list[3], 8);
        let caching = &list[12..];
        assert_eq!((caching[0], caching[2] & 0x04), (0x08, 0));
        let cached = Medium {
            write_cache: true,
            ..of(1000, 4096)
        };
        let list = sense(ALL, &cached).expect("all pages");
        assert_eq!(
            (list[12], list[14]),
            (0x08, 0x04),
            "unless the operator has switched it on"
        );
        let changeable = sense(Query { control: 1, ..ALL }, &cached).expect("all pages");
        assert_eq!(
            (changeable[12], changeable[14]),
            (0x08, 0),
            "and no host may switch it"
        );
        let ten = sense(
            Query {
                ten: true,
                long_lba: true,
                ..ALL
            },
            &of(1 << 40, 4096),
        )
        .expect("all pages");
        assert_eq!(usize::from(u16::from_be_bytes([ten[0], ten[1]])) + 2, ten.len());
        assert_eq!((ten[4], ten[7]), (1, 16));
        assert_eq!(ten[8..16], (1u64 << 40).to_be_bytes());
    }

    #[test]
    fn nothing_is_changeable_or_saved() {
        let list = sense(
            Query {
                control: 1,
                no_block_descriptor: true,
                page: 0x0a,
                ..ALL
            },
            &of(1, 512),
        )
        .expect("page");
        assert_eq!(list[4..6], [0x0a, 10]);
        assert!(list[6..].iter().all(|byte| *byte == 0));
        assert_eq!(
            sense(Query { control: 3, ..ALL }, &of(1, 512)),
            Err(Sense::SAVING_NOT_SUPPORTED)
        );
    }

    #[test]
    fn the_threshold_is_a_subpage_of_thin_volumes() {
        let thin = Provisioning { thin: true, ..THICK };
        let in_pool = |space| Medium { space, ..of(1, 512) };
        let of = |page, subpage, control| Query {
            no_block_descriptor: true,
            page,
            subpage,
            control,
            ..ALL
        };
        let one = sense(of(0x1c, 0x02, 0), &in_pool(thin)).expect("thin");
        assert_eq!((one.len(), &one[4..8], one[27]), (28, &[0x5c, 2, 0, 20][..], 10));
        let fixed = sense(of(0x1c, 0x02, 1), &in_pool(thin)).expect("thin");
        assert_eq!(fixed[4..8], one[4..8]);
        assert!(fixed[8..].iter().all(|byte| *byte == 0));
        assert!(sense(of(0x1c, 0x02, 0), &in_pool(THICK)).is_err());
        let length = |subpage, space| sense(of(0x3f, subpage, 0), &in_pool(space)).expect("all").len();
        assert_eq!(length(0xff, thin), length(0x00, thin) + 24);
        assert_eq!(
            (length(0x00, thin), length(0xff, THICK)),
            (length(0x00, THICK), length(0x00, THICK))
        );
    }
}
