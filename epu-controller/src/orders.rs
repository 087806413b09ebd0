//! What a command means for the view until the provisioner's records show it: what was ordered counts as done, or the next look
//! would order it again.

use std::sync::Arc;

use epu_core::id::InstanceId;
use epu_core::instance::Instance;
use epu_core::launch::{LaunchRequest, Wanted};
use epu_core::life::State;
use epu_core::request::Request;
use epu_core::time::Timestamp;
use epu_store::Outgoing;

use crate::view::{Ordered, View};

/// Lets a view count what a command asks for as done.
pub(crate) fn note(view: &mut View, command: &Outgoing, now: Timestamp) {
    match &command.request {
        Request::Launch(request) => {
            for (index, wanted) in request.instances.iter().enumerate() {
                let instance = requesting(request, wanted, u32::try_from(index).unwrap_or(u32::MAX), command.since);
                view.instance(Arc::new(instance), now);
                view.ordered(wanted.id, Ordered::Come);
            }
        }
        Request::Drain(order) => order.instances.iter().for_each(|id| view.ordered(*id, Ordered::Drain)),
        Request::WithdrawDrain(ids) => ids.instances.iter().for_each(|id| view.ordered(*id, Ordered::Stay)),
        Request::Terminate(order) => order.instances.iter().for_each(|(id, _)| view.ordered(*id, Ordered::End)),
        _ => {}
    }
}

pub(crate) fn undo(view: &mut View, command: &Outgoing) {
    match &command.request {
        Request::Launch(request) => request.instances.iter().for_each(|wanted| view.refused(wanted.id)),
        Request::Drain(order) => order.instances.iter().for_each(|id| view.not_ordered(*id)),
        Request::WithdrawDrain(ids) => ids.instances.iter().for_each(|id| view.not_ordered(*id)),
        Request::Terminate(order) => order.instances.iter().for_each(|(id, _)| view.not_ordered(*id)),
        _ => {}
    }
}

/// The command was accepted: its notes last only a while from now on.
pub(crate) fn accepted(view: &mut View, command: &Outgoing, now: Timestamp) {
    for id in concerned(&command.request) {
        view.accepted(id, now);
    }
}

fn concerned(request: &Request) -> Vec<InstanceId> {
    match request {
        Request::Launch(request) => request.instances.iter().map(|wanted| wanted.id).collect(),
        Request::Drain(order) => order.instances.clone(),
        Request::WithdrawDrain(ids) => ids.instances.clone(),
        Request::Terminate(order) => order.instances.iter().map(|(id, _)| *id).collect(),
        _ => Vec::new(),
    }
}

/// The record of an instance that the provisioner has not accepted yet: version 0, so that its own word always counts for more.
fn requesting(request: &LaunchRequest, wanted: &Wanted, index: u32, since: Timestamp) -> Instance {
    Instance {
        id: wanted.id,
        pool: request.pool.clone(),
        launch: request.launch,
        index,
        site: request.site.clone(),
        slot: wanted.slot.clone(),
        variables: wanted.variables.clone(),
        template: request.template_version.clone(),
        state: State::Requesting,
        version: 0,
        created_at: since,
        state_since: since,
        deadline: None,
        machine: None,
        address: None,
        ready_at: None,
        drain: None,
        ending: None,
        fault: None,
        exit: None,
        protected: false,
        claim: None,
    }
}
