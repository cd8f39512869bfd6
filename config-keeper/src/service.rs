//! The counter in front of the ledger: takes calls, lets the core decide, carries out what it says.
//!
//! One task owns the [`Keeper`]. Calls, the store's reports and the partner's answers reach it through one queue and
//! are handled one after the other; nothing in that task waits. What takes time (commits, calls to the partner)
//! runs elsewhere and comes back as an event.
//!
//! Never: an answer to a change that the core has not given; a second owner of the keeper.

use crate::seal::{Ring, SealError, place as place_of};
use crate::store::{Lost, Opened, RESTORE, Report, Room, Store, StoreError, Way, Writer};
use pollux_api::action::ActionId;
use pollux_api::config::item::{Item, Purpose, Secret};
use pollux_api::config::{
    self, Append, AsideEntry, Change, Changed, Fetch, Freeze, Get, Kind, Lease, LeaseAsked, List, Listing,
    Locked, LogEntry, LogQuery, Op, ReadAt, ReadIndex, Resource, Restore, Restored, SealKeys, SetEpoch, Show,
    Snapshot, Status, StorageAlarm, Sync, Unfreeze, Unseal, Unsealed, Verified, Watch, Watched,
};
use pollux_api::error::Problem;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::MAX_MESSAGE;
use pollux_api::{heartbeat, rank};
use pollux_config_core::keeper::{Answer, BATCH_BYTES, Effect, Event, KEPT, Keeper, Refusal, Request};
use pollux_config_core::plan::{Site, secret_is_right};
use pollux_config_core::reads::{Proof, Witness};
use pollux_platform::signal::Shutdown;
use pollux_platform::unsynced::{self, Habits, SEED_VARIABLE};
use pollux_runtime::config::Paths;
use pollux_runtime::{Client, ControllerConfig, Ctx, Service};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Name of the database in the controller's `var`.
pub const DATABASE: &str = "config.db";
/// Calls to the partner's keeper: longer than a commit takes, shorter than a caller's patience.
const PARTNER_WITHIN: Duration = Duration::from_secs(2);
/// How soon to ask again what the partner did not answer.
const TICK: Duration = Duration::from_millis(200);
/// How often the partner hears what is acknowledged when nothing else is said: every so many ticks.
const NEWS_TICKS: u32 = 10;
/// So long a word to the partner that carries nothing but what is acknowledged waits for entries that can take it along.
/// Who changes one thing after the other would otherwise send every entry twice as many messages.
const NEWS_AFTER: Duration = Duration::from_millis(2);
/// So long heartbeat waits for news of nothing but a longer log; of anything else it hears at once.
const LENGTH_AFTER: Duration = Duration::from_millis(50);
/// Longest wait of one poll of a watcher.
const WATCH_MAX: Duration = Duration::from_secs(30);

type Answered = Result<Answer, Refusal>;
type Look = Box<dyn FnOnce(&mut Actor) + Send>;

enum Input {
    /// An event whose answer somebody waits for.
    Call(
        Box<dyn FnOnce(Request) -> Event + Send>,
        oneshot::Sender<Answered>,
    ),
    Event(Event),
    Room(Room),
    Look(Look),
}

/// What is said a little later than it is known, so that much of it is said once.
#[derive(Default)]
struct Later {
    /// To the partner.
    news: Option<(tokio::time::Instant, Append)>,
    /// To heartbeat.
    length: Option<tokio::time::Instant>,
    /// What heartbeat was told last, without what only grows.
    told: Option<Status>,
}

impl Later {
    /// When the next of it has to be said.
    fn due(&self) -> Option<tokio::time::Instant> {
        let news = self.news.as_ref().map(|(due, _)| *due);
        news.into_iter().chain(self.length).min()
    }
}

/// The status without what every change moves.
fn without_lengths(status: &Status) -> Status {
    let mut status = status.clone();
    (status.length, status.hash) = Default::default();
    (status.acknowledged_length, status.acknowledged_hash) = Default::default();
    status.in_sync_as_of = None;
    if let Some(locked) = &mut status.locked {
        locked.for_ms = 0;
    }
    status
}

/// What became of a change that was handed in.
enum Taken {
    /// It is decided here; the answer comes later.
    Here(oneshot::Receiver<Answered>),
    /// It was answered before.
    Known(Answered),
    /// The partner's keeper decides it.
    Partners(Change),
}

/// What the task owns.
struct Actor {
    me: ControllerId,
    paths: Paths,
    keeper: Keeper,
    writer: Writer,
    next: Request,
    waiting: HashMap<Request, oneshot::Sender<Answered>>,
    /// The last question to heartbeat whether this controller holds its lease: its number, and the core's.
    lease_asked: Option<(u64, u64)>,
    /// Numbers of such questions begin here: an answer to one of an earlier process is nobody's.
    lease_numbers: u64,
    /// Since when it is locked, and why.
    locked: Option<(String, Instant)>,
    aside: (u64, bool),
    /// A database that was damaged or gone, until its content has been copied from the partner.
    lost: Option<Lost>,
    /// The room on the disk of the database; none: it is not known.
    room: Option<Room>,
    moved: bool,
    later: Later,
    acknowledged: watch::Sender<u64>,
    inputs: mpsc::UnboundedSender<Input>,
    client: Option<Client>,
    ring: Ring,
    /// The session of which the partner has had the keys; with each new one it is given them again.
    keys_given: Option<u64>,
}

/// To ask the task. Clones share it.
#[derive(Clone)]
struct Handle {
    me: ControllerId,
    inputs: mpsc::UnboundedSender<Input>,
    acknowledged: watch::Receiver<u64>,
}

impl Handle {
    fn stopped(&self) -> RpcError {
        RpcError::new(Code::ServiceGone, place(self.me), "the keeper is stopping")
            .remedy("ask again under the same action_id")
    }

    /// Looks at the keeper.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Actor) -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let (sender, receiver) = oneshot::channel();
        let look: Look = Box::new(move |actor| {
            // Whoever asked may have gone.
            let _ = sender.send(look(actor));
        });
        self.inputs.send(Input::Look(look)).map_err(|_| self.stopped())?;
        receiver.await.map_err(|_| self.stopped())
    }

    /// Hands an event in and waits for its answer; none at the deadline.
    async fn ask(
        &self,
        ctx: &Ctx,
        event: impl FnOnce(Request) -> Event + Send + 'static,
    ) -> Result<Option<Answered>, RpcError> {
        let (sender, receiver) = oneshot::channel();
        self.inputs
            .send(Input::Call(Box::new(event), sender))
            .map_err(|_| self.stopped())?;
        self.answer(ctx, receiver).await
    }

    /// Waits for the answer to what was handed in; none at the deadline.
    async fn answer(
        &self,
        ctx: &Ctx,
        receiver: oneshot::Receiver<Answered>,
    ) -> Result<Option<Answered>, RpcError> {
        // A little earlier than the caller, so that it hears a reason and not only silence.
        match timeout(ctx.remaining() * 9 / 10, receiver).await {
            Ok(answer) => answer.map(Some).map_err(|_| self.stopped()),
            Err(_) => Ok(None),
        }
    }

    /// The same, where no answer in time is an error of its own.
    async fn demand(
        &self,
        ctx: &Ctx,
        event: impl FnOnce(Request) -> Event + Send + 'static,
    ) -> Result<Answer, RpcError> {
        match self.ask(ctx, event).await? {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(refusal)) => Err(self.refused(refusal).await),
            None => Err(RpcError::new(
                Code::DeadlinePassed,
                place(self.me),
                "the disk or the partner did not answer in time",
            )
            .remedy("ask again")),
        }
    }

    async fn refused(&self, refusal: Refusal) -> RpcError {
        let error = refusal_error(place(self.me), refusal);
        if !error.is(Code::ConfigLocked) {
            return error;
        }
        match self
            .look(|actor| actor.locked.as_ref().map(|(_, since)| since.elapsed()))
            .await
        {
            Ok(Some(elapsed)) => error
                .since_ms(unix_ms().saturating_sub(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))),
            _ => error,
        }
    }

    async fn status(&self) -> Result<Status, RpcError> {
        self.look(|actor| actor.status()).await
    }
}

