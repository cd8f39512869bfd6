//! PERSISTENT RESERVE as bytes: parameter lists in, parameter data out (SPC-4, 6.15, 6.16 and 7.6.4.6).

use super::{Kind, Nexus, State};
use crate::scsi::sense::Sense;
use pollux_block_frame::INITIATOR_NAME_MAX;
use std::collections::BTreeSet;

/// Service actions of PERSISTENT RESERVE OUT.
mod action {
    pub(super) const REGISTER: u8 = 0;
    pub(super) const RESERVE: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const CLEAR: u8 = 3;
    pub(super) const PREEMPT: u8 = 4;
    pub(super) const PREEMPT_AND_ABORT: u8 = 5;
    pub(super) const REGISTER_AND_IGNORE: u8 = 6;
    pub(super) const REGISTER_AND_MOVE: u8 = 7;
}

/// Length of the parameter list that every service action but REGISTER AND MOVE begins with.
const BASIC: usize = 24;
/// Separates the name from the ISID in the name of an iSCSI initiator port (RFC 7143, 4.2.7.1).
const ISID_MARK: &str = ",i,0x";

/// PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

/// PERSISTENT RESERVE OUT, as it came: the command block without its parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Service action.
    pub action: u8,
    /// SCOPE in the high half, TYPE in the low one.
    pub scope_and_type: u8,
    /// Length of the parameter list.
    pub length: u32,
}

