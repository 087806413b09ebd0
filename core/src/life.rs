//! The life of an instance: its states in life order and the one table of legal moves.
//!
//! States keep the codes of the original EPU, whose clients compare them as text. They move only forward.
//!
//! A launch that is still in flight when its instance is told to end is the case the original lost machines over: the late
//! answer must not be dropped because the state has moved on. Here [`Event::Launched`] is legal in `700-TERMINATING`, keeps the
//! state, and lets the provisioner learn which machine to end.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an instance is in its life; declared, and compared, in life order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// The controller decided on it and wrote that down; the provisioner has not accepted it yet.
    #[serde(rename = "100-REQUESTING")]
    Requesting,
    /// The provisioner accepted it and wrote that down.
    #[serde(rename = "200-REQUESTED")]
    Requested,
    /// The site had a passing difficulty with it; the call is repeated.
    #[serde(rename = "300-ERROR_RETRYING")]
    ErrorRetrying,
    /// The site accepted the launch.
    #[serde(rename = "400-PENDING")]
    Pending,
    /// The site says that it runs; its agent has not reported ready.
    #[serde(rename = "500-STARTED")]
    Started,
    /// Its agent reported that set-up succeeded.
    #[serde(rename = "600-RUNNING")]
    Running,
    /// It came up but its set-up or start failed, or did not finish in time.
    #[serde(rename = "650-RUNNING_FAILED")]
    RunningFailed,
    /// Its end was asked for and the site has not confirmed it.
    #[serde(rename = "700-TERMINATING")]
    Terminating,
    /// The site confirmed that it is gone.
    #[serde(rename = "800-TERMINATED")]
    Terminated,
    /// It never came to be.
    #[serde(rename = "900-FAILED")]
    Failed,
    /// It was refused: the installation is closed, or the request cannot be carried out.
    #[serde(rename = "950-REJECTED")]
    Rejected,
}

/// What can happen to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The provisioner accepted the request.
    Accepted,
    /// The provisioner refused the request.
    Refused,
    /// The site failed in a way that may pass.
    Retrying,
    /// The site accepted the launch and named the machine.
    Launched,
    /// The site will not launch it.
    LaunchFailed,
    /// The site lists the machine as running.
    Up,
    /// The agent reported ready.
    Ready,
    /// The agent reported failure, or did not report in time.
    NotReady,
    /// Its end was asked for.
    Terminate,
    /// The site confirmed that the machine is gone.
    Gone,
}

/// A move that the table does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("an instance in {from} cannot take {event:?}")]
pub struct Illegal {
    /// Where it was.
    pub from: State,
    /// What was said to have happened.
    pub event: Event,
}

impl State {
    /// Every state, in life order.
    pub const ALL: [Self; 11] = [
        Self::Requesting,
        Self::Requested,
        Self::ErrorRetrying,
        Self::Pending,
        Self::Started,
        Self::Running,
        Self::RunningFailed,
        Self::Terminating,
        Self::Terminated,
        Self::Failed,
        Self::Rejected,
    ];