fn place(me: ControllerId) -> String {
    format!("{me}/{}", config::SERVICE)
}

/// Wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "since when it is locked, for people; nothing is decided by it"
)]
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn refusal_error(place: String, refusal: Refusal) -> RpcError {
    match refusal {
        Refusal::Invalid(problems) => {
            let what = if problems.len() == 1 {
                "the request has a problem".to_owned()
            } else {
                format!("the request has {} problems", problems.len())
            };
            let mut error = RpcError::new(Code::InvalidParams, place, what);
            error.data.problems = problems;
            error
        }
        Refusal::Locked(reason, remedy) => RpcError::new(Code::ConfigLocked, place, reason).remedy(remedy),
        Refusal::InDoubt => in_doubt(
            place,
            "the partner fell silent, or an epoch is being decided, before this change was durable where it must be",
        ),
        Refusal::Conflict(what, remedy) => RpcError::new(Code::Conflict, place, what).remedy(remedy),
        Refusal::Stale(what) => {
            RpcError::new(Code::Superseded, place, what).remedy("ask again: membership has changed")
        }
        Refusal::Diverged(diverged) => {
            let config::Diverged {
                epoch,
                index,
                ours,
                theirs,
            } = diverged;
            let what = format!("entry {index} of epoch {epoch} is {ours} here and {theirs} at the partner");
            RpcError::new(Code::Refused, place, what)
                .remedy("compare `pollux config log` of both controllers; nothing is chosen without you")
        }
        Refusal::Storage(what) => RpcError::new(Code::Failed, place, what)
            .remedy("free or repair the disk of this controller, then restart config-keeperd"),
        Refusal::Partner(what) => RpcError::new(Code::PartnerUnreachable, place, what)
            .remedy("mend the interconnect or start the partner, then ask again"),
    }
}

fn in_doubt(place: String, what: &str) -> RpcError {
    RpcError::new(Code::InDoubt, place, what)
        .remedy("ask again under the same action_id: it is done once, and you get its answer")
}

impl Actor {
    fn handle(&mut self, event: Event) {
        if matches!(&event, Event::Change { change, .. } if names_disks(change)) {
            // Looked at for each of them: disks are pulled and put in while the array runs.
            let slots = self.paths.disks().unwrap_or_else(|error| {
                tracing::warn!(%error, port = %self.paths.port.display(), "the disks of the shelf cannot be listed");
                BTreeSet::new()
            });
            self.keeper.handle(Event::Disks { slots });
        }
        for effect in self.keeper.handle(event) {
            match effect {
                Effect::Store { serial, job } => {
                    use pollux_config_core::keeper::Job;
                    if let Job::Mend { aside, .. } | Job::Begin { aside, .. } = &job {
                        self.aside.0 += aside.len() as u64;
                        self.aside.1 |= aside.iter().any(|(_, acknowledged)| *acknowledged);
                        if !aside.is_empty() {
                            tracing::error!(
                                entries = aside.len(),
                                acknowledged = self.aside.1,
                                "entries lost their place and were set aside: see `pollux config aside`"
                            );
                        }
                    }
                    self.writer.job(serial, job);
                }
                Effect::Sync(sync) => self.send_sync(sync),
                Effect::Append(append) => self.append(append),
                Effect::Fetch(fetch) => self.send_fetch(fetch),
                Effect::Witness { round, witness } => self.send_witness(round, witness),
                Effect::Answer { request, answer } => {
                    if let Some(waiting) = self.waiting.remove(&request) {
                        // Whoever waited may have gone.
                        let _ = waiting.send(answer);
                    }
                }
                Effect::Moved => self.moved = true,
            }
        }
        if !self.keeper.lost()
            && let Some(lost) = self.lost.take()
        {
            tracing::info!(
                kept = lost.file,
                "the configuration is whole again; the damaged database is kept"
            );
            self.moved = true;
        }
        self.look_at_lock();
    }

    /// The room on the disk is no longer what it was.
    fn take_room(&mut self, room: Room) {
        let before = self.room.replace(room);
        let alarm = |room: &Option<Room>| room.as_ref().and_then(Room::alarm);
        match (alarm(&before), alarm(&self.room)) {
            // The figures alone are no news for the journal.
            (None, Some((what, remedy))) => tracing::warn!(what, remedy, "disk"),
            (Some(_), None) => tracing::info!("there is room on the boot disk again"),
            _ => {}
        }
        self.moved |= alarm(&before).is_some() != alarm(&self.room).is_some();
        self.look_at_lock();
    }

    /// Why nothing can be changed here now, and what would clear it.
    fn locked(&self) -> Option<(String, String)> {
        let full = || self.room.as_ref().and_then(|room| room.refusal(false));
        self.keeper.locked().or_else(full)
    }

    /// Nothing is begun that would not fit on the disk; what was begun is ended.
    fn not_begun(&self, event: &Event) -> Option<Refusal> {
        let room = |copy| self.room.as_ref().and_then(|room| room.refusal(copy));
        let (what, remedy) = match event {
            Event::Change { change, .. } if !change.dry_run => room(false)?,
            Event::AppendIn { append, .. } if !append.entries.is_empty() => room(true)?,
            Event::CatchUp { .. } => room(true)?,
            _ => return None,
        };
        Some(Refusal::Locked(what, remedy))
    }

    fn look_at_lock(&mut self) {
        // Figures come and go; the reason is the same.
        let full = || self.locked().map(|_| "the boot disk is full".to_owned());
        let now = self.keeper.locked().map(|(reason, _)| reason).or_else(full);
        if now.as_ref() != self.locked.as_ref().map(|(reason, _)| reason) {
            match &now {
                Some(reason) => tracing::info!(reason, "configuration locked"),
                None => tracing::info!("configuration open"),
            }
            self.locked = now.map(|reason| (reason, Instant::now()));
            self.moved = true;
        }
    }

    /// Sends entries at once, and what they can take along not before them.
    fn append(&mut self, append: Append) {
        if append.entries.is_empty() {
            let due = self.later.news.take().map(|(due, _)| due);
            let due = due.unwrap_or_else(|| tokio::time::Instant::now() + NEWS_AFTER);
            self.later.news = Some((due, append));
        } else {
            self.later.news = None;
            self.send_append(append);
        }
    }

    /// Tells watchers and heartbeat, once for many events.
    fn tell(&mut self) {
        let now = tokio::time::Instant::now();
        if let Some((_, append)) = self.later.news.take_if(|(due, _)| *due <= now) {
            self.send_append(append);
        }
        if std::mem::take(&mut self.moved) {
            let acknowledged = self.keeper.acknowledged();
            if self.acknowledged.send_replace(acknowledged) != acknowledged {
                self.writer.mark(acknowledged);
            }
            self.give_keys();
            let due = *self.later.length.get_or_insert(now + LENGTH_AFTER);
            let status = self.status();
            let seen = without_lengths(&status);
            if due <= now || self.later.told.as_ref() != Some(&seen) {
                self.later.length = None;
                self.later.told = Some(seen);
                self.tell_heartbeat(&status);
            }
        } else if self.later.length.take_if(|due| *due <= now).is_some() {
            self.tell_heartbeat(&self.status());
        }
    }

    fn tell_heartbeat(&self, status: &Status) {
        if let Some(client) = &self.client {
            let ctx = Ctx::new(PARTNER_WITHIN);
            if let Err(error) = client.notify(heartbeat::CONFIG_STATUS, status, &ctx) {
                tracing::debug!(%error, "heartbeat was not told");
            }
        }
    }

