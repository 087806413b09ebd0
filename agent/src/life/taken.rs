//! The site takes the machine away: a spot machine has about two minutes from the notice to its end.
//!
//! It is reported, once and until that is accepted; the answer holds the order to drain, and a replacement is on its way. Where no order
//! comes soon, since nobody answers or whoever answers does not know interruptions, the worker is told to drain all the same: the machine
//! goes whatever anybody decides, and the worker's time to put its work back is running out.

use std::time::Duration;

use epu_core::Timestamp;
use epu_core::request::Happened;
use epu_core::time::Span;

use super::{Action, LOOK_EVERY, Life, Phase};

/// How long the order to drain is waited for. Too low: the worker drains before those who could withdraw it were asked. Too high: it has
/// that much less of its two minutes.
const UNASKED_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// When the machine goes.
    at: Timestamp,
    /// When the worker is told without an order; each try sets the next.
    unasked_at: Timestamp,
}

impl Life {
    /// Whether the site said that it takes the machine away. It is not waited for twice.
    #[must_use]
    pub fn is_taken_away(&self) -> bool {
        self.taken.is_some()
    }

    pub(super) fn taken_away(&mut self, at: Timestamp, now: Timestamp) {
        if self.taken.is_some() {
            return;
        }
        self.taken = Some(Taken {
            at,
            unasked_at: now + UNASKED_AFTER,
        });
        match self.phase {
            Phase::Asking | Phase::SettingUp { .. } | Phase::Starting | Phase::Settling { .. } | Phase::Running => {
                self.reports.push_back(Happened::Interruption {
                    within: Span(at.since(now)),
                });
                // There is no time for a long wait between two attempts.
                if !self.asking.under_way {
                    self.asking.next_at = now;
                }
            }
            // No work is left that could be saved.
            Phase::Ended { .. } | Phase::Stopping { .. } | Phase::Over => {}
        }
    }

    /// When the worker is to be told without an order; never when it was told.
    pub(super) fn unasked_at(&self) -> Timestamp {
        match self.taken {
            Some(taken) if !self.told => taken.unasked_at,
            Some(_) | None => Timestamp::NEVER,
        }
    }

    pub(super) fn drain_unasked(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        if now < self.unasked_at() {
            return;
        }
        let Some(taken) = &mut self.taken else { return };
        taken.unasked_at = now + LOOK_EVERY;
        let signal = self.context.as_ref().map(|context| context.drain_signal).unwrap_or_default();
        todo.push(Action::TellDrain(taken.at, signal));
    }

    /// An interruption is reported with the time that is left now, whenever it was first said.
    pub(super) fn as_of(&self, happened: Happened, now: Timestamp) -> Happened {
        match (happened, self.taken) {
            (Happened::Interruption { .. }, Some(taken)) => Happened::Interruption {
                within: Span(taken.at.since(now)),
            },
            (happened, _) => happened,
        }
    }
}

#[cfg(test)]
mod tests {
    use epu_core::instance::Work;
    use epu_core::pool::DrainSignal;
    use epu_core::request::Reported;

    use super::super::tests::{Story, after, context, drain_by, exit, fault, reports, seen};
    use super::super::{Action, Event};
    use super::*;
    use crate::host::Found;

    /// The time that each report of it says is left, in seconds.
    fn interruption(todo: &[Action]) -> Vec<u64> {
        let mut within = Vec::new();
        for action in todo {
            if let Action::Report(report) = action
                && let Happened::Interruption { within: left } = report.happened
            {
                within.push(left.as_secs());
            }
        }
        within
    }

    fn told(todo: &[Action]) -> Vec<Timestamp> {
        let mut told = Vec::new();
        for action in todo {
            if let Action::TellDrain(deadline, DrainSignal::USR1) = action {
                told.push(*deadline);
            }
        }
        told
    }

