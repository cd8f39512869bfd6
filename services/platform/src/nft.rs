//! Rules of the kernel's packet filter, nf_tables, as messages: `nft -f` for the few things that the array does with it,
//! without the program.
//!
//! A [`Batch`] is a list of changes that the kernel takes whole or not at all; packets see the state before it or the
//! state after it, never one between. [`Nft`] is the connection that hands it over, blocking, and comes back when every
//! change is in force or with the first that was refused. It belongs to the network namespace in which it was opened.
//!
//! ```text
//! table   of one family of packets; owned by the connection that made it, where the kernel can (6.9): nobody else
//!         changes it, and it stays when the owner ends
//!   set     of constants; an element may have a timeout, which the kernel counts from when it takes the batch
//!   chain   a hook: here only packets that this machine sends
//!     rule    expressions one after the other; the first that does not match ends it
//! ```
//!
//! Formats: `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`; every number is big-endian but those of the
//! netlink headers.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};
use std::{
    fmt, io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

/// Attributes, from `linux/netfilter/nf_tables.h`; libc has the other constants.
mod attr {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;
    pub(super) const SET_TABLE: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const SET_ELEM_KEY: u16 = 1;
    pub(super) const SET_ELEM_TIMEOUT: u16 = 4;
    pub(super) const ELEM_LIST_TABLE: u16 = 1;
    pub(super) const ELEM_LIST_SET: u16 = 2;
    pub(super) const ELEM_LIST_ELEMENTS: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const CMP_SREG: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const META_DREG: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_DREG: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const BITWISE_SREG: u16 = 1;
    pub(super) const BITWISE_DREG: u16 = 2;
    pub(super) const BITWISE_LEN: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SREG: u16 = 2;
}

/// NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST.
const OWNED: u32 = 2 | 4;
/// Type of a set's key as nft(8) knows it (TYPE_NFPROTO of its `datatype.h`): only so that it lists it by name.
const TYPE_NFPROTO: u32 = 2;
/// Type of a rule's user data that nft(8) shows as its comment (NFTNL_UDATA_RULE_COMMENT).
const UDATA_COMMENT: u8 = 0;
/// Priority of ordinary filters (NF_IP_PRI_FILTER).
const PRIORITY_FILTER: u32 = 0;
/// Longest name of an interface with its zero (IFNAMSIZ); the kernel compares all of it.
const INTERFACE_NAME: usize = 16;
/// More than any answer to one request.
const ANSWER: usize = 1 << 13;
/// Length of a netlink header.
const HEADER: usize = 16;

/// Family of packets of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// ARP.
    Arp,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Arp => libc::NFPROTO_ARP as u8,
        }
    }

    /// The hook of packets that this machine sends.
    fn output(self) -> u32 {
        match self {
            Self::Inet => libc::NF_INET_LOCAL_OUT as u32,
            Self::Arp => libc::NF_ARP_OUT as u32,
        }
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Of these packets.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Arp => "arp",
        };
        write!(f, "table {family} {}", self.name)
    }
}

/// One step of a rule. What is loaded is compared with what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Load the protocol family of the packet, one byte (NFPROTO_*).
    Protocol,
    /// Load the protocol above IP, one byte.
    Transport,
    /// Load the name of the interface through which it leaves, 16 bytes.
    Leaves,
    /// Load bytes from an offset of the IP or ARP header.
    Network(u32, u32),
    /// Load bytes from an offset of the header above IP.
    Above(u32, u32),
    /// Of what is loaded, keep these bits.
    Mask(Vec<u8>),
    /// Go on if what is loaded is this.
    Is(Vec<u8>),
    /// Go on if it is not.
    IsNot(Vec<u8>),
    /// Go on if it is in this set of the table.
    In(&'static str),
    /// Count the packet.
    Count,
    /// Let it pass this table.
    Accept,
    /// Throw it away.
    Drop,
}