    fn status(&self) -> Status {
        let keeper = &self.keeper;
        let hash_at = |length| keeper.hash_at(length).unwrap_or_default();
        Status {
            controller: self.me,
            length: keeper.durable(),
            hash: hash_at(keeper.durable()),
            acknowledged_length: keeper.acknowledged(),
            acknowledged_hash: hash_at(keeper.acknowledged()),
            acknowledging: keeper.acknowledging(),
            epoch: keeper.epoch().cloned(),
            session: keeper.session(),
            sequencer: keeper.sequencer(),
            locked: self.locked().map(|(reason, remedy)| {
                let since = self
                    .locked
                    .as_ref()
                    .map_or(Duration::ZERO, |(_, since)| since.elapsed());
                Locked {
                    reason,
                    for_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                    remedy,
                }
            }),
            frozen: keeper.frozen(),
            in_sync_as_of: keeper.in_sync(),
            aside: self.aside.0,
            aside_acknowledged: self.aside.1,
            diverged: keeper.diverged().cloned(),
            lost: keeper.lost().then(|| match self.lost.clone() {
                Some(Lost { file, what }) => config::Lost {
                    file: Some(file),
                    what,
                },
                None => config::Lost {
                    file: None,
                    what: "its log does not hold what the record of the epoch stands on".to_owned(),
                },
            }),
            alarms: self
                .room
                .as_ref()
                .and_then(Room::alarm)
                .map(|(what, remedy)| StorageAlarm { what, remedy })
                .into_iter()
                .collect(),
            compacted: keeper.compacted().facts.length,
        }
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot_of(self.keeper.tables().clone())
    }

    fn snapshot_of(&self, tables: config::Tables) -> Snapshot {
        let as_of = self.keeper.acknowledged();
        Snapshot {
            controller: self.me,
            as_of,
            hash: self.keeper.hash_at(as_of).unwrap_or_default(),
            tables,
        }
    }

    /// Everything, if it fits into one message; otherwise the rows behind `after` that do.
    fn part(&self, after: Option<config::Key>) -> Watched {
        let (mut rows, mut bytes, mut more) = (Vec::new(), 0, false);
        for row in self.keeper.tables().rows_after(after) {
            // Its length as text; a row that has none would be a defect that the sender reports.
            bytes += serde_json::to_string(&row).map_or(0, |text| text.len() + 1);
            if bytes > BATCH_BYTES && !rows.is_empty() {
                more = true;
                break;
            }
            rows.push(row);
        }
        if after.is_none() && !more {
            return Watched::Snapshot(self.snapshot());
        }
        let Snapshot {
            controller,
            as_of,
            hash,
            ..
        } = self.snapshot_of(config::Tables::default());
        Watched::Part(config::Part {
            controller,
            as_of,
            hash,
            rows,
            more,
        })
    }

    fn listing(&self, list: &List) -> Listing {
        Listing {
            controller: self.me,
            as_of: self.keeper.acknowledged(),
            rows: self.keeper.tables().of_kind(list.kind),
        }
    }

    fn watched(&self, watch: &Watch) -> Watched {
        // A keeper that has just started remembers less as acknowledged than it had shown: the mark is written when
        // nothing else is to do. Nobody is led back behind what he has seen, and nobody starts from such a mark: what
        // is missing there would look deleted.
        let gone = self.keeper.compacted().facts.length;
        let known = |(index, hash): &(u64, config::LogHash)| {
            *index >= gone && self.keeper.hash_at(*index) == Some(*hash)
        };
        let nothing = self.keeper.epoch().is_none() || self.keeper.lost() || self.keeper.is_beginning();
        match watch.after.filter(known) {
            None if nothing => Watched::Changes(Vec::new()),
            None => self.part(watch.part_after),
            Some((index, _)) if index > self.keeper.acknowledged() => Watched::Changes(Vec::new()),
            Some((index, _)) => {
                let upto = self.keeper.batch_end(index, self.keeper.acknowledged(), u64::MAX);
                Watched::Changes(self.keeper.entries(index, upto))
            }
        }
    }

    /// Calls the partner's keeper and hands the answer in as an event.
    fn call_partner<Q, R>(
        &self,
        method: &'static str,
        request: Q,
        ctx: Ctx,
        event: impl FnOnce(Result<R, String>) -> Event + Send + 'static,
    ) where
        Q: serde::Serialize + Send + std::marker::Sync + 'static,
        R: serde::de::DeserializeOwned + Send,
    {
        let Some(client) = self.client.clone() else { return };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let answer = client
                .call::<Q, R>(&format!("partner/{method}"), &request, &ctx)
                .await;
            // The task is gone only when the process ends.
            let _ = inputs.send(Input::Event(event(answer.map_err(|error| error.to_string()))));
        });
    }

    /// Gives the partner the keys that seal secrets, and takes its own, once for each session: it can open what it will
    /// have to when it is alone.
    fn give_keys(&mut self) {
        let session = self.keeper.session();
        let two = self.keeper.epoch().is_some_and(|record| record.members.len() > 1);
        if !two || !self.keeper.acknowledging() || self.keys_given == Some(session) {
            return;
        }
        self.keys_given = Some(session);
        let Some(client) = self.client.clone() else { return };
        let (inputs, keys) = (
            self.inputs.clone(),
            SealKeys {
                keys: self.ring.give(),
            },
        );
        tokio::spawn(async move {
            let method = format!("partner/{}", config::SEAL_KEYS);
            let answer = client
                .call::<_, SealKeys>(&method, &keys, &Ctx::new(PARTNER_WITHIN))
                .await;
            let look: Look = Box::new(move |actor| {
                let done = answer
                    .map_err(|error| error.to_string())
                    .and_then(|theirs| actor.ring.adopt(&theirs.keys).map_err(|error| error.to_string()));
                if let Err(error) = done {
                    tracing::warn!(
                        error,
                        "the partner's keeper and this one have not exchanged the keys of secrets"
                    );
                    // With the next news again.
                    actor.keys_given = None;
                }
            });
            // The task is gone only when the process ends.
            let _ = inputs.send(Input::Look(look));
        });
    }

    fn send_sync(&self, sync: Sync) {
        let event = move |answer| Event::SyncOut {
            session: sync.session,
            epoch: sync.epoch,
            answer,
        };
        self.call_partner(config::SYNC, sync, Ctx::new(PARTNER_WITHIN), event);
    }

    fn send_append(&self, append: Append) {
        let (session, epoch, last) = (
            append.session,
            append.epoch,
            append.entries.last().map(|entry| entry.index),
        );
        let mut ctx = Ctx::new(PARTNER_WITHIN);
        // So that the trace of a change shows its copy. A batch has several causes and can name one.
        ctx.parent = append.entries.first().map(|entry| entry.action_id);
        self.call_partner(config::APPEND, append, ctx, move |answer| Event::AppendOut {
            session,
            epoch,
            last,
            answer,
        });
    }

    /// Asks whoever can tell whether this controller may answer readers. Silence comes back as an answer.
    fn send_witness(&mut self, round: u64, witness: Witness) {
        let ctx = Ctx::new(PARTNER_WITHIN);
        match witness {
            Witness::Follower(append) => self.call_partner(config::APPEND, append, ctx, move |answer| {
                let answer = answer.map(Proof::Followed);
                Event::Witnessed { round, answer }
            }),
            Witness::Sequencer(ask) => {
                self.call_partner(
                    config::READ_INDEX,
                    ask,
                    ctx,
                    move |answer: Result<ReadAt, String>| {
                        let answer = answer.map(|at| Proof::Index(at.index));
                        Event::Witnessed { round, answer }
                    },
                );
            }
            Witness::Lease { .. } => self.ask_lease(round, &ctx),
        }
    }

    /// Nobody below waits for anybody above: heartbeat is told of the question and calls with its answer.
    fn ask_lease(&mut self, round: u64, ctx: &Ctx) {
        let number = self.lease_numbers.wrapping_add(round);
        self.lease_asked = Some((number, round));
        if let Some(client) = &self.client {
            let asked = LeaseAsked { number };
            if let Err(error) = client.notify(heartbeat::CONFIG_LEASE, &asked, ctx) {
                tracing::debug!(%error, "heartbeat was not asked for its lease");
            }
        }
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PARTNER_WITHIN).await;
            let silence: Look = Box::new(move |actor| {
                actor.leased(number, Err("it does not answer".to_owned()));
            });
            // The task is gone only when the process ends.
            let _ = inputs.send(Input::Look(silence));
        });
    }

    /// Heartbeat has answered, or has had its time.
    fn leased(&mut self, number: u64, answer: Result<Proof, String>) {
        if let Some((_, round)) = self.lease_asked.take_if(|(asked, _)| *asked == number) {
            self.handle(Event::Witnessed { round, answer });
        }
    }

    fn send_fetch(&self, fetch: Fetch) {
        self.call_partner(config::FETCH, fetch, Ctx::new(PARTNER_WITHIN), |answer| {
            Event::FetchOut { answer }
        });
    }
}

