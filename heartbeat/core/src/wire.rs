//! The heartbeat datagram: what is said on the wire. The driver adds and checks the authentication around it.

use crate::area::{Advert, Letter};
use crate::record::Record;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Grows with every datagram of one daemon's life; for loss statistics only.
    pub sequence: u64,
    /// Fresh and unpredictable: the partner echoes it, which proves that *now* both ways work.
    pub nonce: u64,
    /// The last nonce that came from the partner; none: nothing was heard, or the partner is being excluded.
    pub echo: Option<u64>,
    /// What the sender says of itself.
    pub advert: Advert,
    /// The highest decided record that the sender knows.
    pub record: Option<Record>,
    /// Wishes.
    pub letter: Letter,
}
