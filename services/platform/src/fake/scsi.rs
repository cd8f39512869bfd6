//! A disk with several initiators, and a kernel that knows some of them.
//!
//! It reads command blocks and writes answers by itself, from the standard and not with the functions that it is there to
//! test. Registrations belong to a nexus; a nexus without one does not write under an exclusive reservation; a volatile cache
//! forgets what was not flushed when the power goes, and so do registrations that were made without APTPL.

use crate::scsi::command::{Command, Data};
use crate::scsi::discover::{Block, Found, Transport};
use crate::scsi::{Buffer, ScsiDisk, ScsiError, Sense, decode::Wwn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a block: unit of addresses and of loss.
const BLOCK: usize = 512;
/// Most blocks of its COMPARE AND WRITE.
const SWAP: u8 = 8;

/// An initiator port at the disk.
pub type Nexus = u16;

/// What one disk is.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name.
    pub wwn: Wwn,
    /// Serial number.
    pub serial: String,
    /// Vendor.
    pub vendor: String,
    /// Size, blocks of 512 bytes.
    pub blocks: u64,
    /// Says that it has more than one port.
    pub multiple_ports: bool,
    /// Has COMPARE AND WRITE.
    pub swaps: bool,
    /// Can keep registrations through a loss of power.
    pub persists: bool,
    /// Service actions of PERSISTENT RESERVE IN that it rejects.
    pub rejects_in: BTreeSet<u8>,
    /// Service actions of PERSISTENT RESERVE OUT that it rejects.
    pub rejects_out: BTreeSet<u8>,
}