/// What stands in the enclosure, as far as `controller.toml` tells.
fn site(config: &ControllerConfig) -> Site {
    let reserved = [
        config.front.address,
        config.interconnect.local,
        config.interconnect.partner,
    ];
    Site {
        disks: BTreeSet::new(),
        quorum: config.quorum.disks.iter().copied().collect(),
        reserved: BTreeSet::from(reserved),
    }
}

/// Why the daemon stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its log is no chain.
    #[error(
        "{path}: the log is damaged: {what}; restore a copy, or move the file away and let the controller copy the configuration from its partner"
    )]
    Log {
        /// The file.
        path: String,
        /// Which entry, and why.
        what: String,
    },
    /// The keys that seal secrets.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The environment asks for a disk that forgets, and does not say how.
    #[error("{SEED_VARIABLE}={0}: it must be a number, or not be set; only a software enclosure sets it")]
    Seed(String),
    /// Signals cannot be received, or SQLite takes no layer under it.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the daemon until it is asked to stop.
///
/// # Errors
/// [`RunError`] names the file and what would be right.
pub async fn run(config: ControllerConfig) -> Result<(), RunError> {
    let shutdown = Shutdown::on_signals()?;
    let (service, task) = start(&config)?;
    service.run(&shutdown).await;
    task.abort();
    // Joined, so that the database is closed when the process ends.
    let _ = task.await;
    Ok(())
}

/// In the software enclosure the disk of a controller forgets what was not flushed when the power goes.
fn way() -> Result<Way, RunError> {
    let mut way = Way::default();
    if let Some(seed) = std::env::var_os(SEED_VARIABLE) {
        const LAYER: &str = "pollux-unsynced";
        let number = seed.to_str().and_then(|seed| seed.parse().ok());
        let seed: u64 = number.ok_or_else(|| RunError::Seed(seed.to_string_lossy().into_owned()))?;
        unsynced::register(LAYER, Habits::new(seed))?;
        tracing::warn!(
            seed,
            "writes that are not flushed are lost when this process is killed: a software enclosure"
        );
        way.vfs = Some(LAYER.to_owned());
    }
    Ok(way)
}

/// Opens the database and begins to serve; returns at once. The task ends when it is aborted.
///
/// # Errors
/// As [`run`].
pub fn start(config: &ControllerConfig) -> Result<(Service, tokio::task::JoinHandle<()>), RunError> {
    let path = config.paths.var.join(DATABASE);
    let (store, opened) = Store::open_or_replace(&path, config.array, &way()?)?;
    let Opened {
        loaded,
        aside,
        lost,
        room,
        ..
    } = opened;
    if let Some(Lost { file, what }) = &lost {
        tracing::error!(
            what,
            kept = file,
            remedy = RESTORE,
            "the database was damaged: an empty one has taken its place"
        );
    }
    let me = config.controller;
    let log_damaged = |what| RunError::Log {
        path: path.display().to_string(),
        what,
    };
    let keeper = Keeper::load(me, None, site(config), loaded)
        .map_err(log_damaged)?
        .keeping(config.history.map_or(KEPT, |history| history.changes));
    tracing::info!(length = keeper.length(), acknowledged = keeper.acknowledged(), database = %path.display(), "opened");

    let ring = Ring::load(&config.paths.keys)?;
    let (inputs, queue) = mpsc::unbounded_channel();
    let reports = inputs.clone();
    let writer = store.spawn(move |report| {
        let input = match report {
            Report::Stored(serial) => Input::Event(Event::Stored { serial }),
            Report::Failed(what) => {
                tracing::error!(
                    what,
                    "the database failed: nothing more is changed until config-keeperd is restarted"
                );
                Input::Event(Event::StoreFailed { what })
            }
            Report::Room(room) => Input::Room(room),
        };
        // The task is gone only when the process ends.
        let _ = reports.send(input);
    });
    let (acknowledged, seen) = watch::channel(keeper.acknowledged());
    let handle = Handle {
        me,
        inputs: inputs.clone(),
        acknowledged: seen,
    };
    let service = register(config, &handle);
    let client = Some(service.client().clone());
    let mut actor = Actor {
        me,
        paths: config.paths.clone(),
        keeper,
        writer,
        next: 1,
        waiting: HashMap::new(),
        lease_asked: None,
        lease_numbers: RandomState::new().build_hasher().finish(),
        locked: None,
        aside,
        lost,
        room: None,
        moved: true,
        later: Later::default(),
        acknowledged,
        inputs,
        client,
        ring,
        keys_given: None,
    };
    if let Some(room) = room {
        actor.take_room(room);
    }
    Ok((service, tokio::spawn(serve(actor, queue))))
}

async fn serve(mut actor: Actor, mut queue: mpsc::UnboundedReceiver<Input>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    loop {
        tokio::select! {
            input = queue.recv() => {
                let Some(input) = input else { return };
                actor.take(input);
                // Everything that has come meanwhile goes into the same commit and the same news.
                while let Ok(input) = queue.try_recv() {
                    actor.take(input);
                }
            }
            () = until(actor.later.due()) => {}
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                if actor.keeper.waits_for_tick() || ticks.is_multiple_of(NEWS_TICKS) {
                    actor.handle(Event::Tick);
                }
            }
        }
        actor.tell();
    }
}

/// At that time; never, if there is none.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether it matters to this change which disks there are.
fn names_disks(change: &Change) -> bool {
    change.ops.iter().any(|op| match op {
        Op::CreatePool { .. } => true,
        Op::Set { item } => item.kind() == Kind::Disk,
        _ => false,
    })
}

impl Actor {
    /// Takes a change, unless it has its answer or the partner's keeper decides it. `carried`: that one has sent it here.
    fn take_change(&mut self, action: ActionId, change: Change, carried: bool) -> Taken {
        if let Some(answer) = self.keeper.answered(action, &change) {
            return Taken::Known(answer);
        }
        // Carried once: a sequencer that is none any more says so instead of sending it back.
        if !carried && self.keeper.is_partners_to_decide() && self.keeper.locked().is_none() {
            return Taken::Partners(change);
        }
        let (sender, receiver) = oneshot::channel();
        let event = move |request| Event::Change {
            request,
            action,
            change,
        };
        self.take(Input::Call(Box::new(event), sender));
        Taken::Here(receiver)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Call(event, waiting) => {
                self.next += 1;
                self.waiting.insert(self.next, waiting);
                let event = event(self.next);
                match self.not_begun(&event) {
                    None => self.handle(event),
                    Some(refusal) => {
                        if let Some(waiting) = self.waiting.remove(&self.next) {
                            // Whoever waited may have gone.
                            let _ = waiting.send(Err(refusal));
                        }
                    }
                }
                // Whoever stopped waiting leaves its ticket behind.
                if self.waiting.len() > 1024 {
                    self.waiting.retain(|_, waiting| !waiting.is_closed());
                }
            }
            Input::Event(event) => self.handle(event),
            Input::Room(room) => self.take_room(room),
            Input::Look(look) => look(self),
        }
    }
}

