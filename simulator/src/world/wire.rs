//! What can be done to the way between processes, agents and operators.

use crate::net::rules::{Rule, RuleId};
use crate::world::World;

impl World {
    /// From now on this happens to messages, until it is ended.
    pub fn disturb(&mut self, rule: Rule) -> RuleId {
        self.transcript.note(format_args!("messages: {rule}"));
        self.net.begin(rule)
    }

    /// It happens no more; whatever else happens to messages goes on.
    pub fn undisturb(&mut self, rule: RuleId) -> &mut Self {
        self.transcript.note(format_args!("messages: one trouble less"));
        self.net.end(rule);
        self
    }

    /// The broker goes away, or comes back once for each time that it went.
    pub fn broker_away(&mut self, away: bool) -> &mut Self {
        self.transcript
            .note(format_args!("the broker {}", if away { "is away" } else { "is back" }));
        if away {
            self.net.broker_goes_away();
        } else {
            self.inside(|| self.net.broker_comes_back());
        }
        self
    }
}