    /// Where `event` leads from here. An event that changes nothing (a repeated report) leads to where it is.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot happen here; the state is unchanged.
    pub fn next(self, event: Event) -> Result<Self, Illegal> {
        use Event as E;
        use State as S;
        match (self, event) {
            (S::Requesting, E::Accepted) => Ok(S::Requested),
            (S::Requesting, E::Refused) => Ok(S::Rejected),
            (S::Requested | S::ErrorRetrying, E::Retrying) => Ok(S::ErrorRetrying),
            (S::Requested | S::ErrorRetrying, E::Launched) => Ok(S::Pending),
            (S::Requested | S::ErrorRetrying, E::Refused) => Ok(S::Rejected),
            (S::Requested | S::ErrorRetrying | S::Terminating, E::LaunchFailed) => Ok(S::Failed),
            // The answer to a launch may come twice, or after a report or an order overtook it.
            (S::Pending | S::Started | S::Running | S::RunningFailed | S::Terminating, E::Launched) => Ok(self),
            (S::Requested | S::ErrorRetrying | S::Pending | S::Started, E::Up) => Ok(S::Started),
            (S::Running | S::RunningFailed | S::Terminating, E::Up) => Ok(self),
            // An agent may report before the site's list shows its machine.
            (S::Requested | S::ErrorRetrying | S::Pending | S::Started | S::Running, E::Ready) => Ok(S::Running),
            (S::Requested | S::ErrorRetrying | S::Pending | S::Started | S::Running | S::RunningFailed, E::NotReady) => {
                Ok(S::RunningFailed)
            }
            (S::Requested | S::ErrorRetrying | S::Pending | S::Started | S::Running | S::RunningFailed | S::Terminating, E::Terminate) => {
                Ok(S::Terminating)
            }
            (S::Requesting, E::Terminate) => Ok(S::Rejected),
            (S::Pending | S::Started | S::Running | S::RunningFailed | S::Terminating | S::Terminated, E::Gone) => Ok(S::Terminated),
            // Nothing was ever launched, and the site confirms that nothing is there.
            (S::Requested | S::ErrorRetrying, E::Gone) => Ok(S::Failed),
            (from, event) => Err(Illegal { from, event }),
        }
    }

    /// Whether nothing follows: it is confirmed gone, or never was.
    #[must_use]
    pub fn is_end(self) -> bool {
        self >= Self::Terminated
    }

    /// Decided on or coming up, and not yet running.
    #[must_use]
    pub fn is_booting(self) -> bool {
        self < Self::Running
    }

    /// The code on wire and in tables, as the original wrote it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Requesting => "100-REQUESTING",
            Self::Requested => "200-REQUESTED",
            Self::ErrorRetrying => "300-ERROR_RETRYING",
            Self::Pending => "400-PENDING",
            Self::Started => "500-STARTED",
            Self::Running => "600-RUNNING",
            Self::RunningFailed => "650-RUNNING_FAILED",
            Self::Terminating => "700-TERMINATING",
            Self::Terminated => "800-TERMINATED",
            Self::Failed => "900-FAILED",
            Self::Rejected => "950-REJECTED",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 10] = [
        Event::Accepted,
        Event::Refused,
        Event::Retrying,
        Event::Launched,
        Event::LaunchFailed,
        Event::Up,
        Event::Ready,
        Event::NotReady,
        Event::Terminate,
        Event::Gone,
    ];

    #[test]
    fn an_instance_never_moves_backwards() {
        for from in State::ALL {
            for event in EVENTS {
                if let Ok(to) = from.next(event) {
                    assert!(to >= from, "{from} went back to {to} by {event:?}");
                }
            }
        }
    }

    #[test]
    fn an_end_is_an_end() {
        for end in State::ALL.into_iter().filter(|s| s.is_end()) {
            for event in EVENTS {
                assert!(end.next(event).is_err() || end.next(event) == Ok(end), "{end} took {event:?}");
            }
        }
    }

    #[test]
    fn every_state_that_is_no_end_can_be_ended() {
        for live in State::ALL.into_iter().filter(|s| !s.is_end()) {
            assert!(live.next(Event::Terminate).is_ok(), "{live} cannot be terminated");
        }
    }

    #[test]
    fn codes_sort_as_states_do_and_are_the_wire_form() {
        for pair in State::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code() && pair[0] < pair[1]);
        }
        for state in State::ALL {
            assert_eq!(serde_json::to_string(&state).expect("a string"), format!("{:?}", state.code()));
        }
    }

    /// The whole table, so that a changed move is seen in review.
    #[test]
    fn the_table_of_moves() {
        let mut table = String::new();
        for from in State::ALL {
            for event in EVENTS {
                if let Ok(to) = from.next(event) {
                    table.push_str(&format!("{from:<20} {:<13} {to}\n", format!("{event:?}")));
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
