//! What an agent says: heartbeats, reports, and the texts of faults.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::instance::{Exit, Work};
use epu_core::request::Report;
use epu_core::{Fault, Timestamp};

use super::{Action, Life, Phase};
use crate::files::last_chars;

/// The share by which the heartbeat interval varies, so that agents do not speak in step.
const HEARTBEAT_JITTER: f64 = 0.1;
/// The shortest heartbeat interval that is honoured, so that a wrong setting does not spin.
const HEARTBEAT_LEAST: Duration = Duration::from_millis(100);
/// The longest fault text in a heartbeat, in characters: the whole of it was reported before.
const BEAT_FAULT_MAX: usize = 400;

impl Life {
    pub(super) fn report(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        let Some(instance) = self.context.as_ref().map(|context| context.instance) else {
            return;
        };
        let Some(happened) = self.reports.front().cloned() else {
            return;
        };
        let happened = self.as_of(happened, now);
        if self.phase != Phase::Over && self.asking.begin(now) {
            self.choose_door(now);
            todo.push(Action::Report(Report { instance, happened }));
        }
    }

    pub(super) fn beat(&mut self, now: Timestamp, luck: f64, todo: &mut Vec<Action>) {
        let Some(context) = self.context.clone() else {
            return;
        };
        let (condition, work) = match &self.phase {
            Phase::Ended { fault: Some(fault), .. } => {
                let text: String = fault.text.chars().take(BEAT_FAULT_MAX).collect();
                let fault = Fault {
                    code: fault.code.clone(),
                    text,
                };
                (Condition::ProcessError(Box::new(fault)), Work::Unknown)
            }
            // It ended as it should: nothing is wrong, and nothing is left that could be interrupted.
            Phase::Ended { fault: None, .. } => (Condition::Ok, Work::Idle),
            Phase::Asking
            | Phase::SettingUp { .. }
            | Phase::Starting
            | Phase::Settling { .. }
            | Phase::Running
            | Phase::Stopping { .. }
            | Phase::Over => (Condition::Ok, self.seen.work),
        };
        self.sequence += 1;
        self.beating = true;
        self.sent = work;
        self.beat_at = now + self.heartbeat().mul_f64(1.0 + HEARTBEAT_JITTER * (2.0 * luck - 1.0));
        let readings = if self.phase == Phase::Running {
            self.seen.readings.clone()
        } else {
            BTreeMap::new()
        };
        let beat = Heartbeat {
            instance: context.instance,
            sequence: self.sequence,
            started_at_ms: self.started_at.0,
            sent_at_ms: now.0,
            condition,
            work,
            work_for_ms: u64::try_from(now.since(self.work_since).as_millis()).unwrap_or(u64::MAX),
            draining: self.told,
            readings,
        };
        self.beats_at = self.beats.choose(now).unwrap_or_default().to_owned();
        todo.push(Action::Beat(Box::new(beat), self.beats_at.clone()));
    }

    pub(super) fn heartbeat(&self) -> Duration {
        let configured = self.context.as_ref().map(|context| context.heartbeat.0).unwrap_or_default();
        configured.max(HEARTBEAT_LEAST)
    }
}

pub(super) fn how(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "a result that nobody saw".to_owned(),
    }
}

pub(super) fn ending(output: &str) -> String {
    if output.is_empty() {
        ", without any output".to_owned()
    } else {
        format!("; its output ends:\n{output}")
    }
}

pub(super) fn set_up_failed(exit: &Exit) -> Fault {
    Fault::new("set-up-failed", format!("set-up ended with {}{}", how(exit), ending(&exit.output)))
}

/// The end of the output is cut from the front, so that the last words stay.
pub(super) fn beat_text(exit: &Exit) -> String {
    format!(
        "the worker ended with {}{}",
        how(exit),
        ending(last_chars(&exit.output, BEAT_FAULT_MAX / 2))
    )
}
