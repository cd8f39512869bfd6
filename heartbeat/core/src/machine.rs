//! The core as the driver sees it: events in, effects out, everything re-evaluated in between.
//!
//! ```text
//!  event -> note it -> sights -> table -> lease -> membership -> pools -> what to say -> blocks to write -> effects
//! ```
//!
//! Invariants: one outstanding write per block and disk, one outstanding read per disk; what a read has to come after
//! is remembered by the number of the effect, so that equal instants confuse nothing; the lease is dated from
//! submissions, never from completions (K8).
//!
//! It must never echo a nonce of a partner that it is excluding, and never grant a lease that a vote against it
//! might already have ended.

pub(crate) mod numbers;

use crate::arbiter::{Arbiter, Progress};
use crate::area::{Advert, Area, Claims, Content, Letter, POOLS_MAX, Role, Slot, Unread};
use crate::change::Change;
use crate::detect::{DiskSight, SlotWatch, WireSight, WireWatch, disk_sight};
use crate::effect::{BlockId, Effect, Lock, Note, ReadId, StopReason, WriteId};
use crate::event::{ConfigStatus, Event, PoolInfo, PoolStep, Power, RequestId};
use crate::pools::Pool;
use crate::record::{Record, Vote};
use crate::set::{QuorumSet, Seat};
use crate::status::Alarm;
use crate::table::{
    self, EpochSight, KeySight, LeaseSight, Own, Partner, PoolSight, PowerSight, RoleSight, ShelfSight,
};
use crate::time::Instant;
use crate::timing::Timing;
use crate::wire::Datagram;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, Epoch, Generation, Incarnation, PoolId};
use pollux_api::pool::ReservationKey;

/// Who and where this controller is, and what it may use. Fixed for the life of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// The array.
    pub array: ArrayId,
    /// This controller.
    pub controller: ControllerId,
    /// Which start of the controller this is. A restart of the daemon keeps it.
    pub incarnation: Incarnation,
    /// Where the quorum disks are looked for: the last set that this controller went by, or the first of the array. What
    /// stands on these disks says which set it really is.
    pub set: QuorumSet,
    /// Periods and limits.
    pub timing: Timing,
    /// Unpredictable, fresh at every start of the daemon: nonces are made from it.
    pub seed: u64,
    /// There is a power control for the partner.
    pub power_rung: bool,
    /// Reservations are enforced by the disks of the pools.
    pub reservation_rung: bool,
    /// This controller's clock may stand still unnoticed (a virtual machine).
    pub pausable: bool,
    /// Pools go home by themselves when the pair is whole and quiet.
    pub auto_giveback: bool,
}

/// Parameters that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadParams {
    /// There is no quorum disk.
    Disks,
    /// An inequality of the timing does not hold.
    Timing(crate::timing::BadTiming),
    /// Incarnation 0 is nobody's.
    Incarnation,
}

impl core::fmt::Display for BadParams {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Disks => f.write_str("no quorum disks: expected 1, 3 or 5 different disks"),
            Self::Timing(bad) => bad.fmt(f),
            Self::Incarnation => f.write_str("incarnation 0: the first start of a controller is number 1"),
        }
    }
}

impl core::error::Error for BadParams {}

/// By how much the number of a slot that is written at a panic is above the last one: above whatever is under way, and below that
/// with which the next daemon begins.
const LAST_SLOT: u64 = 16;

const BLOCKS: [BlockId; 5] = [
    BlockId::Slot,
    BlockId::Vote0,
    BlockId::Vote1,
    BlockId::Claims,
    BlockId::Mailbox,
];

/// The writing of one block of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct BlockWriter {
    /// On its way: which write, and the version that it carries.
    flight: Option<(WriteId, u64)>,
    /// The version that is durable.
    durable: u64,
    /// Not before, after a failure.
    retry_at: Instant,
}

/// What is known of one quorum disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) seat: Seat,
    /// Since when it is one of those that are gone by.
    pub(crate) entered: Instant,
    /// The own area, as read at the start.
    pub(crate) own: Option<Area>,
    /// The own area was read, and the disk is the one that it should be. Nothing is written to it before.
    pub(crate) ours: bool,
    read: Option<(ReadId, ControllerId)>,
    want_read: bool,
    read_at: Option<Instant>,
    /// The last read was of the own area.
    read_own: bool,
    pub(crate) watch: SlotWatch,
    /// The partner's blocks with the number of the read that gave them.
    pub(crate) vote: Option<(Vote, u64)>,
    pub(crate) claims: Option<(Claims, u64)>,
    /// Whose slot stood beside these claims.
    pub(crate) claims_of: Option<Incarnation>,
    letter: Letter,
    slot_read: u64,
    /// The incarnation whose good-bye was last read here.
    farewell: Option<Incarnation>,
    blocks: [BlockWriter; 5],
    /// The present ballot was durable here before effects of this number and above were emitted.
    vote_stamp: Option<u64>,
    counted: u64,
    pub(crate) slot_submitted: Option<Instant>,
    pub(crate) latency: Option<Duration>,
}

impl Disk {
    pub(crate) fn new(seat: Seat, now: Instant) -> Self {
        Self {
            seat,
            entered: now,
            own: None,
            ours: false,
            read: None,
            want_read: false,
            read_at: None,
            read_own: false,
            watch: SlotWatch::default(),
            vote: None,
            claims: None,
            claims_of: None,
            letter: Letter::default(),
            slot_read: 0,
            farewell: None,
            blocks: Default::default(),
            vote_stamp: None,
            counted: 0,
            slot_submitted: None,
            latency: None,
        }
    }

    fn block(&mut self, block: BlockId) -> &mut BlockWriter {
        &mut self.blocks[block as usize]
    }

    pub(crate) fn claims_durable(&self) -> u64 {
        self.blocks[BlockId::Claims as usize].durable
    }

    /// For tests: this version of the claims is durable here.
    #[cfg(test)]
    pub(crate) fn set_claims_durable(&mut self, version: u64) {
        self.block(BlockId::Claims).durable = version;
    }

    /// For tests: the partner's slot was read here by an effect of this number.
    #[cfg(test)]
    pub(crate) fn set_slot_read(&mut self, id: u64) {
        self.slot_read = id;
    }

    /// The version of the own ballot that stands here in both copies.
    pub(crate) fn vote_durable(&self) -> u64 {
        self.blocks[BlockId::Vote1 as usize].durable
    }

    pub(crate) fn read_soon(&mut self) {
        self.want_read = true;
    }
}

/// Where this daemon's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// The own area is being read back.
    Starting,
    /// Up.
    Up,
    /// For good, in this incarnation.
    Stopped(StopReason),
}

/// How far this controller is with its good-bye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Farewell {
    /// It says none: it goes on, or what it held it has not let go of in good order.
    None,
    /// It holds nothing; that everything below has stopped is awaited.
    Due,
    /// It is in its slot, or on its way there: from here on this incarnation does nothing.
    Said,
}

/// What is known of the partner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PartnerView {
    /// The highest incarnation that was ever seen; 0: none.
    pub(crate) incarnation: Incarnation,
    /// Since when that one is known.
    pub(crate) known_since: Instant,
    /// The last advert of that incarnation.
    pub(crate) advert: Option<Advert>,
    /// The number of the slot from which it is; none: it came by wire.
    pub(crate) advert_slot: Option<u64>,
    /// The last letter of that incarnation, from wire or mailbox.
    pub(crate) letter: Letter,
    /// What an incarnation served, as it told by wire while the disks that show it were out of reach here. Like a claim
    /// on a disk it stands until a later one does: who forwards by it must not fall back to an earlier one.
    pub(crate) holdings: BTreeMap<PoolId, (Epoch, Generation, Incarnation)>,
    /// The nonce to echo, with the incarnation that sent it, and whether that acts as a member. Each is echoed once.
    nonce: Option<(u64, Incarnation, bool)>,
    /// When it was last given an echo: its lease may count from before that.
    pub(crate) echo_given: Instant,
    /// When a disk was last let go of: until then it may have written its slot there unseen.
    pub(crate) left: Option<Instant>,
    pub(crate) power: Option<Power>,
    /// This incarnation was reported off, to a question of that instant.
    pub(crate) off: Option<(Incarnation, Instant)>,
    /// The incarnation that said last that its daemon ends, and when that was heard. It may be back at once, and proves
    /// nothing but haste.
    pub(crate) dying: Option<(Incarnation, Instant)>,
    /// The incarnation that said good-bye, by wire or on a majority of the quorum disks. It holds nothing, and has ended.
    pub(crate) farewell: Option<Incarnation>,
}

