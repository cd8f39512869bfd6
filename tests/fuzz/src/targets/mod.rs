//! The doors, one by one.

mod answers;
mod chassis;
mod config;
mod disks;
mod frame;
mod heartbeat;
mod iscsi;
mod messages;
mod scsi;
mod shell;

use crate::Target;
use pollux_api::id::{ControllerId, Epoch, Generation, VolumeId};
use pollux_api::target::{Access, Backing};
use pollux_block_target::backend::memory::Memory;
use pollux_block_target::paths::{Paths, Route};
use pollux_block_target::volume::{Identity, Volume};
use std::sync::Arc;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

macro_rules! targets {
    ($($name:literal: $take:path, $seeds:path, $longest:expr, $memory:expr;)*) => {
        /// Every door, by name.
        pub const TARGETS: &[Target] = &[$(Target {
            name: $name,
            longest: $longest,
            memory: $memory,
            take: $take,
            seeds: $seeds,
        }),*];
    };
}

targets! {
    // name: target, seeds, longest input, most memory.
    "block-frame-client": frame::client, frame::clients, 4 * KIB, 10 * MIB;
    "block-frame-message": frame::message, frame::messages, 2 * KIB, 256 * KIB;
    "block-frame-server": frame::server, frame::servers, 8 * KIB, 10 * MIB;
    "chassis-lines": chassis::lines, chassis::line_seeds, 4 * KIB, MIB;
    "config-change": config::changes, config::change_seeds, 4 * KIB, 4 * MIB;
    "config-document": config::documents, config::document_seeds, 4 * KIB, 4 * MIB;
    "config-log": config::entries, config::entry_seeds, 4 * KIB, 4 * MIB;
    "controller-toml": config::controller, config::controllers, 2 * KIB, MIB;
    "heartbeat-datagram": heartbeat::datagram, heartbeat::datagrams, 1536, 64 * KIB;
    "iscsi-login": iscsi::login, iscsi::logins, 4 * KIB, 256 * KIB;
    "iscsi-session": iscsi::session, iscsi::sessions, 8 * KIB, 4 * MIB;
    "iscsi-stream": iscsi::stream, iscsi::streams, 2 * KIB, 2 * MIB;
    "json-payloads": messages::payloads, messages::payload_seeds, 4 * KIB, MIB;
    "pool-intents": disks::intents, disks::intent_seeds, 4200, MIB;
    "pool-label": disks::label, disks::labels, 12 * KIB, MIB;
    "pool-table": disks::page, disks::pages, 8200, MIB;
    "quorum-area": heartbeat::area, heartbeat::areas, 4 * KIB, 256 * KIB;
    "router-bus": messages::bus, messages::buses, 4 * KIB, 8 * MIB;
    "scsi-answers": answers::answers, answers::answer_seeds, 2 * KIB, 256 * KIB;
    "scsi-command": scsi::commands, scsi::command_seeds, 8 * KIB, 4 * MIB;
    "shelf-files": disks::shelf, disks::shelves, 4 * KIB, MIB;
    "shell-arguments": shell::arguments, shell::argument_seeds, 512, 4 * MIB;
    "shell-screens": shell::screens, shell::screen_seeds, 16 * KIB, 4 * MIB;
    "wire-envelope": messages::envelope, messages::envelopes, 2 * KIB, MIB;
}

/// Runs a future to its end, on a runtime that this thread keeps.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A volume in memory that is served here.
fn volume(block_size: u32, blocks: u64) -> (Arc<Volume>, Arc<Memory>) {
    let paths = Paths::new(ControllerId::A);
    let route = Route {
        epoch: Epoch::new(1),
        generation: Generation::new(1),
        backing: Backing::Local,
        access: [Access::Optimized, Access::NonOptimized],
    };
    paths.flip(route, |_| {}).expect("the first claim");
    let identity = Identity {
        id: VolumeId::from_bytes([0x5a; 16]),
        serial: "00c0ffee00c0ffee".into(),
        block_size,
    };
    let memory = Arc::new(Memory::new(block_size, blocks));
    let volume = Volume::new(identity, blocks, paths, memory.clone(), memory.clone());
    (Arc::new(volume), memory)
}
