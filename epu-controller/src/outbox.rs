//! Commands that are to reach the provisioner. They are stored with the decision they came from, sent one at a time and in order
//! for each pool, and kept until they are accepted: a lost answer means the same command again, with the same ids.

use std::collections::VecDeque;
use std::time::Duration;

use epu_core::Fault;
use epu_core::request::Answer;
use epu_core::time::Timestamp;
use epu_store::Outgoing;
use uuid::Uuid;

/// The first wait before a command is sent again; doubles up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest wait. Too high: slow to go on after the provisioner was away. Too low: load while it is.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Refusals that may have nothing to do with the command, after which it is given up all the same. Too low: what the receiver's
/// settings do not allow just now is dropped. Too high: one command that nobody can carry out holds up its pool.
const REFUSALS_MOST: u32 = 20;
/// And for how long at least it was refused by then.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// One pool's commands, the first of which may be under way.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Outgoing>,
    under_way: bool,
    tries: u32,
    /// Of the first one: how often it was refused in a way that may pass, and since when.
    refusals: Option<(u32, Timestamp)>,
}

/// What became of a command.
#[derive(Debug)]
pub enum Sent {
    /// It was accepted, with this answer.
    Accepted(Outgoing, Answer),
    /// It was refused for good.
    Refused(Outgoing, Fault),
    /// It is to be sent again after this wait.
    Again(Duration, Fault),
    /// Somebody else leads by now, and sends it: it stays where it is.
    Stale,
}

impl Outbox {
    /// Adds commands behind the others.
    pub fn push(&mut self, commands: impl IntoIterator<Item = Outgoing>) {
        self.waiting.extend(commands);
    }

    /// The next command to send now, if none is under way.
    pub fn take_next(&mut self) -> Option<Outgoing> {
        if self.under_way {
            return None;
        }
        let next = self.waiting.front().cloned();
        self.under_way = next.is_some();
        next
    }

    /// Takes in what came of the command that was under way.
    pub fn done(&mut self, id: Uuid, result: Result<Answer, Fault>, now: Timestamp) -> Option<Sent> {
        if self.waiting.front().is_none_or(|front| front.id != id) {
            return None;
        }
        match result {
            Ok(answer) => Some(Sent::Accepted(self.pop()?, answer)),
            Err(fault) if fault.code == "stale-epoch" => Some(Sent::Stale),
            Err(fault) if fault.is_final() || self.is_enough(&fault, now) => Some(Sent::Refused(self.pop()?, fault)),
            Err(fault) => {
                let wait = (RETRY_FIRST * 2u32.pow(self.tries.min(8))).min(RETRY_MOST);
                self.tries = self.tries.saturating_add(1);
                Some(Sent::Again(wait, fault))
            }
        }
    }

    /// The wait before sending again is over.
    pub fn ready(&mut self) {
        self.under_way = false;
    }

    /// What the first one asks for.
    #[must_use]
    pub fn first_op(&self) -> &'static str {
        self.waiting.front().map_or("none", |command| command.request.op())
    }

    /// How many are not accepted yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Since when the first of those has been waiting.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.waiting.front().map(|command| command.since)
    }

    /// Whether all are accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn pop(&mut self) -> Option<Outgoing> {
        self.under_way = false;
        self.tries = 0;
        self.refusals = None;
        self.waiting.pop_front()
    }

    /// Whether the first one was refused often and long enough to be given up.
    fn is_enough(&mut self, fault: &Fault, now: Timestamp) -> bool {
        if !may_pass(fault) {
            return false;
        }
        let (refusals, since) = self.refusals.get_or_insert((0, now));
        *refusals = refusals.saturating_add(1);
        *refusals >= REFUSALS_MOST && now.since(*since) >= REFUSED_FOR
    }
}

/// Whether a refusal may be about who sent or received the command and not about the command itself: users that are set up wrongly,
/// or a receiver of another version. Such a command is kept, and its pool says so.
pub(crate) fn may_pass(fault: &Fault) -> bool {
    matches!(fault.code.as_ref(), "bad-request" | "forbidden")
}

