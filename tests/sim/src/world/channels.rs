//! Between the controllers: the quorum disks and the wire.

use super::*;

impl World {
    /// What a command takes longer for all the others, at most.
    pub(super) fn load(&self) -> u64 {
        if self.saturated { 300 * MS } else { 0 }
    }

    pub(super) fn disk_latency(&mut self, disk: usize) -> u64 {
        let slow = self.quorum[disk].slow.max(self.load());
        self.span(200, 3_000) + self.rng.range(0, slow)
    }

    /// Done long before it is said to be: an answer that the way back holds up (K8, K11).
    fn way_back(&mut self, disk: usize) -> u64 {
        let slow = self.quorum[disk].slow.max(self.load());
        let held_up = if slow > 0 { self.rng.range(0, slow) } else { 0 };
        self.span(50, 1_000) + held_up
    }

    pub(super) fn submit(&mut self, c: usize, write: WriteId, seat: Seat, block: BlockId, content: Content) {
        let Some(disk) = self.quorum_number(seat) else {
            return;
        };
        let same = |w: &QuorumWrite| w.seat == seat && w.block == block;
        if let Some((other, _)) = self.nodes[c].writes.iter().find(|(_, w)| same(w)) {
            let what = format!(
                "{}: {write:?} to {block:?} of quorum disk {disk} while {other:?} is outstanding",
                id(c)
            );
            self.violation = Some(Violation {
                at: self.now,
                invariant: "contract",
                what,
            });
            return;
        }
        if let Content::Slot(slot) = &content {
            self.nodes[c].role = slot.advert.role;
        }
        if let Content::Vote(vote) = &content {
            self.fact(Fact::Published {
                c,
                record: vote.decided,
            });
            if vote.value.is_some() {
                self.fact(Fact::Proposed { c, vote: *vote });
            }
        }
        let bytes = layout::encode(&Place { array: ARRAY, seat }, block, id(c), &content);
        let (submitted, life, boot) = (self.local(c), self.nodes[c].life, self.nodes[c].boot);
        let entry = QuorumWrite {
            disk,
            seat,
            block,
            content,
            bytes,
            submitted,
            life,
            applied: false,
        };
        self.nodes[c].writes.insert(write, entry);
        let span = self.disk_latency(disk);
        self.after(span, Happening::QuorumWrite { c, boot, id: write });
    }

    pub(super) fn apply(&mut self, c: usize, write: &QuorumWrite) {
        self.quorum[write.disk].write(id(c), write.block, &write.bytes);
        if let Content::Vote(vote) = write.content {
            let seat = write.seat;
            self.fact(Fact::Voted { c, seat, vote });
        }
    }

    pub(super) fn quorum_write(&mut self, c: usize, boot: u32, write: WriteId) {
        let found = self.nodes[c].writes.get(&write);
        let Some((at, block)) = found.map(|entry| (entry.disk, entry.block)) else {
            return;
        };
        if self.wedged[c].contains(&block) {
            return self.after(AGAIN, Happening::QuorumWrite { c, boot, id: write });
        }
        let disk = &self.quorum[at];
        if disk.reaches(c) && disk.stuck_until > self.now {
            let at = disk.stuck_until.min(self.now + AGAIN) + self.rng.range(0, MS);
            return self.at(at, Happening::QuorumWrite { c, boot, id: write });
        }
        let owner = self.disks[at % self.disks.len()].holder;
        let rejected = self.breakage.quorum_on_pools && owner.is_some_and(|owner| owner != c);
        let good = disk.reaches(c) && !disk.read_only && !rejected;
        if good && let Some(mut entry) = self.nodes[c].writes.remove(&write) {
            self.apply(c, &entry);
            entry.applied = true;
            self.nodes[c].writes.insert(write, entry);
        }
        let result = if good { Ok(()) } else { Err(()) };
        let span = self.way_back(at) + self.late_confirmations[c];
        self.after(
            span,
            Happening::QuorumWritten {
                c,
                boot,
                id: write,
                result,
            },
        );
    }

    pub(super) fn quorum_written(&mut self, c: usize, write: WriteId, result: Result<(), ()>) {
        let Some(entry) = self.nodes[c].writes.remove(&write) else {
            return;
        };
        if entry.life == self.nodes[c].life {
            self.tell(
                c,
                Event::WriteDone {
                    id: write,
                    submitted: entry.submitted,
                    result,
                },
            );
        }
    }

    fn quorum_number(&self, seat: Seat) -> Option<usize> {
        self.quorum
            .iter()
            .position(|known| known.place.seat.disk == seat.disk)
    }

    /// A new session of a controller with a disk: nothing that the one before has begun takes effect any more.
    fn session(&mut self, c: usize, disk: DiskIndex) -> u64 {
        let elsewhere = |write: &QuorumWrite| write.applied || write.seat.disk != disk;
        self.nodes[c].writes.retain(|_, write| elsewhere(write));
        let session = self.nodes[c].sessions.entry(disk).or_default();
        *session += 1;
        *session
    }

    /// A controller goes by these quorum disks.
    pub(super) fn use_disks(&mut self, c: usize, set: QuorumSet) {
        self.nodes[c].hint = set;
        let before = std::mem::replace(&mut self.nodes[c].open, set);
        for seat in set.all() {
            if before.seat(seat.disk) != Some(seat) {
                self.session(c, seat.disk);
            }
        }
    }

