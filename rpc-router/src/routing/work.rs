//! Long work: what services report of theirs, who watches it, and who wants it no more.

use super::{ConnectionId, Core, Now, Role, Sender, World, events::event_message, overloaded};
use pollux_api::action::{Action, ActionQuery, Cancel, Progress};
use pollux_api::error::{Code, RpcError};
use pollux_api::rank;
use pollux_api::router::{ACTIONS, CANCEL, PROGRESS, WITHDRAWN, WORK};
use pollux_runtime::wire::{self, Head};

impl Core {
    /// A service says how far a piece of its work is.
    pub(super) fn progress(
        &mut self,
        from: ConnectionId,
        params: &str,
        now: Now,
        world: &mut impl World,
    ) -> Result<(), RpcError> {
        let progress: Progress = wire::params(PROGRESS, params)?;
        let Role::Service(service) = &self.connections[&from].role else {
            let what = "only a service has work to report".to_owned();
            return Err(RpcError::new(Code::NotPermitted, PROGRESS, what).remedy("register first"));
        };
        let news = self
            .actions
            .report(self.me, &service.name, progress, now.unix_us / 1000)?
            .cloned();
        if let Some(action) = news {
            self.tell_of_work(&action, world);
        }
        Ok(())
    }

    /// A service went away, and its work with it.
    pub(super) fn work_gone(&mut self, service: &str, now: Now, world: &mut impl World) {
        for action in self.actions.gone(service, now.unix_us / 1000) {
            self.tell_of_work(&action, world);
        }
    }

    pub(super) fn list_work(&self, params: &str) -> Result<Vec<Action>, RpcError> {
        let query: Option<ActionQuery> = wire::params(ACTIONS, params)?;
        Ok(self.actions.list(query.unwrap_or_default()))
    }

    pub(super) fn cancel_work(
        &mut self,
        params: &str,
        sender: &Sender,
        world: &mut impl World,
    ) -> Result<Action, RpcError> {
        let cancel: Cancel = wire::params(CANCEL, params)?;
        let service = self.actions.service_of(cancel.action_id);
        let connection = service.and_then(|name| self.services.get(name)).copied();
        let callee = connection
            .and_then(|id| self.connections.get(&id))
            .map(|connection| &connection.role);
        if let Some(Role::Service(callee)) = callee
            && !rank::may_call(sender.rank, callee.rank, false)
        {
            let what = format!(
                "{} (rank {}) may not cancel work of {}",
                sender.from, sender.rank, callee.full
            );
            return Err(
                RpcError::new(Code::NotPermitted, &*callee.full, what).remedy("let the lower rank ask")
            );
        }
        let place = self.me.as_str();
        let action = self.actions.cancel(cancel.action_id, place)?;
        let head = Head {
            action_id: Some(cancel.action_id),
            from: Some(&sender.from),
            ..Head::default()
        };
        let params = wire::to_json(&cancel);
        let told = connection.is_some_and(|to| {
            self.put(world, to, |out| {
                wire::write_call(out, None, WITHDRAWN, Some(&params), &head)
            })
        });
        if !told {
            return Err(overloaded(
                place,
                format!("{} does not read what is sent to it", action.service),
            ));
        }
        self.tell_of_work(&action, world);
        Ok(action)
    }

    fn tell_of_work(&mut self, action: &Action, world: &mut impl World) {
        self.emit(WORK, &wire::to_json(action), world);
    }

    /// Sends an event to everybody here who has subscribed to it.
    pub(super) fn emit(&mut self, topic: &str, payload: &str, world: &mut impl World) {
        let entry = self.topics.entry(topic.to_owned()).or_default();
        entry.sequence += 1;
        let message = event_message(topic, self.me, entry.sequence, payload);
        let subscribers: Vec<ConnectionId> = entry.subscribers.iter().copied().collect();
        for to in subscribers {
            self.deliver_event(to, &message, world);
        }
    }
}