fn register(config: &ControllerConfig, handle: &Handle) -> Service {
    let client: Arc<std::sync::OnceLock<Client>> = Arc::default();
    let change = {
        let (handle, client) = (handle.clone(), Arc::clone(&client));
        move |ctx: Ctx, change: Change| {
            let (handle, client) = (handle.clone(), Arc::clone(&client));
            async move { change_anywhere(&handle, client.get(), &ctx, change).await }
        }
    };
    let restore = {
        let (handle, client) = (handle.clone(), Arc::clone(&client));
        move |ctx: Ctx, restore: Restore| {
            let (handle, client) = (handle.clone(), Arc::clone(&client));
            async move { take_back(&handle, client.get(), &ctx, restore).await }
        }
    };
    let service = Service::of::<config::Contract>()
        // A change finds its own repetitions, also after a restart and on the other controller.
        .serve::<config::CHANGE>(change)
        .serve::<config::SHOW>(on(handle, |handle, ctx, show: Option<Show>| async move {
            let shown = read(&handle, &ctx, show.unwrap_or_default().stale_ok, Actor::snapshot).await?;
            one_message(&handle, shown)
        }))
        .serve::<config::LIST>(on(handle, |handle, ctx, list: List| async move {
            let listing = read(&handle, &ctx, list.stale_ok, move |actor| actor.listing(&list)).await?;
            one_message(&handle, listing)
        }))
        .serve::<config::GET>(on(handle, |handle, ctx, get: Get| async move {
            get_row(&handle, &ctx, get).await
        }))
        .serve::<config::LOG>(on(handle, |handle, _ctx, query: LogQuery| async move {
            log_piece(&handle, query).await
        }))
        .serve::<config::COMPACTED>(on(handle, |handle, _ctx, ask: config::Beginning| async move {
            handle
                .look(move |actor| actor.keeper.beginning(ask.part_after))
                .await
        }))
        .serve::<config::HASH_AT>(on(handle, |handle, _ctx, ask: config::HashAt| async move {
            let at = move |actor: &mut Actor| {
                let held = ask.length <= actor.keeper.durable();
                actor.keeper.hash_at(ask.length).filter(|_| held)
            };
            handle.look(at).await
        }))
        .serve::<config::WATCH>(on(handle, |handle, ctx, watch: Watch| async move {
            watch_on(&handle, &ctx, watch).await
        }))
        .serve::<config::STATUS>(on(
            handle,
            |handle, _ctx, (): ()| async move { handle.status().await },
        ))
        .serve::<config::VERIFY>(on(handle, |handle, ctx, (): ()| async move {
            verify(&handle, &ctx).await
        }))
        .serve::<config::ASIDE>(on(handle, |handle, ctx, (): ()| async move {
            aside(&handle, &ctx).await
        }))
        .serve::<config::SET_EPOCH>(on(handle, |handle, ctx, set: SetEpoch| async move {
            from_heartbeat(&handle, &ctx)?;
            handle
                .demand(&ctx, move |request| Event::SetEpoch { request, set })
                .await?;
            handle.status().await
        }))
        .serve::<config::FREEZE>(on(handle, |handle, ctx, freeze: Freeze| async move {
            from_heartbeat(&handle, &ctx)?;
            handle
                .demand(&ctx, move |request| Event::Freeze { request, freeze })
                .await?;
            handle.status().await
        }))
        .serve::<config::UNFREEZE>(on(handle, |handle, ctx, unfreeze: Unfreeze| async move {
            from_heartbeat(&handle, &ctx)?;
            handle
                .demand(&ctx, move |request| Event::Unfreeze { request, unfreeze })
                .await?;
            handle.status().await
        }))
        .serve::<config::CATCH_UP>(on(handle, |handle, ctx, (): ()| async move {
            from_heartbeat(&handle, &ctx)?;
            match handle.demand(&ctx, |request| Event::CatchUp { request }).await? {
                Answer::CaughtUp(done) => Ok(done),
                other => Err(unexpected(&handle, &other)),
            }
        }))
        .serve::<config::SYNC>(on(handle, |handle, ctx, sync: Sync| async move {
            match handle
                .demand(&ctx, move |request| Event::SyncIn { request, sync })
                .await?
            {
                Answer::Synced(reply) => Ok(reply),
                other => Err(unexpected(&handle, &other)),
            }
        }))
        .serve::<config::APPEND>(on(handle, |handle, ctx, append: Append| async move {
            match handle
                .demand(&ctx, move |request| Event::AppendIn { request, append })
                .await?
            {
                Answer::Appended(reply) => Ok(reply),
                other => Err(unexpected(&handle, &other)),
            }
        }))
        .serve::<config::FETCH>(on(handle, |handle, _ctx, fetch: Fetch| async move {
            let fetched = handle.look(move |actor| {
                if fetch.lost {
                    actor.handle(Event::PartnerLost);
                }
                actor.keeper.fetch(&fetch)
            });
            fetched.await
        }))
        .serve::<config::READ_INDEX>(on(handle, |handle, ctx, ask: ReadIndex| async move {
            match handle
                .demand(&ctx, move |request| Event::IndexIn { request, ask })
                .await?
            {
                Answer::ReadAt { index } => Ok(ReadAt { index }),
                other => Err(unexpected(&handle, &other)),
            }
        }))
        .serve::<config::LEASE>(on(handle, |handle, ctx, lease: Lease| async move {
            from_heartbeat(&handle, &ctx)?;
            let Lease { number, epoch } = lease;
            let answer = epoch.map(Proof::Leased).ok_or_else(|| {
                "it has no lease now, or its clock may have stood still: the partner may have taken over"
                    .to_owned()
            });
            handle.look(move |actor| actor.leased(number, answer)).await
        }))
        .serve::<config::RESTORE>(restore)
        .serve::<config::SEAL_KEYS>(on(handle, |handle, ctx, given: SealKeys| async move {
            // Another controller's keeper, not one of this controller.
            let partner = format!("{}/{}", handle.me.partner(), config::SERVICE);
            if ctx.caller.as_deref() != Some(partner.as_str()) {
                return Err(not_permitted(&handle, &ctx, "exchange keys", &partner));
            }
            let keys = handle
                .look(move |actor| actor.ring.adopt(&given.keys).map(|()| actor.ring.give()))
                .await?;
            keys.map(|keys| SealKeys { keys })
                .map_err(|error| seal_error(&handle, &error))
        }))
        .serve::<config::UNSEAL>(on(handle, |handle, ctx, unseal: Unseal| async move {
            open_secret(&handle, &ctx, unseal).await
        }))
        .version(env!("CARGO_PKG_VERSION"))
        .start(config);
    // Handlers run only after this function has returned to the runtime.
    let _ = client.set(service.client().clone());
    service
}

/// A handler with a share of the handle.
fn on<Q, Fut>(
    handle: &Handle,
    body: impl Fn(Handle, Ctx, Q) -> Fut + Send + std::marker::Sync + 'static,
) -> impl Fn(Ctx, Q) -> Fut + Send + std::marker::Sync + 'static {
    let handle = handle.clone();
    move |ctx, request| body(handle.clone(), ctx, request)
}

/// Only heartbeat says which epoch counts.
fn from_heartbeat(handle: &Handle, ctx: &Ctx) -> Result<(), RpcError> {
    let caller = ctx.caller.as_deref().unwrap_or("somebody who is no service");
    let local = format!("{}/{}", handle.me, heartbeat::SERVICE);
    if caller == local {
        return Ok(());
    }
    let what = format!(
        "{caller} may not decide about epochs (rank {} and the name {local} are needed)",
        rank::HEARTBEAT
    );
    Err(RpcError::new(Code::NotPermitted, place(handle.me), what)
        .remedy("ask heartbeat: `pollux switchover`, `pollux takeover`"))
}

fn unexpected(handle: &Handle, answer: &Answer) -> RpcError {
    RpcError::new(
        Code::Internal,
        place(handle.me),
        format!("the core answered {answer:?}"),
    )
}