/// The name of an interface as [`Expr::Leaves`] loads it.
///
/// # Errors
/// It is longer than any name of an interface can be.
pub fn interface_name(name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = name.as_bytes().to_vec();
    if bytes.is_empty() || bytes.len() >= INTERFACE_NAME || bytes.contains(&0) {
        let what = format!("{name:?} is no name of an interface: 1 to 15 bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    bytes.resize(INTERFACE_NAME, 0);
    Ok(bytes)
}

/// Why the kernel did not take a change.
#[derive(Debug, thiserror::Error)]
#[error("nf_tables: {operation}: {source}")]
pub struct NftError {
    /// What was asked.
    pub operation: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl NftError {
    /// What was named in a change is not there, or no longer.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.source.raw_os_error() == Some(libc::ENOENT)
    }

    /// The kernel has nothing of the kind.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EOPNOTSUPP)
    }
}

/// Messages under construction.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |inner| inner.0.extend_from_slice(value));
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// An attribute whose value is attributes again.
    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest(kind | libc::NLA_F_NESTED as u16, fill);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        // What is made here has a few hundred bytes.
        let length = u16::try_from(self.0.len() - start).expect("an attribute of less than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        // The next one begins at a multiple of four.
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn message(&mut self, header: Header, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&header.kind.to_ne_bytes());
        self.0.extend_from_slice(&header.flags.to_ne_bytes());
        self.0.extend_from_slice(&header.sequence.to_ne_bytes());
        // To the kernel.
        self.0.extend_from_slice(&[0; 4]);
        self.0.push(header.family);
        self.0.push(libc::NFNETLINK_V0 as u8);
        self.0.extend_from_slice(&header.resource.to_be_bytes());
        fill(self);
        let length = u32::try_from(self.0.len() - start).expect("a message of less than 4 GiB");
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
}

/// Number of a message of nf_tables.
fn of_nftables(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | message as u16
}

/// Changes that the kernel takes together.
pub struct Batch {
    bytes: Bytes,
    /// What each message asks, in the order of their sequence numbers.
    asked: Vec<String>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batch").field(&self.asked).finish()
    }
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self {
            bytes: Bytes::default(),
            asked: vec![],
        };
        batch.frame("begin a batch", libc::NFNL_MSG_BATCH_BEGIN);
        batch
    }
}

impl Batch {
    fn frame(&mut self, what: &str, kind: libc::c_int) {
        let header = Header {
            kind: kind as u16,
            flags: libc::NLM_F_REQUEST as u16,
            sequence: self.asked.len() as u32,
            family: 0,
            resource: libc::NFNL_SUBSYS_NFTABLES as u16,
        };
        self.asked.push(what.to_owned());
        self.bytes.message(header, |_| {});
    }

    fn push(
        &mut self,
        what: String,
        (kind, flags): (libc::c_int, libc::c_int),
        table: Table,
        fill: impl FnOnce(&mut Bytes),
    ) {
        let header = Header {
            kind: of_nftables(kind),
            flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16,
            sequence: self.asked.len() as u32,
            family: table.family.number(),
            resource: 0,
        };
        self.asked.push(what);
        self.bytes.message(header, fill);
    }

    /// Adds a table; `owned`: nobody but this connection may change it, and it stays when the connection ends.
    pub fn add_table(&mut self, table: Table, owned: bool) {
        let kind = (libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE);
        self.push(format!("add {table}"), kind, table, |message| {
            message.text(attr::TABLE_NAME, table.name);
            message.number(attr::TABLE_FLAGS, if owned { OWNED } else { 0 });
        });
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, table: Table) {
        let kind = (libc::NFT_MSG_DELTABLE, 0);
        self.push(format!("delete {table}"), kind, table, |message| {
            message.text(attr::TABLE_NAME, table.name);
        });
    }

    /// Adds a set of protocol families (what [`Expr::Protocol`] loads) whose elements end by themselves.
    pub fn add_protocol_set(&mut self, table: Table, name: &'static str) {
        let kind = (libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE);
        self.push(format!("add set {name} to {table}"), kind, table, |message| {
            message.text(attr::SET_TABLE, table.name);
            message.text(attr::SET_NAME, name);
            message.number(attr::SET_FLAGS, libc::NFT_SET_TIMEOUT as u32);
            message.number(attr::SET_KEY_TYPE, TYPE_NFPROTO);
            message.number(attr::SET_KEY_LEN, 1);
            // Sets without a name are found by it; the kernel wants one of every set.
            message.number(attr::SET_ID, 1);
        });
    }

