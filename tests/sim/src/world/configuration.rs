//! Changes of the configuration and what travels between the keepers.

use super::*;

impl World {
    pub(super) fn tell_config(&mut self, c: usize) {
        if self.nodes[c].core.is_some() {
            let status = self.nodes[c].keeper.status(self.nodes[c].incarnation);
            self.tell_later(c, Event::Config(status), 50, 2_000);
        }
    }

    pub(super) fn settle(&mut self, c: usize) {
        let incarnation = self.nodes[c].incarnation;
        let entries = self.nodes[c].keeper.settle(incarnation);
        let changed = !entries.is_empty();
        for entry in entries {
            self.fact(Fact::Acknowledged { c, entry });
        }
        if changed {
            self.tell_config(c);
        }
    }

    pub(super) fn change(&mut self) {
        let span = self.rng.range(200 * MS, self.setup.change_idle);
        self.after(span, Happening::Change);
        for c in [A, B] {
            let node = &mut self.nodes[c];
            if !node.up || node.paused || node.stopped.is_some() {
                continue;
            }
            self.entries += 1;
            let entry = self.entries;
            if node.keeper.append(node.incarnation, entry) {
                self.tell_config(c);
                if self.breakage.lone_acknowledgement {
                    self.fact(Fact::Acknowledged { c, entry });
                }
                self.settle(c);
                self.push(c);
            }
        }
    }

    pub(super) fn push(&mut self, c: usize) {
        if self.nodes[c].stopped.is_some() {
            return;
        }
        let incarnation = self.nodes[c].incarnation;
        if let Some(message) = self.nodes[c].keeper.push(incarnation) {
            self.post(c, message);
        }
    }

    pub(super) fn keeper(&mut self, c: usize, message: Message) {
        let asked = self.nodes[c].keeper.round.is_some();
        let log = matches!(message, Message::Log { .. });
        let answered = matches!(message, Message::Have { .. });
        let incarnation = self.nodes[c].incarnation;
        let before = base_of(&self.nodes[c].keeper.log);
        if self.nodes[c].stopped.is_some() {
            return;
        }
        if let Some(answer) = self.nodes[c].keeper.receive(incarnation, message) {
            self.post(c, answer);
        }
        if answered {
            self.settle(c);
        }
        let after = base_of(&self.nodes[c].keeper.log);
        if after != before {
            self.tell_config(c);
        }
        let joined = log && asked && self.nodes[c].keeper.round.is_none();
        if joined && self.nodes[c].catch_up {
            self.nodes[c].catch_up = false;
            self.tell_later(
                c,
                Event::ConfigCaughtUp {
                    log: after,
                    equal: true,
                },
                100,
                3_000,
            );
        }
    }
}