/// PERSISTENT RESERVE OUT, decoded. A key of zero is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Out {
    /// REGISTER.
    Register {
        /// The key that is registered now.
        key: u64,
        /// The key to register; zero unregisters.
        new: u64,
        /// Further initiator ports (SPEC_I_PT), at the port that received the command.
        others: Vec<Nexus>,
        /// At both ports (ALL_TG_PT).
        all_ports: bool,
        /// Keep it over a loss of power.
        aptpl: bool,
    },
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore {
        /// The key to register; zero unregisters.
        new: u64,
        /// At both ports.
        all_ports: bool,
        /// Keep it over a loss of power.
        aptpl: bool,
    },
    /// RESERVE.
    Reserve {
        /// The nexus' own key.
        key: u64,
        /// Type.
        kind: Kind,
    },
    /// RELEASE.
    Release {
        /// The nexus' own key.
        key: u64,
        /// Type.
        kind: Kind,
    },
    /// CLEAR.
    Clear {
        /// The nexus' own key.
        key: u64,
    },
    /// PREEMPT, or PREEMPT AND ABORT.
    Preempt {
        /// The nexus' own key.
        key: u64,
        /// The key to strike out; zero: all registrants, where all of them hold the reservation.
        victim: u64,
        /// Type of the reservation that is taken over; `None`: no valid one, which matters only then.
        kind: Option<Kind>,
        /// And abort.
        abort: bool,
    },
    /// REGISTER AND MOVE.
    RegisterAndMove {
        /// The nexus' own key.
        key: u64,
        /// The key of the nexus that gets the reservation.
        new: u64,
        /// Who gets it.
        to: Nexus,
        /// The nexus' own registration ends.
        unregister: bool,
        /// Keep it over a loss of power.
        aptpl: bool,
    },
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn be32(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

impl Out {
    /// Decodes command and parameter list (6.16.3 and 6.16.4) as they came through target port `port`.
    ///
    /// # Errors
    /// The sense data to answer.
    pub fn decode(parameters: Parameters, list: &[u8], port: u16) -> Result<Self, Sense> {
        let Parameters {
            action,
            scope_and_type,
            length,
        } = parameters;
        let list = list.get(..length as usize).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        if list.len() < BASIC {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        let (key, new, flags) = (be64(list, 0), be64(list, 8), list[20]);
        if action == action::REGISTER_AND_MOVE {
            return Self::decode_move(list, key, new);
        }
        let (spec_i_pt, all_ports, aptpl) = (flags & 0x08 != 0, flags & 0x04 != 0, flags & 0x01 != 0);
        // No other service action registers further ports; to ignore the wish would leave them out silently.
        let with_others = spec_i_pt && action == action::REGISTER;
        if spec_i_pt && !with_others {
            return Err(Sense::invalid_parameter(20));
        }
        if !with_others && list.len() != BASIC {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        let kind = match scope_and_type >> 4 {
            0 => Kind::from_code(scope_and_type & 0x0f),
            _ => None,
        };
        let must = kind.ok_or(Sense::invalid_field(2));
        Ok(match action {
            action::REGISTER => Self::Register {
                key,
                new,
                others: if with_others {
                    initiator_ports(list, port)?
                } else {
                    Vec::new()
                },
                all_ports,
                aptpl,
            },
            action::REGISTER_AND_IGNORE => Self::RegisterAndIgnore {
                new,
                all_ports,
                aptpl,
            },
            action::RESERVE => Self::Reserve { key, kind: must? },
            action::RELEASE => Self::Release { key, kind: must? },
            action::CLEAR => Self::Clear { key },
            action::PREEMPT | action::PREEMPT_AND_ABORT => Self::Preempt {
                key,
                victim: new,
                kind,
                abort: action == action::PREEMPT_AND_ABORT,
            },
            _ => return Err(Sense::invalid_field(1)),
        })
    }

    fn decode_move(list: &[u8], key: u64, new: u64) -> Result<Self, Sense> {
        let port = u16::from_be_bytes([list[18], list[19]]);
        let length = be32(list, 20);
        let id = list[BASIC..].get(..length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let (to, used) = initiator_port(id, port).ok_or(Sense::invalid_parameter(24))?;
        if used != length {
            return Err(Sense::invalid_parameter(20));
        }
        Ok(Self::RegisterAndMove {
            key,
            new,
            to,
            unregister: list[17] & 0x02 != 0,
            aptpl: list[17] & 0x01 != 0,
        })
    }
}

/// The TransportIDs after the basic list (SPEC_I_PT).
fn initiator_ports(list: &[u8], port: u16) -> Result<Vec<Nexus>, Sense> {
    let length = list.get(BASIC..BASIC + 4).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let length = be32(length, 0);
    let mut rest = list
        .get(BASIC + 4..)
        .filter(|rest| rest.len() == length)
        .ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let mut ports = Vec::new();
    while !rest.is_empty() {
        let at = (list.len() - rest.len()) as u16;
        let (nexus, used) = initiator_port(rest, port).ok_or(Sense::invalid_parameter(at))?;
        ports.push(nexus);
        rest = &rest[used..];
    }
    Ok(ports)
}

/// The TransportIDs of a REGISTER with SPEC_I_PT, where they are as long as they say.
fn transport_ids(parameters: Parameters, list: &[u8]) -> Option<&[u8]> {
    let list = list.get(..parameters.length as usize)?;
    let named = parameters.action == action::REGISTER && list.len() >= BASIC + 4 && list[20] & 0x08 != 0;
    let ids = named.then(|| &list[BASIC + 4..])?;
    (ids.len() == be32(list, BASIC)).then_some(ids)
}

/// The first TransportID, of whatever kind, and what follows it.
fn first(ids: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = ids.first_chunk::<4>()?;
    let length = 4 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    ids.split_at_checked(length)
}

/// The name of an iSCSI initiator as a whole: TransportID format 00b (SPC-4, 7.6.4.6).
fn device(id: &[u8]) -> Option<&str> {
    let name = id.strip_prefix(&[0x05])?.get(3..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&name[..end]).ok()?;
    let sound = (1..=INITIATOR_NAME_MAX).contains(&name.len()) && id.len().is_multiple_of(4);
    (sound && !name.contains(ISID_MARK)).then_some(name)
}

/// Initiators that a PERSISTENT RESERVE OUT names as a whole.
#[must_use]
pub fn devices(parameters: Parameters, list: &[u8]) -> Vec<String> {
    let mut ids = transport_ids(parameters, list).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((id, rest)) = first(ids) {
        found.extend(device(id).map(str::to_owned));
        ids = rest;
    }
    found
}

/// The parameter list with each initiator that it names as a whole replaced by those of its ports that are `known`. What
/// makes no sense stays as it is, for [`Out::decode`] to refuse.
///
/// # Errors
/// An initiator of which no port is known, at its place in the list: to register nobody for it would look like success.
pub fn with_ports(
    parameters: Parameters,
    list: &[u8],
    known: &BTreeSet<(String, [u8; 6])>,
) -> Result<Vec<u8>, Sense> {
    let Some(mut ids) = transport_ids(parameters, list) else {
        return Ok(list.to_vec());
    };
    let mut out = list[..BASIC + 4].to_vec();
    while let Some((id, rest)) = first(ids) {
        let before = out.len();
        match device(id) {
            None => out.extend_from_slice(id),
            Some(name) => {
                let ports = known.iter().filter(|(initiator, _)| initiator == name);
                for (initiator, isid) in ports {
                    let nexus = Nexus {
                        initiator: initiator.clone(),
                        isid: *isid,
                        port: 0,
                    };
                    out.extend_from_slice(&transport_id(&nexus));
                }
                if out.len() == before {
                    let at = parameters.length as usize - ids.len();
                    return Err(Sense::invalid_parameter(at as u16));
                }
            }
        }
        ids = rest;
    }
    out.extend_from_slice(ids);
    let length = (out.len() - BASIC - 4) as u32;
    out[BASIC..BASIC + 4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// The initiator ports in the parameter data of READ FULL STATUS.
#[must_use]
pub fn initiator_ports_of(data: &[u8]) -> Vec<(String, [u8; 6])> {
    let mut found = Vec::new();
    let mut rest = data.get(8..).unwrap_or_default();
    while let Some(head) = rest.first_chunk::<24>() {
        let length = be32(head, 20);
        let Some((nexus, _)) = rest.get(24..24 + length).and_then(|id| initiator_port(id, 0)) else {
            break;
        };
        found.push((nexus.initiator, nexus.isid));
        rest = &rest[24 + length..];
    }
    found
}

/// One TransportID of an iSCSI initiator *port* (format 01b), and its length. A device name without ISID (format 00b)
/// means "every port of it that is known": the port that received the command knows them, and puts them in its place
/// ([`with_ports`]). REGISTER AND MOVE hands over to one port, and takes no other form.
fn initiator_port(bytes: &[u8], port: u16) -> Option<(Nexus, usize)> {
    // PROTOCOL IDENTIFIER 5h: iSCSI.
    if bytes.len() < 4 || bytes[0] != 0x45 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let name = bytes.get(4..4 + length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let (initiator, isid) = std::str::from_utf8(&name[..end]).ok()?.split_once(ISID_MARK)?;
    let sound = (1..=INITIATOR_NAME_MAX).contains(&initiator.len())
        && isid.len() == 12
        && isid.bytes().all(|digit| digit.is_ascii_hexdigit())
        && length.is_multiple_of(4);
    if !sound {
        return None;
    }
    let number = u64::from_str_radix(isid, 16).ok()?.to_be_bytes();
    let nexus = Nexus {
        initiator: initiator.to_owned(),
        isid: number[2..].try_into().ok()?,
        port,
    };
    Some((nexus, 4 + length))
}

/// The inverse of [`initiator_port`].
fn transport_id(nexus: &Nexus) -> Vec<u8> {
    let isid: String = nexus.isid.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = format!("{}{ISID_MARK}{isid}", nexus.initiator).into_bytes();
    // Ends with a zero and fills whole words; 20 bytes at least.
    name.resize((name.len() + 1).next_multiple_of(4).max(20), 0);
    let mut id = vec![0x45, 0];
    id.extend_from_slice(&(name.len() as u16).to_be_bytes());
    id.extend_from_slice(&name);
    id
}

impl State {
    /// Parameter data of PERSISTENT RESERVE IN (6.15).
    #[must_use]
    pub fn report(&self, what: In) -> Vec<u8> {
        let mut data = Vec::new();
        let kind = self.held().map_or(0, |held| held.kind as u8);
        match what {
            In::Capabilities => {
                data.extend_from_slice(&8_u16.to_be_bytes());
                // CRH, SIP_C, ATP_C, PTPL_C; TMV and PTPL_A; all six types.
                data.extend_from_slice(&[0x1d, 0x80 | u8::from(self.aptpl()), 0xea, 0x01, 0, 0]);
                return data;
            }
            In::Keys => {
                for key in self.registrations().values() {
                    data.extend_from_slice(&key.to_be_bytes());
                }
            }
            In::Reservation => {
                if let Some(held) = self.held() {
                    // All registrants hold it: no key is the holder's.
                    let key = held
                        .holder
                        .as_ref()
                        .and_then(|holder| self.registrations().get(holder));
                    data.extend_from_slice(&key.copied().unwrap_or(0).to_be_bytes());
                    data.extend_from_slice(&[0, 0, 0, 0, 0, kind, 0, 0]);
                }
            }
            In::FullStatus => {
                for (nexus, key) in self.registrations() {
                    let holds = self.is_holder(nexus);
                    let id = transport_id(nexus);
                    data.extend_from_slice(&key.to_be_bytes());
                    data.extend_from_slice(&[0, 0, 0, 0, u8::from(holds), if holds { kind } else { 0 }]);
                    data.extend_from_slice(&[0; 4]);
                    data.extend_from_slice(&nexus.port.to_be_bytes());
                    data.extend_from_slice(&(id.len() as u32).to_be_bytes());
                    data.extend_from_slice(&id);
                }
            }
        }
        let head = [self.generation(), data.len() as u32]
            .map(u32::to_be_bytes)
            .concat();
        [head, data].concat()
    }
}
