//! Who lives: the wire and the partner's slot, as sighted from here.

/// The wire to the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WireSight {
    /// Nothing came back yet, and not long enough for silence.
    Unknown,
    /// My nonce came back within Tn.
    Alive,
    /// It did not. Replays and one-way links are silence.
    Silent,
}

/// The partner's slot on the quorum disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskSight {
    /// Not watched for long enough.
    Unknown,
    /// It changed on some disk within Td, and no disk stands out.
    Alive,
    /// It changes, but not on a minority of the disks.
    SomeStill,
    /// It changes on a minority of the disks only.
    MostStill,
    /// Read well and unchanged for Td on a majority, and changed nowhere.
    Still,
    /// Fewer than a majority can be read.
    Unreadable,
}
