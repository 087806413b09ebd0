//! What a command means for the view until the provisioner's records show it: what was ordered counts as done, or the next look
//! would order it again.

use std::sync::Arc;

use epu_core::id::InstanceId;
use epu_core::request::Request;
use epu_core::time::Timestamp;
use epu_store::Outgoing;

use crate::view::{Ordered, View};

/// Lets a view count what a command asks for as done.
pub(crate) fn note(view: &mut View, command: &Outgoing, now: Timestamp) {
    if let Request::Launch(request) = &command.request {
        for (index, wanted) in (0..).zip(&request.instances) {
            view.instance(Arc::new(request.instance(index, wanted, command.since)), now);
        }
    }
    let (what, ids) = meaning(&command.request);
    for id in ids {
        view.ordered(id, what);
    }
}

/// The command was accepted: its notes last only a while from now on.
pub(crate) fn accepted(view: &mut View, command: &Outgoing, now: Timestamp) {
    let (what, ids) = meaning(&command.request);
    for id in ids {
        view.accepted(id, what, now);
    }
}

/// The command was refused for good.
pub(crate) fn undo(view: &mut View, command: &Outgoing) {
    let (what, ids) = meaning(&command.request);
    for id in ids {
        match what {
            Ordered::Come => view.refused(id),
            Ordered::Drain | Ordered::Stay | Ordered::End => view.not_ordered(id, what),
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these are ever put into an outbox")]
fn meaning(request: &Request) -> (Ordered, Vec<InstanceId>) {
    match request {
        Request::Launch(request) => (Ordered::Come, request.instances.iter().map(|wanted| wanted.id).collect()),
        Request::Drain(order) => (Ordered::Drain, order.instances.clone()),
        Request::WithdrawDrain(ids) => (Ordered::Stay, ids.instances.clone()),
        Request::Terminate(order) => (Ordered::End, order.instances.iter().map(|(id, _)| *id).collect()),
        _ => (Ordered::Stay, Vec::new()),
    }
}