#[cfg(test)]
mod tests {
    use super::*;
    use epu_core::id::PoolName;
    use epu_core::request::{Ids, Request};

    const NOW: Timestamp = Timestamp(0);

    fn command(n: u128) -> Outgoing {
        let request = Request::WithdrawDrain(Ids {
            instances: vec![],
            epoch: 0,
        });
        Outgoing {
            id: Uuid::from_u128(n),
            pool: PoolName::new("web").unwrap(),
            request,
            since: Timestamp(0),
        }
    }

    #[test]
    fn one_at_a_time_in_order_again_until_accepted() {
        let mut outbox = Outbox::default();
        outbox.push([command(1), command(2)]);
        assert_eq!(outbox.take_next().map(|c| c.id), Some(Uuid::from_u128(1)));
        assert!(outbox.take_next().is_none(), "one is under way");
        let lost = Err(Fault::new("timeout", ""));
        assert!(matches!(outbox.done(Uuid::from_u128(1), lost.clone(), NOW), Some(Sent::Again(wait, _)) if wait == RETRY_FIRST));
        outbox.ready();
        assert_eq!(outbox.take_next().map(|c| c.id), Some(Uuid::from_u128(1)), "the same again");
        assert!(matches!(outbox.done(Uuid::from_u128(1), lost, NOW), Some(Sent::Again(wait, _)) if wait == RETRY_FIRST * 2));
        outbox.ready();
        outbox.take_next();
        assert!(matches!(
            outbox.done(Uuid::from_u128(1), Ok(Answer::Json(serde_json::Value::Null)), NOW),
            Some(Sent::Accepted(..))
        ));
        assert_eq!(outbox.take_next().map(|c| c.id), Some(Uuid::from_u128(2)));
        assert!(matches!(
            outbox.done(Uuid::from_u128(2), Err(Fault::new("closed", "")), NOW),
            Some(Sent::Refused(..))
        ));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_command_under_a_term_that_is_over_stays_for_the_next_leader() {
        let mut outbox = Outbox::default();
        outbox.push([command(1)]);
        outbox.take_next();
        let stale = Err(Fault::new("stale-epoch", ""));
        assert!(matches!(outbox.done(Uuid::from_u128(1), stale, NOW), Some(Sent::Stale)));
        assert_eq!(outbox.len(), 1);
        assert!(outbox.take_next().is_none(), "and is not sent again from here");
    }

    #[test]
    fn what_is_too_large_is_given_up_at_once() {
        let mut outbox = Outbox::default();
        outbox.push([command(1), command(2)]);
        outbox.take_next();
        let large = Err(Fault::new("too-large", ""));
        assert!(matches!(outbox.done(Uuid::from_u128(1), large, NOW), Some(Sent::Refused(..))));
        assert_eq!(
            outbox.take_next().map(|c| c.id),
            Some(Uuid::from_u128(2)),
            "the next one is not held up"
        );
    }

    #[test]
    fn a_refusal_that_may_pass_is_final_only_after_many_tries_and_a_while() {
        let mut outbox = Outbox::default();
        outbox.push([command(1), command(2)]);
        let refuse = |outbox: &mut Outbox, code: &'static str, at: i64| {
            outbox.ready();
            let id = outbox.take_next().unwrap().id;
            outbox.done(id, Err(Fault::new(code, "")), Timestamp(at)).unwrap()
        };
        for n in 0..100 {
            assert!(matches!(refuse(&mut outbox, "forbidden", n), Sent::Again(..)), "too soon");
        }
        assert!(
            matches!(refuse(&mut outbox, "timeout", 70_000), Sent::Again(..)),
            "that is no refusal"
        );
        assert!(matches!(refuse(&mut outbox, "bad-request", 70_000), Sent::Refused(..)));
        for n in 0..i64::from(REFUSALS_MOST) - 1 {
            let at = 100_000 + n * 60_000;
            assert!(
                matches!(refuse(&mut outbox, "bad-request", at), Sent::Again(..)),
                "another one, counted anew"
            );
        }
        assert!(matches!(refuse(&mut outbox, "bad-request", 9_000_000), Sent::Refused(..)));
        assert!(outbox.is_empty());
    }
}
