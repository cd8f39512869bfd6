//! The mutants: which sentence of the cores is taken away, and what should notice.
//!
//! A find text stands exactly once in its file; a test and the runner hold the list to that, so that an entry that has
//! gone stale is named instead of passing in silence.

use super::{By, Mutant};

const ARBITER: &str = "heartbeat/core/src/arbiter.rs";
const CHANGE: &str = "heartbeat/core/src/change.rs";
const DETECT: &str = "heartbeat/core/src/detect.rs";
const GROUPS: &str = "alua/core/src/lib.rs";
const KEEPER: &str = "config-keeper/core/src/keeper.rs";
const COMPACTED: &str = "config-keeper/core/src/compacted.rs";
const COMPACTION: &str = "config-keeper/core/src/keeper/compaction.rs";
const COMING_BACK: &str = "config-keeper/core/src/keeper/coming_back.rs";
const LAYOUT: &str = "heartbeat/core/src/layout.rs";
const LIAISON: &str = "heartbeat/core/src/liaison.rs";
const MACHINE: &str = "heartbeat/core/src/machine.rs";
const MEMBER: &str = "heartbeat/core/src/member.rs";
const POOLS: &str = "heartbeat/core/src/pools.rs";
const READS: &str = "config-keeper/core/src/reads.rs";
const RECORD: &str = "heartbeat/core/src/record.rs";
const SET: &str = "heartbeat/core/src/set.rs";
const TABLE: &str = "heartbeat/core/src/table.rs";
const TIMING: &str = "heartbeat/core/src/timing.rs";
const WIRE: &str = "heartbeat/core/src/wire.rs";

