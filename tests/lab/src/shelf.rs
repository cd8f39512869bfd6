//! The shelf: dual-ported SCSI disks, served to both controllers by a process of its own.

use crate::error::Result;
use crate::places::Places;
use crate::topology::{Node, ShelfPort};
use serde::{Deserialize, Serialize};

/// A running shelf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shelf {}

impl Shelf {
    pub fn start(_places: &Places) -> Result<Self> { Ok(Self {}) }
    pub fn port(&self, _node: Node) -> ShelfPort { ShelfPort { portal: std::env::var("LAB_PORTAL").unwrap_or("127.0.0.1:3270".into()), target: "iqn.2026-01.lab:shelf".into(), luns: 1..8 } }
    pub fn end(&self) -> Result<()> { Ok(()) }
}
