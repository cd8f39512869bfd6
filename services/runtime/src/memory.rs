//! A clerk who remembers what he has answered: the same request under the same action is done once and answered
//! alike, also while the first is still at work.
//!
//! A pure table; it holds answers, not time. It remembers the last `capacity` answers, so a repetition that comes
//! after as many other changes is done again: whoever needs more (the configuration) keeps its own record.

use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Result of a call, as JSON.
pub(crate) type Answer = Result<String, RpcError>;

type Key = (ActionId, &'static str);

#[derive(Debug)]
struct Entry<W> {
    /// Of the parameters: another request under the same action is a mistake of the caller.
    digest: u64,
    state: State<W>,
}

#[derive(Debug)]
enum State<W> {
    Running(Vec<W>),
    Done(Answer),
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: do it and tell [`Memory::done`].
    Do,
    /// The first one still runs; the waiter gets its answer.
    Wait,
    /// It was done: this was the answer.
    Answer(Answer),
}

/// The answers given last. `W` is whoever waits for one.
#[derive(Debug)]
pub(crate) struct Memory<W> {
    entries: HashMap<Key, Entry<W>>,
    done: VecDeque<Key>,
    capacity: usize,
}

impl<W> Memory<W> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            done: VecDeque::new(),
            capacity,
        }
    }

    /// A request comes. `waiter` is kept only for [`Verdict::Wait`].
    pub(crate) fn ask(&mut self, action: ActionId, method: &'static str, params: &str, waiter: W) -> Verdict {
        let mut hasher = DefaultHasher::new();
        params.hash(&mut hasher);
        let digest = hasher.finish();
        match self.entries.get_mut(&(action, method)) {
            None => {
                self.entries.insert(
                    (action, method),
                    Entry {
                        digest,
                        state: State::Running(Vec::new()),
                    },
                );
                Verdict::Do
            }
            Some(entry) if entry.digest != digest => Verdict::Answer(Err(RpcError::new(
                Code::InvalidRequest,
                method,
                format!("action {action} was used for another request"),
            )
            .remedy("one action_id per request; repeat a request unchanged"))),
            Some(Entry {
                state: State::Running(waiters),
                ..
            }) => {
                waiters.push(waiter);
                Verdict::Wait
            }
            Some(Entry {
                state: State::Done(answer),
                ..
            }) => Verdict::Answer(answer.clone()),
        }
    }

    /// The request that was [`Verdict::Do`] has its answer: who waits for it. An answer that says that nothing was
    /// done is not kept: the repetition may succeed.
    pub(crate) fn done(&mut self, action: ActionId, method: &'static str, answer: &Answer) -> Vec<W> {
        let Some(entry) = self.entries.get_mut(&(action, method)) else {
            return Vec::new();
        };
        let previous = std::mem::replace(&mut entry.state, State::Done(answer.clone()));
        if answer.as_ref().is_err_and(RpcError::is_transient) {
            self.entries.remove(&(action, method));
        } else {
            self.done.push_back((action, method));
            if self.done.len() > self.capacity
                && let Some(oldest) = self.done.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
        match previous {
            State::Running(waiters) => waiters,
            State::Done(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &str = "x.change";

    fn id(n: u8) -> ActionId {
        ActionId::from_bytes([n; 16])
    }

    #[test]
    fn done_once_and_answered_alike() {
        let mut memory = Memory::new(8);
        assert_eq!(memory.ask(id(1), METHOD, "1", "first"), Verdict::Do);
        assert_eq!(memory.ask(id(1), METHOD, "1", "second"), Verdict::Wait);
        let answer = Ok("42".to_owned());
        assert_eq!(memory.done(id(1), METHOD, &answer), ["second"]);
        assert_eq!(memory.ask(id(1), METHOD, "1", "third"), Verdict::Answer(answer));
        assert_eq!(memory.ask(id(2), METHOD, "1", "other"), Verdict::Do);
    }

    #[test]
    fn another_request_under_the_same_action_is_refused() {
        let mut memory = Memory::new(8);
        assert_eq!(memory.ask(id(1), METHOD, "1", ()), Verdict::Do);
        let verdict = memory.ask(id(1), METHOD, "2", ());
        assert!(matches!(verdict, Verdict::Answer(Err(error)) if error.is(Code::InvalidRequest)));
    }

    #[test]
    fn a_refusal_is_kept_but_what_was_not_done_is_not() {
        let mut memory = Memory::new(8);
        for (n, code, verdict) in [(1, Code::Conflict, false), (2, Code::Overloaded, true)] {
            memory.ask(id(n), METHOD, "", ());
            memory.done(id(n), METHOD, &Err(RpcError::new(code, "x", "")));
            assert_eq!(memory.ask(id(n), METHOD, "", ()) == Verdict::Do, verdict);
        }
    }

    #[test]
    fn it_forgets_the_oldest() {
        let mut memory = Memory::new(2);
        for n in 1..=3 {
            memory.ask(id(n), METHOD, "", ());
            memory.done(id(n), METHOD, &Ok(n.to_string()));
        }
        assert_eq!(memory.entries.len(), 2);
        assert_eq!(memory.ask(id(3), METHOD, "", ()), Verdict::Answer(Ok("3".into())));
        assert_eq!(memory.ask(id(1), METHOD, "", ()), Verdict::Do);
    }
}
