//! How a volume has its space, as hosts are told: the same in the capacity, on two pages of vital product data, in a mode
//! page, and block by block (SBC-3, 4.7, 5.5, 6.5.9, 6.6.4 and 6.6.5).
//!
//! | | thick | thin |
//! |---|---|---|
//! | READ CAPACITY(16) | LBPME, LBPRZ | LBPME, LBPRZ |
//! | VPD B2h, provisioning type | 0, not reported | 2, thin |
//! | VPD B2h, threshold exponent | 0 | such that a threshold counts extents |
//! | VPD B0h, unmap granularity | one block | one extent, aligned to extents |
//! | mode page 1Ch, subpage 02h | none | the soft threshold of the pool |
//! | UNMAP of a whole extent | zeros | deallocated |
//! | UNMAP of less | zeros | zeros |

use pollux_block_frame::LbaRun;

/// How the blocks of a volume get their space; equal on both controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// When they are first written.
    pub thin: bool,
    /// Blocks of an extent; zero: not known.
    pub extent_blocks: u32,
    /// Extents of the pool; zero: not known.
    pub pool_extents: u64,
    /// Free space in percent below which hosts are told.
    pub low_percent: u8,
}

/// Length of the logical block provisioning mode page with one threshold.
pub const MODE_PAGE: usize = 24;

impl Provisioning {
    /// Blocks that are deallocated at once; for a thick volume any.
    #[must_use]
    pub fn granularity(&self) -> u32 {
        if self.thin { self.extent_blocks.max(1) } else { 1 }
    }

    /// Two to this power is the number of blocks that a threshold counts in.
    fn exponent(&self) -> u8 {
        self.granularity().ilog2() as u8
    }

    /// OPTIMAL UNMAP GRANULARITY and UNMAP GRANULARITY ALIGNMENT of VPD page B0h, eight bytes.
    #[must_use]
    pub fn unmap_fields(&self) -> [u8; 8] {
        let mut fields = [0; 8];
        fields[..4].copy_from_slice(&self.granularity().to_be_bytes());
        // UGAVALID: extents begin with block zero.
        fields[4] = if self.thin { 0x80 } else { 0 };
        fields
    }

    /// The body of VPD page B2h.
    #[must_use]
    pub fn page(&self) -> Vec<u8> {
        // LBPU, LBPWS, LBPWS10, LBPRZ 001b; nothing is anchored.
        const FLAGS: u8 = 0xe4;
        match self.thin {
            true => vec![self.exponent(), FLAGS, 0x02, 0x00],
            false => vec![0x00, FLAGS, 0x00, 0x00],
        }
    }

    /// Mode page 1Ch, subpage 02h, of a thin volume.
    #[must_use]
    pub fn mode_page(&self) -> Option<[u8; MODE_PAGE]> {
        if !self.thin {
            return None;
        }
        let mut page = [0; MODE_PAGE];
        // SPF, the page, its subpage, and what follows. SITUA=0: every host is told.
        page[..4].copy_from_slice(&[0x40 | 0x1c, 0x02, 0, (MODE_PAGE - 4) as u8]);
        // Enabled, a soft threshold, armed while decreasing; of what is available.
        page[16..18].copy_from_slice(&[0x80, 0x01]);
        let count = u128::from(self.pool_extents) * u128::from(self.low_percent) / 100;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        page[20..].copy_from_slice(&count.to_be_bytes());
        Some(page)
    }
}

/// GET LBA STATUS parameter data: as many descriptors as fit into the allocation length, one at least.
#[must_use]
pub fn lba_status(runs: &[LbaRun], allocation: u32) -> Vec<u8> {
    const HEADER: usize = 8;
    const DESCRIPTOR: usize = 16;
    let fit = (allocation as usize).saturating_sub(HEADER) / DESCRIPTOR;
    let runs = &runs[..runs.len().min(fit.max(1))];
    let mut data = vec![0; HEADER];
    data[..4].copy_from_slice(&((HEADER - 4 + DESCRIPTOR * runs.len()) as u32).to_be_bytes());
    for run in runs {
        data.extend_from_slice(&run.lba.to_be_bytes());
        data.extend_from_slice(&run.blocks.to_be_bytes());
        // Mapped, or deallocated.
        data.extend_from_slice(&[u8::from(!run.mapped), 0, 0, 0]);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIN: Provisioning = Provisioning {
        thin: true,
        extent_blocks: 2048,
        pool_extents: 1000,
        low_percent: 10,
    };

    #[test]
    fn every_page_of_a_thin_volume_counts_in_extents() {
        assert_eq!(THIN.unmap_fields(), [0, 0, 8, 0, 0x80, 0, 0, 0]);
        assert_eq!(THIN.page(), [11, 0xe4, 2, 0]);
        let page = THIN.mode_page().expect("thin");
        assert_eq!(page[..4], [0x5c, 2, 0, 20]);
        assert_eq!(page[16..], [0x80, 1, 0, 0, 0, 0, 0, 100]);
    }

    #[test]
    fn a_thick_volume_is_what_it_was() {
        let thick = Provisioning { thin: false, ..THIN };
        assert_eq!(thick.unmap_fields(), [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!((thick.page(), thick.mode_page()), (vec![0, 0xe4, 0, 0], None));
    }

    #[test]
    fn as_many_descriptors_as_fit() {
        let run = |lba, mapped| LbaRun {
            lba,
            blocks: 8,
            mapped,
        };
        let runs = [run(0, true), run(8, false), run(16, true)];
        let one = lba_status(&runs, 24);
        assert_eq!(one[..8], [0, 0, 0, 20, 0, 0, 0, 0]);
        assert_eq!(one[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        let two = lba_status(&runs, 55);
        assert_eq!((two[3], two.len(), two[36]), (36, 40, 1));
        assert_eq!(lba_status(&runs, 4).len(), 24, "cut by the caller");
    }
}
