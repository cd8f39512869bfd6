//! The board in the hall: which long work is under way on this controller, how far it is, and how the last ended.
//!
//! Services report, the board shows; nothing is decided here. Every report is whole, so a router that was killed has
//! its board again after the next report of each service (within [`REPORT_EVERY`](pollux_runtime::work::REPORT_EVERY)).
//!
//! Invariants: the board is bounded, what ended longest ago leaves first, and work that goes on is never dropped for
//! work that has ended; what has ended does not go on again, unless only its connection was lost.

use pollux_api::action::{Action, ActionId, ActionQuery, Progress, State};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use std::collections::BTreeMap;

/// Work that goes on, of all services together.
pub const RUNNING: usize = 1024;
/// Work that has ended and is still shown.
pub const ENDED: usize = 256;

/// The board.
#[derive(Debug, Default)]
pub struct Actions {
    /// Identities sort by the time they were given.
    actions: BTreeMap<ActionId, Action>,
}

impl Actions {
    /// A service reports. The news, unless there was none: a late report of what has ended.
    ///
    /// # Errors
    /// `overloaded`: too much work goes on; `not_permitted`: the action is another service's.
    pub fn report(
        &mut self,
        controller: ControllerId,
        service: &str,
        progress: Progress,
        now_unix_ms: u64,
    ) -> Result<Option<&Action>, RpcError> {
        let id = progress.action_id;
        match self.actions.get(&id) {
            Some(known) if known.service != service => {
                let what = format!("action {id} is work of {}", known.service);
                return Err(RpcError::new(Code::NotPermitted, service, what).remedy("report own work only"));
            }
            Some(known) if known.progress.state.is_over() && !lost(known) => return Ok(None),
            Some(_) => {}
            None if self.count(false) >= RUNNING => {
                let what = format!("{RUNNING} actions are under way");
                return Err(RpcError::new(Code::Overloaded, service, what).remedy("report again later"));
            }
            None => {}
        }
        let action = Action {
            controller,
            service: service.to_owned(),
            heard_unix_ms: now_unix_ms,
            progress,
        };
        self.actions.insert(id, action);
        self.forget();
        Ok(self.actions.get(&id))
    }

    /// A service went away: its work has failed, as far as is known. What of it goes on is reported again.
    pub fn gone(&mut self, service: &str, now_unix_ms: u64) -> Vec<Action> {
        let lost = |action: &&mut Action| action.service == service && !action.progress.state.is_over();
        let mut news = Vec::new();
        for action in self.actions.values_mut().filter(lost) {
            let what = format!("it went away during {}", action.progress.method);
            let place = format!("{}/{service}", action.controller);
            action.heard_unix_ms = now_unix_ms;
            action.progress.cancellable = false;
            action.progress.state = State::Failed(
                RpcError::new(Code::ServiceGone, place, what)
                    .remedy("it is started again; ask for the work again"),
            );
            news.push(action.clone());
        }
        self.forget();
        news
    }

    /// What is asked for, oldest first.
    pub fn list(&self, query: ActionQuery) -> Vec<Action> {
        let wanted = |action: &&Action| match query.action_id {
            Some(id) => action.progress.action_id == id,
            None => query.ended || !action.progress.state.is_over(),
        };
        self.actions.values().filter(wanted).cloned().collect()
    }

    /// Marks work as withdrawn; the service of it is to be told.
    ///
    /// # Errors
    /// `not_found`, `conflict` (it has ended), `refused` (it cannot end without harm now).
    pub fn cancel(&mut self, id: ActionId, place: &str) -> Result<Action, RpcError> {
        let Some(action) = self.actions.get_mut(&id) else {
            return Err(
                RpcError::new(Code::NotFound, place, format!("no long work under action {id}"))
                    .remedy("`pollux action list`; the work may be the partner's"),
            );
        };
        let progress = &mut action.progress;
        match progress.state {
            State::Cancelling => {}
            State::Running if progress.cancellable => progress.state = State::Cancelling,
            State::Running => {
                let what = format!(
                    "{} cannot be cancelled in its phase {}",
                    progress.method, progress.phase
                );
                return Err(RpcError::new(Code::Refused, place, what).remedy("wait for its end"));
            }
            State::Done | State::Cancelled | State::Failed(_) => {
                let what = format!("{} has ended", progress.method);
                return Err(RpcError::new(Code::Conflict, place, what).remedy("nothing is left to cancel"));
            }
        }
        Ok(action.clone())
    }

    /// Whose work it is.
    pub fn service_of(&self, id: ActionId) -> Option<&String> {
        self.actions.get(&id).map(|action| &action.service)
    }

