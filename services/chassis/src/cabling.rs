//! The cables, and what the bond makes of them. Pure: from what was done to the cables follows how the kernel's links
//! must be set.
//!
//! ```text
//!   controller a                enclosure                controller b
//!   ic0 --- leg0 -------- [a-leg0 ic-0 b-leg0] -------- leg0 --- ic0
//!       \.. leg1 -------- [a-leg1 ic-1 b-leg1] -------- leg1 ../
//!   host0 ----------- [a-host0  hosts  b-host0] ------------ host0
//!                               |
//!                         the hosts' network
//! ```
//!
//! Each leg is a hub with two sockets in the middle. Cutting a cable switches both sockets off, so that both ends lose
//! carrier, as with a cable; a cable that is broken in one direction keeps carrier and lets nothing out at one socket.
//! `ic0` stands for an active-backup bond that watches carrier: exactly one leg is a member at a time, so the two legs
//! never form a loop, and a change of the leg comes one failover time after the carrier's.

use pollux_api::{chassis::Cable, id::ControllerId};

/// What was done to the cables and the power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cabling {
    /// Has power, by [`ControllerId::index`].
    pub powered: [bool; 2],
    /// Cables of the interconnect.
    pub legs: [Cable; 2],
    /// Front-end cable plugged in, by [`ControllerId::index`].
    pub host_ports: [bool; 2],
    /// The leg that the bond uses.
    pub active: usize,
}

/// How the sockets in the middle must be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Switched on, by leg and controller.
    pub leg_up: [[bool; 2]; 2],
    /// Lets frames out towards the controller, by leg and controller.
    pub leg_open: [[bool; 2]; 2],
    /// Switched on, by controller.
    pub host_up: [bool; 2],
}

impl Default for Cabling {
    fn default() -> Self {
        Self {
            powered: [false; 2],
            legs: [Cable::Whole; 2],
            host_ports: [true; 2],
            active: 0,
        }
    }
}

impl Cabling {
    /// Both ends of a leg see carrier.
    pub fn carrier(&self, leg: usize) -> bool {
        self.legs[leg] != Cable::Cut && self.powered == [true; 2]
    }

    /// The leg that the bond wants: it stays while the active one has carrier, or none has.
    pub fn wanted_leg(&self) -> usize {
        let other = 1 - self.active;
        if !self.carrier(self.active) && self.carrier(other) {
            other
        } else {
            self.active
        }
    }

    /// How the sockets must be set.
    pub fn wiring(&self) -> Wiring {
        let by_leg = |what: fn(&Self, usize, ControllerId) -> bool| {
            [0, 1].map(|leg| ControllerId::ALL.map(|controller| what(self, leg, controller)))
        };
        Wiring {
            leg_up: by_leg(|cabling, leg, _| cabling.carrier(leg)),
            leg_open: by_leg(|cabling, leg, towards| match (cabling.legs[leg], towards) {
                (Cable::Whole | Cable::Cut, _)
                | (Cable::OnlyAToB, ControllerId::B)
                | (Cable::OnlyBToA, ControllerId::A) => true,
                (Cable::OnlyAToB, ControllerId::A) | (Cable::OnlyBToA, ControllerId::B) => false,
            }),
            host_up: [0, 1].map(|c| self.host_ports[c] && self.powered[c]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn powered() -> Cabling {
        Cabling {
            powered: [true; 2],
            ..Cabling::default()
        }
    }

    #[test]
    fn bond_leaves_a_dark_leg_and_does_not_come_back_by_itself() {
        let mut cabling = powered();
        assert_eq!(cabling.wanted_leg(), 0);
        cabling.legs[0] = Cable::Cut;
        assert_eq!(cabling.wanted_leg(), 1);
        cabling.active = 1;
        cabling.legs[0] = Cable::Whole;
        assert_eq!(
            cabling.wanted_leg(),
            1,
            "a second interruption would serve nobody"
        );
        cabling.legs = [Cable::Cut; 2];
        assert_eq!(cabling.wanted_leg(), 1, "nowhere to go");
    }

    #[test]
    fn bond_does_not_see_a_one_way_cable() {
        let mut cabling = powered();
        cabling.legs[0] = Cable::OnlyAToB;
        assert!(cabling.carrier(0));
        assert_eq!(cabling.wanted_leg(), 0);
        let wiring = cabling.wiring();
        assert_eq!(wiring.leg_up[0], [true, true]);
        assert_eq!(
            wiring.leg_open,
            [[false, true], [true, true]],
            "nothing comes out at a, everything at b"
        );
    }

    #[test]
    fn power_and_cut_darken_both_ends() {
        let mut cabling = powered();
        cabling.legs[1] = Cable::Cut;
        assert_eq!(cabling.wiring().leg_up, [[true, true], [false, false]]);
        cabling.powered[0] = false;
        assert_eq!(
            cabling.wiring().leg_up,
            [[false; 2]; 2],
            "a cable into a dead card has no carrier at either end"
        );
        assert_eq!(cabling.wiring().host_up, [false, true]);
        cabling.host_ports[1] = false;
        assert_eq!(cabling.wiring().host_up, [false, false]);
    }
}
