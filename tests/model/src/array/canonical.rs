//! When two arrays are one: the same deeds are due, in the same order, at the same distance from now.
//!
//! Instants are told by their distance from the present; whatever is older than every limit is simply old. Numbers that
//! only have an order are replaced by their rank, nonces by their place among those that can still come back. What a core
//! keeps for people is left out (`Core::canonical`).

use super::{Array, Card, Laid, Quorum, UNIT};
use crate::fingerprint;
use pollux_heartbeat_core::area::Content;
use pollux_heartbeat_core::wire::Datagram;
use pollux_heartbeat_core::{Core, Effect, Event, Instant, Number};
use std::hash::Hash;

/// Twice the longest span that decides anything (1.05 (g + 2 w) + 0.2 s is 11.75 units).
const OLD: u32 = 24;
/// Where the present is put.
const PRESENT: u64 = 1 << 40;
/// No nonce that could come back.
const DEAD: u64 = u64::MAX;

/// The numbers of one controller, each kind in ascending order, or in order of appearance.
#[derive(Default)]
struct Known {
    effects: Vec<u64>,
    ballots: Vec<u64>,
    letters: Vec<u64>,
    slots: Vec<u64>,
    nonces: Vec<u64>,
}

impl Known {
    fn sort(&mut self) {
        for numbers in [
            &mut self.effects,
            &mut self.ballots,
            &mut self.letters,
            &mut self.slots,
        ] {
            numbers.sort_unstable();
            numbers.dedup();
        }
    }
}

fn rank(known: &[u64], number: u64) -> u64 {
    known.partition_point(|known| *known < number) as u64 + 1
}

struct Names<'a> {
    now: Instant,
    known: [Known; 2],
    array: &'a Array,
}

