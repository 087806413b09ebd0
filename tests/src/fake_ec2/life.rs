//! What becomes of machines by themselves: their states in order of time, what is seen of them, and their end.

use std::time::Duration;

use epu_core::time::Timestamp;

use super::plan::Fate;
use super::row::{Row, State};
use super::world::{Doing, World};

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Runs(u64),
    Boots(u64),
    Shows(u64, State),
    Ended(u64),
    Forgotten(u64),
    Interrupted(u64),
    Struck(u64, Fate),
}

impl World {
    pub(super) fn at(&mut self, at: Timestamp, event: Event) {
        self.happened += 1;
        self.events.insert((at, self.happened), event);
    }

    /// Lets everything happen that is due.
    pub fn advance(&mut self, now: Timestamp) {
        while let Some(first) = self.events.first_entry() {
            let at = first.key().0;
            if at > now {
                return;
            }
            let event = first.remove();
            self.happens(event, at);
        }
    }

    fn happens(&mut self, event: Event, at: Timestamp) {
        match event {
            Event::Runs(seq) => self.runs(seq, at),
            Event::Boots(seq) => self.boots(seq, at),
            Event::Shows(seq, state) => self.shows(seq, state, at),
            Event::Ended(seq) => self.ended(seq, at),
            Event::Forgotten(seq) => self.forget(seq, at),
            Event::Interrupted(seq) => {
                let reason = ("Server.SpotInstanceTermination", "Spot instance termination");
                self.end(seq, State::ShuttingDown, reason, at);
            }
            Event::Struck(seq, fate) => self.strike(seq, fate, at),
        }
    }

    fn runs(&mut self, seq: u64, at: Timestamp) {
        let Some(row) = self.rows.get_mut(&seq).filter(|row| row.state == State::Pending) else {
            return;
        };
        row.state = State::Running;
        row.times.running = Some(at.0);
        row.checked = Some(at + self.timings.checks.draw(&mut row.random));
        let (boots, stuck) = (at + row.slow, row.stuck);
        self.show(seq, at);
        if !stuck {
            self.at(boots, Event::Boots(seq));
        }
    }

    fn boots(&mut self, seq: u64, at: Timestamp) {
        let is_real = self.machines.is_some();
        let Some(row) = self
            .rows
            .get_mut(&seq)
            .filter(|row| row.state == State::Running && row.times.vanished.is_none())
        else {
            return;
        };
        row.times.booted = Some(at.0);
        if let (true, Some(user_data)) = (is_real, &row.spec.user_data) {
            row.is_up = true;
            self.doings.push(Doing::Boot {
                id: row.id.clone(),
                user_data: user_data.clone(),
            });
        }
    }

    /// A change becomes visible, after the lag and not before earlier ones.
    pub(super) fn show(&mut self, seq: u64, at: Timestamp) {
        if let Some(row) = self.rows.get_mut(&seq) {
            let seen_at = (at + self.timings.lag.draw(&mut row.random)).max(row.lags_until);
            row.lags_until = seen_at;
            let state = row.state;
            if seen_at <= at {
                self.shows(seq, state, at);
            } else {
                self.at(seen_at, Event::Shows(seq, state));
            }
        }
    }

    fn shows(&mut self, seq: u64, state: State, at: Timestamp) {
        if let Some(row) = self.rows.get_mut(&seq) {
            row.times.shown.get_or_insert(at.0);
            row.shown.push((at, state));
            row.rendered = None;
        }
    }

    /// Ends or stops a machine that is not doing so already.
    pub(super) fn end(&mut self, seq: u64, to: State, reason: (&'static str, &'static str), at: Timestamp) {
        let Some(row) = self.rows.get_mut(&seq) else {
            return;
        };
        let is_new = !row.state.is_ending() && row.state != to && row.times.vanished.is_none();
        if !is_new || (to == State::Stopping && row.state == State::Stopped) {
            return;
        }
        row.state = to;
        row.reason = Some(reason);
        row.times.ending = Some(at.0);
        row.ending = self.timings.ending.draw(&mut row.random);
        let (is_up, ended, id) = (row.is_up, at + row.ending, row.id.clone());
        self.show(seq, at);
        if is_up {
            self.doings.push(Doing::End(id));
        } else {
            self.at(ended, Event::Ended(seq));
        }
    }

