//! What must never happen, one file each. Each judge sees every [`Fact`] at the instant when it became true, keeps what it
//! needs to remember, and answers with what is wrong.

mod i4_one_optimized;
mod s1_confirmed_fence;
mod s1_one_writer;
mod s2_one_survivor;
mod s3_no_stale_configuration;
mod s4_nothing_lost;
mod s5_no_taking_from_the_living;
mod s6_no_silent_exclusion;
mod s7_no_stale_reads;

use crate::setup::Setup;
use crate::truth::Fact;
use crate::world::World;
use pollux_heartbeat_core::Timing;
use pollux_heartbeat_core::record::Record;

/// All judges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invariants {
    confirmed_fence: s1_confirmed_fence::ConfirmedFence,
    one_writer: s1_one_writer::OneWriter,
    one_survivor: s2_one_survivor::OneSurvivor,
    configuration: s3_no_stale_configuration::NoStaleConfiguration,
    nothing_lost: s4_nothing_lost::NothingLost,
    living: s5_no_taking_from_the_living::NoTakingFromTheLiving,
    exclusion: s6_no_silent_exclusion::NoSilentExclusion,
    stale_reads: s7_no_stale_reads::NoStaleReads,
}

impl Invariants {
    pub(crate) fn new(setup: &Setup, timing: &Timing) -> Self {
        let pools = setup.pools.len();
        Self {
            confirmed_fence: s1_confirmed_fence::ConfirmedFence::default(),
            one_writer: s1_one_writer::OneWriter::new(pools),
            one_survivor: s2_one_survivor::OneSurvivor::new(setup.quorum_disks),
            configuration: s3_no_stale_configuration::NoStaleConfiguration::default(),
            nothing_lost: s4_nothing_lost::NothingLost::new(pools),
            living: s5_no_taking_from_the_living::NoTakingFromTheLiving::new(timing),
            exclusion: s6_no_silent_exclusion::NoSilentExclusion::default(),
            stale_reads: s7_no_stale_reads::NoStaleReads::new(pools),
        }
    }

    /// Judges one fact. The error names the invariant.
    pub(crate) fn observe(&mut self, world: &World, fact: &Fact) -> Result<(), (&'static str, String)> {
        let named = |name: &'static str| move |what: String| (name, what);
        self.one_writer.observe(fact).map_err(named("S1"))?;
        self.confirmed_fence.observe(world, fact).map_err(named("S1"))?;
        self.one_survivor.observe(world, fact).map_err(named("S2"))?;
        self.configuration.observe(world, fact).map_err(named("S3"))?;
        self.nothing_lost.observe(fact).map_err(named("S4"))?;
        self.living
            .observe(world, &self.one_survivor, fact)
            .map_err(named("S5"))?;
        self.exclusion.observe(fact).map_err(named("S6"))?;
        self.stale_reads.observe(world, fact).map_err(named("S7"))?;
        i4_one_optimized::OneOptimized::observe(world, fact).map_err(named("I4"))
    }

    /// The highest record that anybody has published.
    pub(crate) fn highest(&self) -> Record {
        self.one_survivor.highest()
    }

    /// How many records were decided.
    pub(crate) fn records(&self) -> u64 {
        self.one_survivor.records()
    }

    /// Every change that was acknowledged.
    pub(crate) fn acknowledged(&self) -> &[u64] {
        self.configuration.acknowledged()
    }

    /// The value that a block must hold at least.
    pub(crate) fn floor(&self, pool: usize, block: usize) -> u64 {
        self.nothing_lost.floor(pool, block)
    }
}