fn not_permitted(handle: &Handle, ctx: &Ctx, what: &str, who: &str) -> RpcError {
    let caller = ctx.caller.as_deref().unwrap_or("somebody who is no service");
    RpcError::new(
        Code::NotPermitted,
        place(handle.me),
        format!("{caller} may not {what}: only {who} may"),
    )
    .remedy("nothing: this is between the services of the array")
}

fn seal_error(handle: &Handle, error: &SealError) -> RpcError {
    RpcError::new(Code::Failed, place(handle.me), error.to_string())
        .remedy("see the message; secrets can always be set anew")
}

/// The service that uses secrets of a purpose.
fn user_of(item: &Item) -> Option<&'static str> {
    match item {
        Item::Key(key) => match key.purpose {
            Purpose::Chap | Purpose::MutualChap | Purpose::NvmeDhChap => Some(pollux_api::target::SERVICE),
            Purpose::Bmc => Some(heartbeat::SERVICE),
            // No service of the array signs in at a directory or a mail server yet.
            Purpose::Directory | Purpose::Mail => None,
        },
        _ => None,
    }
}

async fn open_secret(handle: &Handle, ctx: &Ctx, unseal: Unseal) -> Result<Unsealed, RpcError> {
    // A service needs its secret also while nobody can be sure that there is no newer one.
    let get = Get {
        kind: unseal.kind,
        which: unseal.which,
        stale_ok: true,
    };
    let item = match get_row(handle, ctx, get).await? {
        Resource::Item(item) => item,
        other => return Err(no_secret(handle, other.key().kind(), &unseal.field)),
    };
    let user = user_of(&item).map(|service| format!("{}/{service}", handle.me));
    if user.is_none() || ctx.caller != user {
        let who = user.unwrap_or_else(|| "nobody".to_owned());
        return Err(not_permitted(handle, ctx, "see this secret", &who));
    }
    let (kind, mut row) = (item.kind(), item);
    let mut secrets = row.secrets().into_iter();
    let Some((field, secret)) = secrets.find(|(field, _)| *field == unseal.field) else {
        return Err(no_secret(handle, kind, &unseal.field));
    };
    let (place, secret) = (format!("{kind}/{field}"), secret.clone());
    let open = handle.look(move |actor| actor.ring.open(&place, &secret)).await?;
    open.map(|clear| Unsealed {
        secret: Secret::new(clear),
    })
    .map_err(|error| seal_error(handle, &error))
}

fn no_secret(handle: &Handle, kind: Kind, field: &str) -> RpcError {
    let what = format!("a {kind} has no secret `{}`", field.escape_default());
    RpcError::new(Code::NotFound, place(handle.me), what).remedy("`secret` of a key")
}

/// Everything that is wrong with secrets in the clear; none: there are none.
fn clear_secrets(change: &Change) -> Option<Vec<Problem>> {
    let (mut problems, mut any) = (Vec::new(), false);
    for (op, deed) in change.ops.iter().enumerate() {
        let Op::Set { item } = deed else { continue };
        for (field, secret) in item.clone().secrets() {
            if secret.is_sealed() {
                continue;
            }
            any = true;
            if let Err(remedy) = secret_is_right(item, secret.expose()) {
                problems.push(Problem {
                    path: format!("ops[{op}].item.{field}"),
                    what: format!("{} bytes", secret.expose().len()),
                    remedy,
                });
            }
        }
    }
    any.then_some(problems)
}

/// A piece of a backup, unless the partner says that it has the log.
async fn take_back(
    handle: &Handle,
    client: Option<&Client>,
    ctx: &Ctx,
    restore: Restore,
) -> Result<Restored, RpcError> {
    let client = client.ok_or_else(|| handle.stopped())?;
    let ask = Fetch {
        points: Vec::new(),
        limit: 1,
        lost: false,
        part_after: None,
    };
    let mut onward = ctx.clone().within(PARTNER_WITHIN.min(ctx.remaining() / 4));
    onward.caller = None;
    let theirs: Result<config::Fetched, RpcError> = client
        .call(&format!("partner/{}", config::FETCH), &ask, &onward)
        .await;
    // Silence is no answer: then it is the word of the person who restores.
    let partner = theirs
        .ok()
        .filter(|theirs| !theirs.lost)
        .map(|theirs| theirs.length);
    let event = move |request| Event::Restore {
        request,
        restore,
        partner,
    };
    match handle.demand(ctx, event).await? {
        Answer::Restored { length } => Ok(Restored { length }),
        other => Err(unexpected(handle, &other)),
    }
}

/// Seals every secret of a change, by a key that every member has.
async fn seal(
    handle: &Handle,
    client: Option<&Client>,
    ctx: &Ctx,
    mut change: Change,
) -> Result<Change, RpcError> {
    let (mine, two, locked) = handle
        .look(|actor| {
            let two = actor
                .keeper
                .epoch()
                .is_some_and(|record| record.members.len() > 1);
            (actor.ring.give(), two, actor.keeper.locked().is_some())
        })
        .await?;
    if change.dry_run {
        // Nothing is kept of it: no key is made for its sake.
        let Ok(()) = seal_all(&mut change, |_, _| {
            Ok::<_, std::convert::Infallible>(Secret::new(Secret::SEALED))
        });
        return Ok(change);
    }
    if locked {
        // Nothing will be changed; but an action that is asked again has its answer.
    } else if two {
        let client = client.ok_or_else(|| handle.stopped())?;
        let exchange = |keys: Vec<Secret>| async {
            let mut onward = ctx.clone().within(PARTNER_WITHIN.min(ctx.remaining() / 4));
            onward.caller = None;
            let method = format!("partner/{}", config::SEAL_KEYS);
            let theirs: Result<SealKeys, RpcError> = client.call(&method, &SealKeys { keys }, &onward).await;
            theirs.map_err(|error| {
                let what =
                    format!("the partner's keeper does not take the key that seals the secret: {error}");
                RpcError::new(Code::Failed, place(handle.me), what).remedy(
                    "ask again when the partner answers: it could not open the secret when it is alone",
                )
            })
        };
        let theirs = exchange(mine).await?;
        let fresh = handle
            .look(move |actor| {
                actor.ring.adopt(&theirs.keys)?;
                let fresh = !actor.ring.can_seal();
                actor.ring.provide()?;
                Ok(fresh.then(|| actor.ring.give()))
            })
            .await?
            .map_err(|error| seal_error(handle, &error))?;
        if let Some(keys) = fresh {
            exchange(keys).await?;
        }
    } else {
        let provided = handle.look(|actor| actor.ring.provide()).await?;
        provided.map_err(|error| seal_error(handle, &error))?;
    }
    let action = ctx.action;
    let sealed = handle
        .look(move |actor| {
            seal_all(&mut change, |place, clear| actor.ring.seal(action, place, clear))?;
            Ok(change)
        })
        .await?;
    sealed.map_err(|error: SealError| seal_error(handle, &error))
}

fn seal_all<E>(change: &mut Change, mut seal: impl FnMut(&str, &str) -> Result<Secret, E>) -> Result<(), E> {
    for deed in &mut change.ops {
        let Op::Set { item } = deed else { continue };
        let kind = item.clone();
        for (field, secret) in item.secrets() {
            if !secret.is_sealed() {
                *secret = seal(&place_of(&kind, field), secret.expose())?;
            }
        }
    }
    Ok(())
}

