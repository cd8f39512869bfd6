//! The gate before the hosts: the kernel's end of the lease, for what answers hosts without asking anybody.
//!
//! A turnstile that a coin keeps open for a while: heartbeat throws one in with each lease that it is granted, and when
//! heartbeat stalls the turnstile locks by itself. Targets in the kernel (LIO, nvmet, nfsd), the kernel's own answers to
//! ARP and ping, and programs that know nothing of the array all leave through it; the userspace target looks at the
//! lease word besides.
//!
//! It maps to one table of nf_tables for IP and one for ARP, each with a set `lease` of elements that the kernel lets
//! expire:
//!
//! ```text
//! what leaves this machine
//!   a lease is there                          -> passes                 (the set has the packet's protocol)
//!   by the loopback or the interconnect       -> passes
//!   by the front, from any address but its own-> is held                IP, ARP, neighbour discovery, ping
//!   an RST                                    -> passes                 an end is no answer
//!   from a port of a service (SERVICES)       -> is held                by whatever interface
//!   anything else (the management port, ssh)  -> passes
//! ```
//!
//! # The sums
//!
//! An element must not be there at the lease's deadline D. It is asked for with a time t, computed at A; the kernel counts
//! from K >= A, when it takes the batch, and lets the element expire at the tick after K + t, so it may live until
//!
//! ```text
//! K + t + tick      with  t = floor_ms(D - A - MARGIN),  K <= A + SPENT,  tick <= 20 ms (two of HZ=100)
//! <= A + SPENT + D - A - MARGIN + tick  =  D - MARGIN + SPENT + tick  =  D
//! ```
//!
//! MARGIN = SPENT + tick, by definition. K <= A + SPENT is looked at when the kernel has answered: if
//! the answer came later than A + SPENT the element is replaced at once by one computed anew, and taken away when that
//! fails, too. What is left is a process that is stopped between A and K, goes on when the lease has run out, and is
//! stopped again before it has looked: as with every check of a lease before a reply, the taker's slack of 0.2 s has to
//! cover it, for one refresh. Where a lease stood, a batch that comes late is refused by the kernel itself: a refresh
//! begins with the deletion of the old element, and one that has expired is not there to be deleted.
//!
//! Invariants: the tables are there, closed, before heartbeat is ready, and stay when it ends, whatever ends it. Only a
//! grant of the core opens the gate. One thread talks to the kernel; the decision loop never waits for it.
//!
//! It must never open the gate for what it remembers instead of what was granted, and never remove the tables while a
//! target may be alive: stopped is closed.

use pollux_platform::{
    lease,
    nft::{Batch, Expr, Family, Nft, NftError, Table, interface_name},
    realtime,
};
use pollux_runtime::ControllerConfig;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};
use tokio::sync::oneshot;

/// Transport protocols, as IP numbers them.
const TCP: u8 = 6;
const UDP: u8 = 17;
const BOTH: &[u8] = &[TCP, UDP];

/// Ports from which hosts are answered: what, the port, the protocols. RPC services of NFS are known by the ports at which
/// the appliance has to pin them, since those that they choose themselves are known to nobody.
pub const SERVICES: &[(&str, u16, &[u8])] = &[
    ("iSCSI", 3260, &[TCP]),
    ("NVMe/TCP", 4420, &[TCP]),
    ("NVMe/TCP discovery", 8009, &[TCP]),
    ("NFS", 2049, BOTH),
    ("NFSv3 port mapper", 111, BOTH),
    ("NFSv3 mountd", 20048, BOTH),
    ("NFSv3 lock manager", 32803, BOTH),
    ("NFSv3 lock manager (UDP)", 32769, BOTH),
    ("NFSv3 status monitor", 662, BOTH),
    ("NFSv3 quotas", 875, BOTH),
    ("SMB", 445, &[TCP]),
    ("SMB over NetBIOS", 139, &[TCP]),
];

