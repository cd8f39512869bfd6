//! A telephone on the router's socket: calls out, calls in, and a line that is redialled when it breaks.
//!
//! [`Client::connect`] dials once, for programs of people: what it calls, it calls with the rank of the shell. A
//! service's client ([`crate::service::Service::client`]) redials and registers again for ever, and offers the line
//! to callers only when it is registered: a service never speaks as somebody of lower rank.
//!
//! Invariants: an answer goes to the call that it belongs to or nowhere; when the line breaks, every pending call
//! fails at once; no call waits for room in a queue.

use crate::ctx::Ctx;
use crate::memory::Answer;
use crate::service::Dispatch;
use crate::wire::{self, Envelope, Framer, Head, Kind};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::{
    DEFAULT_DEADLINE_MS, EVENT, Event, MAX_DEADLINE_MS, MAX_MESSAGE, PUBLISH, Publish, REGISTER, Register,
    Registered, SUBSCRIBE, Subscribe, UNREGISTER,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Messages that may wait to be written; the next call is refused with `overloaded`.
const OUTGOING: usize = 4096;
/// Events that may wait at one subscription; what comes then is a gap.
const EVENTS: usize = 1024;
/// First and longest pause before the router is dialled again.
const REDIAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// The router answers a registration at once; a socket that does not is no router.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// Pause before a call is made again that did not get through.
const RETRY: Duration = Duration::from_millis(25);

/// Calls, notifications, subscriptions. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    place: String,
    state: Mutex<State>,
    next_id: AtomicU64,
    up: watch::Sender<bool>,
    closing: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    out: Option<mpsc::Sender<Vec<u8>>>,
    pending: HashMap<u64, oneshot::Sender<Answer>>,
    subscribers: HashMap<String, Vec<Subscriber>>,
}

struct Subscriber {
    queue: mpsc::Sender<Item>,
    lost: bool,
}

struct Item {
    event: Option<(ControllerId, u64, String)>,
    gap: bool,
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<T> {
    /// Something happened.
    Event {
        /// Where it was published.
        controller: ControllerId,
        /// What happened.
        payload: T,
    },
    /// Events may have been missed: look at the whole state.
    Gap,
}

/// Events of one topic, in order.
pub struct Subscription {
    queue: mpsc::Receiver<Item>,
    last: Option<u64>,
    held: Option<(ControllerId, String)>,
}

impl Subscription {
    /// The next event; `None` when the client was closed.
    ///
    /// # Errors
    /// `invalid_params`, if the payload is no `T`; the next call goes on behind it.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<Update<T>, RpcError>> {
        loop {
            if let Some((controller, payload)) = self.held.take() {
                let read = wire::params("event", &payload);
                return Some(read.map(|payload| Update::Event { controller, payload }));
            }
            let item = self.queue.recv().await?;
            let mut gap = item.gap;
            if let Some((controller, sequence, payload)) = item.event {
                gap |= self.last.is_some_and(|last| sequence != last + 1);
                self.last = Some(sequence);
                self.held = Some((controller, payload));
            }
            if gap {
                return Some(Ok(Update::Gap));
            }
        }
    }
}