/// Decides a change here, or carries it to the sequencer.
async fn change_anywhere(
    handle: &Handle,
    client: Option<&Client>,
    ctx: &Ctx,
    mut change: Change,
) -> Result<Changed, RpcError> {
    if let Some(problems) = clear_secrets(&change) {
        if !problems.is_empty() {
            return Err(handle.refused(Refusal::Invalid(problems)).await);
        }
        let (elsewhere, locked, can_seal) = handle
            .look(|actor| {
                (
                    actor.keeper.is_partners_to_decide(),
                    actor.keeper.locked(),
                    actor.ring.can_seal(),
                )
            })
            .await?;
        // The sequencer seals: what it compares with an earlier change must be sealed alike.
        if elsewhere && locked.is_none() && !from_a_keeper(ctx) {
            return carry(handle, client, ctx, &change).await;
        }
        if let Some((reason, remedy)) = locked.filter(|_| !can_seal) {
            return Err(handle.refused(Refusal::Locked(reason, remedy)).await);
        }
        change = seal(handle, client, ctx, change).await?;
    }
    let (action, carried) = (ctx.action, from_a_keeper(ctx));
    let taken = handle
        .look(move |actor| actor.take_change(action, change, carried))
        .await?;
    let answer = match taken {
        Taken::Partners(change) => return carry(handle, client, ctx, &change).await,
        Taken::Known(answer) => Some(answer),
        Taken::Here(receiver) => handle.answer(ctx, receiver).await?,
    };
    match answer {
        Some(Ok(Answer::Changed(changed))) => Ok(changed),
        Some(Ok(other)) => Err(unexpected(handle, &other)),
        Some(Err(refusal)) => Err(handle.refused(refusal).await),
        None => Err(in_doubt(
            place(handle.me),
            "it was not durable on both controllers in time",
        )),
    }
}

/// Carried here by the other controller's keeper.
fn from_a_keeper(ctx: &Ctx) -> bool {
    let caller = ctx.caller.as_deref();
    caller.is_some_and(|caller| caller.ends_with(&format!("/{}", config::SERVICE)))
}

async fn carry(
    handle: &Handle,
    client: Option<&Client>,
    ctx: &Ctx,
    change: &Change,
) -> Result<Changed, RpcError> {
    let client = client.ok_or_else(|| handle.stopped())?;
    let mut onward = ctx.clone().within(ctx.remaining() * 9 / 10);
    onward.caller = None;
    let answer: Result<Changed, RpcError> = client
        .call(&format!("partner/{}", config::CHANGE), change, &onward)
        .await;
    match answer {
        // Whoever asked here and reads here waits as a reader for what the sequencer has acknowledged.
        Ok(changed) => Ok(changed),
        Err(error)
            if error.is(Code::ServiceGone)
                || error.is(Code::RouterGone)
                || error.is(Code::DeadlinePassed)
                || error.is(Code::PartnerUnreachable) =>
        {
            Err(in_doubt(
                place(handle.me),
                &format!("the sequencer did not answer: {error}"),
            ))
        }
        Err(error) => Err(error),
    }
}

/// Looks at what is acknowledged: at everything that was before the call, or at what is known here.
async fn read<T: Send + 'static>(
    handle: &Handle,
    ctx: &Ctx,
    stale_ok: bool,
    look: impl FnOnce(&Actor) -> T + Send + 'static,
) -> Result<T, RpcError> {
    let index = if stale_ok {
        0
    } else {
        match handle.demand(ctx, |request| Event::Read { request }).await? {
            Answer::ReadAt { index } => index,
            other => return Err(unexpected(handle, &other)),
        }
    };
    let seen = handle
        .look(move |actor| {
            // What stands in a lost database would look like everything that there is.
            if actor.keeper.lost() {
                let why = actor.keeper.locked();
                return Err(why.map(|(reason, remedy)| Refusal::Locked(reason, remedy)));
            }
            if actor.keeper.acknowledged() < index {
                return Err(None);
            }
            Ok(look(actor))
        })
        .await?;
    match seen {
        Ok(seen) => Ok(seen),
        Err(why) => {
            let moved = || Refusal::Stale("the log was mended while it was read".to_owned());
            Err(handle.refused(why.unwrap_or_else(moved)).await)
        }
    }
}

/// Refuses what the router would not carry, and says what does.
fn one_message<T: serde::Serialize>(handle: &Handle, answer: T) -> Result<T, RpcError> {
    let bytes = serde_json::to_vec(&answer).map_or(0, |text| text.len());
    // The envelope needs some room, too.
    if bytes < MAX_MESSAGE - 4096 {
        return Ok(answer);
    }
    let what = format!("the answer takes {bytes} bytes, and a message {MAX_MESSAGE}");
    Err(RpcError::new(Code::Failed, place(handle.me), what)
        .remedy("`config.watch` with `read` gives everything in parts; `pollux config export` shows it"))
}

async fn get_row(handle: &Handle, ctx: &Ctx, get: Get) -> Result<Resource, RpcError> {
    let (kind, which) = (get.kind, get.which.clone());
    let find = move |actor: &Actor| actor.keeper.find(kind, &which);
    let found = read(handle, ctx, get.stale_ok, find).await?;
    found.ok_or_else(|| {
        let what = format!("there is no {} `{}`", kind.as_str(), get.which.escape_default());
        RpcError::new(Code::NotFound, place(handle.me), what)
            .remedy(format!("`pollux {} list` shows those that exist", kind.as_str()))
    })
}

async fn log_piece(handle: &Handle, query: LogQuery) -> Result<Vec<LogEntry>, RpcError> {
    handle
        .look(move |actor| {
            let limit = if query.limit == 0 {
                u64::MAX
            } else {
                u64::from(query.limit)
            };
            let gone = actor.keeper.compacted().facts.length;
            if query.after < gone {
                return Err(gone);
            }
            let upto = actor.keeper.batch_end(query.after, actor.keeper.durable(), limit);
            Ok(actor.keeper.entries(query.after, upto))
        })
        .await?
        .map_err(|gone| {
            let what = format!(
                "change {} is no longer kept: the first {gone} are not",
                query.after + 1
            );
            RpcError::new(Code::NotFound, place(handle.me), what).remedy(format!(
                "`config.compacted` has what they amount to; ask for those after {gone}"
            ))
        })
}

async fn watch_on(handle: &Handle, ctx: &Ctx, watch: Watch) -> Result<Watched, RpcError> {
    if let Some(Show { stale_ok }) = watch.read {
        let part = move |actor: &Actor| actor.part(watch.part_after);
        return read(handle, ctx, stale_ok, part).await;
    }
    let wait = Duration::from_millis(watch.wait_ms)
        .min(WATCH_MAX)
        .min(ctx.remaining() * 9 / 10);
    let end = tokio::time::Instant::now() + wait;
    let mut acknowledged = handle.acknowledged.clone();
    loop {
        acknowledged.mark_unchanged();
        let asked = watch.clone();
        let watched = handle.look(move |actor| actor.watched(&asked)).await?;
        if !matches!(&watched, Watched::Changes(entries) if entries.is_empty()) {
            return Ok(watched);
        }
        match tokio::time::timeout_at(end, acknowledged.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(handle.stopped()),
            Err(_) => return Ok(watched),
        }
    }
}

async fn verify(handle: &Handle, ctx: &Ctx) -> Result<Verified, RpcError> {
    let (sender, receiver) = oneshot::channel();
    handle
        .look(move |actor| actor.writer.verify(move |found| drop(sender.send(found))))
        .await?;
    from_store(handle, ctx, receiver).await
}

async fn aside(handle: &Handle, ctx: &Ctx) -> Result<Vec<AsideEntry>, RpcError> {
    let (sender, receiver) = oneshot::channel();
    handle
        .look(move |actor| actor.writer.aside(move |found| drop(sender.send(found))))
        .await?;
    from_store(handle, ctx, receiver).await
}