/// Longest time between the reading of the clock and the kernel's answer for which the sums hold.
pub const SPENT: Duration = Duration::from_millis(10);
/// How late the kernel may let an element expire: two ticks of the slowest clock that it is built with.
pub const TICK: Duration = Duration::from_millis(20);
/// What an element has to end before the lease.
pub const MARGIN: Duration = Duration::from_millis(SPENT.as_millis() as u64 + TICK.as_millis() as u64);
/// Shortest time that an element gets: the kernel rounds less than a tick up to one.
pub const SHORTEST: Duration = TICK;
/// How often a refresh is computed anew when the kernel was late, or the time that it should have replaced was over.
const ATTEMPTS: u32 = 4;
/// A gate that cannot be kept for so long ends the daemon: its partner takes over from one that is not there, not from one
/// that nobody can reach.
const GIVE_UP: Duration = Duration::from_secs(3);
/// Priority of the thread under SCHED_RR: that of the decision loop.
const PRIORITY: u8 = 20;

/// The two tables; the set and the chain have the same names in both.
pub const TABLES: [Table; 2] = [
    Table {
        family: Family::Inet,
        name: "pollux",
    },
    Table {
        family: Family::Arp,
        name: "pollux",
    },
];
const SET: &str = "lease";
const CHAIN: &str = "out";
/// Protocol families as the filter knows them (NFPROTO_* of `linux/netfilter.h`).
const IPV4: u8 = 2;
const ARP: u8 = 3;
const IPV6: u8 = 10;

/// What a table's set has while there is a lease.
fn elements(table: Table) -> &'static [u8] {
    match table.family {
        Family::Inet => &[IPV4, IPV6],
        Family::Arp => &[ARP],
    }
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
#[error(
    "front.gate = true in controller.toml, and the kernel cannot hold back replies: {0}; it needs nf_tables (Debian's kernels have \
     it) and CAP_NET_ADMIN (heartbeatd.service has it); this controller serves nothing, its partner may"
)]
pub struct GateError(#[from] NftError);

/// Where hosts are, and where they are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Interface to the partner: never held.
    pub interconnect: String,
    /// Interface to the hosts.
    pub front: String,
    /// The controller's own address on it; every other one floats.
    pub own: IpAddr,
    /// Port of the iSCSI portal, which may be another than 3260.
    pub portal: u16,
}

impl Rules {
    /// Those of a controller.
    #[must_use]
    pub fn of(config: &ControllerConfig) -> Self {
        Self {
            interconnect: config.interconnect.interface.clone(),
            front: config.front.interface.clone(),
            own: config.front.address,
            portal: config.front.portal_port,
        }
    }

    /// Both tables as they have to be, and open for so long.
    fn build(&self, batch: &mut Batch, owned: bool, open_for: Option<Duration>) -> Result<(), NftError> {
        let name = |name: &str| {
            interface_name(name).map_err(|source| NftError {
                operation: "name an interface".to_owned(),
                source,
            })
        };
        let (loopback, interconnect, front) = (name("lo")?, name(&self.interconnect)?, name(&self.front)?);
        for table in TABLES {
            batch.add_table(table, owned);
            batch.add_protocol_set(table, SET);
            batch.add_output_chain(table, CHAIN);
            if let Some(open_for) = open_for {
                batch.add_elements(table, SET, elements(table), open_for);
            }
            let mut rule = |comment: &str, rule: &[Expr]| batch.add_rule(table, CHAIN, comment, rule);
            rule("the lease", &[Expr::Protocol, Expr::In(SET), Expr::Accept]);
            for (comment, interface) in [("this machine", &loopback), ("the partner", &interconnect)] {
                rule(
                    comment,
                    &[Expr::Leaves, Expr::Is(interface.clone()), Expr::Accept],
                );
            }
            match table.family {
                Family::Inet => self.hold_ip(&front, &mut rule),
                Family::Arp => self.hold_arp(&front, &mut rule),
            }
        }
        Ok(())
    }