impl Names<'_> {
    fn instant(&self, at: u64) -> u64 {
        let now = self.now.as_nanos();
        let old = now - (UNIT * OLD).as_nanos() as u64;
        if at < old { 0 } else { PRESENT + at - now }
    }

    fn since(&self, at: Instant) -> u64 {
        self.instant(at.as_nanos())
    }

    fn nonce(&self, of: usize, nonce: u64) -> u64 {
        let place = self.known[of].nonces.iter().position(|known| *known == nonce);
        place.map_or(DEAD, |place| place as u64)
    }

    fn name(&self, c: usize, kind: Number, number: &mut u64) {
        *number = match kind {
            Number::Instant => self.instant(*number),
            Number::Effect => rank(&self.known[c].effects, *number),
            Number::Ballot => rank(&self.known[c].ballots, *number),
            Number::Letter => rank(&self.known[c].letters, *number),
            Number::OwnSlot => rank(&self.known[c].slots, *number),
            Number::PartnerSlot => rank(&self.known[1 - c].slots, *number),
            Number::Sent => self.nonce(c, *number),
            Number::Heard => self.nonce(1 - c, *number),
            Number::Disk => *number,
        };
    }

    fn core(&self, c: usize, core: &mut Core) {
        core.forget_nonces(&mut |nonce| self.known[c].nonces.contains(&nonce));
        core.numbers(&mut |kind, number| self.name(c, kind, number));
    }

    fn laid(&self, laid: &Laid) -> Laid {
        let (c, mut laid) = (laid.c, laid.clone());
        let present = laid.life == self.array.nodes[c].life;
        laid.life = u32::from(present);
        match &mut laid.card {
            Card::Tell(event) => self.event(c, present, event),
            Card::Write {
                id,
                content,
                submitted,
                ..
            } => {
                // Whose writer has died is answered to nobody.
                if present {
                    self.name(c, Number::Effect, &mut id.0);
                } else {
                    id.0 = 0;
                }
                self.content(c, content);
                *submitted = Instant::from_nanos(self.since(*submitted));
            }
            Card::Read { id, issued, .. } => {
                self.name(c, Number::Effect, &mut id.0);
                *issued = Instant::from_nanos(self.since(*issued));
            }
            Card::Arrive(datagram) => self.datagram(1 - c, datagram),
            Card::Power { asked, .. } => *asked = Instant::from_nanos(self.since(*asked)),
            Card::Tick | Card::Pool(_) | Card::Observe => {}
        }
        laid
    }

    fn content(&self, c: usize, content: &mut Content) {
        if let Content::Slot(slot) = content {
            self.name(c, Number::OwnSlot, &mut slot.sequence);
        }
    }

    fn event(&self, c: usize, present: bool, event: &mut Event) {
        match event {
            Event::WriteDone { id, submitted, .. } => {
                if present {
                    self.name(c, Number::Effect, &mut id.0);
                } else {
                    id.0 = 0;
                }
                *submitted = Instant::from_nanos(self.since(*submitted));
            }
            Event::ReadDone { id, issued, area } => {
                self.name(c, Number::Effect, &mut id.0);
                *issued = Instant::from_nanos(self.since(*issued));
                // The own area is read at the start alone; both kinds are told apart by nothing but their reader.
                if let Ok(slot) = &mut area.slot {
                    let both = [0, 1].map(|of| rank(&self.known[of].slots, slot.sequence));
                    slot.sequence = both[0] << 32 | both[1];
                }
            }
            Event::Received(datagram) => self.datagram(1 - c, datagram),
            Event::Power { asked, .. } => *asked = Instant::from_nanos(self.since(*asked)),
            _ => {}
        }
    }

    fn datagram(&self, from: usize, datagram: &mut Datagram) {
        datagram.sequence = 0;
        datagram.nonce = self.nonce(from, datagram.nonce);
        datagram.echo = datagram.echo.map(|nonce| self.nonce(1 - from, nonce));
    }

    fn effect(&self, c: usize, effect: &mut Effect) {
        match effect {
            Effect::WriteBlock { id, content, .. } => {
                self.name(c, Number::Effect, &mut id.0);
                self.content(c, content);
            }
            Effect::ReadArea { id, .. } => self.name(c, Number::Effect, &mut id.0),
            Effect::Send(datagram) => self.datagram(c, datagram),
            Effect::GrantLease { until, .. } => *until = Instant::from_nanos(self.since(*until)),
            Effect::Note(_) => *effect = Effect::Pet,
            _ => {}
        }
    }

    fn quorum(&self, quorum: &Quorum) -> Quorum {
        let mut quorum = quorum.clone();
        for (c, part) in quorum.parts.iter_mut().enumerate() {
            if let Some(slot) = &mut part.slot {
                self.name(c, Number::OwnSlot, &mut slot.sequence);
            }
        }
        quorum
    }
}

impl Array {
    /// Everything that is on its way, whoever holds it.
    fn cards(&self) -> impl Iterator<Item = &Laid> {
        let late = self.nodes.iter().flat_map(|node| &node.late);
        self.tray.iter().chain(&self.held).chain(late)
    }

    /// Datagrams on their way, each with its sender.
    fn datagrams(&self) -> impl Iterator<Item = (usize, &Datagram)> {
        let arriving = self.cards().filter_map(|laid| match &laid.card {
            Card::Arrive(datagram) | Card::Tell(Event::Received(datagram)) => Some((1 - laid.c, datagram)),
            _ => None,
        });
        let nodes = self.nodes.iter().enumerate();
        let undone = nodes.flat_map(|(c, node)| node.undone.iter().map(move |effect| (c, effect)));
        let undone = undone.filter_map(|(c, effect)| match effect {
            Effect::Send(datagram) => Some((c, datagram)),
            _ => None,
        });
        let nodes = self.nodes.iter().enumerate();
        let spoken = nodes.filter_map(|(c, node)| Some((c, node.spoken.as_deref()?)));
        arriving.chain(undone).chain(spoken)
    }

