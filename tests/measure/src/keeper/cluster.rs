//! etcd: one node or three, on loopback, with their defaults.

use crate::error::{Error, Result};
use crate::peer::etcd::{Node, THREE};
use crate::process::Process;
use crate::stage::{Stage, free_ports};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

struct Member {
    process: Process,
    arguments: Vec<String>,
    log: PathBuf,
    address: SocketAddr,
}

/// Nodes that have found each other.
pub struct Cluster {
    /// Its name in the report.
    pub name: &'static str,
    members: Vec<Member>,
}

fn start(arguments: &[String], log: &Path) -> Result<Process> {
    Process::start(Command::new("etcd").args(arguments), log)
}

impl Cluster {
    /// Starts the nodes; their data is in `data`.
    pub(crate) fn start(stage: &Stage, data: &Path, name: &'static str) -> Result<Self> {
        let count = if name == THREE { 3 } else { 1 };
        let ports = free_ports::<6>()?;
        let of_member = |number: usize| {
            let url = |port: SocketAddr| format!("http://{port}");
            (url(ports[2 * number]), url(ports[2 * number + 1]))
        };
        let all: Vec<String> = (0..count)
            .map(|number| format!("node{number}={}", of_member(number).1))
            .collect();
        let mut cluster = Self {
            name,
            members: Vec::new(),
        };
        for number in 0..count {
            let (client, peer) = of_member(number);
            let folder = data.join(format!("etcd-{count}-{number}"));
            let arguments: Vec<String> = [
                ("name", format!("node{number}")),
                ("data-dir", folder.display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", all.join(",")),
            ]
            .map(|(name, value)| format!("--{name}={value}"))
            .into();
            let log = stage.path(&format!("etcd-{count}-{number}.log"));
            cluster.members.push(Member {
                process: start(&arguments, &log)?,
                arguments,
                log,
                address: ports[2 * number],
            });
        }
        cluster.leader()?;
        Ok(cluster)
    }

    /// The place of the leader, once there is one.
    ///
    /// # Errors
    /// There is none.
    pub fn leader(&mut self) -> Result<usize> {
        for place in 0..self.members.len() {
            let Member { process, address, .. } = &mut self.members[place];
            let leads = process.until("knows a leader", || {
                Node::connect(*address).and_then(|mut node| node.leads()).ok()?
            })?;
            if leads {
                return Ok(place);
            }
        }
        Err(Error::Missing(format!("{}: nobody leads", self.name)))
    }

    /// Where a node is spoken to.
    #[must_use]
    pub fn address(&self, place: usize) -> SocketAddr {
        self.members[place].address
    }

    /// Every process whose time counts.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.process.id()).collect()
    }

    /// Kills a node in the middle of whatever it does.
    ///
    /// # Errors
    /// What the system says.
    pub fn lose(&mut self, place: usize) -> Result<()> {
        self.members[place].process.kill()
    }

    /// Starts a node again and waits until it holds what the `leader` holds.
    ///
    /// # Errors
    /// It ends, or does not within `patience`.
    pub fn join(&mut self, place: usize, leader: usize, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let goal = Node::connect(self.address(leader))?.revision()?;
        let member = &mut self.members[place];
        member.process = start(&member.arguments, &member.log)?;
        let address = member.address;
        let mut node = member.process.until("answers", || Node::connect(address).ok())?;
        loop {
            // While it starts it refuses, and ends the connection.
            match node.revision() {
                Ok(revision) if revision >= goal => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    node = member.process.until("answers", || Node::connect(address).ok())?;
                }
            }
            if Instant::now() > end {
                return Err(Error::Missing(format!(
                    "not finished in {} s",
                    patience.as_secs()
                )));
            }
            crate::process::pause();
        }
    }
}