impl Client {
    fn new(place: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                place,
                state: Mutex::default(),
                next_id: AtomicU64::new(1),
                up: watch::Sender::new(false),
                closing: watch::Sender::new(false),
            }),
        }
    }

    /// Dials the router at `socket` once, for a caller that is no service.
    ///
    /// # Errors
    /// What the system says: usually that no router runs there.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        let client = Self::new("client".into());
        let line = Connection {
            client: client.clone(),
            dispatch: Dispatch::nothing(),
        };
        let out = client.attach(writer);
        tokio::spawn(async move { line.listen(reader, Framer::default(), out).await });
        Ok(client)
    }

    /// Calls `method` and waits for its answer, at most until the deadline of `ctx`.
    /// `method` is `service.method`, `partner/service.method`, `a/service.method` or `b/service.method`.
    ///
    /// # Errors
    /// What the callee answered; `router_gone`, `deadline_passed` or `overloaded` from here; `internal_error`, if the
    /// answer is no `Resp`.
    pub async fn call<Req, Resp>(&self, method: &str, request: &Req, ctx: &Ctx) -> Result<Resp, RpcError>
    where
        Req: Serialize + ?Sized,
        Resp: DeserializeOwned,
    {
        let answer = self.call_raw(method, &wire::to_json(request), ctx).await?;
        serde_json::from_str(&answer).map_err(|error| {
            let what = format!("the answer to {method} cannot be read: {error}");
            RpcError::new(Code::Internal, &self.inner.place, what)
        })
    }

    /// The same for a call that may be repeated (it is idempotent, or the callee remembers its action): what does not
    /// get through, or whose answer is lost, is asked again under the same action until the deadline.
    ///
    /// # Errors
    /// As [`Client::call`]; the last transient error when the deadline passes.
    pub async fn call_retry<Req, Resp>(
        &self,
        method: &str,
        request: &Req,
        ctx: &Ctx,
    ) -> Result<Resp, RpcError>
    where
        Req: Serialize + ?Sized,
        Resp: DeserializeOwned,
    {
        let mut pause = RETRY;
        loop {
            let error = match self.call(method, request, ctx).await {
                Err(error) if error.is_transient() => error,
                answer => return answer,
            };
            if ctx.remaining() <= pause {
                return Err(error);
            }
            tracing::debug!(method, action_id = %ctx.action, %error, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(400));
        }
    }

    /// Calls with parameters and result as JSON text.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(&self, method: &str, params: &str, ctx: &Ctx) -> Answer {
        let remaining = ctx.remaining();
        if remaining.is_zero() {
            return Err(self.deadline_passed(method));
        }
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.send(Some(id), method, params, ctx, Some(sender))?;
        // A caller that goes away takes its entry along.
        let _forget = Forget { client: self, id };
        match timeout_at(ctx.deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.router_gone()),
            Err(_) => Err(self.deadline_passed(method)),
        }
    }

    /// Sends a notification: nobody answers, and nobody knows whether it came.
    ///
    /// # Errors
    /// `router_gone` or `overloaded`, when it was not even sent.
    pub fn notify<P: Serialize + ?Sized>(
        &self,
        method: &str,
        payload: &P,
        ctx: &Ctx,
    ) -> Result<(), RpcError> {
        self.send(None, method, &wire::to_json(payload), ctx, None)
    }

    /// Publishes an event on a topic of this service.
    ///
    /// # Errors
    /// `router_gone` or `overloaded`, when it was not even sent. Subscribers see a gap if the router was gone.
    pub fn publish<P: Serialize>(&self, topic: &str, payload: &P, ctx: &Ctx) -> Result<(), RpcError> {
        self.notify(
            PUBLISH,
            &Publish {
                topic: topic.to_owned(),
                payload,
            },
            ctx,
        )
    }

    /// Subscribes to a topic: `config.changed`, or `partner/config.changed` for the partner's. After every
    /// interruption the subscription is renewed and yields [`Update::Gap`].
    ///
    /// # Errors
    /// What the router refuses. That it is not there now is no error for a service.
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription, RpcError> {
        let (queue, receiver) = mpsc::channel(EVENTS);
        let subscriber = Subscriber { queue, lost: false };
        self.inner
            .state()
            .subscribers
            .entry(topic.to_owned())
            .or_default()
            .push(subscriber);
        let topics = vec![topic.to_owned()];
        let ctx = Ctx::new(Duration::from_secs(5));
        match self
            .call_raw(SUBSCRIBE, &wire::to_json(&Subscribe { topics }), &ctx)
            .await
        {
            Err(error) if !error.is(Code::RouterGone) => Err(error),
            _ => Ok(Subscription {
                queue: receiver,
                last: None,
                held: None,
            }),
        }
    }

    /// Waits until the line is up (for a service: registered).
    pub async fn connected(&self) {
        // The sender lives in `self`, so the channel cannot be closed while this waits.
        let _ = self.inner.up.subscribe().wait_for(|up| *up).await;
    }

    /// Whether the line is up now.
    pub fn is_connected(&self) -> bool {
        *self.inner.up.borrow()
    }

    /// Asks the router to send no further calls.
    pub(crate) async fn unregister(&self, patience: Duration) {
        if self.is_connected()
            && let Err(error) = self.call_raw(UNREGISTER, "null", &Ctx::new(patience)).await
        {
            tracing::debug!(%error, "cannot unregister");
        }
    }

    /// Writes what is waiting, hangs up, and stays down.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        let mut up = self.inner.up.subscribe();
        let _ = timeout(Duration::from_secs(1), up.wait_for(|up| !*up)).await;
    }

    fn send(
        &self,
        id: Option<u64>,
        method: &str,
        params: &str,
        ctx: &Ctx,
        waiter: Option<oneshot::Sender<Answer>>,
    ) -> Result<(), RpcError> {
        let head = Head {
            action_id: Some(ctx.action),
            parent: ctx.parent,
            deadline_ms: id.map(|_| {
                u64::try_from(ctx.remaining().as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1)
            }),
            ..Head::default()
        };
        let mut message = Vec::with_capacity(params.len() + 256);
        wire::write_call(
            &mut message,
            id.map(|id| id.to_string()).as_deref(),
            method,
            Some(params),
            &head,
        );
        if message.len() > MAX_MESSAGE {
            let what = format!("the parameters of {method} are {} bytes long", params.len());
            return Err(
                RpcError::new(Code::InvalidRequest, &self.inner.place, what).remedy(format!(
                    "at most {MAX_MESSAGE} bytes per message; send it in parts"
                )),
            );
        }
        let mut state = self.inner.state();
        let Some(out) = &state.out else {
            return Err(self.router_gone());
        };
        match out.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.router_gone()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                let what = format!("{OUTGOING} messages wait to be written to the router");
                return Err(
                    RpcError::new(Code::Overloaded, &self.inner.place, what).remedy("ask again later")
                );
            }
        }
        // The answer cannot overtake this: whoever reads it needs the same lock.
        if let (Some(id), Some(waiter)) = (id, waiter) {
            state.pending.insert(id, waiter);
        }
        Ok(())
    }

    fn router_gone(&self) -> RpcError {
        RpcError::new(
            Code::RouterGone,
            &self.inner.place,
            "there is no connection to the router",
        )
        .remedy("ask again under the same action_id when it is back")
    }

    fn deadline_passed(&self, method: &str) -> RpcError {
        RpcError::new(
            Code::DeadlinePassed,
            &self.inner.place,
            format!("no answer to {method} in time"),
        )
        .remedy("it may still be done; ask again under the same action_id")
    }

    /// Starts to write to a line; calls are not offered it yet.
    fn writer(writer: OwnedWriteHalf) -> mpsc::Sender<Vec<u8>> {
        let (out, queue) = mpsc::channel(OUTGOING);
        tokio::spawn(write_all(writer, queue));
        out
    }

    fn attach(&self, writer: OwnedWriteHalf) -> mpsc::Sender<Vec<u8>> {
        let out = Self::writer(writer);
        self.open(&out);
        out
    }

    /// Offers the line to callers.
    fn open(&self, out: &mpsc::Sender<Vec<u8>>) {
        self.inner.state().out = Some(out.clone());
        self.inner.up.send_replace(true);
    }

    /// The line broke: who waits hears it now.
    fn hang_up(&self) {
        let pending = {
            let mut state = self.inner.state();
            state.out = None;
            std::mem::take(&mut state.pending)
        };
        for (_, waiter) in pending {
            // Whoever waited may have gone.
            let _ = waiter.send(Err(self.router_gone()));
        }
        self.inner.up.send_replace(false);
    }

    fn deliver(&self, topic: &str, item: impl Fn() -> Item) {
        let mut state = self.inner.state();
        let Some(subscribers) = state.subscribers.get_mut(topic) else {
            return;
        };
        subscribers.retain_mut(|subscriber| {
            let mut item = item();
            item.gap |= subscriber.lost;
            match subscriber.queue.try_send(item) {
                Ok(()) => subscriber.lost = false,
                Err(mpsc::error::TrySendError::Full(_)) => subscriber.lost = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
        if subscribers.is_empty() {
            state.subscribers.remove(topic);
        }
    }

    async fn closing(&self) {
        // The sender lives in `self`, so the channel cannot be closed while this waits.
        let _ = self.inner.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves maps that are whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Forget<'a> {
    client: &'a Client,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.client.inner.state().pending.remove(&self.id);
    }
}

async fn write_all(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut batch = Vec::new();
    while let Some(message) = queue.recv().await {
        batch.clear();
        batch.extend_from_slice(&message);
        while batch.len() < 64 << 10
            && let Ok(message) = queue.try_recv()
        {
            batch.extend_from_slice(&message);
        }
        if writer.write_all(&batch).await.is_err() {
            // The reader sees the end of the line too and tells everybody.
            return;
        }
    }
}

/// One line and what is said on it.
pub(crate) struct Connection {
    client: Client,
    dispatch: Arc<Dispatch>,
}

impl Connection {
    /// Dials, registers and serves, for ever.
    pub(crate) fn keep(socket: PathBuf, register: Register, dispatch: Arc<Dispatch>) -> Client {
        let client = Client::new(dispatch.place().to_owned());
        let line = Self {
            client: client.clone(),
            dispatch,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = line.client.closing() => {}
                () = line.redial(&socket, &register) => {}
            }
            line.client.hang_up();
        });
        client
    }

    async fn redial(&self, socket: &Path, register: &Register) {
        let (mut pause, mut told) = (REDIAL.0, String::new());
        loop {
            let problem = match self.dial(socket, register).await {
                Ok(()) => {
                    (pause, told) = (REDIAL.0, String::new());
                    "the router closed the connection".to_owned()
                }
                Err(problem) => problem,
            };
            // Once per problem, not once per attempt.
            if problem != told {
                tracing::warn!(service = self.dispatch.place(), socket = %socket.display(), problem, "not registered");
                told = problem;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REDIAL.1);
        }
    }

    /// One line from its beginning to its end.
    async fn dial(&self, socket: &Path, register: &Register) -> Result<(), String> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| error.to_string())?;
        let (mut reader, writer) = stream.into_split();
        let out = Client::writer(writer);
        let mut framer = Framer::default();
        let registered = timeout(
            REGISTER_WITHIN,
            register_on(&mut reader, &mut framer, &out, register),
        )
        .await;
        let registered =
            registered.map_err(|_| "the router did not answer the registration".to_owned())??;
        tracing::info!(
            service = self.dispatch.place(),
            router = registered.version,
            "registered"
        );
        self.client.open(&out);
        self.renew_subscriptions();
        self.listen(reader, framer, out).await;
        Ok(())
    }

    fn renew_subscriptions(&self) {
        let topics: Vec<String> = self.client.inner.state().subscribers.keys().cloned().collect();
        if topics.is_empty() {
            return;
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            let params = wire::to_json(&Subscribe {
                topics: topics.clone(),
            });
            match client
                .call_raw(SUBSCRIBE, &params, &Ctx::new(Duration::from_secs(5)))
                .await
            {
                Ok(_) => topics.iter().for_each(|topic| {
                    client.deliver(topic, || Item {
                        event: None,
                        gap: true,
                    })
                }),
                Err(error) => tracing::warn!(%error, "subscriptions are not renewed"),
            }
        });
    }

    /// Takes what comes until the line ends.
    async fn listen(&self, mut reader: OwnedReadHalf, mut framer: Framer, out: mpsc::Sender<Vec<u8>>) {
        loop {
            while let Some(message) = framer.next_message() {
                let taken = message
                    .map_err(RpcError::from)
                    .and_then(|message| self.take(message, &out));
                if let Err(error) = taken {
                    tracing::warn!(%error, "the router sent something that is no message");
                }
            }
            tokio::select! {
                read = reader.read_buf(framer.buffer()) => if !matches!(read, Ok(1..)) { break },
                () = self.client.closing() => break,
            }
        }
        self.client.hang_up();
    }

    fn take(&self, message: &[u8], out: &mpsc::Sender<Vec<u8>>) -> Result<(), RpcError> {
        let envelope = Envelope::parse(message)?;
        let params = envelope.params.unwrap_or("null");
        match envelope.kind()? {
            Kind::Answer { id, answer } => {
                let Ok(id) = id.parse() else { return Ok(()) };
                // An answer without a taker came too late: its caller has gone.
                if let Some(waiter) = self.client.inner.state().pending.remove(&id) {
                    let _ = waiter.send(read_answer(answer));
                }
            }
            Kind::Notification { method: EVENT } => {
                let event: Event<&RawValue> = serde_json::from_str(params)
                    .map_err(|error| RpcError::new(Code::InvalidParams, EVENT, error.to_string()))?;
                let Event {
                    topic,
                    controller,
                    sequence,
                    payload,
                } = event;
                // Sequence 0 is no event: the router itself was cut off from the topic.
                let event = (sequence > 0).then(|| (controller, sequence, payload.get().to_owned()));
                self.client.deliver(&topic, || Item {
                    event: event.clone(),
                    gap: sequence == 0,
                });
            }
            Kind::Notification { method } => self.dispatch.notification(ctx_of(&envelope), method, params),
            Kind::Request { id, method } => {
                let (id, ctx) = (id.to_owned(), ctx_of(&envelope));
                let (action, out) = (ctx.action, out.clone());
                let place = self.dispatch.place().to_owned();
                self.dispatch.request(ctx, method, params, move |answer| {
                    let mut message = Vec::new();
                    let answer = answer.map_err(|error| wire::to_json(&error));
                    wire::write_answer(
                        &mut message,
                        &id,
                        answer.as_deref().map_err(|e| &**e),
                        Some(action),
                    );
                    if message.len() > MAX_MESSAGE {
                        let what = format!("the answer would be {} bytes long", message.len());
                        message.clear();
                        wire::write_error(
                            &mut message,
                            &id,
                            &RpcError::new(Code::Internal, place, what),
                            Some(action),
                        );
                    }
                    if let Err(mpsc::error::TrySendError::Full(message)) = out.try_send(message) {
                        // The router is behind with reading; an answer may wait, nobody else waits for it here.
                        tokio::spawn(async move { out.send(message).await });
                    }
                });
            }
        }
        Ok(())
    }
}

