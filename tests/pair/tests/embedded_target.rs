//! The test host and the embedded target, face to face: two portals over one memory, no array
//! around them. Shows that the two understand each other on identity, port groups, flips and unit
//! attentions, before anything else can be to blame.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollux_api::id::{ControllerId, Epoch, Generation, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::server;
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::target::{Mappings, Target};
use pollux_block_target::volume::{Identity, Volume};
use pollux_host::engine::HostConfig;
use pollux_host::scsi::AccessState;
use pollux_host::time::now_ns;
use pollux_host::workload::{StreamConfig, Workload, WorkloadConfig};
use pollux_host::{Host, LoadError, Settings};

const TARGET: &str = "iqn.2026-01.test:embedded";
const HOST: &str = "iqn.2026-01.test:host";
const BLOCKS: u64 = 16384;

/// One controller's target.
struct Side {
    target: Arc<Target>,
    paths: Arc<Paths>,
    gate: Arc<ManualGate>,
    portal: String,
}

struct Pair {
    sides: [Side; 2],
    generation: u64,
    _runtime: tokio::runtime::Runtime,
}

impl Pair {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let memory = Arc::new(Memory::new(512, BLOCKS));
        let sides = ControllerId::ALL.map(|own| {
            let _context = runtime.enter();
            let any = "127.0.0.1:0".parse().expect("address");
            let listener = server::reserve(any)
                .and_then(|port| port.listen(any))
                .expect("a free port");
            let portal = listener.local_addr().expect("bound").to_string();
            let gate = Arc::new(ManualGate::default());
            let tag = own.index() + 1;
            let target = Target::new(TARGET.into(), own, vec![format!("{portal},{tag}")], gate.clone());
            let paths = Paths::new(own);
            let identity = Identity {
                id: VolumeId::from_bytes([0x5a; 16]),
                serial: "00c0ffee00c0ffee".into(),
                block_size: 512,
            };
            let volume = Arc::new(Volume::new(
                identity,
                BLOCKS,
                paths.clone(),
                memory.clone(),
                memory.clone(),
            ));
            let mappings: Mappings = [(HOST.to_owned(), BTreeMap::from([(0, volume)]))].into();
            target.set_mappings(mappings);
            runtime.spawn(server::serve(listener, target.clone()));
            Side {
                target,
                paths,
                gate,
                portal,
            }
        });
        let mut pair = Pair {
            sides,
            generation: 0,
            _runtime: runtime,
        };
        pair.flip(ControllerId::A);
        pair
    }

    /// Makes `owner` the optimized one, in the order of a planned move.
    fn flip(&mut self, owner: ControllerId) {
        self.generation += 1;
        let mut access = [Access::NonOptimized; 2];
        access[owner.index()] = Access::Optimized;
        for side in &self.sides {
            let route = Route {
                epoch: Epoch::new(1),
                generation: Generation::new(self.generation),
                backing: Backing::Local,
                access,
            };
            side.target.flip(&side.paths, route).expect("a newer claim");
        }
    }

    fn host(&self) -> Option<Arc<Host>> {
        let config = HostConfig {
            initiator: HOST.into(),
            target: TARGET.into(),
            portals: self.sides.iter().map(|side| side.portal.clone()).collect(),
            settings: Settings::default(),
            header_digest: true,
        };
        match Host::start(config) {
            Ok(host) => {
                host.wait_ready(1, 2, 10_000).expect("one device over two paths");
                Some(Arc::new(host))
            }
            Err(err @ LoadError::Missing { .. }) => {
                eprintln!("SKIPPED: {err}");
                None
            }
            Err(err) => panic!("{err}"),
        }
    }
}

fn load(host: &Arc<Host>) -> Workload {
    let stream = StreamConfig {
        writer: 1,
        lun: 0,
        first_lba: 0,
        units: 1024,
        unit_blocks: 8,
        queue_depth: 4,
        think_us: 300,
        readers: 1,
    };
    let config = WorkloadConfig {
        seed: 3,
        streams: vec![stream],
        ack_log: None,
    };
    Workload::start(Arc::clone(host), &config).expect("fits")
}

fn progress(workload: &Workload, more: u64) {
    let before = workload.reports()[0].acknowledged;
    let deadline = Instant::now() + Duration::from_secs(20);
    while workload.reports()[0].acknowledged < before + more {
        assert!(
            Instant::now() < deadline,
            "{more} more acknowledgements within 20 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn both_ports_tell_one_story_of_one_device() {
    let pair = Pair::start();
    let Some(host) = pair.host() else { return };
    let device = &host.devices()[0];
    assert_eq!(
        (device.blocks, device.block_size, device.write_cache),
        (BLOCKS, 512, false)
    );
    let states: Vec<_> = device.paths.iter().map(|path| path.state).collect();
    assert_eq!(
        states,
        [Some(AccessState::Optimized), Some(AccessState::NonOptimized)]
    );
    let reports = host.port_groups(0);
    let told: Vec<_> = reports
        .iter()
        .map(|(_, report)| report.clone().expect("answered"))
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0], told[1]);
    assert_eq!(host.conflicts(), [] as [String; 0]);
}

#[test]
fn flips_under_load_cost_no_error() {
    let mut pair = Pair::start();
    let Some(host) = pair.host() else { return };
    let mut workload = load(&host);
    progress(&workload, 100);
    for owner in [ControllerId::B, ControllerId::A, ControllerId::B] {
        pair.flip(owner);
        progress(&workload, 200);
        let deadline = Instant::now() + Duration::from_secs(10);
        let preferred =
            |host: &Host| host.devices()[0].paths[owner.index()].state == Some(AccessState::Optimized);
        while !preferred(&host) {
            assert!(
                Instant::now() < deadline,
                "the host follows to {owner} within 10 s"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let report = &workload.stop()[0];
    assert_eq!(
        (report.errors.as_slice(), report.findings.as_slice()),
        ([].as_slice(), [].as_slice())
    );
    assert!(workload.verify().is_clean());
    let attentions = host
        .counts()
        .iter()
        .filter(|(what, _)| what.status.contains("06/2a06"))
        .count();
    assert!(
        attentions >= 2,
        "both sessions got unit attentions: {:?}",
        host.counts()
    );
}

#[test]
fn without_a_lease_no_reply_leaves_and_nothing_fails() {
    let pair = Pair::start();
    let Some(host) = pair.host() else { return };
    let mut workload = load(&host);
    progress(&workload, 100);
    let shut = now_ns();
    for side in &pair.sides {
        side.gate.set(false);
    }
    // Long enough that the host gives the silent sessions up, and tries to log in again.
    let deadline = Instant::now() + Duration::from_secs(20);
    while host
        .events()
        .iter()
        .filter(|event| event.what.starts_with("session lost"))
        .count()
        < 2
    {
        assert!(Instant::now() < deadline, "silence is noticed within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    let frozen = workload.reports()[0].clone();
    assert!(
        frozen.last_ack_ns < shut + 500_000_000,
        "an acknowledgement left without a lease"
    );
    for side in &pair.sides {
        side.gate.set(true);
    }
    progress(&workload, 100);
    let report = &workload.stop()[0];
    assert_eq!(
        (report.errors.as_slice(), report.findings.as_slice()),
        ([].as_slice(), [].as_slice())
    );
    assert!(
        report
            .longest_gap(shut)
            .is_some_and(|gap| gap.length_ns() > 1_000_000_000)
    );
    assert!(workload.verify().is_clean());
}