    fn count(&self, over: bool) -> usize {
        self.actions
            .values()
            .filter(|action| action.progress.state.is_over() == over)
            .count()
    }

    /// Takes down what ended longest ago.
    fn forget(&mut self) {
        while self.count(true) > ENDED {
            let over = self
                .actions
                .values()
                .filter(|action| action.progress.state.is_over());
            let oldest = over
                .min_by_key(|action| action.heard_unix_ms)
                .map(|action| action.progress.action_id);
            let Some(oldest) = oldest else { return };
            self.actions.remove(&oldest);
        }
    }
}

/// Only the connection of its service is known to have ended.
fn lost(action: &Action) -> bool {
    matches!(&action.progress.state, State::Failed(why) if why.is(Code::ServiceGone))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ControllerId = ControllerId::A;

    fn id(n: usize) -> ActionId {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        ActionId::from_bytes(bytes)
    }

    fn progress(n: usize, state: State) -> Progress {
        Progress {
            action_id: id(n),
            method: "x.copy".into(),
            started_unix_ms: 1,
            phase: "copy".into(),
            percent: Some(10),
            rate: None,
            cancellable: true,
            state,
        }
    }

    #[test]
    fn what_has_ended_does_not_go_on_again() {
        let mut board = Actions::default();
        assert!(
            board
                .report(A, "x", progress(1, State::Running), 1)
                .unwrap()
                .is_some()
        );
        assert!(
            board
                .report(A, "x", progress(1, State::Done), 2)
                .unwrap()
                .is_some()
        );
        assert!(
            board
                .report(A, "x", progress(1, State::Running), 3)
                .unwrap()
                .is_none()
        );
        assert_eq!(board.list(ActionQuery::default()), []);
        let all = ActionQuery {
            ended: true,
            ..ActionQuery::default()
        };
        assert_eq!(board.list(all)[0].progress.state, State::Done);
    }

    #[test]
    fn another_services_work_is_not_reported() {
        let mut board = Actions::default();
        board.report(A, "x", progress(1, State::Running), 1).unwrap();
        let refused = board.report(A, "y", progress(1, State::Done), 1).unwrap_err();
        assert!(refused.is(Code::NotPermitted), "{refused}");
    }

    #[test]
    fn cancelling_is_refused_where_it_is_not_safe_and_where_there_is_nothing() {
        let mut board = Actions::default();
        board.report(A, "x", progress(1, State::Running), 1).unwrap();
        board
            .report(
                A,
                "x",
                Progress {
                    cancellable: false,
                    ..progress(2, State::Running)
                },
                1,
            )
            .unwrap();
        board.report(A, "x", progress(3, State::Done), 1).unwrap();
        assert_eq!(
            board.cancel(id(1), "a").unwrap().progress.state,
            State::Cancelling
        );
        assert!(board.cancel(id(1), "a").is_ok(), "asking twice is asking once");
        for (n, code) in [(2, Code::Refused), (3, Code::Conflict), (4, Code::NotFound)] {
            let refused = board.cancel(id(n), "a").unwrap_err();
            assert!(refused.is(code), "{refused}");
        }
    }

    #[test]
    fn work_of_a_service_that_went_away_has_failed() {
        let mut board = Actions::default();
        board.report(A, "x", progress(1, State::Running), 1).unwrap();
        board.report(A, "y", progress(2, State::Running), 1).unwrap();
        let news = board.gone("x", 9);
        assert!(
            matches!(&news[..], [Action { progress: Progress { state: State::Failed(why), .. }, .. }]
            if why.is(Code::ServiceGone))
        );
        assert_eq!(board.list(ActionQuery::default()).len(), 1);
        // It was only the connection.
        assert!(
            board
                .report(A, "x", progress(1, State::Running), 10)
                .unwrap()
                .is_some()
        );
        assert_eq!(board.list(ActionQuery::default()).len(), 2);
    }

    #[test]
    fn the_board_is_bounded_and_keeps_what_goes_on() {
        let mut board = Actions::default();
        for n in 0..RUNNING {
            board.report(A, "x", progress(n, State::Running), 1).unwrap();
        }
        assert!(
            board
                .report(A, "x", progress(RUNNING, State::Running), 1)
                .unwrap_err()
                .is(Code::Overloaded)
        );
        for n in 0..2 * ENDED {
            board.report(A, "x", progress(n, State::Done), n as u64).unwrap();
        }
        assert_eq!(
            (board.count(false), board.count(true)),
            (RUNNING - 2 * ENDED, ENDED)
        );
        let oldest = board.list(ActionQuery {
            ended: true,
            ..ActionQuery::default()
        });
        assert_eq!(oldest[0].progress.action_id, id(ENDED));
    }
}