async fn from_store<T>(
    handle: &Handle,
    ctx: &Ctx,
    receiver: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, RpcError> {
    match timeout(ctx.remaining() * 9 / 10, receiver).await {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) => Err(refusal_error(
            place(handle.me),
            Refusal::Storage(error.to_string()),
        )),
        Ok(Err(_)) => Err(refusal_error(
            place(handle.me),
            Refusal::Storage("the database has failed: see the journal".into()),
        )),
        Err(_) => Err(RpcError::new(
            Code::DeadlinePassed,
            place(handle.me),
            "the database did not answer in time",
        )
        .remedy("ask again with more time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::{EpochRecord, LogHash, Op};
    use pollux_api::id::{ArrayId, Epoch, Incarnation};

    const MIB: u64 = 1 << 20;

    /// The task of a keeper that is alone and open, without anybody around it.
    fn actor(dir: &std::path::Path) -> (Actor, mpsc::UnboundedReceiver<Input>) {
        let path = dir.join(DATABASE);
        let (store, opened) =
            Store::open_or_replace(&path, ArrayId::from_bytes([7; 16]), &Way::default()).unwrap();
        let (inputs, queue) = mpsc::unbounded_channel();
        let reports = inputs.clone();
        let writer = store.spawn(move |report| {
            if let Report::Stored(serial) = report {
                let _ = reports.send(Input::Event(Event::Stored { serial }));
            }
        });
        let mut actor = Actor {
            me: ControllerId::A,
            paths: Paths::within(dir),
            keeper: Keeper::load(ControllerId::A, None, Site::default(), opened.loaded).unwrap(),
            writer,
            next: 1,
            waiting: HashMap::new(),
            locked: None,
            aside: opened.aside,
            lost: opened.lost,
            room: Some(Room::new(900 * MIB, 1000 * MIB)),
            moved: false,
            later: Later::default(),
            acknowledged: watch::channel(0).0,
            inputs,
            client: None,
            ring: Ring::load(&dir.join("keys")).unwrap(),
            keys_given: None,
            lease_asked: None,
            lease_numbers: 0,
        };
        let record = EpochRecord {
            epoch: Epoch::new(1),
            members: vec![(ControllerId::A, Incarnation::new(1))],
            open: true,
            base_length: 0,
            base_hash: LogHash::default(),
            quorum: Vec::new(),
        };
        let set = SetEpoch {
            record,
            lock: None,
            incarnation: None,
        };
        actor.handle(Event::SetEpoch { request: 0, set });
        (actor, queue)
    }

    async fn change(actor: &mut Actor, queue: &mut mpsc::UnboundedReceiver<Input>, name: &str) -> Answered {
        let op = Op::CreateHost {
            name: name.into(),
            iqns: vec![format!("iqn.2026-01.test:{name}")],
        };
        let change = Change {
            ops: vec![op],
            expected_index: None,
            dry_run: false,
        };
        let mut action = [0; 16];
        action[..name.len()].copy_from_slice(name.as_bytes());
        ask(actor, queue, ActionId::from_bytes(action), change).await
    }

    async fn ask(
        actor: &mut Actor,
        queue: &mut mpsc::UnboundedReceiver<Input>,
        action: ActionId,
        change: Change,
    ) -> Answered {
        let (sender, mut receiver) = oneshot::channel();
        let event = move |request| Event::Change {
            request,
            action,
            change,
        };
        actor.take(Input::Call(Box::new(event), sender));
        loop {
            tokio::select! {
                biased;
                answer = &mut receiver => return answer.unwrap(),
                input = queue.recv() => actor.take(input.unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn a_full_disk_refuses_changes_with_figures_and_takes_them_again_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (mut actor, mut queue) = actor(dir.path());
        change(&mut actor, &mut queue, "one").await.unwrap();
        actor.take(Input::Room(Room::new(30 * MIB, 1000 * MIB)));
        let status = actor.status();
        assert!(
            status.alarms[0].what.contains("30.0 MiB of 1000 MiB"),
            "{status:?}"
        );
        assert_eq!(status.locked, None, "an alarm locks nothing");
        change(&mut actor, &mut queue, "two").await.unwrap();

        actor.take(Input::Room(Room::new(15 * MIB, 1000 * MIB)));
        let refused = change(&mut actor, &mut queue, "three").await;
        assert!(
            matches!(&refused, Err(Refusal::Locked(what, remedy))
                if what.contains("15.0 MiB of 1000 MiB") && remedy.contains("/var/lib/pollux")),
            "{refused:?}"
        );
        assert!(
            actor
                .status()
                .locked
                .unwrap()
                .reason
                .contains("16 MiB are needed")
        );

        actor.take(Input::Room(Room::new(900 * MIB, 1000 * MIB)));
        let status = actor.status();
        assert_eq!((status.locked, status.alarms, status.length), (None, vec![], 2));
        change(&mut actor, &mut queue, "three").await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_into_a_message_is_read_in_parts() {
        use pollux_api::config::follow::Follower;
        let dir = tempfile::tempdir().unwrap();
        let (mut actor, mut queue) = actor(dir.path());
        // Together more than two messages, each less than the most that one change may be.
        for batch in 0..10_u8 {
            let host = |number: u8| Op::CreateHost {
                name: format!("h{batch}-{number}"),
                iqns: (0..5)
                    .map(|at| format!("iqn.2026-01.test:{batch}.{number}.{at}.{}", "x".repeat(180)))
                    .collect(),
            };
            let change = Change {
                ops: (0..200).map(host).collect(),
                expected_index: None,
                dry_run: false,
            };
            ask(&mut actor, &mut queue, ActionId::from_bytes([batch; 16]), change)
                .await
                .unwrap();
        }
        let tables = actor.keeper.tables().clone();
        let handle = Handle {
            me: actor.me,
            inputs: actor.inputs.clone(),
            acknowledged: actor.acknowledged.subscribe(),
        };
        let task = tokio::spawn(serve(actor, queue));
        let ctx = Ctx::new(Duration::from_secs(30));
        let stale_ok = true;
        let snapshot = read(&handle, &ctx, stale_ok, Actor::snapshot).await.unwrap();
        let refused = one_message(&handle, snapshot).unwrap_err();
        assert!(
            refused.is(Code::Failed) && refused.data.what.contains("bytes"),
            "{refused}"
        );

        let (mut follower, mut parts) = (Follower::default(), 0);
        let mut watch = Follower::begin(Show { stale_ok });
        while follower.tables().is_none() {
            let answer = watch_on(&handle, &ctx, watch).await.unwrap();
            assert!(
                serde_json::to_vec(&answer).unwrap().len() < MAX_MESSAGE,
                "part {parts}"
            );
            parts += 1;
            follower.take(answer);
            watch = follower.ask(0);
        }
        assert!(parts > 2, "{parts} parts");
        let (followed, (index, _)) = follower.tables().unwrap();
        assert_eq!((followed, index), (&tables, 10));
        task.abort();
    }

    #[tokio::test]
    async fn an_empty_database_in_the_place_of_a_damaged_one_takes_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (mut before, mut queue) = actor(dir.path());
        change(&mut before, &mut queue, "one").await.unwrap();
        let entries = before.keeper.entries(0, 1);
        drop(before);
        std::fs::write(dir.path().join(DATABASE), [0x5a; 20_000]).unwrap();
        let (mut actor, mut queue) = actor(dir.path());
        let status = actor.status();
        let lost = status.lost.unwrap();
        assert_eq!(lost.file.as_deref(), Some("config.db.damaged-1"));
        assert!(status.locked.unwrap().remedy.contains("pollux config restore"));
        let refused = change(&mut actor, &mut queue, "two").await;
        assert!(
            matches!(&refused, Err(Refusal::Locked(what, _)) if what.contains("was lost")),
            "{refused:?}"
        );
        // A backup brings it back, and it stays so.
        let (sender, mut receiver) = oneshot::channel();
        let event = move |request| Event::Restore {
            request,
            restore: Restore {
                compacted: None,
                entries,
                last: true,
            },
            partner: None,
        };
        actor.take(Input::Call(Box::new(event), sender));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut receiver => break answer.unwrap(),
                input = queue.recv() => actor.take(input.unwrap()),
            }
        };
        assert_eq!(answer, Ok(Answer::Restored { length: 1 }));
        assert_eq!((actor.status().lost, actor.status().locked), (None, None));
        change(&mut actor, &mut queue, "two").await.unwrap();
        drop(actor);
        let (_, opened) = Store::open(&dir.path().join(DATABASE), ArrayId::from_bytes([7; 16])).unwrap();
        assert_eq!((opened.loaded.entries.len(), opened.lost), (2, None));
    }
}