fn read_answer(answer: Result<&str, &str>) -> Answer {
    match answer {
        Ok(result) => Ok(result.to_owned()),
        Err(error) => Err(serde_json::from_str(error).unwrap_or_else(|problem| {
            RpcError::new(
                Code::Internal,
                "answer",
                format!("an error that cannot be read ({problem}): {error}"),
            )
        })),
    }
}

fn ctx_of(envelope: &Envelope<'_>) -> Ctx {
    let ms = envelope
        .deadline_ms
        .unwrap_or(DEFAULT_DEADLINE_MS)
        .min(MAX_DEADLINE_MS);
    Ctx {
        action: envelope.action_id.unwrap_or_else(crate::ctx::new_action),
        parent: envelope.parent,
        caller: envelope.from.as_deref().map(str::to_owned),
        deadline: Instant::now() + Duration::from_millis(ms),
    }
}

/// Registers; nothing else can come on the line before the answer.
async fn register_on(
    reader: &mut OwnedReadHalf,
    framer: &mut Framer,
    out: &mpsc::Sender<Vec<u8>>,
    register: &Register,
) -> Result<Registered, String> {
    let head = Head {
        action_id: Some(crate::ctx::new_action()),
        ..Head::default()
    };
    let mut message = Vec::new();
    wire::write_call(
        &mut message,
        Some("0"),
        REGISTER,
        Some(&wire::to_json(register)),
        &head,
    );
    out.try_send(message).map_err(|error| error.to_string())?;
    loop {
        if let Some(message) = framer.next_message() {
            let message = message.map_err(|malformed| RpcError::from(malformed).to_string())?;
            let envelope = Envelope::parse(message).map_err(|error| error.to_string())?;
            let Ok(Kind::Answer { answer, .. }) = envelope.kind() else {
                return Err("the router sent something before it answered the registration".into());
            };
            let answer = read_answer(answer).map_err(|error| error.to_string())?;
            return serde_json::from_str(&answer).map_err(|error| error.to_string());
        }
        match reader.read_buf(framer.buffer()).await {
            Ok(0) => return Err("the router closed the connection at the registration".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