    fn hold_ip(&self, front: &[u8], rule: &mut dyn FnMut(&str, &[Expr])) {
        let by_front = [Expr::Leaves, Expr::Is(front.to_vec())];
        let v4 = [Expr::Protocol, Expr::Is(vec![IPV4])];
        let v6 = [Expr::Protocol, Expr::Is(vec![IPV6])];
        // The sender's address: RFC 791 §3.1, RFC 8200 §3.
        let (sender4, sender6) = (Expr::Network(12, 4), Expr::Network(8, 16));
        // Of one link, of nobody yet, or the controller's own: none of them ever moves.
        let mut floats4 = [&by_front[..], &v4, &[sender4.clone(), Expr::IsNot(vec![0; 4])]].concat();
        floats4.extend([
            sender4.clone(),
            Expr::Mask(vec![255, 255, 0, 0]),
            Expr::IsNot(vec![169, 254, 0, 0]),
        ]);
        let mut floats6 = [&by_front[..], &v6, &[sender6.clone(), Expr::IsNot(vec![0; 16])]].concat();
        let (ten_bits, link) = (
            [&[0xff, 0xc0][..], &[0; 14]].concat(),
            [&[0xfe, 0x80][..], &[0; 14]].concat(),
        );
        floats6.extend([sender6.clone(), Expr::Mask(ten_bits), Expr::IsNot(link)]);
        match self.own {
            IpAddr::V4(own) => floats4.extend([sender4, Expr::IsNot(own.octets().to_vec())]),
            IpAddr::V6(own) => floats6.extend([sender6, Expr::IsNot(own.octets().to_vec())]),
        }
        for mut floats in [floats4, floats6] {
            floats.extend([Expr::Count, Expr::Drop]);
            rule("a floating address", &floats);
        }
        // Flags: RFC 9293 §3.1.
        let reset = [
            Expr::Transport,
            Expr::Is(vec![TCP]),
            Expr::Above(13, 1),
            Expr::Mask(vec![0x04]),
            Expr::Is(vec![0x04]),
            Expr::Accept,
        ];
        rule("an end is no answer", &reset);
        let portal: (&str, u16, &[u8]) = ("iSCSI portal", self.portal, &[TCP]);
        let services = SERVICES.iter().filter(|(_, port, _)| *port != self.portal);
        for (what, port, transports) in services.chain([&portal]) {
            for transport in *transports {
                let held = [
                    Expr::Transport,
                    Expr::Is(vec![*transport]),
                    Expr::Above(0, 2),
                    Expr::Is(port.to_be_bytes().to_vec()),
                    Expr::Count,
                    Expr::Drop,
                ];
                rule(what, &held);
            }
        }
    }

    fn hold_arp(&self, front: &[u8], rule: &mut dyn FnMut(&str, &[Expr])) {
        // The sender's protocol address on Ethernet: RFC 826.
        let sender = Expr::Network(14, 4);
        let mut floats = vec![Expr::Leaves, Expr::Is(front.to_vec())];
        floats.extend([sender.clone(), Expr::IsNot(vec![0; 4])]);
        floats.extend([
            sender.clone(),
            Expr::Mask(vec![255, 255, 0, 0]),
            Expr::IsNot(vec![169, 254, 0, 0]),
        ]);
        if let IpAddr::V4(own) = self.own {
            floats.extend([sender, Expr::IsNot(own.octets().to_vec())]);
        }
        floats.extend([Expr::Count, Expr::Drop]);
        rule("a floating address", &floats);
    }
}

/// The kernel as the refresher sees it; [`Tables`] is the real one.
pub trait Kernel {
    /// Lets replies pass for so long from now, in the place of the time that still runs; whole milliseconds. Answers false,
    /// and has changed nothing, if none runs any more.
    ///
    /// # Errors
    /// The kernel refuses; nothing has changed.
    fn extend(&mut self, span: Duration) -> Result<bool, NftError>;
    /// Lets replies pass for so long from now, whatever was there before; whole milliseconds.
    ///
    /// # Errors
    /// The kernel refuses; nothing has changed.
    fn open(&mut self, span: Duration) -> Result<(), NftError>;
    /// Lets none pass.
    ///
    /// # Errors
    /// The kernel refuses; what is there ends by itself.
    fn close(&mut self) -> Result<(), NftError>;
    /// CLOCK_MONOTONIC, ns.
    fn now_ns(&mut self) -> u64;
}

/// The tables in the kernel.
#[derive(Debug)]
pub struct Tables {
    rules: Rules,
    nft: Nft,
}