    #[test]
    fn a_notice_is_reported_once_and_its_answer_obeyed() {
        let mut story = Story::running();
        let todo = story.at(20.0, Event::Interruption(after(140.0)));
        assert_eq!(interruption(&todo), [120]);
        assert!(story.0.is_taken_away());
        let todo = story.at(20.5, Event::Reported(Ok(Reported::from(drain_by(after(139.0))))));
        assert_eq!(told(&todo), [after(139.0)]);
        assert_eq!(interruption(&story.at(20.6, Event::DrainTold(true))), [] as [u64; 0]);
        assert_eq!(interruption(&story.at(25.0, Event::Interruption(after(145.0)))), [] as [u64; 0]);
        assert_eq!(told(&story.at(40.0, Event::Tick)), [], "it was told");
        assert_eq!(reports(&story.at(50.0, Event::WorkerEnded(exit(0)))), ["drained"]);
    }

    #[test]
    fn a_report_that_is_repeated_says_what_time_is_left() {
        let mut story = Story::running();
        story.at(20.0, Event::Interruption(after(140.0)));
        story.at(21.0, Event::Reported(Err(fault("no-contact"))));
        let next = story.0.wakes_at().unwrap();
        assert!(next < after(22.0));
        assert_eq!(interruption(&story.at(25.0, Event::Tick)), [115]);
        story.at(26.0, Event::Reported(Err(fault("timeout"))));
        assert_eq!(interruption(&story.at(150.0, Event::Tick)), [0]);
    }

    #[test]
    fn a_long_wait_between_attempts_is_cut_short() {
        let mut story = Story::running();
        story.0.reports.push_back(Happened::Ready { address: None });
        let mut now = 2.0;
        story.at(now, Event::Tick);
        for _ in 0..10 {
            story.at(now, Event::Reported(Err(fault("timeout"))));
            now += 12.0;
            story.at(now, Event::Tick);
        }
        story.at(now, Event::Reported(Err(fault("timeout"))));
        assert!(story.0.wakes_at().is_some());
        assert_eq!(reports(&story.at(now + 0.1, Event::Tick)), [] as [&str; 0]);
        assert_eq!(
            reports(&story.at(now + 0.2, Event::Interruption(after(now + 120.0)))),
            ["ready"],
            "in their order"
        );
        assert_eq!(
            reports(&story.at(now + 0.3, Event::Reported(Ok(Reported::default())))),
            ["interruption"]
        );
    }

    #[test]
    fn without_an_order_the_worker_is_told_all_the_same() {
        for answer in [Err(fault("no-contact")), Err(fault("bad-request")), Ok(Reported::default())] {
            let mut story = Story::running();
            story.at(20.0, Event::Interruption(after(140.0)));
            story.at(21.0, Event::Reported(answer));
            assert_eq!(told(&story.at(29.9, Event::Tick)), []);
            assert!(story.0.wakes_at().unwrap() <= after(30.0));
            assert_eq!(told(&story.at(30.0, Event::Tick)), [after(140.0)]);
            story.at(30.0, Event::DrainTold(false));
            assert_eq!(told(&story.at(30.5, Event::Tick)), []);
            assert_eq!(told(&story.at(31.0, Event::Tick)), [after(140.0)], "it did not reach it");
            story.at(31.0, Event::DrainTold(true));
            assert_eq!(told(&story.at(33.0, seen(Work::Busy, after(32.0)))), []);
        }
    }

    #[test]
    fn a_machine_that_is_not_ready_yet_reports_as_soon_as_it_can() {
        let (mut story, _) = Story::begin(Found::default());
        assert_eq!(
            reports(&story.at(1.0, Event::Interruption(after(121.0)))),
            [] as [&str; 0],
            "it does not know who it is"
        );
        let todo = story.at(2.0, Event::Context(Ok(Box::new(context()))));
        assert_eq!(interruption(&todo), [119]);
        assert_eq!(told(&story.at(15.0, Event::Tick)), [], "there is no worker to be told");
    }

    #[test]
    fn when_the_worker_has_ended_there_is_nothing_left_to_be_saved() {
        let mut story = Story::running();
        assert_eq!(reports(&story.at(20.0, Event::WorkerEnded(exit(0)))), ["exited"]);
        story.at(21.0, Event::Interruption(after(140.0)));
        let todo = story.at(22.0, Event::Reported(Ok(Reported::default())));
        assert_eq!((interruption(&todo), told(&story.at(35.0, Event::Tick))), (Vec::new(), Vec::new()));
    }
}