impl Model {
    /// A usual disk of 8 MiB.
    #[must_use]
    pub fn new(wwn: Wwn) -> Self {
        Model {
            wwn,
            serial: format!("FAKE{wwn}"),
            vendor: "POLLUX".to_owned(),
            blocks: 16 * 1024,
            multiple_ports: true,
            swaps: true,
            persists: true,
            rejects_in: BTreeSet::new(),
            rejects_out: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    data: Vec<u8>,
    /// What a dirty block goes back to when the power goes.
    durable: BTreeMap<usize, [u8; BLOCK]>,
    keys: BTreeMap<Nexus, u64>,
    held: Option<(Nexus, u8)>,
    generation: u32,
    /// APTPL of the last registration.
    kept: bool,
    attentions: BTreeMap<Nexus, VecDeque<(u8, u8)>>,
    /// Commands that were received, by operation code and service action.
    received: Vec<(Nexus, u8, u8)>,
    /// Writes wait, as in a kernel whose disk does not answer.
    stalled: bool,
    /// Writes that wait.
    waiting: usize,
    /// How often commands of a nexus were aborted.
    aborts: BTreeMap<Nexus, u64>,
    /// The path of a nexus has gone.
    cut: BTreeSet<Nexus>,
}

/// The disk.
#[derive(Debug)]
pub struct FakeDisk {
    model: Model,
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a command ends with CHECK CONDITION.
fn check(command: &Command, key: u8, code: u8, qualifier: u8) -> ScsiError {
    let sense = Sense {
        key,
        code,
        qualifier,
        ..Sense::default()
    };
    ScsiError::Check {
        command: command.name(),
        sense,
    }
}

impl FakeDisk {
    /// A blank one.
    #[must_use]
    pub fn new(model: Model) -> Arc<Self> {
        let state = State {
            data: vec![0; model.blocks as usize * BLOCK],
            ..State::default()
        };
        Arc::new(FakeDisk {
            model,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// The disk as one initiator port reaches it.
    #[must_use]
    pub fn port(self: &Arc<Self>, nexus: Nexus) -> FakePort {
        FakePort {
            disk: self.clone(),
            nexus,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a kernel would show it, as `sdX` at an address.
    #[must_use]
    pub fn found(&self, address: &str, name: &str) -> Found {
        Found {
            address: address.to_owned(),
            kind: 0,
            vendor: self.model.vendor.clone(),
            product: "FAKE".to_owned(),
            state: "running".to_owned(),
            transport: Transport::Sas,
            serial: Some(self.model.serial.clone()),
            wwn: Some(self.model.wwn),
            multiple_ports: Some(true),
            block: Some(Block {
                name: name.to_owned(),
                bytes: self.model.blocks * BLOCK as u64,
                logical_block: BLOCK as u32,
                write_back: true,
                holders: Vec::new(),
            }),
        }
    }

    /// The power goes and comes: blocks that were not flushed are as before, registrations without APTPL are gone, and
    /// every nexus hears of it.
    pub fn cycle_power(&self) {
        let mut state = self.lock();
        for (block, old) in std::mem::take(&mut state.durable) {
            state.data[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&old);
        }
        if !state.kept {
            state.keys.clear();
            state.held = None;
        }
        state.generation = 0;
        let known: Vec<Nexus> = state.attentions.keys().copied().collect();
        for nexus in known {
            state.attend(nexus, (0x29, 0x00));
        }
    }

    /// From now on writes wait, or those that wait go on.
    pub fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
        self.changed.notify_all();
    }

    /// Waits until so many writes wait.
    pub fn wait_for_stalled(&self, writes: usize) {
        let state = self.lock();
        drop(
            self.changed
                .wait_while(state, |state| state.waiting < writes)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Cuts the path of an initiator port, or mends it.
    pub fn cut(&self, nexus: Nexus, cut: bool) {
        let mut state = self.lock();
        match cut {
            true => state.cut.insert(nexus),
            false => state.cut.remove(&nexus),
        };
    }

    /// Queues a unit attention for an initiator port.
    pub fn attention(&self, nexus: Nexus, code: u8, qualifier: u8) {
        self.lock().attend(nexus, (code, qualifier));
    }

    /// How often a command with this operation code and service action was received.
    #[must_use]
    pub fn received(&self, code: u8, action: u8) -> usize {
        let state = self.lock();
        let alike = |(_, other, service): &&(Nexus, u8, u8)| *other == code && *service == action;
        state.received.iter().filter(alike).count()
    }

    /// Bytes on the medium, whoever may read them.
    #[must_use]
    pub fn peek(&self, offset: usize, length: usize) -> Vec<u8> {
        self.lock().data[offset..offset + length].to_vec()
    }
}

impl State {
    fn attend(&mut self, nexus: Nexus, attention: (u8, u8)) {
        self.attentions.entry(nexus).or_default().push_back(attention);
    }

    /// May this nexus write (read)? SPC-4, tables 34 and 35.
    fn permits(&self, nexus: Nexus, write: bool) -> bool {
        match self.held {
            None => true,
            Some((_, 1 | 5 | 7)) if !write => true,
            Some((holder, 1 | 3)) => holder == nexus,
            Some(_) => self.keys.contains_key(&nexus),
        }
    }

    fn put(&mut self, offset: usize, data: &[u8], durable: bool) {
        for (at, part) in data.chunks(BLOCK).enumerate() {
            let block = offset / BLOCK + at;
            let here = block * BLOCK..block * BLOCK + part.len();
            match durable {
                true => drop(self.durable.remove(&block)),
                false => {
                    let mut old = [0; BLOCK];
                    old.copy_from_slice(&self.data[block * BLOCK..(block + 1) * BLOCK]);
                    self.durable.entry(block).or_insert(old);
                }
            }
            self.data[here].copy_from_slice(part);
        }
    }

    fn register(&mut self, nexus: Nexus, key: u64, kept: bool) {
        match key {
            0 => {
                self.keys.remove(&nexus);
                if let Some((_, kind @ (7 | 8))) = self.held {
                    // Held by every registrant: by those who are left.
                    self.held = self.keys.keys().next().map(|other| (*other, kind));
                } else if let Some((holder, kind)) = self.held.filter(|(holder, _)| *holder == nexus) {
                    self.held = None;
                    // RESERVATIONS RELEASED, where others were registrants of it.
                    let others: Vec<Nexus> = self
                        .keys
                        .keys()
                        .copied()
                        .filter(|other| *other != holder)
                        .collect();
                    for other in others.into_iter().filter(|_| matches!(kind, 5 | 6)) {
                        self.attend(other, (0x2a, 0x04));
                    }
                }
            }
            _ => drop(self.keys.insert(nexus, key)),
        }
        self.generation = self.generation.wrapping_add(1);
        self.kept = kept;
    }
}

/// One path to a disk.
#[derive(Clone, Debug)]
pub struct FakePort {
    disk: Arc<FakeDisk>,
    nexus: Nexus,
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Header with generation and length, then the list, cut to what was asked for.
fn listed(generation: u32, list: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.extend((list.len() as u32).to_be_bytes());
    bytes.extend(list);
    bytes.truncate(length);
    bytes
}

impl FakePort {
    fn inquiry(&self, cdb: &[u8]) -> Option<Vec<u8>> {
        let model = &self.disk.model;
        let name = |bytes: &[u8], kind: u8, association: u8| {
            let mut all = vec![1, association << 4 | kind, 0, bytes.len() as u8];
            all.extend(bytes);
            all
        };
        let page = match (cdb[1] & 1, cdb[2]) {
            (0, _) => {
                let mut bytes = vec![0; 36];
                (bytes[2], bytes[3], bytes[4]) = (6, 2, 31);
                bytes[6] = u8::from(model.multiple_ports) << 4;
                bytes[8..].fill(b' ');
                bytes[8..8 + model.vendor.len()].copy_from_slice(model.vendor.as_bytes());
                bytes[16..20].copy_from_slice(b"FAKE");
                bytes[32] = b'1';
                return Some(bytes);
            }
            (_, 0x00) => vec![0x00, 0x80, 0x83, 0xb0, 0xb1],
            (_, 0x80) => model.serial.clone().into_bytes(),
            (_, 0x83) => {
                let mut all = match model.wwn {
                    Wwn::Naa(short) => name(&short.to_be_bytes(), 3, 0),
                    Wwn::NaaExtended(long) => name(&long.to_be_bytes(), 3, 0),
                    Wwn::Eui(short) => name(&short.to_be_bytes(), 2, 0),
                };
                all.extend(name(&[0, 0, 0, self.nexus as u8], 4, 1));
                all
            }
            (_, 0xb0) => {
                let mut limits = vec![0; 60];
                limits[1] = if model.swaps { SWAP } else { 0 };
                limits
            }
            (_, 0xb1) => {
                let mut rate = vec![0; 60];
                rate[1] = 1;
                rate
            }
            _ => return None,
        };
        let mut bytes = vec![0, cdb[2], 0, page.len() as u8];
        bytes.extend(page);
        Some(bytes)
    }

    fn reserve_in(&self, state: &State, cdb: &[u8]) -> Option<Vec<u8>> {
        let model = &self.disk.model;
        let (action, length) = (cdb[1] & 0x1f, usize::from(cdb[7]) << 8 | usize::from(cdb[8]));
        if model.rejects_in.contains(&action) {
            return None;
        }
        let all: Vec<u8> = match action {
            0 => state.keys.values().flat_map(|key| key.to_be_bytes()).collect(),
            1 => match state.held {
                None => Vec::new(),
                Some((holder, kind)) => {
                    let key = match kind {
                        7 | 8 => 0,
                        _ => state.keys.get(&holder).copied().unwrap_or(0),
                    };
                    let mut all = key.to_be_bytes().to_vec();
                    all.extend([0, 0, 0, 0, 0, kind, 0, 0]);
                    all
                }
            },
            2 => {
                // Types 1, 3, 5, 6, 7 and 8.
                let keep = u8::from(model.persists);
                let mut all = vec![0, 8, keep, 0x80 | keep & u8::from(state.kept), 0xea, 0x01, 0, 0];
                all.truncate(length);
                return Some(all);
            }
            3 => {
                let mut all = Vec::new();
                for (&nexus, &key) in &state.keys {
                    let holds = state
                        .held
                        .filter(|(holder, kind)| *holder == nexus || matches!(kind, 7 | 8));
                    let mut one = vec![0; 24];
                    one[..8].copy_from_slice(&key.to_be_bytes());
                    if let Some((_, kind)) = holds {
                        (one[12], one[13]) = (1, kind);
                    }
                    one[18..20].copy_from_slice(&nexus.to_be_bytes());
                    // A SAS TransportID (SPC-4, 7.6.4.7).
                    one[23] = 24;
                    let mut id = vec![0; 24];
                    id[0] = 6;
                    id[4..12].copy_from_slice(&(0x5000_c500_0000_0000 | u64::from(nexus)).to_be_bytes());
                    one.extend(id);
                    all.extend(one);
                }
                all
            }
            _ => return None,
        };
        Some(listed(state.generation, &all, length))
    }

    fn reserve_out(&self, state: &mut State, command: &Command) -> Result<(), ScsiError> {
        let Data::Out(list) = command.data() else {
            return Err(check(command, 5, 0x1a, 0));
        };
        let cdb = command.cdb();
        let (action, kind) = (cdb[1] & 0x1f, cdb[2] & 0xf);
        if self.disk.model.rejects_out.contains(&action) {
            return Err(check(command, 5, 0x24, 0));
        }
        if list.len() != 24 || cdb[5..9] != [0, 0, 0, 24] {
            return Err(check(command, 5, 0x1a, 0));
        }
        let (key, argument, keep) = (be64(list, 0), be64(list, 8), list[20] & 1 == 1);
        let conflict = || ScsiError::ReservationConflict {
            command: command.name(),
        };
        if matches!(action, 0 | 6) && keep && !self.disk.model.persists {
            return Err(check(command, 5, 0x26, 0));
        }
        let mine = state.keys.get(&self.nexus).copied();
        if !matches!(action, 0 | 6) && mine != Some(key) {
            return Err(conflict());
        }
        match action {
            0 if mine.unwrap_or(0) != key => return Err(conflict()),
            0 | 6 => state.register(self.nexus, argument, keep),
            1 => match state.held {
                None => state.held = Some((self.nexus, kind)),
                Some(held) if held == (self.nexus, kind) => {}
                Some(_) => return Err(conflict()),
            },
            2 => match state.held {
                Some((holder, held)) if holder == self.nexus && held != kind => {
                    return Err(check(command, 5, 0x26, 0x04));
                }
                Some((holder, _)) if holder == self.nexus => state.held = None,
                _ => {}
            },
            3 => {
                let others: Vec<Nexus> = state
                    .keys
                    .keys()
                    .copied()
                    .filter(|other| *other != self.nexus)
                    .collect();
                others
                    .into_iter()
                    .for_each(|other| state.attend(other, (0x2a, 0x03)));
                state.keys.clear();
                state.held = None;
                state.generation = state.generation.wrapping_add(1);
            }
            4 | 5 => {
                // What every registrant holds is preempted with zero (SPC-4, 5.13.11.3).
                let held_by_all = state.held.filter(|(_, kind)| matches!(kind, 7 | 8));
                if argument == 0 && held_by_all.is_none() {
                    return Err(check(command, 5, 0x26, 0));
                }
                let victims: Vec<Nexus> = state
                    .keys
                    .iter()
                    .filter(|(_, other)| argument == 0 || **other == argument)
                    .map(|(nexus, _)| *nexus)
                    .collect();
                if victims.is_empty() {
                    return Err(conflict());
                }
                let taken = match held_by_all {
                    Some((_, kind)) if argument != 0 => {
                        state.held = Some((self.nexus, kind));
                        false
                    }
                    Some(_) => true,
                    None => state.held.is_some_and(|(holder, _)| victims.contains(&holder)),
                };
                for victim in victims.into_iter().filter(|victim| *victim != self.nexus) {
                    state.keys.remove(&victim);
                    state.attend(victim, (0x2a, 0x05));
                    if action == 5 {
                        *state.aborts.entry(victim).or_default() += 1;
                        self.disk.changed.notify_all();
                    }
                }
                if taken {
                    state.held = Some((self.nexus, kind));
                }
                state.generation = state.generation.wrapping_add(1);
            }
            _ => return Err(check(command, 5, 0x24, 0)),
        }
        Ok(())
    }

    fn swap(&self, state: &mut State, command: &Command) -> Result<(), ScsiError> {
        let cdb = command.cdb();
        let (lba, blocks) = (be64(cdb, 2), cdb[13]);
        let Data::Out(images) = command.data() else {
            return Err(check(command, 5, 0x24, 0));
        };
        let length = usize::from(blocks) * BLOCK;
        if !self.disk.model.swaps || blocks > SWAP || images.len() != 2 * length {
            return Err(check(command, 5, 0x20, 0));
        }
        if !state.permits(self.nexus, true) {
            return Err(ScsiError::ReservationConflict {
                command: command.name(),
            });
        }
        let offset = lba as usize * BLOCK;
        let (compare, data) = images.split_at(length);
        let found = &state.data[offset..offset + length];
        if let Some(at) = found.iter().zip(compare).position(|(a, b)| a != b) {
            let sense = Sense {
                key: 0xe,
                code: 0x1d,
                information: Some(at as u64),
                ..Sense::default()
            };
            return Err(ScsiError::Check {
                command: command.name(),
                sense,
            });
        }
        state.put(offset, data, cdb[1] & 8 != 0);
        Ok(())
    }

    /// The state, once writes may go on and the path is there.
    fn enter(&self, write: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.lock();
        if write {
            state.waiting += 1;
            self.disk.changed.notify_all();
            // What is aborted while it waits is sent again by the kernel, and judged as it stands then.
            let aborts = |state: &State| state.aborts.get(&self.nexus).copied();
            let began = aborts(&state);
            state = self
                .disk
                .changed
                .wait_while(state, |state| state.stalled && aborts(state) == began)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.cut.contains(&self.nexus) {
            // As the kernel says it of a device that it has taken away.
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        // The kernel's own commands get past unit attentions by being sent again.
        state.attentions.entry(self.nexus).or_default().clear();
        match state.permits(self.nexus, write) {
            true => Ok(state),
            false => Err(io::Error::from_raw_os_error(libc::EBADE)),
        }
    }
}

impl ScsiDisk for FakePort {
    fn volatile_cache(&self) -> bool {
        true
    }

    fn execute(&self, command: &Command) -> Result<Vec<u8>, ScsiError> {
        let cdb = command.cdb();
        let mut state = self.disk.lock();
        let action = if cdb[0] >= 0x5e { cdb[1] & 0x1f } else { 0 };
        if state.cut.contains(&self.nexus) {
            return Err(ScsiError::Transport {
                command: command.name(),
                host: 1,
                driver: 0,
            });
        }
        let pending = state.attentions.entry(self.nexus).or_default();
        // INQUIRY is done whatever has happened (SPC-4, 6.6.1).
        if let Some((code, qualifier)) = (cdb[0] != 0x12).then(|| pending.pop_front()).flatten() {
            return Err(check(command, 6, code, qualifier));
        }
        state.received.push((self.nexus, cdb[0], action));
        let known = match cdb[0] {
            0x00 => Some(Vec::new()),
            0x12 => self.inquiry(cdb),
            0x35 => {
                if !state.permits(self.nexus, true) {
                    return Err(ScsiError::ReservationConflict {
                        command: command.name(),
                    });
                }
                state.durable.clear();
                Some(Vec::new())
            }
            0x5e => self.reserve_in(&state, cdb),
            0x5f => return self.reserve_out(&mut state, command).map(|()| Vec::new()),
            0x89 => return self.swap(&mut state, command).map(|()| Vec::new()),
            0x9e if action == 0x10 => {
                let mut bytes = vec![0; 32];
                bytes[..8].copy_from_slice(&(self.disk.model.blocks - 1).to_be_bytes());
                bytes[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
                bytes[13] = 3;
                Some(bytes)
            }
            _ => None,
        };
        match (known, command.data()) {
            (Some(mut bytes), Data::In(length)) => {
                bytes.truncate(*length as usize);
                Ok(bytes)
            }
            (Some(_), _) => Ok(Vec::new()),
            (None, _) if cdb[0] == 0x12 || cdb[0] == 0x5e => Err(check(command, 5, 0x24, 0)),
            (None, _) => Err(check(command, 5, 0x20, 0)),
        }
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        let state = self.enter(false)?;
        let offset = offset as usize;
        let bytes = state.data.get(offset..offset + length);
        bytes
            .map(Buffer::copy_of)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let mut state = self.enter(true)?;
        let offset = offset as usize;
        if offset + data.len() > state.data.len()
            || !offset.is_multiple_of(BLOCK)
            || !data.len().is_multiple_of(BLOCK)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        state.put(offset, data, durable);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.enter(true)?.durable.clear();
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write(offset, &vec![0; length as usize], false)
    }
}