    /// Adds elements to a set, which end `timeout` (whole milliseconds) after the kernel has taken them. What is there
    /// already stays, and before Linux 6.12 with the time that it has.
    pub fn add_elements(&mut self, table: Table, set: &'static str, elements: &[u8], timeout: Duration) {
        let kind = (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE);
        // Longer than any lease; and the kernel refuses what it cannot count.
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::from(u32::MAX));
        self.elements(
            format!("add to set {set} of {table}"),
            kind,
            (table, set),
            elements,
            |element| element.attribute(attr::SET_ELEM_TIMEOUT, &timeout.to_be_bytes()),
        );
    }

    /// Removes elements from a set. One that is not there, or whose time is over, fails the batch.
    pub fn delete_elements(&mut self, table: Table, set: &'static str, elements: &[u8]) {
        let kind = (libc::NFT_MSG_DELSETELEM, 0);
        let what = format!("delete from set {set} of {table}");
        self.elements(what, kind, (table, set), elements, |_| {});
    }

    fn elements(
        &mut self,
        what: String,
        kind: (libc::c_int, libc::c_int),
        (table, set): (Table, &'static str),
        elements: &[u8],
        more: impl Fn(&mut Bytes),
    ) {
        self.push(what, kind, table, |message| {
            message.text(attr::ELEM_LIST_TABLE, table.name);
            message.text(attr::ELEM_LIST_SET, set);
            message.nested(attr::ELEM_LIST_ELEMENTS, |list| {
                for element in elements {
                    list.nested(attr::LIST_ELEM, |message| {
                        message.nested(attr::SET_ELEM_KEY, |key| {
                            key.attribute(attr::DATA_VALUE, &[*element]);
                        });
                        more(message);
                    });
                }
            });
        });
    }

    /// Adds a chain of what this machine sends; what no rule decides passes.
    pub fn add_output_chain(&mut self, table: Table, name: &'static str) {
        let kind = (libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE);
        self.push(format!("add chain {name} to {table}"), kind, table, |message| {
            message.text(attr::CHAIN_TABLE, table.name);
            message.text(attr::CHAIN_NAME, name);
            message.nested(attr::CHAIN_HOOK, |hook| {
                hook.number(attr::HOOK_NUMBER, table.family.output());
                hook.number(attr::HOOK_PRIORITY, PRIORITY_FILTER);
            });
            message.number(attr::CHAIN_POLICY, libc::NF_ACCEPT as u32);
            message.text(attr::CHAIN_TYPE, "filter");
        });
    }

    /// Adds a rule behind those that are there. The comment is what `nft list` shows beside it.
    pub fn add_rule(&mut self, table: Table, chain: &'static str, comment: &str, rule: &[Expr]) {
        let kind = (libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        let what = format!("add rule \"{comment}\" to {table}");
        self.push(what, kind, table, |message| {
            message.text(attr::RULE_TABLE, table.name);
            message.text(attr::RULE_CHAIN, chain);
            message.nested(attr::RULE_EXPRESSIONS, |list| {
                for expr in rule {
                    list.nested(attr::LIST_ELEM, |element| expression(element, expr));
                }
            });
            // A type, a length, the text with its zero.
            let length = u8::try_from(comment.len() + 1).unwrap_or(0);
            if length > 0 {
                let data = [&[UDATA_COMMENT, length], comment.as_bytes(), &[0]].concat();
                message.attribute(attr::RULE_USERDATA, &data);
            }
        });
    }
}

fn expression(element: &mut Bytes, expr: &Expr) {
    let register = libc::NFT_REG_1 as u32;
    let mut make = |name: &str, fill: &dyn Fn(&mut Bytes)| {
        element.text(attr::EXPR_NAME, name);
        element.nested(attr::EXPR_DATA, |data| fill(data));
    };
    let meta = |key: libc::c_int| {
        move |data: &mut Bytes| {
            data.number(attr::META_KEY, key as u32);
            data.number(attr::META_DREG, register);
        }
    };
    let payload = |base: libc::c_int, offset: u32, length: u32| {
        move |data: &mut Bytes| {
            data.number(attr::PAYLOAD_DREG, register);
            data.number(attr::PAYLOAD_BASE, base as u32);
            data.number(attr::PAYLOAD_OFFSET, offset);
            data.number(attr::PAYLOAD_LEN, length);
        }
    };
    let compare = |operation: libc::c_int, value: &[u8]| {
        let value = value.to_vec();
        move |data: &mut Bytes| {
            data.number(attr::CMP_SREG, register);
            data.number(attr::CMP_OP, operation as u32);
            data.nested(attr::CMP_DATA, |of| of.attribute(attr::DATA_VALUE, &value));
        }
    };
    let verdict = |code: libc::c_int| {
        move |data: &mut Bytes| {
            data.number(attr::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32);
            data.nested(attr::IMMEDIATE_DATA, |of| {
                of.nested(attr::DATA_VERDICT, |of| {
                    of.number(attr::VERDICT_CODE, code as u32)
                });
            });
        }
    };
    match expr {
        Expr::Protocol => make("meta", &meta(libc::NFT_META_NFPROTO)),
        Expr::Transport => make("meta", &meta(libc::NFT_META_L4PROTO)),
        Expr::Leaves => make("meta", &meta(libc::NFT_META_OIFNAME)),
        Expr::Network(offset, length) => make(
            "payload",
            &payload(libc::NFT_PAYLOAD_NETWORK_HEADER, *offset, *length),
        ),
        Expr::Above(offset, length) => make(
            "payload",
            &payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, *offset, *length),
        ),
        Expr::Mask(mask) => make("bitwise", &|data| {
            data.number(attr::BITWISE_SREG, register);
            data.number(attr::BITWISE_DREG, register);
            data.number(attr::BITWISE_LEN, mask.len() as u32);
            data.nested(attr::BITWISE_MASK, |of| of.attribute(attr::DATA_VALUE, mask));
            let nothing = vec![0; mask.len()];
            data.nested(attr::BITWISE_XOR, |of| of.attribute(attr::DATA_VALUE, &nothing));
        }),
        Expr::Is(value) => make("cmp", &compare(libc::NFT_CMP_EQ, value)),
        Expr::IsNot(value) => make("cmp", &compare(libc::NFT_CMP_NEQ, value)),
        Expr::In(set) => make("lookup", &|data| {
            data.text(attr::LOOKUP_SET, set);
            data.number(attr::LOOKUP_SREG, register);
        }),
        Expr::Count => make("counter", &|_| {}),
        Expr::Accept => make("immediate", &verdict(libc::NF_ACCEPT)),
        Expr::Drop => make("immediate", &verdict(libc::NF_DROP)),
    }
}