    fn slots(&self, c: usize) -> impl Iterator<Item = u64> {
        let stand = self
            .disks
            .iter()
            .filter_map(move |disk| disk.parts[c].slot.map(|slot| slot.sequence));
        let write = self.cards().filter_map(move |laid| match &laid.card {
            Card::Write {
                content: Content::Slot(slot),
                ..
            } if laid.c == c => Some(slot.sequence),
            // Of whichever controller it is: one rank too many does no harm.
            Card::Tell(Event::ReadDone { area, .. }) => area.slot.as_ref().ok().map(|slot| slot.sequence),
            _ => None,
        });
        let undone = self.nodes[c].undone.iter().filter_map(|effect| match effect {
            Effect::WriteBlock {
                content: Content::Slot(slot),
                ..
            } => Some(slot.sequence),
            _ => None,
        });
        stand.chain(write).chain(undone)
    }

    pub(super) fn canonical(&self) -> u128 {
        let mut names = Names {
            now: self.now,
            known: Default::default(),
            array: self,
        };
        // What can still bring a nonce back: a datagram that carries it, or a partner that will echo it.
        let mut live = [Vec::new(), Vec::new()];
        for (from, datagram) in self.datagrams() {
            live[from].push(datagram.nonce);
            live[1 - from].extend(datagram.echo);
        }
        let cores = self.nodes.each_ref().map(|node| node.core.as_ref());
        let mut cores = cores.map(|core| core.map(|core| core.canonical(self.now)));
        for (c, core) in cores.iter_mut().enumerate() {
            let Some(core) = core else { continue };
            let (one, two) = names.known.split_at_mut(1);
            let (own, other) = if c == 0 {
                (&mut one[0], &mut two[0])
            } else {
                (&mut two[0], &mut one[0])
            };
            core.numbers(&mut |kind, number| {
                let number = *number;
                match kind {
                    Number::Effect => own.effects.push(number),
                    Number::Ballot => own.ballots.push(number),
                    Number::Letter => own.letters.push(number),
                    Number::OwnSlot => own.slots.push(number),
                    Number::PartnerSlot => other.slots.push(number),
                    Number::Sent => own.nonces.push(number),
                    Number::Heard => live[1 - c].push(number),
                    Number::Instant | Number::Disk => {}
                }
            });
        }
        for c in [0, 1] {
            names.known[c].slots.extend(self.slots(c));
            names.known[c].nonces.retain(|nonce| live[c].contains(nonce));
            names.known[c].sort();
        }
        for (c, core) in cores.iter_mut().enumerate() {
            if let Some(core) = core {
                names.core(c, core);
            }
        }
        let nodes = [0, 1].map(|c| {
            let node = &self.nodes[c];
            let core = &cores[c];
            let mut undone = node.undone.clone();
            undone.iter_mut().for_each(|effect| names.effect(c, effect));
            let instants = [node.boot_at, node.daemon_at, node.watchdog, node.off_at]
                .map(|at| at.map(|at| names.since(at)));
            let flags = [
                node.powered,
                node.crashed,
                node.stalled,
                node.stopped,
                node.demanded,
                node.goes,
                node.word_said,
            ];
            let ages = [names.since(node.lease_until), names.since(node.well_since)];
            let late: Vec<Laid> = node.late.iter().map(|laid| names.laid(laid)).collect();
            let known = (node.boots, node.imported, node.told, node.cast);
            let mut spoken = node.spoken.clone();
            if let Some(datagram) = &mut spoken {
                names.datagram(c, datagram);
            }
            fingerprint::of(&(core, undone, instants, flags, ages, late, known, spoken))
        });
        let disks: Vec<Quorum> = self.disks.iter().map(|disk| names.quorum(disk)).collect();
        let cards =
            |cards: &mut dyn Iterator<Item = &Laid>| cards.map(|laid| names.laid(laid)).collect::<Vec<_>>();
        let (tray, held) = (cards(&mut self.tray.iter()), cards(&mut self.held.iter()));
        let whole_since = self.whole_since.filter(|_| self.struck).map(|at| names.since(at));
        let rest = (
            whole_since,
            self.standing,
            self.wire,
            &self.records,
            self.struck,
            self.recovery,
        );
        hash(&(nodes, disks, tray, held, rest))
    }
}

fn hash(value: &impl Hash) -> u128 {
    fingerprint::of(value)
}