/// The fence around a partner that is not a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fence {
    /// The epoch without it.
    pub(crate) epoch: Epoch,
    /// Its last incarnation that may have been a member; 0: none was.
    pub(crate) victim: Incarnation,
    /// Evidence counts from here: instant and number of effects.
    pub(crate) since: Instant,
    pub(crate) stamp: u64,
    pub(crate) cut_at: Option<Instant>,
}

/// The configuration is asked to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Freeze {
    pub(crate) epoch: Epoch,
    pub(crate) asked: Instant,
    /// Where it stands, once it does.
    pub(crate) done: Option<ConfigStatus>,
}

/// What operators have asked for and is not done yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wishes {
    /// Take over in spite of the partner's life, from this epoch.
    pub(crate) force: Option<Epoch>,
    /// Go on from this epoch, {partner} open.
    pub(crate) override_of: Option<Epoch>,
    /// Open this sealed lone epoch.
    pub(crate) open: Option<Epoch>,
    /// Give everything and stop.
    pub(crate) shutdown: Option<Instant>,
    /// Put a disk in the place of a quorum disk.
    pub(crate) change: Option<Change>,
}

/// The core of one controller.
///
/// Driver's loop: `handle` each event with the present instant, carry out the effects in order, be back at
/// `next_deadline` with [`Event::Tick`] at the latest. At start: [`Core::new`], then the first `Tick`; the core asks
/// for its own area, and the driver reports pools, imports, the configuration's status and the watchdog as it learns
/// them. A restarted daemon does exactly the same with the same incarnation, and the core adopts what it finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    pub(crate) params: Params,
    pub(crate) started: Instant,
    pub(crate) phase: Phase,
    pub(crate) farewell: Farewell,
    pub(crate) out: Vec<Effect>,
    /// The instant of the present call, or of the last.
    pub(crate) present: Instant,
    pub(crate) wake: Instant,
    next_id: u64,
    pub(crate) disks: Vec<Disk>,
    /// The set that the driver was last told to use.
    pub(crate) used: Option<QuorumSet>,
    pub(crate) arbiter: Arbiter,
    pub(crate) wire: WireWatch,
    next_beat: Instant,
    next_slot: Instant,
    sequence: u64,
    pub(crate) partner: PartnerView,
    pub(crate) claims: Claims,
    pub(crate) letter: Letter,
    letter_version: u64,
    // The lease.
    rounds: VecDeque<(Instant, u64)>,
    pub(crate) slot_basis: Option<Instant>,
    pub(crate) lease_until: Instant,
    pub(crate) served_since: Option<Instant>,
    petted: Option<Instant>,
    pub(crate) watchdog: Option<bool>,
    /// An earlier daemon of this incarnation had armed it. It stays armed: nobody but this daemon disarms it.
    pub(crate) armed_before: bool,
    armed_asked: Option<Instant>,
    // Sights, and since when.
    pub(crate) wire_sight: (WireSight, Instant),
    /// When this controller woke, if it did not look on for a good part of Tn and that is no longer ago than Tn.
    pub(crate) slept: Option<Instant>,
    pub(crate) disk_sight: (DiskSight, Instant),
    pub(crate) verdict: Partner,
    silences: VecDeque<Instant>,
    pub(crate) legs: Vec<bool>,
    queried: Option<Instant>,
    pub(crate) key_sight: KeySight,
    pub(crate) key_pool: Option<PoolId>,
    // Membership.
    pub(crate) was_member: bool,
    /// A record of the partner's came by the wire since this daemon is up, in answer to it.
    briefed: bool,
    /// The highest epoch under which this incarnation has offered itself to be joined.
    pub(crate) waited: Option<Epoch>,
    pub(crate) previous: Option<Record>,
    pub(crate) decided_at: Instant,
    /// Effects of this number and above were emitted when the present record was known.
    pub(crate) decided_stamp: u64,
    /// Own ballots of this version and above know the present record.
    pub(crate) decided_version: u64,
    started_stamp: u64,
    pub(crate) config: Option<ConfigStatus>,
    pub(crate) probe: Option<(crate::record::Base, Option<bool>, Instant)>,
    pub(crate) freeze: Option<Freeze>,
    pub(crate) propose_at: Instant,
    pub(crate) attempts: u32,
    pub(crate) fence: Option<Fence>,
    pub(crate) caught_up: bool,
    pub(crate) catch_up_at: Instant,
    told: Option<(Record, Option<Lock>)>,
    pub(crate) lock_since: Instant,
    pub(crate) wishes: Wishes,
    /// Everything here is to go to the partner.
    pub(crate) leaving: bool,
    // Pools.
    pub(crate) imports: Option<BTreeMap<PoolId, ReservationKey>>,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) pools_known: bool,
    /// Exclusion of these was lost, or went unwatched, under that epoch: they are taken again under a later one (S6).
    pub(crate) renew: BTreeMap<PoolId, Epoch>,
    /// What an earlier daemon had imported was compared with what it claimed.
    pub(crate) adopted: bool,
    pub(crate) surplus_pools: usize,
    pub(crate) alarms: BTreeMap<(&'static str, alloc::string::String), Alarm>,
    stop_said: Instant,
}

impl Core {
    /// A core at its start.
    ///
    /// # Errors
    /// [`BadParams`] names what contradicts.
    pub fn new(params: Params, now: Instant) -> Result<Self, BadParams> {
        if params.set.all().next().is_none() {
            return Err(BadParams::Disks);
        }
        params.timing.check().map_err(BadParams::Timing)?;
        if params.incarnation == Incarnation::new(0) {
            return Err(BadParams::Incarnation);
        }
        let disks: Vec<Disk> = params.set.all().map(|seat| Disk::new(seat, now)).collect();
        let nobody = Vote::after(Record {
            epoch: Epoch::new(0),
            ..Record::genesis(params.set)
        });
        Ok(Self {
            started: now,
            phase: Phase::Starting,
            farewell: Farewell::None,
            out: Vec::new(),
            present: now,
            wake: now,
            next_id: 1,
            arbiter: Arbiter::new(params.controller, nobody),
            disks,
            used: None,
            wire: WireWatch::new(now, params.seed),
            next_beat: now,
            next_slot: now,
            sequence: 0,
            partner: PartnerView {
                known_since: now,
                echo_given: now,
                ..PartnerView::default()
            },
            claims: Claims::default(),
            letter: Letter::default(),
            letter_version: 0,
            rounds: VecDeque::new(),
            slot_basis: None,
            lease_until: Instant::ZERO,
            served_since: None,
            petted: None,
            watchdog: None,
            armed_before: false,
            armed_asked: None,
            wire_sight: (WireSight::Unknown, now),
            slept: None,
            disk_sight: (DiskSight::Unknown, now),
            verdict: Partner::Watch,
            silences: VecDeque::new(),
            legs: Vec::new(),
            queried: None,
            key_sight: KeySight::Right,
            key_pool: None,
            was_member: false,
            briefed: false,
            waited: None,
            previous: None,
            decided_at: now,
            decided_stamp: 0,
            decided_version: 0,
            started_stamp: 0,
            config: None,
            probe: None,
            freeze: None,
            propose_at: now,
            attempts: 0,
            fence: None,
            caught_up: false,
            catch_up_at: now,
            told: None,
            lock_since: now,
            wishes: Wishes::default(),
            leaving: false,
            imports: None,
            pools: BTreeMap::new(),
            pools_known: false,
            renew: BTreeMap::new(),
            adopted: false,
            surplus_pools: 0,
            alarms: BTreeMap::new(),
            stop_said: Instant::ZERO,
            params,
        })
    }