impl Tables {
    /// Makes them, open until the deadline of a lease that still runs (an earlier heartbeat's), or closed. From here on
    /// they belong to this process, as far as the kernel can say so.
    ///
    /// # Errors
    /// [`GateError`] says what is missing.
    pub fn establish(rules: Rules, until_ns: u64) -> Result<Self, GateError> {
        let mut tables = Self {
            rules,
            nft: Nft::open()?,
        };
        let open_for = span(until_ns, tables.now_ns());
        tables.replace(open_for)?;
        Ok(tables)
    }

    /// Makes them, closed, where they are not there: before any target starts.
    ///
    /// # Errors
    /// [`GateError`] says what is missing.
    pub fn close_before_all(rules: Rules) -> Result<(), GateError> {
        let nft = Nft::open()?;
        for table in TABLES {
            if !nft.has(table)? {
                Self { rules, nft }.replace(None)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes them. Only where this controller serves nothing any more and never will as it is.
    ///
    /// # Errors
    /// What the kernel says but that there are none.
    pub fn remove() -> Result<(), NftError> {
        let nft = Nft::open()?;
        for table in TABLES {
            if nft.has(table)? {
                let mut batch = Batch::default();
                batch.delete_table(table);
                nft.commit(batch)?;
            }
        }
        Ok(())
    }

    /// In one step from whatever is there to what has to be.
    fn replace(&mut self, open_for: Option<Duration>) -> Result<(), NftError> {
        let replace = |owned: bool| {
            let mut batch = Batch::default();
            for table in TABLES {
                if self.nft.has(table)? {
                    batch.delete_table(table);
                }
            }
            self.rules.build(&mut batch, owned, open_for)?;
            self.nft.commit(batch)
        };
        match replace(true) {
            // Before Linux 6.9 there are no tables that are owned and outlive their owner.
            Err(error) if error.is_unsupported() => replace(false),
            done => done,
        }
    }
}

impl Kernel for Tables {
    fn extend(&mut self, span: Duration) -> Result<bool, NftError> {
        let mut batch = Batch::default();
        for table in TABLES {
            // Fails where it has expired: then the gate has closed, and whether it may be opened is to be asked anew.
            batch.delete_elements(table, SET, elements(table));
            batch.add_elements(table, SET, elements(table), span);
        }
        match self.nft.commit(batch) {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn open(&mut self, span: Duration) -> Result<(), NftError> {
        let mut open = Batch::default();
        for table in TABLES {
            open.add_elements(table, SET, elements(table), span);
            open.delete_elements(table, SET, elements(table));
            open.add_elements(table, SET, elements(table), span);
        }
        match self.nft.commit(open) {
            // Somebody has thrown the tables away.
            Err(error) if error.is_absent() => {
                tracing::error!(%error, "the tables of the gate were removed; they are made again");
                self.replace(Some(span))
            }
            done => done,
        }
    }

    fn close(&mut self) -> Result<(), NftError> {
        let mut batch = Batch::default();
        for table in TABLES {
            // Added first, so that each is there to be deleted.
            batch.add_elements(table, SET, elements(table), SHORTEST);
            batch.delete_elements(table, SET, elements(table));
        }
        match self.nft.commit(batch) {
            Err(error) if error.is_absent() => self.replace(None),
            done => done,
        }
    }

    fn now_ns(&mut self) -> u64 {
        lease::now_ns()
    }
}

/// The time to ask of the kernel at `now_ns` for a lease that ends at `until_ns`; none if too little is left.
#[must_use]
pub fn span(until_ns: u64, now_ns: u64) -> Option<Duration> {
    let left = Duration::from_nanos(until_ns.checked_sub(now_ns)?).checked_sub(MARGIN)?;
    // The kernel counts whole milliseconds.
    let whole = Duration::from_millis(u64::try_from(left.as_millis()).ok()?);
    (whole >= SHORTEST).then_some(whole)
}

/// Brings the kernel to a lease that ends at `until_ns` (0: none).
///
/// # Errors
/// The kernel refuses: what is there ends no later than what was granted before.
pub fn follow(kernel: &mut impl Kernel, until_ns: u64) -> Result<(), NftError> {
    let mut runs = true;
    for _ in 0..ATTEMPTS {
        let asked = kernel.now_ns();
        let Some(span) = span(until_ns, asked) else { break };
        if !runs {
            kernel.open(span)?;
        } else if !kernel.extend(span)? {
            runs = false;
            continue;
        }
        if kernel.now_ns().saturating_sub(asked) <= SPENT.as_nanos() as u64 {
            return Ok(());
        }
        // The kernel may have counted from later than was reckoned with.
    }
    kernel.close()
}

/// The decision loop's end: hands grants over and never waits.
#[derive(Clone, Debug)]
pub struct Gate {
    grants: mpsc::Sender<u64>,
    problem: Arc<Mutex<Option<Problem>>>,
}

/// The gate cannot be kept as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Since when, CLOCK_MONOTONIC in nanoseconds.
    pub since_ns: u64,
    /// What the kernel says.
    pub why: String,
}

impl Gate {
    /// Starts the thread that follows grants. `failed` hears of it when the gate could not be kept for too long.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        mut kernel: impl Kernel + Send + 'static,
        failed: oneshot::Sender<NftError>,
    ) -> std::io::Result<Self> {
        let (grants, inbox) = mpsc::channel();
        let problem = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&problem);
        std::thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || {
                // What is missing the decision loop has told already.
                let _ = realtime::enter(PRIORITY);
                let mut failed = Some(failed);
                while let Ok(mut until_ns) = inbox.recv() {
                    // Only the last word counts.
                    while let Ok(later) = inbox.try_recv() {
                        until_ns = later;
                    }
                    let outcome = follow(&mut kernel, until_ns);
                    let now_ns = kernel.now_ns();
                    let lasting = note(&shared, &outcome, now_ns);
                    if let (Err(error), true) = (outcome, lasting)
                        && let Some(failed) = failed.take()
                    {
                        drop(failed.send(error));
                    }
                }
            })?;
        Ok(Self { grants, problem })
    }

    /// Replies may leave until then (CLOCK_MONOTONIC); 0: no longer.
    pub fn grant(&self, until_ns: u64) {
        // The thread ends with this value and not before.
        let _ = self.grants.send(until_ns);
    }

    /// What is wrong with the gate now.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Keeps what is wrong for `status`; whether it has been so for too long.
fn note(shared: &Mutex<Option<Problem>>, outcome: &Result<(), NftError>, now_ns: u64) -> bool {
    let mut problem = shared.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(()) => {
            if problem.take().is_some() {
                tracing::info!("the gate follows the lease again");
            }
            false
        }
        Err(error) => {
            if problem.is_none() {
                tracing::error!(%error, "the gate does not follow the lease");
            }
            let since_ns = problem.as_ref().map_or(now_ns, |problem| problem.since_ns);
            *problem = Some(Problem {
                since_ns,
                why: error.to_string(),
            });
            Duration::from_nanos(now_ns.saturating_sub(since_ns)) >= GIVE_UP
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;

    /// A kernel that counts as the real one does, and takes its time before and after.
    #[derive(Default)]
    struct Fake {
        now_ns: u64,
        /// When the element expires.
        ends_ns: u64,
        /// Times before and after each change, ns; none left: at once.
        delays: Vec<(u64, u64)>,
        refuses: bool,
    }

    /// The latest end of an element that was asked for at `now`.
    fn lasting(now: u64, span: Duration) -> u64 {
        assert!(
            span.subsec_nanos() % 1_000_000 == 0,
            "whole milliseconds: {span:?}"
        );
        now + (span + TICK).as_nanos() as u64
    }

    impl Fake {
        fn change(&mut self, ends: impl FnOnce(u64, u64) -> u64) -> Result<(), NftError> {
            let (before, after) = self.delays.pop().unwrap_or_default();
            self.now_ns += before;
            if self.refuses {
                return Err(NftError {
                    operation: "add".into(),
                    source: io::Error::from_raw_os_error(12),
                });
            }
            self.ends_ns = ends(self.now_ns, self.ends_ns);
            self.now_ns += after;
            Ok(())
        }
    }

    impl Kernel for Fake {
        fn extend(&mut self, span: Duration) -> Result<bool, NftError> {
            let mut ran = false;
            self.change(|now, ends| {
                ran = now < ends;
                if ran { lasting(now, span) } else { ends }
            })?;
            Ok(ran)
        }
        fn open(&mut self, span: Duration) -> Result<(), NftError> {
            self.change(|now, _| lasting(now, span))
        }
        fn close(&mut self) -> Result<(), NftError> {
            self.change(|_, _| 0)
        }
        fn now_ns(&mut self) -> u64 {
            self.now_ns
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn what_is_asked_is_what_is_left_less_the_margin() {
        assert_eq!(span(1_000 * MS, 0), Some(Duration::from_millis(970)));
        assert_eq!(span(1_000 * MS + 999_999, 0), Some(Duration::from_millis(970)));
        assert_eq!(span(50 * MS, 0), Some(SHORTEST));
        assert_eq!(span(50 * MS - 1, 0), None);
        assert_eq!(span(10, 20), None, "over");
        assert_eq!(span(0, 0), None);
    }

    #[test]
    fn a_lease_opens_and_its_end_closes() {
        let mut kernel = Fake::default();
        follow(&mut kernel, 1_000 * MS).unwrap();
        assert_eq!(kernel.ends_ns, 990 * MS);
        follow(&mut kernel, 0).unwrap();
        assert_eq!(kernel.ends_ns, 0);
    }

    /// The process was stopped with a refresh in its hand, for longer than what it should have replaced: the kernel
    /// refuses it, and nothing of the old reckoning is used again.
    #[test]
    fn a_refresh_that_comes_after_the_end_opens_nothing() {
        let mut kernel = Fake {
            ends_ns: 900 * MS,
            delays: vec![(2_000 * MS, 0)],
            ..Fake::default()
        };
        follow(&mut kernel, 1_000 * MS).unwrap();
        assert_eq!((kernel.now_ns, kernel.ends_ns), (2_000 * MS, 0));
    }

    #[test]
    fn a_kernel_that_is_always_late_ends_closed() {
        let mut kernel = Fake {
            delays: vec![(30 * MS, 0); 5],
            ..Fake::default()
        };
        follow(&mut kernel, 1_000 * MS).unwrap();
        assert_eq!(kernel.ends_ns, 0);
    }

    proptest! {
        /// However long each step takes: when the refresher is done the element ends before the lease; and a kernel in
        /// time is given what is left.
        #[test]
        fn no_element_outlives_the_lease(
            until in 0..5_000 * MS,
            delays in prop::collection::vec((0..3_000 * MS, 0..3_000 * MS), 0..6),
        ) {
            let punctual = delays.is_empty();
            let ends_ns = until / 2;
            let mut kernel = Fake { now_ns: 7, ends_ns, delays, ..Fake::default() };
            follow(&mut kernel, until).unwrap();
            prop_assert!(kernel.ends_ns <= until);
            prop_assert!(!punctual || kernel.ends_ns + MARGIN.as_nanos() as u64 + MS >= until || until < 7 + 50 * MS);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_told_and_lasts_until_it_is_too_long() {
        let shared = Mutex::new(None);
        let mut kernel = Fake {
            refuses: true,
            ..Fake::default()
        };
        let outcome = follow(&mut kernel, 1_000 * MS);
        assert!(!note(&shared, &outcome, 5));
        let told = shared.lock().unwrap().clone().unwrap();
        assert!(told.since_ns == 5 && told.why.contains("add"), "{told:?}");
        let limit = GIVE_UP.as_nanos() as u64;
        assert!(!note(&shared, &outcome, 4 + limit));
        assert!(note(&shared, &outcome, 5 + limit));
        assert!(!note(&shared, &Ok(()), 6 + limit));
        assert_eq!(*shared.lock().unwrap(), None);
    }

    #[test]
    fn every_port_is_held_once_for_each_protocol() {
        let mut seen = std::collections::BTreeSet::new();
        for (what, port, transports) in SERVICES {
            assert!(*port != 0 && !transports.is_empty(), "{what}");
            for transport in *transports {
                assert!(seen.insert((port, transport)), "{what}: {port} is there twice");
            }
        }
    }
}