/// Every mutant, by subject.
pub(crate) const MUTANTS: &[Mutant] = &[
    // ---- arbitration ----------------------------------------------------------------------------------------
    Mutant {
        name: "promise-of-one-disk",
        file: ARBITER,
        edits: &[(
            "if !self.own.decided.disks.reached(counted) {",
            "if run.phase == Phase::Two && !self.own.decided.disks.reached(counted) {",
        )],
        removes: "a vote needs the promises of a majority",
        by: By::Scenario("quorum::k02"),
    },
    Mutant {
        name: "vote-of-one-disk",
        file: ARBITER,
        edits: &[(
            "if !self.own.decided.disks.reached(counted) {",
            "if run.phase == Phase::One && !self.own.decided.disks.reached(counted) {",
        )],
        removes: "a record is decided by the votes of a majority",
        by: By::Seeds,
    },
    Mutant {
        name: "half-is-a-majority",
        file: SET,
        edits: &[(
            "values.get(count / 2)",
            "values.get((count / 2).saturating_sub(1))",
        )],
        removes: "a majority is more than half of the quorum disks",
        by: By::Seeds,
    },
    Mutant {
        name: "ballots-of-both-alike",
        file: RECORD,
        edits: &[(
            "saturating_mul(2).saturating_add(controller.index() as u64)",
            "saturating_mul(2).saturating_add(controller.index() as u64 / 2)",
        )],
        removes: "no ballot is both controllers'",
        by: By::Seeds,
    },
    Mutant {
        name: "own-wish-before-a-standing-vote",
        file: ARBITER,
        edits: &[(
            ".map(|(_, value)| value)\n            .or(wish)",
            ".map(|(_, value)| value)\n            .filter(|_| wish.is_none())\n            .or(wish)",
        )],
        removes: "the value of the highest vote that was met is proposed, not the own wish",
        by: By::Scenario("quorum::k"),
    },
    Mutant {
        name: "higher-ballot-ignored",
        file: ARBITER,
        edits: &[(
            "if other.mbal > self.own.mbal {\n                self.run = None;",
            "if false {\n                self.run = None;",
        )],
        removes: "a disk that shows a higher ballot of the other does not count",
        by: By::Seeds,
    },
    Mutant {
        name: "later-instance-ignored",
        file: ARBITER,
        edits: &[(
            "if other.instance > self.own.instance {\n            return self.learn(other.decided);",
            "if false {\n            return self.learn(other.decided);",
        )],
        removes: "a ballot of a later instance ends the own one and tells its result (K2)",
        by: By::Scenario("quorum::k02"),
    },
    Mutant {
        name: "read-before-own-write-counts",
        file: MACHINE,
        edits: &[(
            "disk.block(BlockId::Vote1).durable == version && disk.vote_stamp.is_some_and(|s| id.0 >= s);",
            "disk.block(BlockId::Vote1).durable == version && disk.vote_stamp.is_some();",
        )],
        removes: "a disk counts only by a reading that was issued after the own ballot was durable on it (K11)",
        by: By::Seeds,
    },
    Mutant {
        name: "read-without-own-write-counts",
        file: MACHINE,
        edits: &[(
            "disk.block(BlockId::Vote1).durable == version && disk.vote_stamp.is_some_and(|s| id.0 >= s);",
            "disk.block(BlockId::Vote1).durable <= version;",
        )],
        removes: "the own ballot is durable on a disk before the other's is read there (K11)",
        by: By::Seeds,
    },
    Mutant {
        name: "unread-ballot-is-an-empty-one",
        file: MACHINE,
        edits: &[(
            "let Ok(vote) = area.vote else { return };\n        self.disks[at].vote",
            "let vote = area.vote.unwrap_or(Vote::after(*self.arbiter.decided()));\n        self.disks[at].vote",
        )],
        removes: "a damaged, blank or unreadable ballot block is no promise (K11)",
        by: By::Seeds,
    },
    Mutant {
        name: "ballot-copies-together",
        file: MACHINE,
        edits: &[
            (
                "BlockId::Vote0 => second.flight.is_none() && copied,",
                "BlockId::Vote0 => copied,",
            ),
            (
                "BlockId::Vote1 => first.flight.is_none() && first.durable == version,",
                "BlockId::Vote1 => first.flight.is_none() || true,",
            ),
        ],
        removes: "the two copies of a ballot are never on their way together (K11)",
        by: By::Seeds,
    },
    Mutant {
        name: "write-over-a-write",
        file: MACHINE,
        edits: &[(
            "if writer.flight.is_some() || writer.durable == version || !in_turn {",
            "if writer.durable == version || !in_turn {",
        )],
        removes: "no block is written again while a write to it is outstanding",
        by: By::Seeds,
    },
    Mutant {
        name: "oldest-own-ballot-after-a-restart",
        file: MACHINE,
        edits: &[(
            ".filter_map(|area| area.vote.ok())\n            .max_by_key(Vote::age)",
            ".filter_map(|area| area.vote.ok())\n            .min_by_key(Vote::age)",
        )],
        removes: "after a restart the latest own ballot of a majority counts (K7)",
        by: By::Core,
    },
    Mutant {
        name: "own-vote-forgotten-by-a-restart",
        file: MACHINE,
        edits: &[(
            "self.arbiter = Arbiter::new(self.me(), vote);",
            "self.arbiter = Arbiter::new(self.me(), Vote::after(vote.decided));",
        )],
        removes: "what was voted before a restart stays voted",
        by: By::Seeds,
    },
    Mutant {
        name: "restart-from-one-disk",
        file: MACHINE,
        edits: &[(
            "self.majority_is(|disk| disk.own.as_ref().is_some_and(what));",
            "self.disks.iter().any(|disk| disk.own.as_ref().is_some_and(what));",
        )],
        removes: "after a restart the own ballots of a majority are read back (K7)",
        by: By::Core,
    },
    Mutant {
        name: "an-older-record-is-learnt",
        file: ARBITER,
        edits: &[(
            "if record.epoch <= self.own.decided.epoch {",
            "if record.epoch < self.own.decided.epoch {",
        )],
        removes: "a record that is known is no news: what was voted since stays voted",
        by: By::Seeds,
    },
    Mutant {
        name: "no-second-look-before-the-vote",
        file: MEMBER,
        edits: &[(
            "// The reading that completes the majority may itself be the sign of life.\n        self.sights(now);",
            "",
        )],
        removes: "S5 is checked again when a majority has promised, with the reading that completed it",
        by: By::Scenario("quorum::a_sign_of_life"),
    },
    Mutant {
        name: "vote-withdrawn",
        file: MEMBER,
        edits: &[("let finish = self.arbiter.voted() || ", "let finish = ")],
        removes: "a vote that was cast is finished whatever happens to its reason (K18)",
        by: By::Scenario("quorum::k18"),
    },
    Mutant {
        name: "foreign-vote-not-finished",
        file: MEMBER,
        edits: &[(
            "(want.is_none() && self.partner_dead() && self.partner_voted());",
            "false;",
        )],
        removes: "a vote of the dead is finished before the highest epoch is known (K9)",
        by: By::Scenario("configuration::k09"),
    },
    // ---- detection ------------------------------------------------------------------------------------------
    Mutant {
        name: "silence-alone-is-death",
        file: TABLE,
        edits: &[(
            "=> Partner::LockAndGoOn,\n        (",
            "=> Partner::TakeOver,\n        (",
        )],
        removes: "whoever is silent on the wire and moves on the disks lives (S5, B7)",
        by: By::Scenario("takeover::b7"),
    },
    Mutant {
        name: "stillness-alone-is-death",
        file: TABLE,
        edits: &[(
            "    match (power, wire, disk, role, pools) {",
            "    if wire == N::Alive && disk == D::Still {\n        return Partner::TakeOver;\n    }\n    match (power, wire, disk, role, pools) {",
        )],
        removes: "whoever answers on the wire lives, though its slot stands still",
        by: By::Scenario("takeover::c8"),
    },
    Mutant {
        name: "unreadable-is-death",
        file: TABLE,
        edits: &[(
            "=> Partner::TakeNothing,\n        (",
            "=> Partner::TakeOver,\n        (",
        )],
        removes: "whoever cannot read a majority of the slots takes nothing",
        by: By::Core,
    },
    Mutant {
        name: "unread-slot-is-a-still-one",
        file: DETECT,
        edits: &[(
            "                if !why.is_damage() {\n                    return false;",
            "                if self.seen.is_none() {\n                    return false;",
        )],
        removes: "a slot that could not be read is not an unchanged one",
        by: By::Seeds,
    },
    Mutant {
        name: "first-sight-is-life",
        file: DETECT,
        edits: &[(
            "let life = before.is_some() || self.torn.is_some();",
            "let life = true;",
        )],
        removes: "the first sight of a slot proves no life",
        by: By::Core,
    },
    Mutant {
        name: "still-on-one-disk",
        file: DETECT,
        edits: &[(
            "let still = set.reached(is(SlotWatch::still));",
            "let still = all().any(is(SlotWatch::still));",
        )],
        removes: "stillness is judged on a majority of the disks",
        by: By::Core,
    },
    Mutant {
        name: "disk-limit-of-one-period",
        file: TIMING,
        edits: &[("self.disk_limit.max(theirs)", "self.slot_period.min(theirs)")],
        removes: "Td: a slot is still after three periods and a tolerated stall, not after one period",
        by: By::Seeds,
    },
    Mutant {
        name: "any-echo-is-an-answer",
        file: MACHINE,
        edits: &[(
            "if !datagram.echo.is_some_and(|nonce| self.wire.echo(now, nonce)) {",
            "self.wire.echoed = Some(now);\n        if datagram.echo.is_some_and(|nonce| self.wire.echo(now, nonce)) && false {",
        )],
        removes: "only my recent nonce proves that the wire lives: not a replay, not a one-way link",
        by: By::Seeds,
    },
    // ---- lease and watchdog ---------------------------------------------------------------------------------
    Mutant {
        name: "lease-dated-at-completion",
        file: MACHINE,
        edits: &[(
            "disk.slot_submitted = disk.slot_submitted.max(Some(submitted));",
            "disk.slot_submitted = disk.slot_submitted.max(Some(now));",
        )],
        removes: "the lease counts from the submission of the slot write (K8)",
        by: By::Scenario("fencing::k08"),
    },
    Mutant {
        name: "lease-dated-at-the-echo",
        file: DETECT,
        edits: &[(
            "            self.echoed = Some(sent);\n",
            "            self.echoed = Some(now);\n",
        )],
        removes: "the lease counts from the sending of what was echoed, not from the echo (K8)",
        by: By::Scenario("fencing::k08"),
    },
    Mutant {
        name: "lease-of-twice-its-length",
        file: MACHINE,
        edits: &[(
            ".map_or(Instant::ZERO, |basis| basis + timing.lease);",
            ".map_or(Instant::ZERO, |basis| basis + timing.lease * 2);",
        )],
        removes: "a lease lasts g, which is less than the taker waits (S7)",
        by: By::Seeds,
    },
    Mutant {
        name: "lease-without-a-look-at-the-ballots",
        file: MACHINE,
        edits: &[(
            "if stamp > read {\n                break;",
            "if stamp > read && false {\n                break;",
        )],
        removes: "a slot write extends the lease only when the partner's ballots were read after it",
        by: By::Scenario("fencing::k04"),
    },
    Mutant {
        name: "lease-against-a-standing-vote",
        file: MACHINE,
        edits: &[("if !opposed {", "if !opposed || true {")],
        removes: "a slot write extends no lease while a vote without its writer stands",
        by: By::Core,
    },
    Mutant {
        name: "the-excluded-is-echoed",
        file: MACHINE,
        edits: &[(
            "!excluded_by_vote && !excluded && !over\n",
            "!excluded_by_vote || !excluded || true\n",
        )],
        removes: "whoever is voted out or fenced gets no echo, from which its lease would count",
        by: By::Scenario("takeover::an_operators"),
    },
    Mutant {
        name: "the-outdated-is-echoed",
        file: MACHINE,
        edits: &[(
            "!excluded_by_vote && !excluded && !over\n",
            "!excluded_by_vote && !excluded && (!over || true)\n",
        )],
        removes: "whoever acts as a member of a record that is over gets no echo",
        by: By::Scenario("fencing::k04_whoever"),
    },
    Mutant {
        name: "no-wait-for-the-old-lease",
        file: POOLS,
        edits: &[(
            "Evidence::Reserved { .. } | Evidence::Waited { .. } => true,",
            "Evidence::Reserved { .. } => false,\n                            Evidence::Waited { .. } => true,",
        )],
        removes: "after a fence by reservations the old owner's lease has to run out before hosts are answered (K4)",
        by: By::Scenario("fencing::k04"),
    },
    Mutant {
        name: "old-lease-shorter-than-it-is",
        file: TIMING,
        edits: &[(
            "    stretched(figures.lease) + SLACK\n",
            "    stretched(figures.lease) / 10\n",
        )],
        removes: "the taker waits for 1.05 g + 0.2 s after the last sign of life",
        by: By::Seeds,
    },
    Mutant {
        name: "old-lease-without-echoes",
        file: MACHINE,
        edits: &[("            .max(self.partner.echo_given)\n", "")],
        removes: "the old owner's lease may count from an echo that it was given",
        by: By::Core,
    },
    Mutant {
        name: "lease-gone-without-a-look",
        file: MEMBER,
        edits: &[("read && now >= clear_at", "(read || true) && now >= clear_at")],
        removes: "the old owner's slot is read after the choice before its lease counts as run out (K4)",
        by: By::Core,
    },
    Mutant {
        name: "watchdog-waited-for-once",
        file: TIMING,
        edits: &[(
            "    stretched(figures.lease + figures.watchdog * 2) + SLACK\n",
            "    figures.lease + figures.watchdog\n",
        )],
        removes: "g + 2 w: a watchdog that was petted late fires later (K8)",
        by: By::Scenario("fencing::k08"),
    },
    Mutant {
        name: "pet-without-a-lease",
        file: MACHINE,
        edits: &[("self.pet(now, fresh);", "self.pet(now, fresh || true);")],
        removes: "the watchdog is petted only under a fresh lease",
        by: By::Scenario("fencing::k08"),
    },
    Mutant {
        name: "waiting-for-a-watchdog-that-is-not-armed",
        file: MEMBER,
        edits: &[("let provable = advert.watchdog && ", "let provable = ")],
        removes: "waiting proves something only if the victim's watchdog was armed",
        by: By::Scenario("fencing::no_rung"),
    },
    Mutant {
        name: "waiting-under-a-clock-that-stands-still",
        file: MEMBER,
        edits: &[(
            "let provable = advert.watchdog && !advert.pausable && !self.params.pausable;",
            "let provable = advert.watchdog;",
        )],
        removes: "waiting proves nothing where a clock may stand still unnoticed",
        by: By::Scenario("fencing::no_rung"),
    },
    // ---- fencing --------------------------------------------------------------------------------------------
    Mutant {
        name: "failed-fence-counts",
        file: POOLS,
        edits: &[(
            "*outcome = Some(result.is_ok());",
            "*outcome = Some(result.is_ok() || true);",
        )],
        removes: "reservations count only when they were confirmed on every leg (K6)",
        by: By::Scenario("fencing::k06"),
    },
    Mutant {
        name: "fence-of-another-key-counts",
        file: POOLS,
        edits: &[(
            "if *key != done {\n            return;",
            "if *key != done && false {\n            return;",
        )],
        removes: "the answer to an earlier fence proves nothing for the present key (K12)",
        by: By::Scenario("fencing::k12"),
    },
    Mutant {
        name: "fence-not-called-back",
        file: POOLS,
        edits: &[(
            "} => Some(key.generation),\n            _ => None,",
            "} if key.generation.get() == 0 => Some(key.generation),\n            _ => None,",
        )],
        removes: "a fence that is given up is called back, so that it registers nothing later (K12)",
        by: By::Seeds,
    },
    Mutant {
        name: "power-evidence-before-the-choice",
        file: MEMBER,
        edits: &[("|(_, asked)| asked >= fence.since)", "|_| true)")],
        removes: "off counts as evidence only to a question that was asked after the choice",
        by: By::Scenario("takeover::a1"),
    },
    Mutant {
        name: "power-evidence-for-any-incarnation",
        file: MACHINE,
        edits: &[(
            "if state == Power::Off && asked >= self.partner.known_since {",
            "if state == Power::Off {",
        )],
        removes: "off is proof for the incarnation that was known when the question was asked",
        by: By::Scenario("fencing::a10"),
    },
    Mutant {
        name: "an-earlier-report-counts",
        file: MACHINE,
        edits: &[("self.partner.off.max(Some(off));", "Some(off);")],
        removes: "an answer that was overtaken by that to a later question takes nothing away from it",
        by: By::Scenario("fencing::a10"),
    },
    Mutant {
        name: "the-same-incarnation-has-rebooted",
        file: MEMBER,
        edits: &[(
            "self.partner.incarnation > fence.victim || self.partner.farewell >= Some(fence.victim)",
            "self.partner.incarnation >= fence.victim || self.partner.farewell >= Some(fence.victim)",
        )],
        removes: "only a later incarnation proves that the victim has ended",
        by: By::Seeds,
    },
    Mutant {
        name: "nobody-to-fence",
        file: MEMBER,
        edits: &[(
            "recorded.max(claimed).max(said).unwrap_or(Incarnation::new(0))",
            "recorded.max(claimed).max(said).filter(|_| false).unwrap_or(Incarnation::new(0))",
        )],
        removes: "the last incarnation that may have been a member is fenced",
        by: By::Seeds,
    },
    Mutant {
        name: "fence-around-nobody-after-a-restart",
        file: MEMBER,
        edits: &[(
            "before.is_none() && !self.ballots_known()",
            "before.is_none() && !self.ballots_known() && false",
        )],
        removes: "a daemon that starts under a lone record reads first whom it has to fence (K8)",
        by: By::Core,
    },
    Mutant {
        name: "exclusion-renewed-in-silence",
        file: POOLS,
        edits: &[(
            "if self.renew.contains_key(&id) {",
            "if self.renew.contains_key(&id) && false {",
        )],
        removes: "exclusion that was lost is taken again only under a later epoch (S6)",
        by: By::Scenario("fencing::exclusion_lost"),
    },
    Mutant {
        name: "a-stop-forgets-the-exclusion",
        file: POOLS,
        edits: &[
            (
                "let epoch = self.imported(id).map_or(known, |key| key.epoch.max(known));\n        self.renew.insert(id, epoch);",
                "",
            ),
            ("let known = self.record().epoch;", ""),
        ],
        removes: "keys that are left behind by a stop count as lost",
        by: By::Seeds,
    },
    Mutant {
        name: "exclusion-lost-before-the-epoch-is-known",
        file: MACHINE,
        edits: &[(
            "            .for_each(|epoch| *epoch = known.max(*epoch));",
            "            .for_each(|epoch| *epoch = *epoch);",
        )],
        removes: "what was lost before the area was read was lost under the epoch that stands there (S6)",
        by: By::Scenario("fencing::exclusion_lost_before"),
    },
    // ---- epochs and membership ------------------------------------------------------------------------------
    Mutant {
        name: "superseded-and-serving",
        file: MACHINE,
        edits: &[(
            "let epoch = if self.was_member && !member {",
            "let epoch = if self.was_member && !member && false {",
        )],
        removes: "whoever learns of a higher epoch without itself stops",
        by: By::Seeds,
    },
    Mutant {
        name: "served-before-and-forgotten",
        file: MACHINE,
        edits: &[(
            "self.was_member = areas.iter().any(|area| {",
            "self.was_member = areas.iter().take(0).any(|area| {",
        )],
        removes: "a daemon that starts knows from its slot that its controller has served",
        by: By::Seeds,
    },
    Mutant {
        name: "any-incarnation-is-a-member",
        file: RECORD,
        edits: &[(
            "self.members.has(controller, incarnation)",
            "self.members.has(controller, incarnation) || self.members.get(controller).is_some()",
        )],
        removes: "a record admits an incarnation, not a controller (K14)",
        by: By::Scenario("takeover::k14"),
    },
    Mutant {
        name: "a-reboot-changes-nothing",
        file: MEMBER,
        edits: &[(
            "let rebooted = self.partner.incarnation > theirs;",
            "let rebooted = self.partner.incarnation > theirs && false;",
        )],
        removes: "a partner that has rebooted inside Td is sealed out and joined anew (K14)",
        by: By::Scenario("takeover::k14"),
    },
    Mutant {
        name: "alone-without-the-base",
        file: MEMBER,
        edits: &[(
            "if config.diverged || self.contains(record.base) != Some(true) {",
            "if config.diverged {",
        )],
        removes: "nobody goes on from a log that lacks what the record stands on (S3)",
        by: By::Seeds,
    },
    Mutant {
        name: "an-open-survivor-is-followed",
        file: MEMBER,
        edits: &[(
            "(false, true, Mode::Open) if self.wishes.override_of == Some(record.epoch) => {",
            "(false, true, Mode::Open) if self.wishes.override_of != Some(record.epoch) => {",
        )],
        removes: "after {y} open only an operator's override lets x go on",
        by: By::Core,
    },
    Mutant {
        name: "an-unsealed-survivor",
        file: MEMBER,
        edits: &[(
            "        let sealed = Want {\n            members: alone,\n            mode: Mode::Sealed,",
            "        let sealed = Want {\n            members: alone,\n            mode: Mode::Open,",
        )],
        removes: "a survivor is sealed, so that its identical, repaired partner may go on after it (K9)",
        by: By::Scenario("configuration::k09"),
    },
    Mutant {
        name: "base-of-the-last-record",
        file: MEMBER,
        edits: &[(
            "            mode: Mode::Sealed,\n            base: From::Acknowledged,\n            disks",
            "            mode: Mode::Sealed,\n            base: From::Record,\n            disks",
        )],
        removes: "a sealed record stands on everything that was acknowledged",
        by: By::Scenario("configuration::h7"),
    },
    Mutant {
        name: "join-before-catch-up",
        file: MEMBER,
        edits: &[("if self.join_wanted() && equal {", "if self.join_wanted() {")],
        removes: "a joiner's log is equal before it becomes a member (K3)",
        by: By::Scenario("configuration::k03"),
    },
    Mutant {
        name: "joined-before-what-was-taken-is-served",
        file: MEMBER,
        edits: &[(
            "&& !self.pools.iter().any(|(id, pool)| pool.taking() || pool.failures == 0 && self.wants_back(*id))",
            "&& !self.pools.iter().any(|(id, pool)| (pool.taking() || pool.failures == 0 && self.wants_back(*id)) && false)",
        )],
        removes: "what was taken from the last incarnation is finished before the next one joins",
        by: By::Core,
    },
    Mutant {
        name: "proposal-without-a-freeze",
        file: MEMBER,
        edits: &[
            (
                "let frozen = self.freeze.is_some_and(|freeze| freeze.done.is_some());",
                "let frozen = true;",
            ),
            (
                "            .filter(|freeze| freeze.epoch == self.record().epoch.next())\n            .and_then(|f| f.done);",
                "            .filter(|freeze| freeze.epoch == self.record().epoch.next())\n            .and(self.config);",
            ),
            ("            self.emit(Effect::ConfigFreeze { epoch });\n", ""),
        ],
        removes: "from before phase 1 until the decision nothing is appended or acknowledged (K7, K13)",
        by: By::Seeds,
    },
    Mutant {
        name: "two-lone-boots-without-consent",
        file: MEMBER,
        edits: &[(
            "&& self.mail().is_some_and(|letter| letter.consent);",
            "&& self.mail().is_none_or(|letter| letter.consent || true);",
        )],
        removes: "of two that have booted one goes on only with the other's consent (K16)",
        by: By::Scenario("configuration::k16"),
    },
    Mutant {
        name: "nobody-consents",
        file: MEMBER,
        edits: &[(
            "            && self.partner_preferred() == Some(true)\n",
            "            && self.partner_preferred() == Some(true) && false\n",
        )],
        removes: "two that have booted with the wire down agree through the mailbox (K16)",
        by: By::Scenario("configuration::k16"),
    },
    // ---- claims ---------------------------------------------------------------------------------------------
    Mutant {
        name: "claim-not-read-back",
        file: POOLS,
        edits: &[("let moved = !expected && ", "let moved = false && !expected && ")],
        removes: "of two that claim a pool at once at least one sees the other and yields (K5)",
        by: By::Scenario("fencing::k05"),
    },
    Mutant {
        name: "both-have-yielded",
        file: POOLS,
        edits: &[(
            "let waits = claim.incarnation == me && !self",
            "let waits = claim.incarnation == me || self",
        )],
        removes: "of two who have both yielded neither waits for the other (L3)",
        by: By::Scenario("fencing::k05"),
    },
    Mutant {
        name: "take-before-the-claim-is-durable",
        file: POOLS,
        edits: &[(
            "if !self.claims_durable(version) {\n                    return false;\n                }\n                if evidence",
            "if evidence",
        )],
        removes: "a claim is durable on a majority before anything is taken by it",
        by: By::Seeds,
    },
    Mutant {
        name: "claims-of-another-life",
        file: POOLS,
        edits: &[(
            "(member.is_none() || disk.claims_of == member).then_some(*read)",
            "(member.is_none() || disk.claims_of.is_some()).then_some(*read)",
        )],
        removes: "what a later life of the partner claims says nothing of what the member holds",
        by: By::Scenario("fencing::k12_what_a_later"),
    },
    Mutant {
        name: "deaf-to-slots-after-silence",
        file: MACHINE,
        edits: &[(
            "let news = changed || watch.is_later_than(self.wire.last());",
            "let news = changed || false && watch.is_later_than(self.wire.last());",
        )],
        removes: "what was written to a slot after the last word on the wire counts when the wire is silent",
        by: By::Core,
    },
    Mutant {
        name: "watchdog-forgotten-by-the-next-daemon",
        file: MACHINE,
        edits: &[(
            "watchdog: self.watchdog.unwrap_or(self.armed_before),",
            "watchdog: self.watchdog.unwrap_or(self.armed_before && false),",
        )],
        removes: "a daemon that starts says of its watchdog what the one before it said",
        by: By::Core,
    },
    Mutant {
        name: "lease-outlives-the-news",
        file: MACHINE,
        edits: &[(
            "if matches!(progress, Progress::Decided(_)) && excluded {",
            "if matches!(progress, Progress::Decided(_)) && excluded && false {",
        )],
        removes: "a daemon that starts and hears of an epoch without its controller ends the lease of the daemon before",
        by: By::Scenario("fencing::k04_a_daemon_that_starts"),
    },
    Mutant {
        name: "nothing-finished-without-a-freeze",
        file: MEMBER,
        edits: &[("if (frozen || decided) &&", "if frozen &&")],
        removes: "what the keeper goes by is finished by a daemon that does not know it, though nothing stands still for it",
        by: By::Scenario("fencing::k13"),
    },
    Mutant {
        name: "served-by-its-slot-alone",
        file: MACHINE,
        edits: &[
            (
                "|| area.vote.is_ok_and(|vote| vote.decided.members.has(me, mine))",
                "|| area.vote.is_ok_and(|vote| vote.decided.members.has(me, mine) && false)",
            ),
            (
                "|| claims.map(|claim| claim.incarnation).any(|by| by == mine)",
                "|| claims.map(|claim| claim.incarnation).any(|by| by == mine && false)",
            ),
        ],
        removes: "who starts beside a torn slot knows by its ballots and claims that it has served",
        by: By::Scenario("fencing::k08_a_daemon_that_starts"),
    },
    Mutant {
        name: "another-seat-says-nothing",
        file: LAYOUT,
        edits: &[("elsewhere: decided_elsewhere(place, area),", "elsewhere: None,")],
        removes: "a quorum disk that came back under another seat says which set counts now",
        by: By::Scenario("replace::c1_a_disk_that_came_back"),
    },
    Mutant {
        name: "judged-by-one-who-has-slept",
        file: MACHINE,
        edits: &[(
            "            self.slept = Some(now);",
            "            self.slept = None;",
        )],
        removes: "whoever has slept listens for Tn before it calls its partner dead (S5)",
        by: By::Scenario("takeover::c8"),
    },
    Mutant {
        name: "taken-by-one-who-has-slept",
        file: POOLS,
        edits: &[(
            "fn may_take(&self, now: Instant) -> bool {\n        now < self.lease_until",
            "fn may_take(&self, now: Instant) -> bool {\n        now < self.lease_until || true",
        )],
        removes: "nothing is taken after the own lease: whoever has slept may be dead to the partner by now (S5)",
        by: By::Core,
    },
    Mutant {
        name: "given-on-a-minority",
        file: POOLS,
        edits: &[(
            "let stands = |disk: &Disk| shown_on(disk, pool).is_some_and(|claim| order(&claim) == order(&latest));",
            "let stands = |_: &Disk| true;",
        )],
        removes: "a pool is given when a majority says so (K5)",
        by: By::Core,
    },
    Mutant {
        name: "a-gift-taken-back",
        file: POOLS,
        edits: &[(
            "ClaimState::Given | ClaimState::Declined if waits => Basis::No,",
            "ClaimState::Given | ClaimState::Declined if waits => Basis::Take(Kind::Own),",
        )],
        removes: "the giver resumes only on the receiver's word, or under an epoch without it (K5)",
        by: By::Scenario("fencing::k05"),
    },
    Mutant {
        name: "held-by-the-living-and-taken",
        file: POOLS,
        edits: &[(
            "            ClaimState::Held => Basis::No,\n",
            "            ClaimState::Held => free,\n",
        )],
        removes: "what a living member holds is not taken (S5)",
        by: By::Seeds,
    },
    Mutant {
        name: "claims-of-an-ended-incarnation",
        file: POOLS,
        edits: &[(
            "        if claim.incarnation != theirs {\n",
            "        if claim.incarnation != theirs && false {\n",
        )],
        removes: "a claim of an incarnation that has ended binds nobody",
        by: By::Core,
    },
    Mutant {
        name: "claims-of-an-earlier-epoch",
        file: POOLS,
        edits: &[(
            "        if !self.claims_known() {\n            return Basis::No;",
            "        if !self.claims_known() && false {\n            return Basis::No;",
        )],
        removes: "the partner's claims are read after the record was learnt",
        by: By::Scenario("takeover::k14"),
    },
    Mutant {
        name: "key-of-an-earlier-epoch",
        file: POOLS,
        edits: &[(
            "if key.epoch != epoch || matches!(self.basis(id), Basis::No) =>",
            "if matches!(self.basis(id), Basis::No) =>",
        )],
        removes: "a taking that began under an earlier epoch is begun again",
        by: By::Seeds,
    },
    Mutant {
        name: "generation-stands-still",
        file: POOLS,
        edits: &[(
            "mine.max(theirs).unwrap_or_default().next()",
            "mine.max(theirs).unwrap_or(Generation::default().next())",
        )],
        removes: "each change of hands has a generation of its own",
        by: By::Seeds,
    },
    Mutant {
        name: "adopted-whatever-is-claimed",
        file: POOLS,
        edits: &[
            (
                "claim.is_some_and(|c| c.generation == key.generation && c.epoch == key.epoch);",
                "claim.is_some();",
            ),
            // The second line: what is served under a claim that has passed is stopped.
            ("(!mine || known && ", "(known && "),
        ],
        removes: "a restarted daemon adopts an import only by the claim of that import",
        by: By::Scenario("fencing::k12"),
    },
    Mutant {
        name: "taken-again-before-the-old-lease-is-out",
        file: POOLS,
        edits: &[(
            "Evidence::Own => self.partner_member().is_none(),",
            "Evidence::Own => false,",
        )],
        removes: "what is taken again under a later lone epoch waits for the old owner's lease as well (S7)",
        by: By::Scenario("fencing::k04"),
    },
    Mutant {
        name: "adopted-before-the-old-lease-is-out",
        file: POOLS,
        edits: &[(
            "claim.is_some_and(|claim| claim.serving) || self.partner_member().is_some();",
            "claim.is_some();",
        )],
        removes: "what was never published is adopted with the wait for the old owner's lease",
        by: By::Scenario("fencing::k04"),
    },
    Mutant {
        name: "taken-under-a-standing-vote",
        file: POOLS,
        edits: &[(
            "if self.arbiter.voted() || !self.ballots_known() {",
            "if !self.ballots_known() && false {",
        )],
        removes: "nothing is taken before the ballots are known, or under a vote that is not finished",
        by: By::Core,
    },
    Mutant {
        name: "the-sick-one-stays",
        file: POOLS,
        edits: &[(
            "pool.asked_since.is_some_and(|since| now.since(since) >= limit);",
            "pool.asked_since.is_some_and(|since| now.since(since) >= limit * 1_000);",
        )],
        removes: "whoever neither serves a pool nor gives it is stopped (K15)",
        by: By::Core,
    },
    // ---- what the wire tells a partner without a shelf ------------------------------------------------------
    Mutant {
        name: "holdings-untold",
        file: POOLS,
        edits: &[("if !blind || self", "if blind || !blind || self")],
        removes: "who serves tells a partner that cannot read the claims",
        by: By::Scenario("takeover::c8"),
    },
    Mutant {
        name: "holdings-of-an-earlier-life",
        file: POOLS,
        edits: &[(
            "                incarnation: *incarnation,\n                serving: true,",
            "                incarnation: self.partner.incarnation.max(*incarnation),\n                serving: true,",
        )],
        removes: "what an earlier incarnation of the partner served is not the present one's",
        by: By::Core,
    },
    Mutant {
        name: "holdings-of-a-stranger-to-the-epoch",
        file: POOLS,
        edits: &[(
            "if !blind || self.partner_member() != Some(self.partner.incarnation) {",
            "if !blind {",
        )],
        removes: "only a member is told what is served",
        by: By::Core,
    },
    Mutant {
        name: "both-give-at-once",
        file: MACHINE,
        edits: &[(
            "if self.unwritten(now) < timing.disk_limit + timing.wire_limit {",
            "if self.unwritten(now) < timing.disk_limit / 2 {",
        )],
        removes: "nobody gives everything away before the partner can have said that it has lost the shelf as well (K10)",
        by: By::Scenario("quorum::k10"),
    },
    // ---- configuration: what heartbeat tells its keeper -----------------------------------------------------
    Mutant {
        name: "forgotten-freeze",
        file: MACHINE,
        edits: &[(
            "if let (None, Some(epoch)) = (self.freeze, forgotten) {",
            "if let (true, Some(epoch)) = (false, forgotten) {",
        )],
        removes: "a freeze that an earlier daemon asked for is ended",
        by: By::Scenario("configuration::k13"),
    },
    Mutant {
        name: "silence-locks-nothing",
        file: MACHINE,
        edits: &[(
            "(true, WireSight::Silent, _) => Some(Lock::PartnerUnreachable),",
            "(true, WireSight::Silent, _) => None,",
        )],
        removes: "the configuration is locked while the partner lives and does not answer",
        by: By::Core,
    },
    Mutant {
        name: "keeper-not-frozen-again",
        file: LIAISON,
        edits: &[(
            "Some(epoch) if frozen.is_none() =>",
            "Some(epoch) if frozen.is_none() && epoch.get() == 0 =>",
        )],
        removes: "a keeper that restarts is frozen again before it hears of a record",
        by: By::Core,
    },
    Mutant {
        name: "freeze-believed",
        file: LIAISON,
        edits: &[(
            "let frozen = answer.filter(|seen| seen.frozen == Some(epoch));",
            "let frozen = answer;",
        )],
        removes: "a freeze is reported when the keeper has confirmed it",
        by: By::Core,
    },
    Mutant {
        name: "lock-told-once",
        file: LIAISON,
        edits: &[("if self.unsaid || seen.epoch", "if seen.epoch")],
        removes: "a lock that did not arrive is told again",
        by: By::Core,
    },
    Mutant {
        name: "unfreeze-told-once",
        file: LIAISON,
        edits: &[(
            "self.thawing = (!over).then_some(epoch);",
            "self.thawing = (over && !over).then_some(epoch);",
        )],
        removes: "a freeze that is over is ended until it has ended",
        by: By::Core,
    },
    // ---- configuration: the keeper ---------------------------------------------------------------------------
    Mutant {
        name: "acknowledged-by-one",
        file: KEEPER,
        edits: &[(
            "let both = self.durable.min(remote);",
            "let both = self.durable.max(remote.min(0));",
        )],
        removes: "a change is durable on both before it is acknowledged",
        by: By::Seeds,
    },
    Mutant {
        name: "acknowledged-before-the-own-disk",
        file: KEEPER,
        edits: &[("let both = self.durable.min(remote);", "let both = remote;")],
        removes: "a change is durable here before it is acknowledged",
        by: By::Seeds,
    },
    Mutant {
        name: "alone-before-the-disk",
        file: KEEPER,
        edits: &[("Role::Alone => self.durable,", "Role::Alone => self.length(),")],
        removes: "a lone keeper acknowledges what is durable",
        by: By::Core,
    },
    Mutant {
        name: "follower-shows-what-is-not-durable",
        file: KEEPER,
        edits: &[(
            "Role::Follower => self.announced.min(self.durable),",
            "Role::Follower => self.announced.min(self.length()),",
        )],
        removes: "a follower shows what is durable here",
        by: By::Core,
    },
    Mutant {
        name: "frozen-goes-on",
        file: KEEPER,
        edits: &[(
            "self.frozen = Some((epoch, freeze.reason));\n        self.role = Role::Idle;",
            "self.frozen = Some((epoch, freeze.reason));",
        )],
        removes: "frozen, nothing is appended, acknowledged or counted",
        by: By::Core,
    },
    Mutant {
        name: "frozen-while-it-writes",
        file: KEEPER,
        edits: &[(
            "        self.doubt();\n        if self.jobs.is_empty() {\n            self.answer(request, Ok(Answer::Done));",
            "        self.doubt();\n        if self.jobs.len() < 9 {\n            self.answer(request, Ok(Answer::Done));",
        )],
        removes: "the answer to a freeze comes when nothing is on its way to the disk",
        by: By::Core,
    },
    Mutant {
        name: "base-not-contained",
        file: COMING_BACK,
        edits: &[(
            "if !self.contains_base(record) {",
            "if !self.contains_base(record) && self.lost {",
        )],
        removes: "a record whose base this log lacks permits nothing",
        by: By::Core,
    },
    Mutant {
        name: "older-record-followed",
        file: KEEPER,
        edits: &[(
            "if record.epoch < present.epoch {",
            "if record.epoch < present.epoch && false {",
        )],
        removes: "a keeper goes by no older record than the one it knows",
        by: By::Core,
    },
    Mutant {
        name: "frozen-for-what-is-decided",
        file: KEEPER,
        edits: &[(
            ".filter(|present| freeze.epoch <= present.epoch)",
            ".filter(|present| freeze.epoch < present.epoch)",
        )],
        removes: "a keeper stands still for no epoch that is decided",
        by: By::Core,
    },
    Mutant {
        name: "no-member-and-yet",
        file: KEEPER,
        edits: &[("if !permitted || !self.is_member(&record) {", "if !permitted {")],
        removes: "a keeper of no member takes no part",
        by: By::Seeds,
    },
    Mutant {
        name: "old-session-counts",
        file: KEEPER,
        edits: &[(
            "self.session == session && self.epoch.as_ref()",
            "session > 0 && self.epoch.as_ref()",
        )],
        removes: "an answer to an earlier session counts for nothing",
        by: By::Core,
    },
    Mutant {
        name: "appended-over-the-follower",
        file: KEEPER,
        edits: &[(
            "for entry in reply.tail {",
            "for entry in reply.tail.into_iter().take(0) {",
        )],
        removes: "what the follower holds of an earlier session is taken over",
        by: By::Seeds,
    },
    Mutant {
        name: "follows-any-epoch",
        file: KEEPER,
        edits: &[(
            "Some(record) if record.epoch == epoch && self.role == Role::Follower => Ok(()),",
            "Some(_) if self.role == Role::Follower => Ok(()),",
        )],
        removes: "a follower listens to the sequencer of its own epoch",
        by: By::Seeds,
    },
    Mutant {
        name: "older-session-followed",
        file: KEEPER,
        edits: &[(
            "if append.session != self.session {",
            "if append.session > self.session + 9 {",
        )],
        removes: "a follower listens to the session that it has answered",
        by: By::Core,
    },
    Mutant {
        name: "older-session-begun",
        file: KEEPER,
        edits: &[(
            "if sync.session < self.session {",
            "if sync.session + 99 < self.session {",
        )],
        removes: "no session is begun that is older than one that was followed",
        by: By::Core,
    },
    Mutant {
        name: "own-end-kept",
        file: COMING_BACK,
        edits: &[(
            "let cut = !entries.is_empty() || keep == fetched.length;",
            "let cut = !entries.is_empty();",
        )],
        removes: "what goes on here and not in the history of the array is set aside",
        by: By::Seeds,
    },
    Mutant {
        name: "equal-while-it-moves",
        file: COMING_BACK,
        edits: &[("equal: frozen,", "equal: frozen || !frozen,")],
        removes: "equal is said of a log that stands still",
        by: By::Core,
    },
    Mutant {
        name: "told-twice-is-done-twice",
        file: KEEPER,
        edits: &[
            (
                "change) {\n            return self.answer(request, answer);\n        }\n        let decides",
                "change).filter(|_| false) {\n            return self.answer(request, answer);\n        }\n        let decides",
            ),
            (
                "if let Some(index) = self.actions.get(&action).copied() {\n            // Appended",
                "if let Some(index) = self.actions.get(&action).copied().filter(|_| false) {\n            // Appended",
            ),
        ],
        removes: "the same action asked again is done once",
        by: By::Core,
    },
    Mutant {
        name: "another-request-under-the-same-action",
        file: KEEPER,
        edits: &[(
            "if entry.request != request_digest(change) {",
            "if entry.request != request_digest(change) && false {",
        )],
        removes: "another request under an action that was carried out is refused",
        by: By::Core,
    },
    // ---- readers, and a lost database ------------------------------------------------------------------------
    Mutant {
        name: "stale-reads",
        file: KEEPER,
        edits: &[(
            "Ok(_) => self.reads.wait(request),",
            "Ok(_) => self.answer(request, Ok(Answer::ReadAt { index: self.acknowledged })),",
        )],
        removes: "a reader is shown all that was acknowledged before it came",
        by: By::Seeds,
    },
    Mutant {
        name: "follower-reads-by-itself",
        file: KEEPER,
        edits: &[(
            "Ok(_) => self.reads.wait(request),",
            "Ok(Basis::Sequencer { .. }) => self.answer(request, Ok(Answer::ReadAt { index: self.acknowledged })),\n\
             Ok(_) => self.reads.wait(request),",
        )],
        removes: "a follower asks up to where it has to show",
        by: By::Seeds,
    },
    Mutant {
        name: "sequencer-reads-by-itself",
        file: KEEPER,
        edits: &[(
            "Ok(_) => self.reads.wait(request),",
            "Ok(Basis::Follower { .. }) => self.answer(request, Ok(Answer::ReadAt { index: self.acknowledged })),\n\
             Ok(_) => self.reads.wait(request),",
        )],
        removes: "a sequencer that is read from makes sure that it still is one",
        by: By::Core,
    },
    Mutant {
        name: "lone-reads-without-a-lease",
        file: KEEPER,
        edits: &[(
            "Ok(_) => self.reads.wait(request),",
            "Ok(Basis::Lease { .. }) => self.answer(request, Ok(Answer::ReadAt { index: self.acknowledged })),\n            Ok(_) => self.reads.wait(request),",
        )],
        removes: "a lone keeper that is read from asks for the lease",
        by: By::Core,
    },
    Mutant {
        name: "word-of-an-earlier-question",
        file: READS,
        edits: &[(
            ".take_if(|(number, ..)| *number == round)?",
            ".take_if(|(number, ..)| *number >= round)?",
        )],
        removes: "what was said before a reader came says nothing to it",
        by: By::Seeds,
    },
    Mutant {
        name: "answered-before-it-shows",
        file: KEEPER,
        edits: &[
            (
                "Ok(index) => self.reads.until(basis, index, readers),",
                "Ok(index) => self.reads.until(basis, index.min(0), readers),",
            ),
            (
                "self.announced = self.announced.max(index);\n                self.acknowledge();",
                "self.announced = self.announced.max(index);",
            ),
        ],
        removes: "a follower answers a reader when it shows what the sequencer has acknowledged",
        by: By::Seeds,
    },
    Mutant {
        name: "read-under-another-basis",
        file: KEEPER,
        edits: &[(
            "let void = self.reads.void(readable);",
            "let void = self.reads.void(readable).into_iter().filter(|_| false).collect();",
        )],
        removes: "a reader whose sequencer is none any more is told so",
        by: By::Core,
    },
    Mutant {
        name: "lost-log-is-a-base",
        file: MEMBER,
        edits: &[(
            "want.base == From::Record || !self.lacking()",
            "want.base == From::Record || !self.lacking() || self.config.is_some()",
        )],
        removes: "nobody goes on from a log that was lost",
        by: By::Scenario("configuration::h7_"),
    },
    Mutant {
        name: "lost-log-waits-to-be-joined",
        file: MEMBER,
        edits: &[("            && !self.lacking()\n", "")],
        removes: "whoever lost its log does not stand still for one who waits for it",
        by: By::Seeds,
    },
    Mutant {
        name: "lost-log-takes-part",
        file: KEEPER,
        edits: &[(
            "if permitted && self.is_lacking(&record) {",
            "if permitted && self.is_lacking(&record) && false {",
        )],
        removes: "a keeper whose log was lost takes no part",
        by: By::Scenario("configuration::h7_"),
    },
    Mutant {
        name: "counted-for-who-lost-it",
        file: COMING_BACK,
        edits: &[(
            "if matches!(self.role, Role::Sequencer(Session::Standing { .. })) {",
            "if matches!(self.role, Role::Sequencer(Session::Starting)) {",
        )],
        removes: "what was counted for a follower that lost its log is void",
        by: By::Core,
    },
    Mutant {
        name: "old-sessions-after-a-loss",
        file: COMING_BACK,
        edits: &[(
            "(self.session_epoch, self.session).max((fetched.session_epoch, fetched.session));",
            "(self.session_epoch, self.session).min((fetched.session_epoch, fetched.session));",
        )],
        removes: "a keeper that lost its log begins no session that its partner knows",
        by: By::Core,
    },
    Mutant {
        name: "history-of-one-who-lost-it",
        file: COMING_BACK,
        edits: &[(
            "if fetched.lost {\n            return Err",
            "if fetched.lost && fetched.length > 0 {\n            return Err",
        )],
        removes: "of two that lost their logs neither is repaired from the other",
        by: By::Scenario("configuration::h7_"),
    },
    Mutant {
        name: "joined-to-one-who-lost-it",
        file: COMING_BACK,
        edits: &[(
            "let mended = if fetched.lost {",
            "let mended = if fetched.lost && fetched.length > 0 {",
        )],
        removes: "nobody becomes equal to a log that was lost",
        by: By::Core,
    },
    Mutant {
        name: "alone-and-open-is-repaired",
        file: COMING_BACK,
        edits: &[(
            "let provable = record.members.len() > 1 || !record.open;",
            "let provable = !record.members.is_empty();",
        )],
        removes: "what was acknowledged alone is given back by nobody",
        by: By::Core,
    },
    Mutant {
        name: "repaired-beyond-the-base",
        file: COMING_BACK,
        edits: &[(
            "fetched.entries.retain(|entry| entry.index <= record.base_length);",
            "fetched.entries.retain(|entry| entry.index > 0);",
        )],
        removes: "what goes on behind the base of a sealed record is not its history",
        by: By::Core,
    },
    Mutant {
        name: "restored-below-the-base",
        file: COMING_BACK,
        edits: &[(
            "let whole = record.as_ref().is_some_and(holds);",
            "let whole = record.is_some() || record.as_ref().is_some_and(holds);",
        )],
        removes: "a backup that lacks what the record stands on is not enough",
        by: By::Scenario("configuration::h7_"),
    },
    Mutant {
        name: "let-go-unacknowledged",
        file: COMPACTION,
        edits: &[(
            "let behind = self.acknowledged.saturating_sub(self.keep);",
            "let behind = self.length().saturating_sub(self.keep);",
        )],
        removes: "only what is acknowledged is let go",
        by: By::Core,
    },
    Mutant {
        name: "let-go-while-it-is-decided",
        file: COMPACTION,
        edits: &[("let quiet = self.frozen.is_none() &&", "let quiet =")],
        removes: "nothing is let go while an epoch is being decided",
        by: By::Core,
    },
    Mutant {
        name: "let-go-what-the-partner-missed",
        file: COMPACTION,
        edits: &[("behind.min(base.max(most))", "behind")],
        removes: "a lone controller keeps what its partner missed",
        by: By::Core,
    },
    Mutant {
        name: "base-forgotten",
        file: COMPACTION,
        edits: &[(
            "self.compacted.facts.base = Some(base).filter(|(at, _)| *at > 0 && *at < gone + step);",
            "self.compacted.facts.base = None;",
        )],
        removes: "what the record stands on stays known when its entry is let go",
        by: By::Core,
    },
    Mutant {
        name: "begun-before-it-is-durable",
        file: COMPACTION,
        edits: &[(
            "(self.acknowledged, self.announced, self.durable) = (0, 0, 0);",
            "(self.acknowledged, self.announced, self.durable) = (0, 0, with.facts.length);",
        )],
        removes: "a log that begins with rows counts once they are durable",
        by: By::Core,
    },
    Mutant {
        name: "begun-over-what-was-there",
        file: COMPACTION,
        edits: &[(
            "let aside = self.put_aside(common);",
            "let aside = self.put_aside(u64::MAX);",
        )],
        removes: "what is not known to be in the other history is kept aside",
        by: By::Core,
    },
    Mutant {
        name: "begun-over-another-history",
        file: COMPACTION,
        edits: &[(
            "if self.compare(of.length, of.epoch, of.hash)",
            "if false && self.compare(of.length, of.epoch, of.hash)",
        )],
        removes: "one place of one epoch with two hashes stops it, also where a log begins",
        by: By::Core,
    },
    Mutant {
        name: "begun-and-not-shown",
        file: KEEPER,
        edits: &[("if self.acknowledged < gone {", "if self.acknowledged > gone {")],
        removes: "what a log begins with is shown",
        by: By::Core,
    },
    Mutant {
        name: "rows-unproved",
        file: COMPACTED,
        edits: &[("match arriving.whole.wrong() {", "match None::<String> {")],
        removes: "rows that do not add up to their digest are refused",
        by: By::Core,
    },
    Mutant {
        name: "rows-beyond-the-base",
        file: COMING_BACK,
        edits: &[(
            "&& (part.of.length > base_length ||",
            "&& part.of.length > u64::MAX / 2 && (part.of.length > base_length ||",
        )],
        removes: "a sealed record proves no rows that go beyond its base",
        by: By::Core,
    },
    Mutant {
        name: "old-answers-are-another-history",
        file: KEEPER,
        edits: &[(
            "if ours != Some(reply.hash) && !(old && ours.is_none()) {",
            "if ours != Some(reply.hash) {",
        )],
        removes: "an old answer about entries that are gone is no divergence",
        by: By::Core,
    },
    Mutant {
        name: "old-messages-are-refused",
        file: KEEPER,
        edits: &[(
            "if self.hash_at(entry.index).is_some_and(|own| own != entry.hash) {",
            "if self.hash_at(entry.index) != Some(entry.hash) {",
        )],
        removes: "an old message with entries that are gone is no other history",
        by: By::Core,
    },
    Mutant {
        name: "restored-beside-the-partners-log",
        file: COMING_BACK,
        edits: &[(
            "partner.filter(|length| *length > 0) {",
            "partner.filter(|length| *length > u64::MAX / 2) {",
        )],
        removes: "no backup is taken while the partner has the log",
        by: By::Scenario("configuration::h7_"),
    },
    Mutant {
        name: "restored-over-a-sound-log",
        file: COMING_BACK,
        edits: &[(
            "if !self.lost {\n            let what = \"no database",
            "if !self.lost && self.log.is_empty() {\n            let what = \"no database",
        )],
        removes: "a backup takes the place of a lost log, never of a sound one",
        by: By::Scenario("configuration::h7_"),
    },
    // ---- port groups ----------------------------------------------------------------------------------------
    Mutant {
        name: "both-optimized",
        file: GROUPS,
        edits: &[(
            "(Role::Partner, true) => (Backing::Partner, Access::NonOptimized, Access::Optimized),",
            "(Role::Partner, true) => (Backing::Partner, Access::Optimized, Access::Optimized),",
        )],
        removes: "who forwards does not call itself optimized",
        by: By::Seeds,
    },
    Mutant {
        name: "sign-left-up-in-a-move",
        file: GROUPS,
        edits: &[(
            "(Role::Moving, _) => (Backing::None, Access::Transitioning, Access::Transitioning),",
            "(Role::Moving, _) => (Backing::None, Access::Optimized, Access::Transitioning),",
        )],
        removes: "while a pool moves nobody calls itself optimized",
        by: By::Seeds,
    },
    Mutant {
        name: "older-wish-followed",
        file: GROUPS,
        edits: &[(
            "if claim(&set) < claim(&pool.wanted) {",
            "if claim(&set) < claim(&pool.wanted) && set.epoch.get() == 0 {",
        )],
        removes: "an older claim never replaces a newer one",
        by: By::Core,
    },
    Mutant {
        name: "astray-left-alone",
        file: GROUPS,
        edits: &[(
            ".is_none_or(|seen| *seen != wanted && !held(seen))",
            ".is_some_and(|seen| *seen != wanted && !held(seen))",
        )],
        removes: "a target that has lost what it was is told again",
        by: By::Seeds,
    },
    Mutant {
        name: "moved-without-a-drain",
        file: GROUPS,
        edits: &[(
            "drain: set.role == Role::Moving,",
            "drain: set.role == Role::Moving && set.epoch.get() == 0,",
        )],
        removes: "a move drains first",
        by: By::Core,
    },
    Mutant {
        name: "a-hold-is-disturbed",
        file: GROUPS,
        edits: &[(
            "access == (Access::Transitioning, Access::Transitioning)\n                    && wanted",
            "access != (Access::Transitioning, Access::Transitioning)\n                    && wanted",
        )],
        removes: "a target that holds commands on its way to what is wanted is left alone",
        by: By::Core,
    },
    Mutant {
        name: "partner-dead-and-not-unavailable",
        file: GROUPS,
        edits: &[(
            "(Role::Owner, false) => (Backing::Local, Access::Optimized, Access::Unavailable),",
            "(Role::Owner, false) => (Backing::Local, Access::Optimized, Access::NonOptimized),",
        )],
        removes: "the port of a silent partner is unavailable",
        by: By::Core,
    },
    // ---- blocks of the quorum area --------------------------------------------------------------------------
    Mutant {
        name: "checksum-unchecked",
        file: LAYOUT,
        edits: &[("if crc != u32_at(AT_CRC) || *rest", "if crc == 0 && *rest")],
        removes: "a torn or flipped block is unread",
        by: By::Seeds,
    },
    Mutant {
        name: "magic-unchecked",
        file: LAYOUT,
        edits: &[(
            "if block[..8] != MAGIC.to_le_bytes() {",
            "if block[..8] != MAGIC.to_le_bytes() && number > 99 {",
        )],
        removes: "a block of another format is unread",
        by: By::Core,
    },
    Mutant {
        name: "version-unchecked",
        file: LAYOUT,
        edits: &[(
            "        other => return Err(Unread::Version(other)),",
            "        other if other == 99 => return Err(Unread::Version(other)),\n        _ => {}",
        )],
        removes: "a block of another version of the layout is unread",
        by: By::Core,
    },
    Mutant {
        name: "header-unchecked",
        file: LAYOUT,
        edits: &[(
            "if let Err(why) = content(place, 0, None, area) {",
            "if let (true, Err(why)) = (area.is_empty(), content(place, 0, None, area)) {",
        )],
        removes: "blocks behind a header of another disk are unread",
        by: By::Seeds,
    },
    Mutant {
        name: "older-copy-of-a-ballot",
        file: LAYOUT,
        edits: &[(
            "[Ok(first), Ok(second)] if second.age() > first.age() => Ok(second),",
            "[Ok(first), Ok(second)] if second.age() < first.age() => Ok(second),",
        )],
        removes: "of two whole copies of a ballot the later counts (K11)",
        by: By::Seeds,
    },
    Mutant {
        name: "votes-that-contradict-themselves",
        file: LAYOUT,
        edits: &[("    if voted && numbered {", "    if voted || numbered {")],
        removes: "a ballot block whose fields contradict each other is unread",
        by: By::Core,
    },
    Mutant {
        name: "place-unchecked",
        file: LAYOUT,
        edits: &[(
            "if here != (number, place.seat.disk.get(), writer) {",
            "if here != (number, place.seat.disk.get(), writer) && false {",
        )],
        removes: "a block of another place is unread",
        by: By::Scenario("strangers::"),
    },
    Mutant {
        name: "array-unchecked",
        file: LAYOUT,
        edits: &[(
            "if block[AT_ARRAY..AT_ARRAY + 16] != *place.array.as_bytes() {",
            "if block[AT_ARRAY..AT_ARRAY + 16] != *place.array.as_bytes() && number > 99 {",
        )],
        removes: "a block of another array is unread",
        by: By::Scenario("strangers::"),
    },
    Mutant {
        name: "set-unchecked",
        file: LAYOUT,
        edits: &[(
            "if (set, u32_at(AT_MARK)) != (place.seat.since.get(), place.seat.mark) {",
            "if u32_at(AT_MARK) != place.seat.mark {",
        )],
        removes: "a block of another membership of a quorum disk is unread",
        by: By::Scenario("strangers::"),
    },
    Mutant {
        name: "another-array-is-heard",
        file: WIRE,
        edits: &[(
            "if from_array != *array.as_bytes() {",
            "if from_array != *array.as_bytes() && sender > 9 {",
        )],
        removes: "a heartbeat of another array is none",
        by: By::Seeds,
    },
    Mutant {
        name: "the-own-echo-is-heard",
        file: WIRE,
        edits: &[(
            "if usize::from(sender) != partner.index() {",
            "if usize::from(sender) > 1 {",
        )],
        removes: "a heartbeat that is not the partner's is none",
        by: By::Seeds,
    },
    Mutant {
        name: "mark-unchecked",
        file: LAYOUT,
        edits: &[(
            "if (set, u32_at(AT_MARK)) != (place.seat.since.get(), place.seat.mark) {",
            "if set != place.seat.since.get() {",
        )],
        removes: "a block of another formatting of a quorum disk is unread",
        by: By::Scenario("strangers::"),
    },
    // ---- change of the quorum set ---------------------------------------------------------------------------
    Mutant {
        name: "new-disks-alone-decide",
        file: SET,
        edits: &[(
            "let Some((leaving, joining)) = self.leaving.zip(self.joining()) else {",
            "let Some((leaving, joining)) = self.leaving.zip(self.joining()).filter(|_| false) else {",
        )],
        removes: "while a disk leaves, most of the old disks and most of the new ones are needed",
        by: By::Scenario("replace::c1_most"),
    },
    Mutant {
        name: "new-disk-written-unread",
        file: MACHINE,
        edits: &[("            ours: false,", "            ours: true,")],
        removes: "nothing is written to a disk before the own area was read there and the disk is the right one",
        by: By::Scenario("replace::c1_with_a_forgotten"),
    },
    Mutant {
        name: "own-areas-alone-say-which-set",
        file: MACHINE,
        edits: &[("if !self.majority_is(|disk| disk.vote.is_some()) {", "if false {")],
        removes: "whoever starts reads the partner's ballots as well, to know that the set is the last one",
        by: By::Scenario("replace::c1_a_forgotten"),
    },
    Mutant {
        name: "last-sign-forgotten-with-its-disk",
        file: CHANGE,
        edits: &[("            self.partner.left = Some(now);\n", "")],
        removes: "the partner's lease may count from a sign of life on a disk that has left (S7)",
        by: By::Scenario("replace::c1_a_lease"),
    },
    Mutant {
        name: "change-in-the-middle-of-a-change",
        file: SET,
        edits: &[(
            "(self.leaving.is_none() && next.sound()).then_some(next)",
            "next.sound().then_some(next)",
        )],
        removes: "a change of the set begins when the last one has ended",
        by: By::Scenario("replace::"),
    },
    Mutant {
        name: "request-in-the-middle-of-a-change",
        file: CHANGE,
        edits: &[(
            "if let Some((leaves, joins)) = set.leaving().zip(set.joining()) {",
            "if let Some((leaves, joins)) = set.leaving().zip(set.joining()).filter(|_| false) {",
        )],
        removes: "an operator is told that the last change has not ended",
        by: By::Scenario("replace::c1_one_change"),
    },
    Mutant {
        name: "proposed-before-it-is-formatted",
        file: CHANGE,
        edits: &[(
            "let ready = change.stage == Stage::Ready;",
            "let ready = change.under_way();",
        )],
        removes: "a disk is formatted before it is proposed",
        by: By::Scenario("replace::c1_nothing"),
    },
    Mutant {
        name: "formatting-fails-and-it-is-proposed",
        file: CHANGE,
        edits: &[(
            "Err(why) => Stage::Failed(why.clone()),",
            "Err(_) => Stage::Ready,",
        )],
        removes: "a disk that could not be formatted is not proposed",
        by: By::Scenario("replace::c5_what"),
    },
    Mutant {
        name: "change-ends-uncopied",
        file: CHANGE,
        edits: &[(
            "mine && (self.partner_member().is_none() || self.majority_is(theirs))",
            "mine || self.majority_is(theirs)",
        )],
        removes: "a change ends when every member's words stand on the new disks",
        by: By::Scenario("replace::c1_a_change_waits"),
    },
    Mutant {
        name: "both-format",
        file: CHANGE,
        edits: &[(
            "self.me() == ControllerId::A || self.partner_member().is_none()",
            "self.me() == ControllerId::A || self.phase == Phase::Up",
        )],
        removes: "of two members one alone formats disks",
        by: By::Scenario("replace::c1_one_change"),
    },
    Mutant {
        name: "formatted-under-a-standing-vote",
        file: CHANGE,
        edits: &[(
            "if change.stage == Stage::Asked && !voted {",
            "if change.stage == Stage::Asked && (!voted || true) {",
        )],
        removes: "a disk that a standing vote may name is not formatted again before that vote is finished",
        by: By::Scenario("replace::c1_death"),
    },
    Mutant {
        name: "anything-is-formatted-over",
        file: LAYOUT,
        edits: &[("if area.iter().all(|byte| *byte == 0) {", "if !area.is_empty() {")],
        removes: "only a blank disk, or an old one of this array, is formatted",
        by: By::Scenario("replace::c5_what"),
    },
    // ---- good-bye -------------------------------------------------------------------------------------------
    Mutant {
        name: "good-bye-on-one-disk",
        file: MACHINE,
        edits: &[(
            "if self.majority_is(|disk| disk.farewell == present) {",
            "if self.disks.iter().any(|disk| disk.farewell == present) {",
        )],
        removes: "a good-bye counts when it stands on a majority: the next daemon of that life finds it then",
        by: By::Core,
    },
    Mutant {
        name: "good-bye-while-something-runs",
        file: MACHINE,
        edits: &[(
            "self.farewell == Farewell::Due && well",
            "self.farewell == Farewell::Due",
        )],
        removes: "good-bye is said when everything below has stopped",
        by: By::Core,
    },
    Mutant {
        name: "good-bye-with-a-pool-in-hand",
        file: MACHINE,
        edits: &[(
            "self.farewell == Farewell::None && self.let_go()",
            "self.farewell == Farewell::None",
        )],
        removes: "good-bye is said by whom nothing is left",
        by: By::Core,
    },
    Mutant {
        name: "good-bye-is-forgotten",
        file: MACHINE,
        edits: &[(
            "        if gone {\n",
            "        if gone && self.was_member && false {\n",
        )],
        removes: "a daemon keeps to the good-bye of an earlier one of its life",
        by: By::Core,
    },
    Mutant {
        name: "dying-is-dead",
        file: TIMING,
        edits: &[("let gone = gone.max(longer * 3);", "let gone = longer.min(gone);")],
        removes: "who says that it dies is waited for until its lease has run out",
        by: By::Core,
    },
    Mutant {
        name: "good-bye-of-an-earlier-life",
        file: MACHINE,
        edits: &[(
            "farewell == Some(self.partner.incarnation) && farewell >= self.partner_member()",
            "farewell == Some(self.partner.incarnation)",
        )],
        removes: "the good-bye of an earlier life says nothing of the incarnation that is a member (S5)",
        by: By::Core,
    },
    Mutant {
        name: "a-last-word-stands-for-ever",
        file: MACHINE,
        edits: &[(
            "if current && changed && self.partner_dies()",
            "if false && current && changed && self.partner_dies()",
        )],
        removes: "who writes its slot after its last word is back, though the wire is dead (S5)",
        by: By::Scenario("matrix::a16_a_daemon_that_is_back"),
    },
    Mutant {
        name: "anything-written-takes-the-last-word-back",
        file: MACHINE,
        edits: &[(
            "is_some_and(|said| watch.is_later_than(said))",
            "is_some_and(|_| changed)",
        )],
        removes: "what was on its way to the disks when its writer said that it dies shows no life after that",
        by: By::Core,
    },
];