    /// Takes one event; returns what to do, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        if now.since(self.present) > self.params.timing.wire_limit / 4 {
            self.slept = Some(now);
        }
        self.present = now;
        self.wake = now + self.params.timing.disk_limit;
        self.note(now, event);
        self.step(now);
        core::mem::take(&mut self.out)
    }

    /// When to call `handle` with [`Event::Tick`] if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.wake
    }

    /// An instant that has come was looked at in this very call: what is missing then is an event, and the next beat
    /// looks again. Asking for the past would make the driver spin for as long as it is missing.
    pub(crate) fn wake_at(&mut self, at: Instant) {
        if at > self.present {
            self.wake = self.wake.min(at);
        }
    }

    pub(crate) fn me(&self) -> ControllerId {
        self.params.controller
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    /// Number of the next effect that carries one: what is emitted from now on comes after what is known now.
    pub(crate) fn stamp(&self) -> u64 {
        self.next_id
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// The quorum disks on which the next record is chosen. Before any record is known, where they are looked for.
    pub(crate) fn set(&self) -> &QuorumSet {
        &self.record().disks
    }

    fn disk(&self, index: DiskIndex) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.seat.disk == index)
    }

    pub(crate) fn record(&self) -> &Record {
        self.arbiter.decided()
    }

    /// This incarnation is a member of the highest record.
    pub(crate) fn member(&self) -> bool {
        self.phase == Phase::Up && self.record().admits(self.me(), self.params.incarnation)
    }

    /// The incarnation under which the partner is a member.
    pub(crate) fn partner_member(&self) -> Option<Incarnation> {
        self.record().members.get(self.me().partner())
    }

    /// The value that a majority of the disks reaches, of those that each disk has reached.
    pub(crate) fn majority_of<T: Copy + Ord>(&self, reached: impl Fn(&Disk) -> Option<T>) -> Option<T> {
        self.set().common(|index| self.disk(index).and_then(&reached))
    }

    /// A majority of the disks is so.
    pub(crate) fn majority_is(&self, so: impl Fn(&Disk) -> bool) -> bool {
        self.set().reached(|index| self.disk(index).is_some_and(&so))
    }

    /// A majority of the partner's claims was read by effects of this number or above.
    pub(crate) fn claims_read(&self) -> Option<u64> {
        self.majority_of(|disk| disk.claims.as_ref().map(|(_, id)| *id))
    }

    /// The partner's ballots were read on a majority since this daemon is up: a record that was decided without it
    /// is known, or this controller's own vote in it.
    pub(crate) fn ballots_known(&self) -> bool {
        let read = self.majority_of(|disk| disk.vote.as_ref().map(|(_, id)| *id));
        read.is_some_and(|read| read >= self.started_stamp)
    }

    /// The same for its slot.
    pub(crate) fn slots_read(&self) -> u64 {
        self.majority_of(|disk| Some(disk.slot_read)).unwrap_or(0)
    }

    /// The same, by the instant at which the reads were issued.
    pub(crate) fn slots_read_at(&self) -> Option<Instant> {
        self.majority_of(|disk| disk.watch.read)
    }

    /// The partner's last sign of life that its lease or its watchdog may count from.
    pub(crate) fn partner_last(&self) -> Instant {
        let changed = self.disks.iter().filter_map(|disk| disk.watch.last()).max();
        changed
            .max(self.partner.left)
            .unwrap_or(self.started)
            .max(self.partner.echo_given)
            .max(self.started)
    }

    fn note(&mut self, now: Instant, event: Event) {
        match event {
            Event::Tick => {}
            Event::Received(datagram) => self.received(now, datagram),
            Event::WriteDone {
                id,
                submitted,
                result,
            } => self.write_done(now, id, submitted, result),
            Event::ReadDone { id, issued, area } => self.read_done(now, id, issued, area),
            Event::Pools(list) => self.set_pools(now, list),
            Event::Imports(list) => {
                self.set_imports(now, list.into_iter().map(|i| (i.pool, i.key)).collect())
            }
            Event::PoolDone {
                step: PoolStep::StopAll,
                result,
                ..
            } => self.all_stopped(now, result.is_ok()),
            Event::PoolDone {
                pool,
                generation,
                step,
                result,
            } => self.pool_done(now, pool, generation, step, result),
            Event::FenceDone { pool, key, result } => self.fence_done(now, pool, key, result),
            Event::ExclusionLost { pool, holder } => self.exclusion_lost(now, pool, holder),
            Event::Power { state, asked } => {
                self.partner.power = Some(state);
                // The answer is about the incarnation that was known when the question was asked, or an earlier one.
                // An answer that was overtaken by that to a later question takes nothing away from it.
                if state == Power::Off && asked >= self.partner.known_since {
                    let off = (self.partner.incarnation, asked);
                    self.partner.off = self.partner.off.max(Some(off));
                }
            }
            Event::Config(status) => self.configured(now, status),
            Event::ConfigFrozen { epoch, status } => {
                self.config = Some(status);
                if let Some(freeze) = self.freeze.as_mut().filter(|freeze| freeze.epoch == epoch) {
                    freeze.done = Some(status);
                }
            }
            Event::ConfigProbed { base, contained } => {
                if let Some(probe) = self.probe.as_mut().filter(|(asked, ..)| *asked == base) {
                    probe.1 = Some(contained);
                }
            }
            // A record has ended the catch-up: the log is the configuration's own again, and may be longer.
            Event::ConfigCaughtUp { .. } if self.member() => {}
            Event::ConfigCaughtUp { log, equal } => {
                if let Some(config) = &mut self.config {
                    config.log = log;
                }
                self.caught_up = equal;
            }
            Event::DiskFormatted { seat, result } => self.formatted(seat, result),
            Event::Watchdog { armed } => self.watchdog = Some(armed),
            Event::Legs(legs) => self.legs = legs,
            Event::Request { id, request } => self.request(now, id, request),
        }
    }

    pub(crate) fn answer(
        &mut self,
        id: RequestId,
        result: Result<crate::effect::Plan, crate::effect::Refusal>,
    ) {
        self.emit(Effect::Answer { id, result });
    }

    fn set_pools(&mut self, now: Instant, list: Vec<PoolInfo>) {
        self.pools_known = true;
        let listed: BTreeMap<PoolId, ControllerId> = list.iter().map(|info| (info.pool, info.home)).collect();
        self.surplus_pools = listed.len().saturating_sub(POOLS_MAX);
        let listed: BTreeMap<PoolId, ControllerId> = listed.into_iter().take(POOLS_MAX).collect();
        let gone: Vec<PoolId> = self
            .pools
            .keys()
            .filter(|pool| !listed.contains_key(pool))
            .copied()
            .collect();
        for pool in gone {
            self.drop_pool(pool);
        }
        for (pool, home) in listed {
            self.pools
                .entry(pool)
                .or_insert_with(|| Pool::new(home, now))
                .home = home;
        }
    }

    // ---- the configuration ----------------------------------------------------------------------------------

    /// Where the configuration stands. If it stands still and this daemon did not ask for that, an earlier one did, and
    /// it is for this one to go on with it or to end it.
    fn configured(&mut self, now: Instant, status: ConfigStatus) {
        self.config = Some(status);
        let forgotten = status.frozen.filter(|epoch| *epoch > self.record().epoch);
        if let (None, Some(epoch)) = (self.freeze, forgotten) {
            self.freeze = Some(Freeze {
                epoch,
                asked: now,
                done: None,
            });
        }
    }

    // ---- the wire -------------------------------------------------------------------------------------------

    fn received(&mut self, now: Instant, datagram: Datagram) {
        // However late it arrives and whoever is still heard.
        if let Some(record) = datagram.record {
            self.learn(now, record);
        }
        let incarnation = datagram.advert.incarnation;
        if incarnation < self.partner.incarnation {
            return;
        }
        let acts = match datagram.advert.role {
            Role::Serving | Role::Releasing | Role::Dying => true,
            Role::Starting | Role::Waiting => false,
            // However late it arrives, it is true.
            Role::Left => return self.bidden_farewell(now, datagram.advert),
        };
        // Its first word of that counts; those that follow are no sign of life.
        let dies = datagram.advert.role == Role::Dying;
        if dies && self.partner_dies().is_some() && incarnation == self.partner.incarnation {
            return;
        }
        self.partner.nonce = Some((datagram.nonce, incarnation, acts));
        // What does not answer my present nonce may be old: nothing of it is believed.
        if !datagram.echo.is_some_and(|nonce| self.wire.echo(now, nonce)) {
            return;
        }
        self.meet(now, incarnation);
        self.briefed |= datagram.record.is_some();
        self.partner.dying = Some((incarnation, now)).filter(|_| dies);
        self.partner.advert = Some(datagram.advert);
        self.partner.advert_slot = None;
        self.partner.letter = datagram.letter;
        for (pool, epoch, generation) in datagram.holdings {
            if self.pools.contains_key(&pool) {
                let held = self.partner.holdings.entry(pool).or_default();
                *held = (*held).max((epoch, generation, incarnation));
            }
        }
    }

    /// The partner's present incarnation has said good-bye by wire.
    fn bidden_farewell(&mut self, now: Instant, advert: Advert) {
        self.meet(now, advert.incarnation);
        self.partner.advert = Some(advert);
        self.partner.advert_slot = None;
        self.partner.farewell = Some(advert.incarnation);
    }

    /// A decided record is true for ever. Before the own area was read, it is only kept; and it says on which disks to look.
    fn learn(&mut self, now: Instant, record: Record) {
        let progress = self.arbiter.learn(record);
        match self.phase {
            Phase::Starting => {
                // An earlier daemon may have granted a lease that still runs. Its member, if it was one, is one no more.
                let excluded = !record.admits(self.me(), self.params.incarnation);
                if matches!(progress, Progress::Decided(_)) && excluded {
                    self.end_lease();
                }
                self.follow_set(now);
            }
            Phase::Up => self.progress(now, progress),
            Phase::Stopped(_) => {}
        }
    }

    /// An incarnation of the partner was seen.
    fn meet(&mut self, now: Instant, incarnation: Incarnation) {
        if incarnation > self.partner.incarnation {
            self.partner.incarnation = incarnation;
            self.partner.known_since = now;
            self.partner.advert = None;
            self.partner.advert_slot = None;
            self.partner.letter = Letter::default();
        }
    }

    /// May this incarnation of the partner be told that it is heard? Its lease may count from an echo. One that `acts` as a
    /// member and is none any more hears of the record, and nothing that its lease could count from.
    fn echoes(&self, incarnation: Incarnation, acts: bool) -> bool {
        let excluded_by_vote = self.arbiter.block().value.is_some_and(|value| {
            self.partner_member() == Some(incarnation) && !value.admits(self.me().partner(), incarnation)
        });
        let excluded = self.fence.is_some_and(|fence| incarnation <= fence.victim);
        let record = self.record();
        let over = acts && record.epoch > Epoch::new(0) && !record.admits(self.me().partner(), incarnation);
        !excluded_by_vote && !excluded && !over
    }

    fn beat(&mut self, now: Instant) {
        let timing = self.params.timing;
        if now >= self.next_beat {
            self.next_beat = now + timing.beat;
            let echo = self
                .partner
                .nonce
                .take()
                .filter(|(_, incarnation, acts)| self.echoes(*incarnation, *acts));
            if echo.is_some() {
                self.partner.echo_given = now;
            }
            let (sequence, nonce) = self.wire.send(now);
            let record = (self.record().epoch > Epoch::new(0)).then_some(*self.record());
            let datagram = Datagram {
                sequence,
                nonce,
                echo: echo.map(|(nonce, ..)| nonce),
                advert: self.advert(now),
                record,
                letter: self.letter.clone(),
                holdings: self.holdings(sequence),
            };
            self.emit(Effect::Send(datagram));
        }
        self.wake_at(self.next_beat);
    }

    pub(crate) fn advert(&self, now: Instant) -> Advert {
        Advert {
            incarnation: self.params.incarnation,
            role: self.role(),
            epoch: self.record().epoch,
            log: self.config.map(|config| config.log).unwrap_or_default(),
            eligible: self.eligible().is_some(),
            shelf: self.shelf(now) == ShelfSight::Reachable,
            watchdog: self.watchdog.unwrap_or(self.armed_before),
            pausable: self.params.pausable,
            figures: self.params.timing.figures(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self.phase {
            Phase::Starting => Role::Starting,
            Phase::Stopped(_) if self.farewell == Farewell::Said => Role::Left,
            Phase::Stopped(_) if self.was_member => Role::Dying,
            // Who never was a member has nothing that would have to be fenced.
            Phase::Stopped(_) => Role::Starting,
            Phase::Up if self.member() && self.leaving => Role::Releasing,
            Phase::Up if self.member() => Role::Serving,
            // Whoever offers itself knows what was decided so far, and will know after a restart of its daemon that it may
            // have done so: see `adopt_record`.
            Phase::Up
                if self.config.is_some()
                    && self.imports.is_some()
                    && self.majority_of(|disk| disk.slot_submitted).is_some()
                    && (self.briefed || self.waited.is_some() || self.ballots_known()) =>
            {
                Role::Waiting
            }
            Phase::Up => Role::Starting,
        }
    }

    // ---- the disks ------------------------------------------------------------------------------------------

    fn write_done(&mut self, now: Instant, id: WriteId, submitted: Instant, result: Result<(), ()>) {
        let found = self.disks.iter().enumerate().find_map(|(at, disk)| {
            let block = BLOCKS
                .iter()
                .find(|b| disk.blocks[**b as usize].flight.is_some_and(|(f, _)| f == id))?;
            Some((at, *block))
        });
        let Some((at, block)) = found else { return };
        let retry_at = now + self.params.timing.slot_period;
        let (stamp, version) = (self.stamp(), self.arbiter.version());
        let disk = &mut self.disks[at];
        let writer = disk.block(block);
        let Some((_, written)) = writer.flight.take() else {
            return;
        };
        if result.is_err() {
            writer.retry_at = retry_at;
            return;
        }
        writer.durable = writer.durable.max(written);
        match block {
            BlockId::Slot => {
                disk.slot_submitted = disk.slot_submitted.max(Some(submitted));
                disk.latency = Some(now.since(submitted));
                self.slot_written(stamp);
            }
            BlockId::Vote1 if written == version => {
                disk.vote_stamp = Some(stamp);
                disk.want_read = true;
            }
            BlockId::Claims => disk.want_read = true,
            BlockId::Vote0 | BlockId::Vote1 | BlockId::Mailbox => {}
        }
    }

    /// A majority may have a newer slot now. Whether replies may leave on the strength of it is known when the
    /// partner's ballots have been read after that: a slot that was written after a vote against me must not count,
    /// and one that was written before it will be seen by the voter (S7).
    fn slot_written(&mut self, stamp: u64) {
        let Some(submitted) = self.majority_of(|disk| disk.slot_submitted) else {
            return;
        };
        if self.rounds.back().is_none_or(|(last, _)| submitted > *last) {
            // Older rounds than these are older than any lease.
            if self.rounds.len() == 16 {
                self.rounds.pop_front();
            }
            self.rounds.push_back((submitted, stamp));
            self.disks.iter_mut().for_each(|disk| disk.want_read = true);
        }
    }

    fn read_done(&mut self, now: Instant, id: ReadId, issued: Instant, area: Area) {
        // The disk was another quorum disk meanwhile, and says what this controller has missed.
        if let Some(record) = area.elsewhere {
            self.learn(now, record);
        }
        let Some(at) = self
            .disks
            .iter()
            .position(|disk| disk.read.is_some_and(|(read, _)| read == id))
        else {
            return;
        };
        let Some((_, whose)) = self.disks[at].read.take() else {
            return;
        };
        if whose == self.me() {
            return self.own_read(now, at, area);
        }
        let disk = &mut self.disks[at];
        let changed = disk
            .watch
            .see(now, issued, area.slot.as_ref().map_err(|why| *why));
        if disk.watch.shown() {
            disk.slot_read = disk.slot_read.max(id.0);
        }
        if let Ok(slot) = &area.slot {
            let advert = slot.advert;
            if let Ok(letter) = area.letter {
                self.disks[at].letter = letter;
            }
            self.meet(now, advert.incarnation);
            // What formatting left in its name tells its incarnation and nothing else.
            let current = advert.incarnation == self.partner.incarnation && slot.sequence > 0;
            // The wire is fresher while it lives. When it has fallen silent, so is whatever was written after its last word.
            let watch = &self.disks[at].watch;
            // Who writes after it has said that it dies is back, or did not die: with the wire dead there is no other word.
            if current && changed && self.partner_dies().is_some_and(|said| watch.is_later_than(said)) {
                self.partner.dying = None;
            }
            let news = changed || watch.is_later_than(self.wire.last());
            let later = self
                .partner
                .advert_slot
                .is_none_or(|shown| slot.sequence >= shown);
            if current
                && (self.partner.advert.is_none() || (news && later && self.wire_sight.0 != WireSight::Alive))
            {
                self.partner.advert = Some(advert);
                self.partner.advert_slot = Some(slot.sequence);
                self.partner.letter = self.disks[at].letter.clone();
                if changed && advert.role == Role::Dying {
                    self.partner.dying = Some((advert.incarnation, now));
                }
            }
        }
        let left = |slot: Slot| (slot.advert.role == Role::Left).then_some(slot.advert.incarnation);
        let disk = &mut self.disks[at];
        disk.farewell = area.slot.ok().and_then(left);
        if let Ok(claims) = area.claims {
            disk.claims = Some((claims, id.0));
            disk.claims_of = area.slot.ok().map(|slot| slot.advert.incarnation);
        }
        let present = Some(self.partner.incarnation);
        if self.majority_is(|disk| disk.farewell == present) {
            self.partner.farewell = present;
        }
        let Ok(vote) = area.vote else { return };
        self.disks[at].vote = Some((vote, id.0));
        match self.phase {
            Phase::Starting => return self.learn(now, vote.decided),
            Phase::Up => {}
            Phase::Stopped(_) => return,
        }
        let disk = &mut self.disks[at];
        let version = self.arbiter.version();
        let durable =
            disk.block(BlockId::Vote1).durable == version && disk.vote_stamp.is_some_and(|s| id.0 >= s);
        let progress = if durable && disk.counted != version && self.arbiter.running() {
            disk.counted = version;
            let index = disk.seat.disk;
            self.arbiter.counted(index, &vote)
        } else {
            self.arbiter.observe(&vote)
        };
        self.progress(now, progress);
        self.advance_slot_basis();
    }

    fn advance_slot_basis(&mut self) {
        let Some(read) = self.majority_of(|disk| disk.vote.as_ref().map(|(_, id)| *id)) else {
            return;
        };
        let own = self.arbiter.block();
        let me = (self.me(), self.params.incarnation);
        let opposed = self
            .disks
            .iter()
            .filter_map(|disk| disk.vote.as_ref())
            .any(|(vote, _)| {
                vote.instance == own.instance && vote.value.is_some_and(|value| !value.admits(me.0, me.1))
            });
        while let Some((submitted, stamp)) = self.rounds.front().copied() {
            if stamp > read {
                break;
            }
            self.rounds.pop_front();
            if !opposed {
                self.slot_basis = self.slot_basis.max(Some(submitted));
            }
        }
    }

    /// The own area, read at the start or when a disk came to be gone by.
    fn own_read(&mut self, now: Instant, at: usize, area: Area) {
        let disk = &mut self.disks[at];
        disk.want_read = true;
        disk.ours |= area.header.is_ok();
        let vote = area.vote;
        match self.phase {
            Phase::Starting => {
                if vote.is_ok() || disk.own.is_none() {
                    disk.own = Some(area);
                }
                if let Ok(vote) = vote {
                    self.arbiter.learn(vote.decided);
                    self.follow_set(now);
                }
            }
            Phase::Up => {
                if let Ok(vote) = vote {
                    let progress = self.arbiter.restore(vote);
                    self.progress(now, progress);
                }
            }
            Phase::Stopped(_) => {}
        }
    }

    /// The own area was read back from a majority: go on where an earlier daemon of this incarnation ended.
    ///
    /// That it is a majority of the set that counts is known from the partner's ballots, read on a majority as well: who
    /// has begun to decide on another set has written that to most of the disks of this one (`crate::set`). So the set
    /// with which this daemon began to look may be years old.
    fn start(&mut self, now: Instant) {
        let read =
            |what: &dyn Fn(&Area) -> bool| self.majority_is(|disk| disk.own.as_ref().is_some_and(what));
        if !self.majority_is(|disk| disk.vote.is_some()) {
            return;
        }
        // A slot that tore when the power went is no reason to wait: it says nothing that has to be kept. Claims are
        // needed where an earlier daemon of this incarnation may have written them; an older incarnation's bind nobody.
        let mine = |area: &Area| {
            area.slot
                .as_ref()
                .is_ok_and(|slot| slot.advert.incarnation == self.params.incarnation)
        };
        // Where both tore, power has gone since, and with it the incarnation that wrote them.
        let told = |area: &Area| {
            let torn = |problem: Option<Unread>| problem.is_some_and(Unread::is_damage);
            area.slot.is_ok() || torn(area.slot.err()) && torn(area.claims.as_ref().err().copied())
        };
        let begun = self.disks.iter().filter_map(|disk| disk.own.as_ref()).any(mine);
        // Disk by disk: of two blocks that tore on two disks neither hides what the other disk shows.
        let known = |area: &Area| area.claims.is_ok() || !begun && told(area);
        if !read(&|area| area.vote.is_ok()) || !read(&known) {
            return;
        }
        let own = |disk: &Disk| disk.own.clone();
        let areas: Vec<Area> = self.disks.iter().filter_map(own).collect();
        let slots = areas.iter().filter_map(|area| area.slot.as_ref().ok());
        // An earlier daemon of this incarnation served: if the highest epoch is without it, it has to stop. Any block may tell,
        // because any may be torn: its slot, a ballot that knows the record, a claim (nobody but a member claims).
        let (me, mine) = (self.me(), self.params.incarnation);
        self.was_member = areas.iter().any(|area| {
            let serving = |role| matches!(role, Role::Serving | Role::Releasing | Role::Dying | Role::Left);
            let slot = area.slot.as_ref().map(|slot| slot.advert);
            let claims = area.claims.iter().flat_map(|claims| claims.pools.values());
            slot.is_ok_and(|advert| serving(advert.role) && advert.incarnation == mine)
                || area.vote.is_ok_and(|vote| vote.decided.members.has(me, mine))
                || claims.map(|claim| claim.incarnation).any(|by| by == mine)
        });
        // It may have offered itself by wire whatever its slot says; without a slot it has not (`role`).
        self.waited = slots
            .clone()
            .map(|slot| slot.advert)
            // Whatever it said of itself there: what it said on the wire may have come later.
            .filter(|advert| advert.incarnation == self.params.incarnation)
            .map(|advert| advert.epoch)
            .max();
        // An earlier daemon of this incarnation has said good-bye: nobody waits for it any more, and nobody would fence it.
        let gone = |area: &Area| {
            let slot = area.slot.as_ref().map(|slot| slot.advert);
            slot.is_ok_and(|advert| advert.role == Role::Left && advert.incarnation == mine)
        };
        let gone = areas.iter().any(gone);
        // What it said of its watchdog the partner may wait by: until this daemon knows better it says the same (L1).
        self.armed_before = slots
            .clone()
            .any(|slot| slot.advert.incarnation == mine && slot.advert.watchdog);
        let earlier = slots
            .clone()
            .map(|slot| slot.advert)
            .filter(|advert| advert.incarnation < mine);
        let last_end = earlier
            .max_by_key(|advert| (advert.incarnation, advert.role == Role::Left))
            .filter(|advert| advert.incarnation.get() > 0)
            .map(|advert| Note::LastEnd {
                incarnation: advert.incarnation,
                orderly: advert.role == Role::Left,
            });
        let Some(vote) = areas
            .iter()
            .filter_map(|area| area.vote.ok())
            .max_by_key(Vote::age)
        else {
            return;
        };
        // Above whatever a disk may show that was not read: any change is a sign of life, going back would be one too.
        self.sequence = slots.map(|slot| slot.sequence).max().unwrap_or(0) + 1_000;
        let latest = areas
            .into_iter()
            .filter_map(|area| area.claims.ok())
            .max_by_key(|claims| claims.sequence);
        self.claims = latest.unwrap_or_default();
        self.claims.sequence += 1;
        let learnt = *self.arbiter.decided();
        self.arbiter = Arbiter::new(self.me(), vote);
        self.arbiter.learn(learnt);
        // Exclusion that was lost before the area could be read was lost under the epoch that stands there (S6).
        let known = self.record().epoch;
        self.renew
            .values_mut()
            .for_each(|epoch| *epoch = known.max(*epoch));
        self.letter_version = 1;
        self.next_slot = now;
        if gone {
            self.farewell = Farewell::Said;
            return self.stop(now, StopReason::Shutdown);
        }
        self.phase = Phase::Up;
        self.started_stamp = self.stamp();
        // Once for each life of the controller, not of the daemon.
        if let Some(note) = last_end.filter(|_| !begun) {
            self.emit(Effect::Note(note));
        }
        let votes: Vec<Vote> = self.disks.iter().filter_map(|disk| Some(disk.vote?.0)).collect();
        for vote in votes {
            let progress = self.arbiter.observe(&vote);
            self.progress(now, progress);
        }
        self.adopt_record(now);
    }

    fn disk_io(&mut self, now: Instant) {
        let timing = self.params.timing;
        for at in 0..self.disks.len() {
            let starting = self.phase == Phase::Starting;
            let disk = &self.disks[at];
            let due = disk.read_at.is_none_or(|last| now >= last + timing.slot_period);
            let whole = |own: &Area| own.vote.is_ok() && own.slot.is_ok() && own.claims.is_ok();
            let own_missing = !disk.ours || starting && !disk.own.as_ref().is_some_and(whole);
            if disk.read.is_none() && (due || disk.want_read) {
                // Where the own area is wanted own and partner's area take turns, so that a bad own block blinds nobody.
                let own_turn = own_missing && !disk.read_own;
                let whose = if own_turn { self.me() } else { self.me().partner() };
                let id = ReadId(self.fresh_id());
                let disk = &mut self.disks[at];
                disk.read = Some((id, whose));
                disk.read_own = own_turn;
                disk.want_read = false;
                disk.read_at = Some(now);
                let disk = disk.seat;
                self.emit(Effect::ReadArea { id, disk, whose });
            }
            if let Some(last) = self.disks[at].read_at.filter(|_| self.disks[at].read.is_none()) {
                self.wake_at(last + timing.slot_period);
            }
            if self.phase == Phase::Up && self.disks[at].ours {
                for block in BLOCKS {
                    self.write_block(now, at, block);
                }
            }
        }
    }

    fn write_block(&mut self, now: Instant, at: usize, block: BlockId) {
        let version = match block {
            BlockId::Slot => self.sequence,
            BlockId::Vote0 | BlockId::Vote1 => self.arbiter.version(),
            BlockId::Claims => self.claims.sequence,
            BlockId::Mailbox => self.letter_version,
        };
        let blocks = &self.disks[at].blocks;
        let writer = &blocks[block as usize];
        // The two copies are never on their way together: one tear must leave one whole copy (K11).
        let (first, second) = (&blocks[BlockId::Vote0 as usize], &blocks[BlockId::Vote1 as usize]);
        // A ballot tells the partner that everything else of this controller stands on that disk as well (`copied`).
        let copied = blocks[BlockId::Slot as usize].durable > 0
            && blocks[BlockId::Claims as usize].durable == self.claims.sequence;
        let in_turn = match block {
            BlockId::Vote0 => second.flight.is_none() && copied,
            BlockId::Vote1 => first.flight.is_none() && first.durable == version,
            BlockId::Slot | BlockId::Claims | BlockId::Mailbox => true,
        };
        if writer.flight.is_some() || writer.durable == version || !in_turn {
            return;
        }
        if now < writer.retry_at {
            return self.wake_at(writer.retry_at);
        }
        let content = match block {
            BlockId::Slot => Content::Slot(Slot {
                sequence: self.sequence,
                advert: self.advert(now),
            }),
            BlockId::Vote0 | BlockId::Vote1 => Content::Vote(*self.arbiter.block()),
            BlockId::Claims => Content::Claims(self.claims.clone()),
            BlockId::Mailbox => Content::Letter(self.letter.clone()),
        };
        let id = WriteId(self.fresh_id());
        let disk = &mut self.disks[at];
        disk.block(block).flight = Some((id, version));
        let disk = disk.seat;
        self.emit(Effect::WriteBlock {
            id,
            disk,
            block,
            content,
        });
    }

    // ---- evaluation -----------------------------------------------------------------------------------------

    fn step(&mut self, now: Instant) {
        if self.phase == Phase::Starting {
            self.follow_set(now);
            self.start(now);
        }
        if let Phase::Stopped(reason) = self.phase {
            return self.step_stopped(now, reason);
        }
        self.follow_set(now);
        self.sights(now);
        self.lease(now);
        if self.stop_if_due(now) {
            return;
        }
        if self.phase == Phase::Up {
            self.query_power(now);
            self.change_set(now);
            self.membership(now);
            self.step_pools(now);
            self.tell_config(now);
            self.write_letter(now);
            if now >= self.next_slot {
                self.next_slot = now + self.params.timing.slot_period;
                self.sequence += 1;
            }
            self.wake_at(self.next_slot);
        }
        if self.role() == Role::Waiting {
            self.waited = Some(self.record().epoch);
        }
        self.raise_alarms(now);
        self.disk_io(now);
        self.beat(now);
    }

    /// Until the reset comes, or the power goes. Who has not let go of everything in good order is silent and still from here
    /// on, but for the word that it goes: by wire, or where that is dead once more in its slot. Who has says so in its slot, and
    /// when that stands on a majority, by wire: a daemon of this incarnation that starts after that finds it (`start`).
    fn step_stopped(&mut self, now: Instant, reason: StopReason) {
        let again = self.stop_said + self.params.timing.disk_limit;
        if self.farewell == Farewell::Said {
            // Nothing is left that a reset would have to end, and it would come in the middle of the way down.
            self.pet(now, true);
            self.write_slots(now);
            if self.farewell_stands() {
                self.beat(now);
            }
            self.wake_at(now + self.params.timing.beat);
            return;
        }
        if now >= again {
            self.stop_said = now;
            self.emit(Effect::StopAll { reason });
        }
        self.wake_at(self.stop_said + self.params.timing.disk_limit);
        match reason {
            // The partner may have heard nothing of it yet.
            StopReason::Shutdown | StopReason::Unserving(_) => {
                self.beat(now);
                if self.wire_sight.0 != WireSight::Alive {
                    self.write_slots(now);
                }
            }
            StopReason::Superseded(_) | StopReason::Fenced(_) | StopReason::LeaseOut => {}
        }
    }

    /// The slot alone, to every disk that does not have it yet.
    fn write_slots(&mut self, now: Instant) {
        for at in 0..self.disks.len() {
            if self.disks[at].ours {
                self.write_block(now, at, BlockId::Slot);
            }
        }
    }

    /// What the own slot says if the daemon ends now, and where it stands: that it dies.
    ///
    /// Only where the wire does not say it. While that lives nobody goes by the slot, and a slot that changes is a sign of life.
    /// Not on a minority either, which tells whoever reads it that the rest may still be written to. And not of who does not act
    /// as a member: see [`Datagram::last_word`].
    #[must_use]
    pub fn last_slot(&self, now: Instant) -> Option<(Slot, Vec<Seat>)> {
        let acts = matches!(self.role(), Role::Serving | Role::Releasing);
        if !acts || self.wire_sight.0 == WireSight::Alive || self.shelf(now) == ShelfSight::Lost {
            return None;
        }
        let advert = Advert {
            role: Role::Dying,
            ..self.advert(now)
        };
        let seats = self.disks.iter().filter(|disk| disk.ours).map(|disk| disk.seat);
        let sequence = self.sequence + LAST_SLOT;
        Some((Slot { sequence, advert }, seats.collect()))
    }

    /// The good-bye stands on a majority of the quorum disks.
    pub(crate) fn farewell_stands(&self) -> bool {
        let sequence = self.sequence;
        let stands = |disk: &Disk| disk.blocks[BlockId::Slot as usize].durable >= sequence;
        self.farewell == Farewell::Said && self.majority_is(stands)
    }

    /// Everything below has stopped: what was let go of before can be said to be so.
    fn all_stopped(&mut self, now: Instant, well: bool) {
        if self.farewell == Farewell::Due && well {
            self.farewell = Farewell::Said;
            self.sequence += 1;
            self.next_beat = now;
            self.emit(Effect::Note(Note::Left));
        }
    }

    /// Silence and stillness that count. Who has said that it goes has the time in which its lease runs out, and no more:
    /// until then it may be back.
    fn limits(&self) -> (Duration, Duration) {
        let timing = &self.params.timing;
        let figures = self.partner.advert.map(|advert| advert.figures);
        let figures = figures.unwrap_or_default();
        if self.partner_dies().is_some() {
            timing.dying_limits_for(figures)
        } else {
            (timing.wire_limit, timing.disk_limit_for(figures))
        }
    }

    pub(crate) fn sights(&mut self, now: Instant) {
        let timing = self.params.timing;
        let (wire_limit, disk_limit) = self.limits();
        let wire = self.wire.sight(now, wire_limit);
        if wire != self.wire_sight.0 {
            if wire == WireSight::Silent && self.wire_sight.0 == WireSight::Alive {
                self.silences.push_back(now);
                if self.silences.len() > timing.flap_count as usize + 1 {
                    self.silences.pop_front();
                }
            }
            self.wire_sight = (wire, now);
            if wire != WireSight::Unknown {
                self.emit(Effect::Note(Note::Wire {
                    alive: wire == WireSight::Alive,
                }));
            }
        }
        self.wake_at(self.wire.last() + wire_limit);
        let disk = disk_sight(self.set(), &self.disks, now, disk_limit);
        if disk != self.disk_sight.0 {
            self.disk_sight = (disk, now);
        }
        let role = match self.partner.advert.map(|advert| advert.role) {
            _ if self.partner_left() => RoleSight::Gone,
            Some(Role::Releasing | Role::Dying | Role::Left) => RoleSight::Leaving,
            None | Some(Role::Starting | Role::Waiting | Role::Serving) => RoleSight::Staying,
        };
        let verdict = table::partner(self.power_sight(), wire, disk, role, self.pool_sight(now));
        // Whoever has slept did not listen, and what it meant to say before has only left now: the partner gets the time
        // to answer that (S5).
        self.slept = self.slept.filter(|woke| now < *woke + timing.wire_limit);
        let verdict = match (verdict, self.slept) {
            (Partner::TakeOver, Some(woke)) => {
                self.wake_at(woke + timing.wire_limit);
                Partner::Watch
            }
            (verdict, _) => verdict,
        };
        let dead = |verdict| matches!(verdict, Partner::TakeOver | Partner::TakeOverAtOnce);
        if dead(verdict) && !dead(self.verdict) {
            let cause = match verdict {
                Partner::TakeOverAtOnce if role == RoleSight::Gone => "it has said good-bye",
                Partner::TakeOverAtOnce => "its power is reported off",
                _ => "the wire is silent and the slot is still",
            };
            let since = self.partner_last().max(self.wire.last());
            self.emit(Effect::Note(Note::Suspected {
                since,
                cause: cause.into(),
            }));
        }
        self.verdict = verdict;
    }

    pub(crate) fn power_sight(&self) -> PowerSight {
        let off = self
            .partner
            .off
            .is_some_and(|(incarnation, _)| incarnation == self.partner.incarnation);
        if off {
            PowerSight::Off
        } else {
            PowerSight::Unproven
        }
    }

    /// When the partner's present incarnation was heard to say that it dies, if it has said and shown nothing else since.
    fn partner_dies(&self) -> Option<Instant> {
        let (incarnation, said) = self.partner.dying?;
        (incarnation == self.partner.incarnation).then_some(said)
    }

    /// The partner's present incarnation has said good-bye. Of a later one that is a member a daemon that has just started may
    /// have seen nothing yet.
    pub(crate) fn partner_left(&self) -> bool {
        let farewell = self.partner.farewell;
        farewell == Some(self.partner.incarnation) && farewell >= self.partner_member()
    }

    fn pool_sight(&self, now: Instant) -> PoolSight {
        let timing = &self.params.timing;
        let longest = self
            .pools
            .values()
            .filter_map(|pool| pool.unserved_since)
            .map(|since| now.since(since))
            .max();
        match longest {
            Some(span) if span >= timing.unserved_limit + timing.ask_limit => PoolSight::Ignored,
            Some(span) if span >= timing.unserved_limit => PoolSight::Unserved,
            Some(_) | None => PoolSight::Served,
        }
    }

    /// The wire has fallen silent too often of late.
    pub(crate) fn flapping(&self, now: Instant) -> bool {
        let timing = &self.params.timing;
        let recent = self
            .silences
            .iter()
            .filter(|at| now.since(**at) < timing.flap_window)
            .count();
        recent > timing.flap_count as usize
    }

    /// For tests: the wire fell silent that often, just now.
    #[cfg(test)]
    pub(crate) fn note_silences(&mut self, now: Instant, count: u32) {
        self.silences.extend((0..count).map(|_| now));
    }

    /// The last sign of life of this controller that somebody can have seen.
    fn life_shown(&self) -> Option<Instant> {
        self.slot_basis.max(self.wire.echoed)
    }

    /// The own slot was not written on a majority for this long.
    fn unwritten(&self, now: Instant) -> Duration {
        // A disk that has just come to be gone by is given the time to be written.
        let since = self.majority_of(|disk| Some(disk.slot_submitted.unwrap_or(disk.entered)));
        now.since(since.unwrap_or(self.started))
    }

    /// The way to the quorum disks as the partner is told.
    pub(crate) fn shelf(&self, now: Instant) -> ShelfSight {
        if self.unwritten(now) < self.params.timing.disk_limit {
            ShelfSight::Reachable
        } else {
            ShelfSight::Lost
        }
    }

    /// The same as a reason to give everything away: only after the partner has had the time to say that it has lost
    /// the shelf as well, so that a shelf that is gone for both does not move anything (K10).
    fn shelf_for_own(&self, now: Instant) -> ShelfSight {
        let timing = &self.params.timing;
        if self.unwritten(now) < timing.disk_limit + timing.wire_limit {
            ShelfSight::Reachable
        } else {
            ShelfSight::Lost
        }
    }

    fn lease_sight(&self, now: Instant) -> LeaseSight {
        let Some(served_since) = self.served_since else {
            return LeaseSight::Fresh;
        };
        let timing = &self.params.timing;
        let last = self.life_shown().unwrap_or(served_since).max(served_since);
        let silent_for = now.since(last);
        if silent_for < timing.lease {
            LeaseSight::Fresh
        } else if silent_for < timing.lease + timing.watchdog {
            LeaseSight::RunOut
        } else {
            LeaseSight::LongOut
        }
    }

    fn lease(&mut self, now: Instant) {
        let timing = self.params.timing;
        if !self.member() {
            self.served_since = None;
            // One who never was a member has nothing imported that a reset would have to end: the loop turning is
            // enough. One who was is about to stop. Whether it was its own area says, and that may not be read yet, or not for
            // a long time: a daemon that has taken the place of one that died must not keep alive what that one imported,
            // since the partner counts on the reset (`watchdog_gone_after`).
            let free = self.imports.as_ref().is_some_and(BTreeMap::is_empty);
            return self.pet(now, free && !self.was_member);
        }
        self.served_since.get_or_insert(now);
        let until = self
            .life_shown()
            .map_or(Instant::ZERO, |basis| basis + timing.lease);
        if until > self.lease_until && until > now {
            self.lease_until = until;
            let epoch = self.record().epoch;
            self.emit(Effect::GrantLease { until, epoch });
        }
        let fresh = now < self.lease_until;
        self.pet(now, fresh);
        if fresh {
            self.wake_at(self.lease_until);
        } else if let Some(since) = self.served_since {
            let last = self.life_shown().unwrap_or(since).max(since);
            self.wake_at(last + timing.lease + timing.watchdog);
        }
        // To arm it is to pet it.
        if fresh && self.watchdog.is_none() && self.armed_asked.is_none_or(|at| now >= at + timing.retry) {
            self.armed_asked = Some(now);
            self.emit(Effect::ArmWatchdog {
                timeout: timing.watchdog,
            });
        }
    }

    fn pet(&mut self, now: Instant, may: bool) {
        let due = self.petted.is_none_or(|at| now >= at + self.params.timing.beat);
        if may && due && self.watchdog != Some(false) {
            self.petted = Some(now);
            self.emit(Effect::Pet);
        }
    }

    fn stop_if_due(&mut self, now: Instant) -> bool {
        let member = self.member();
        let epoch = if self.was_member && !member {
            EpochSight::Superseded
        } else {
            EpochSight::Mine
        };
        let key = self.key_sight;
        let shelf = if member {
            self.shelf_for_own(now)
        } else {
            ShelfSight::Reachable
        };
        let reason = match table::own(epoch, key, self.wire_sight.0, self.lease_sight(now), shelf) {
            verdict @ (Own::Go | Own::Hold | Own::StopPool | Own::GiveByWire) => {
                self.leaving = self.wishes.shutdown.is_some() || verdict == Own::GiveByWire;
                return self.stop_for_pools(now);
            }
            Own::Stop => match (epoch, key) {
                (EpochSight::Superseded, _) => StopReason::Superseded(self.record().epoch),
                (EpochSight::Mine, KeySight::Partners) => {
                    StopReason::Fenced(self.key_pool.unwrap_or(PoolId::from_bytes([0; 16])))
                }
                (EpochSight::Mine, KeySight::Right | KeySight::Wrong) => StopReason::LeaseOut,
            },
        };
        self.stop(now, reason);
        true
    }

    fn stop_for_pools(&mut self, now: Instant) -> bool {
        let reason = self.ignored_ask(now).map(StopReason::Unserving);
        let reason = reason.or_else(|| self.shutdown_done(now).then_some(StopReason::Shutdown));
        if let Some(reason) = reason {
            self.stop(now, reason);
        }
        reason.is_some()
    }

    fn stop(&mut self, now: Instant, reason: StopReason) {
        // What its own area says may not have been read yet.
        self.was_member |= self.phase == Phase::Starting;
        self.phase = Phase::Stopped(reason);
        self.stop_said = now;
        if reason == StopReason::Shutdown && self.farewell == Farewell::None && self.let_go() {
            self.farewell = Farewell::Due;
        }
        // While the wire lives it says it sooner, and what is written then would only look like life.
        let goes = matches!(reason, StopReason::Shutdown | StopReason::Unserving(_));
        if goes && self.wire_sight.0 != WireSight::Alive {
            self.sequence += 1;
        }
        self.end_lease();
        self.emit(Effect::StopAll { reason });
        self.wake = now + self.params.timing.disk_limit;
        if goes {
            self.wake_at(now + self.params.timing.beat);
        }
    }

    /// Nothing is answered from here on.
    fn end_lease(&mut self) {
        self.lease_until = Instant::ZERO;
        let epoch = self.record().epoch;
        self.emit(Effect::GrantLease {
            until: Instant::ZERO,
            epoch,
        });
    }

    fn query_power(&mut self, now: Instant) {
        if !self.params.power_rung || self.power_sight() == PowerSight::Off {
            // Off is proof for that incarnation for ever; a fence asks again for itself.
            return;
        }
        let timing = self.params.timing;
        let missing = now.since(self.wire.last()) > timing.beat * 3;
        if missing && self.queried.is_none_or(|at| now >= at + timing.beat) {
            self.queried = Some(now);
            self.emit(Effect::QueryPower);
        }
        self.wake_at(self.wire.last() + timing.beat * 3 + Duration::from_nanos(1));
    }

    /// What a new decided record changes; also called for what the arbitration has learnt.
    pub(crate) fn progress(&mut self, now: Instant, progress: Progress) {
        match progress {
            Progress::None => {}
            Progress::Decided(record) => {
                self.emit(Effect::Note(Note::Decided(record)));
                self.adopt_record(now);
            }
            Progress::Outbid => {
                self.attempts += 1;
                let rank = self.me().index() as u32 + 1;
                self.propose_at = now + self.params.timing.slot_period / 2 * rank * self.attempts.min(4);
                self.wake_at(self.propose_at);
            }
            Progress::Promised { bound } => self.promised(now, bound),
        }
    }

    fn tell_config(&mut self, now: Instant) {
        let record = *self.record();
        if record.epoch == Epoch::new(0) {
            return;
        }
        let shared = self.member() && self.partner_member().is_some();
        let lock = match (shared, self.wire_sight.0, self.verdict) {
            (false, ..) | (true, WireSight::Alive, _) => None,
            (true, WireSight::Unknown, _) => Some(Lock::PartnerUnknown),
            (true, WireSight::Silent, Partner::TakeNothing) => Some(Lock::QuorumUnreadable),
            (true, WireSight::Silent, _) => Some(Lock::PartnerUnreachable),
        };
        if self.told != Some((record, lock)) {
            if self.told.is_none_or(|(_, told)| told != lock) {
                self.lock_since = now;
            }
            self.told = Some((record, lock));
            self.emit(Effect::ConfigEpoch { record, lock });
        }
    }

    fn write_letter(&mut self, now: Instant) {
        let letter = self.compose(now);
        if letter != self.letter {
            self.letter = letter;
            self.letter_version += 1;
            // On the wire with the next beat, which is due at once.
            self.next_beat = now;
        }
    }

    /// The lock that was last told to the configuration.
    pub(crate) fn lock(&self) -> Option<Lock> {
        self.told.and_then(|(_, lock)| lock)
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