    pub(super) fn format_soon(&mut self, c: usize, seat: Seat, parts: Box<[Area; 2]>) {
        let Some(disk) = self.quorum_number(seat) else {
            let result = Err("there is no such disk".to_owned());
            return self.tell_later(c, Event::DiskFormatted { seat, result }, 100, 5_000);
        };
        let session = self.session(c, seat.disk);
        let (life, boot) = (self.nodes[c].life, self.nodes[c].boot);
        let span = self.disk_latency(disk) * 3;
        self.after(
            span,
            Happening::Format {
                c,
                life,
                boot,
                session,
                seat,
                parts,
            },
        );
    }

    pub(super) fn format(
        &mut self,
        c: usize,
        (life, boot, session): (u32, u32, u64),
        seat: Seat,
        parts: Box<[Area; 2]>,
    ) {
        let Some(number) = self.quorum_number(seat) else {
            return;
        };
        if self.nodes[c].sessions.get(&seat.disk) != Some(&session) {
            return;
        }
        let disk = &mut self.quorum[number];
        let result = if disk.reaches(c) && disk.stuck_until > self.now {
            let at = disk.stuck_until.min(self.now + AGAIN);
            return self.at(
                at,
                Happening::Format {
                    c,
                    life,
                    boot,
                    session,
                    seat,
                    parts,
                },
            );
        } else if !disk.reaches(c) || disk.read_only {
            Err("it cannot be written".to_owned())
        } else {
            disk.format(seat, &parts)
        };
        self.say(|| format!("{} formats quorum disk {number} as {seat:?}: {result:?}", id(c)));
        if self.nodes[c].life == life {
            self.tell_later(c, Event::DiskFormatted { seat, result }, 50, 5_000);
        }
    }

    pub(super) fn quorum_read(
        &mut self,
        c: usize,
        (life, boot): (u32, u32),
        read: ReadId,
        disk: usize,
        (seat, whose): (Seat, ControllerId),
        issued: u64,
    ) {
        let stuck = self.quorum[disk].stuck_until;
        let hangs = self.quorum[disk].reaches(c) && stuck > self.now;
        if hangs || self.deaf[c] {
            let until = if hangs {
                stuck.min(self.now + AGAIN)
            } else {
                self.now + AGAIN
            };
            let at = until + self.rng.range(0, MS);
            return self.at(
                at,
                Happening::QuorumRead {
                    c,
                    life,
                    boot,
                    id: read,
                    disk,
                    seat,
                    whose,
                    issued,
                },
            );
        }
        let area = self.quorum[disk].read(c, seat, whose, &mut self.rng);
        if whose != id(c) {
            if let Ok(seen) = area.vote {
                self.fact(Fact::Polled {
                    c,
                    seat,
                    seen: Some(seen),
                });
            }
            if self.nodes[c].life == life {
                self.nodes[c].readings.insert(read, (seat, issued));
            }
        }
        let issued = self.nodes[c].clock.read(issued);
        let late = self.late_answers[c];
        let late = if late > 0 { self.rng.range(0, late) } else { 0 };
        let span = self.way_back(disk) + late;
        self.after(
            span,
            Happening::Tell {
                c,
                life,
                event: Event::ReadDone {
                    id: read,
                    issued,
                    area,
                },
            },
        );
    }

    pub(super) fn send(&mut self, c: usize, datagram: Datagram) {
        let heard = |nonce| self.nodes[1 - c].nonces.iter().any(|(sent, _)| *sent == nonce);
        if datagram.echo.is_some_and(heard) {
            self.fact(Fact::Echoed { c });
        }
        self.nodes[c].nonces.push_back((datagram.nonce, self.now));
        if self.nodes[c].nonces.len() > 64 {
            self.nodes[c].nonces.pop_front();
        }
        if let Some(record) = datagram.record {
            self.fact(Fact::Published { c, record });
        }
        self.nodes[c].spoken = Some(Box::new(datagram.clone()));
        if self.breakage.forged_echo
            && c == B
            && let Some(mut forged) = self.nodes[c].heard.clone()
        {
            forged.echo = Some(datagram.nonce);
            let span = self.span(50, 500);
            self.after(span, Happening::Datagram { c, datagram: forged });
        }
        self.transmit(c, datagram);
    }

    /// A datagram sets out.
    pub(super) fn transmit(&mut self, c: usize, datagram: Datagram) {
        let link = self.links[c];
        if link.cut || self.rng.chance(link.loss) {
            return;
        }
        let copies = if self.rng.chance(link.double) { 2 } else { 1 };
        for _ in 0..copies {
            let span = self.span(50, 500) + self.rng.range(0, link.delay);
            self.after(
                span,
                Happening::Datagram {
                    c: 1 - c,
                    datagram: Box::new(datagram.clone()),
                },
            );
        }
        if self.rng.chance(link.replay) {
            let span = self.rng.range(SEC, 30 * SEC);
            self.after(
                span,
                Happening::Datagram {
                    c: 1 - c,
                    datagram: Box::new(datagram),
                },
            );
        }
    }

    /// A keeper's message sets out; it needs both directions (it is a stream).
    pub(super) fn post(&mut self, c: usize, message: Message) {
        if self.filtered || self.links.iter().any(|link| link.cut) || !self.nodes[1 - c].up {
            return;
        }
        let copies = if self.misrouted == 0 {
            1
        } else {
            u64::from(!self.rng.chance(self.misrouted)) + u64::from(self.rng.chance(self.misrouted))
        };
        for _ in 0..copies {
            let mut span = self.span(100, 2_000) + self.rng.range(0, self.links[c].delay);
            if self.misrouted > 0 && self.rng.chance(self.misrouted) {
                span += self.rng.range(0, SEC);
            }
            let (boot, message) = (self.nodes[1 - c].boot, message.clone());
            self.after(
                span,
                Happening::Keeper {
                    c: 1 - c,
                    boot,
                    message,
                },
            );
        }
    }
}