/// A connection to nf_tables of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: OwnedFd,
}

impl Nft {
    /// Opens one in the caller's network. Needs CAP_NET_ADMIN there for every change.
    ///
    /// # Errors
    /// The kernel has no nf_tables.
    pub fn open() -> Result<Self, NftError> {
        let failed = |errno: nix::errno::Errno| NftError {
            operation: "open a connection".to_owned(),
            source: errno.into(),
        };
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(failed)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Makes all changes of the batch, or none of them.
    ///
    /// # Errors
    /// The first change that the kernel refused, and why.
    pub fn commit(&self, mut batch: Batch) -> Result<(), NftError> {
        batch.frame("end a batch", libc::NFNL_MSG_BATCH_END);
        // Neither the beginning nor the end is confirmed.
        let confirmed = batch.asked.len() - 2;
        self.ask(&batch.bytes.0, &batch.asked, confirmed)
    }

    /// Whether there is a table.
    ///
    /// # Errors
    /// What the kernel says but that there is none.
    pub fn has(&self, table: Table) -> Result<bool, NftError> {
        let mut message = Bytes::default();
        let header = Header {
            kind: of_nftables(libc::NFT_MSG_GETTABLE),
            flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
            sequence: 0,
            family: table.family.number(),
            resource: 0,
        };
        message.message(header, |message| message.text(attr::TABLE_NAME, table.name));
        match self.ask(&message.0, &[format!("look for {table}")], 1) {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends messages and reads what the kernel says to each. It has answered all of them when the call that sends them
    /// returns, so nothing here waits.
    fn ask(&self, messages: &[u8], asked: &[String], confirmed: usize) -> Result<(), NftError> {
        let failed = |operation: &str, source: io::Error| NftError {
            operation: operation.to_owned(),
            source,
        };
        let whole = asked.join(", ");
        // Of an earlier request, if its answers were not read to the end.
        while self.receive().is_ok() {}
        sendto(
            self.socket.as_raw_fd(),
            messages,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )
        .map_err(|errno| failed(&whole, errno.into()))?;
        let mut left = confirmed;
        let mut refused: Option<NftError> = None;
        loop {
            let datagram = match self.receive() {
                Ok(datagram) => datagram,
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(errno) => return Err(failed(&whole, errno.into())),
            };
            for (sequence, errno) in verdicts(&datagram) {
                match errno {
                    0 => left = left.saturating_sub(1),
                    errno if refused.is_none() => {
                        let what = usize::try_from(sequence).ok().and_then(|at| asked.get(at));
                        refused = Some(failed(
                            what.unwrap_or(&whole),
                            io::Error::from_raw_os_error(errno),
                        ));
                    }
                    _ => {}
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if left == 0 => Ok(()),
            None => {
                let what = format!("{left} changes are not confirmed");
                Err(failed(&whole, io::Error::other(what)))
            }
        }
    }

    fn receive(&self) -> nix::Result<Vec<u8>> {
        let mut buffer = vec![0; ANSWER];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The sequence number and the errno (0: done) of each answer in a datagram.
fn verdicts(mut datagram: &[u8]) -> Vec<(u32, i32)> {
    let word =
        |bytes: &[u8], at: usize| Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).unwrap_or_default());
    let mut found = vec![];
    while let (Some(length), Some(sequence)) = (word(datagram, 0), word(datagram, 8)) {
        let length = u32::from_ne_bytes(length) as usize;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        if length < HEADER || length > datagram.len() {
            break;
        }
        if let (true, Some(errno)) = (kind == libc::NLMSG_ERROR as u16, word(datagram, HEADER)) {
            found.push((
                u32::from_ne_bytes(sequence),
                i32::from_ne_bytes(errno).saturating_neg(),
            ));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: Table = Table {
        family: Family::Inet,
        name: "pollux",
    };

    /// Every attribute of a message: depth, kind, value if it is not nested.
    fn attributes(mut bytes: &[u8], depth: usize, found: &mut Vec<(usize, u16, Vec<u8>)>) {
        while !bytes.is_empty() {
            let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
            let value = &bytes[4..length];
            if kind & libc::NLA_F_NESTED as u16 == 0 {
                found.push((depth, kind, value.to_vec()));
            } else {
                found.push((depth, kind & !(libc::NLA_F_NESTED as u16), vec![]));
                attributes(value, depth + 1, found);
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    #[test]
    fn an_element_has_its_key_and_its_time_where_the_kernel_looks_for_them() {
        let mut batch = Batch::default();
        batch.add_elements(TABLE, "lease", &[2], Duration::from_millis(970));
        // Behind the beginning: a header of netlink and one of nfnetlink.
        let message = &batch.bytes.0[HEADER + 4..];
        assert_eq!(
            u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize,
            message.len()
        );
        assert_eq!(
            message[4..6],
            [12, 10],
            "NFT_MSG_NEWSETELEM of nf_tables, on a little-endian machine"
        );
        let mut found = vec![];
        attributes(&message[HEADER + 4..], 0, &mut found);
        assert_eq!(
            found,
            [
                (0, attr::ELEM_LIST_TABLE, b"pollux\0".to_vec()),
                (0, attr::ELEM_LIST_SET, b"lease\0".to_vec()),
                (0, attr::ELEM_LIST_ELEMENTS, vec![]),
                (1, attr::LIST_ELEM, vec![]),
                (2, attr::SET_ELEM_KEY, vec![]),
                (3, attr::DATA_VALUE, vec![2]),
                (2, attr::SET_ELEM_TIMEOUT, 970_u64.to_be_bytes().to_vec()),
            ]
        );
    }

    #[test]
    fn an_interface_is_compared_with_all_its_bytes() {
        assert_eq!(interface_name("eth0").unwrap(), *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0");
        for wrong in ["", "sixteen-letters-", "a\0b"] {
            assert!(interface_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_answer_of_a_datagram_is_read() {
        let answer = |sequence: u32, errno: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&(-errno).to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };
        let both = [answer(1, 0), answer(7, libc::ENOENT)].concat();
        assert_eq!(verdicts(&both), [(1, 0), (7, libc::ENOENT)]);
        assert_eq!(verdicts(&both[..40]), [(1, 0)], "half an answer is none");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Each answer has a header.
            prop_assert!(verdicts(&bytes).len() <= bytes.len() / HEADER);
        }
    }
}