    /// The processes of a machine are gone: only now may EC2 say so.
    pub fn is_down(&mut self, id: &str, now: Timestamp) {
        let seq = self.ids.get(id).copied().unwrap_or(0);
        if let Some(row) = self.rows.get_mut(&seq) {
            row.is_up = false;
            if matches!(row.state, State::ShuttingDown | State::Stopping) {
                let due = Timestamp(row.times.ending.unwrap_or(now.0)) + row.ending;
                self.at(due.max(now), Event::Ended(seq));
            }
        }
    }

    fn ended(&mut self, seq: u64, at: Timestamp) {
        let Some(row) = self.rows.get_mut(&seq).filter(|row| !row.is_up && row.times.vanished.is_none()) else {
            return;
        };
        match row.state {
            State::ShuttingDown => {
                row.state = State::Terminated;
                row.times.terminated = Some(at.0);
                let listed = self.timings.listed.draw(&mut row.random);
                self.released(seq);
                self.show(seq, at);
                self.at(at + listed, Event::Forgotten(seq));
            }
            State::Stopping => {
                row.state = State::Stopped;
                self.show(seq, at);
            }
            State::Pending | State::Running | State::Terminated | State::Stopped => {}
        }
    }

    /// What a machine took is free again.
    fn released(&mut self, seq: u64) {
        if let Some(row) = self.rows.get(&seq) {
            self.counts.ends(&row.key);
            for room in &mut self.plan.capacity {
                if room.is_for(&row.spec.zone, &row.spec.instance_type, row.spec.market()) {
                    room.left = room.left.saturating_add(1);
                }
            }
        }
    }

    fn forget(&mut self, seq: u64, at: Timestamp) {
        if let Some(row) = self.rows.get_mut(&seq) {
            row.times.vanished = Some(at.0);
            row.rendered = None;
            if let Some(region) = self.homes.get_mut(&row.home) {
                region.listed.remove(&seq);
            }
        }
    }

    fn notice(&mut self, seq: u64, at: Timestamp) {
        let ahead = *self.timings.notice;
        let strikes = |row: &&mut Row| row.spec.spot && !row.state.is_ending() && row.notice.is_none();
        if let Some(row) = self.rows.get_mut(&seq).filter(strikes) {
            row.notice = Some(at + ahead);
            row.times.noticed = Some(at.0);
            self.at(at + ahead, Event::Interrupted(seq));
        }
    }

    fn strike(&mut self, seq: u64, fate: Fate, at: Timestamp) {
        let Some(row) = self.rows.get_mut(&seq).filter(|row| row.times.vanished.is_none()) else {
            return;
        };
        let shutdown = ("Client.UserInitiatedShutdown", "User initiated shutdown");
        match fate {
            Fate::Vanishes { .. } => {
                if row.is_up {
                    self.doings.push(Doing::Kill(row.id.clone()));
                }
                if row.state != State::Terminated {
                    self.released(seq);
                }
                self.forget(seq, at);
            }
            Fate::Silent { .. } => {
                if row.is_up {
                    self.doings.push(Doing::Kill(row.id.clone()));
                }
            }
            Fate::Stops { .. } => self.end(seq, State::Stopping, shutdown, at),
            Fate::Terminated { .. } => self.end(seq, State::ShuttingDown, shutdown, at),
            Fate::LaunchFails if row.state == State::Pending => {
                // From pending straight to terminated: shutting-down is never shown.
                row.state = State::ShuttingDown;
                row.reason = Some(("Server.InternalError", "Internal error on launch"));
                row.times.ending = Some(at.0);
                self.ended(seq, at);
            }
            Fate::Interrupted { .. } => self.notice(seq, at),
            Fate::Impaired => row.impaired = true,
            Fate::Stuck => row.stuck = true,
            Fate::Slow { by } => row.slow += *by,
            Fate::Pending { .. } | Fate::LaunchFails => {}
        }
    }

    /// Makes something become of a machine, now or as much later as the fate says.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn befall(&mut self, id: &str, fate: Fate, now: Timestamp) -> Result<(), String> {
        self.advance(now);
        let seq = self.ids.get(id).copied().ok_or_else(|| format!("no machine {id}"))?;
        self.at(now + after(fate), Event::Struck(seq, fate));
        self.advance(now);
        Ok(())
    }
}

/// How long after the launch a fate strikes.
pub(super) fn after(fate: Fate) -> Duration {
    match fate {
        Fate::Vanishes { after }
        | Fate::Silent { after }
        | Fate::Stops { after }
        | Fate::Terminated { after }
        | Fate::Interrupted { after } => *after,
        Fate::Pending { .. } | Fate::LaunchFails | Fate::Slow { .. } | Fate::Stuck | Fate::Impaired => Duration::ZERO,
    }
}
