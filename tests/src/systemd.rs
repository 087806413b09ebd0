//! What systemd does to a unit's processes when it stops the unit, done to real processes.
//!
//! Stopping a service needs a running systemd, which a container or a test machine seldom has. What it does is documented exactly, in
//! systemd.kill(5), `KillMode=`, and needs nothing but signals; so it is done here, with the settings read from the unit file that
//! is shipped.
//!
//! | `KillMode` | at stop | after `TimeoutStopSec` |
//! |---|---|---|
//! | `control-group` (default) | SIGTERM to all of the unit | SIGKILL to all that remain |
//! | `mixed` | SIGTERM to the main process | SIGKILL to all that remain, also as soon as the main process has ended |
//! | `process` | SIGTERM to the main process | SIGKILL to the main process |
//!
//! A unit is a control group, which a process cannot leave by starting a session or losing its parent. A variable that all processes of
//! the unit inherit stands for it here. A process that is started with an empty environment would escape; [`Unit::also`] adds those.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::keeper::Kept;
use crate::processes::{EndsTagged, Proc};
use crate::{Result, Trouble, wait};

/// The variable that stands for the control group.
const GROUP: &str = "EPU_TESTS_UNIT";

/// Whom systemd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillMode {
    /// Everything in the unit.
    ControlGroup,
    /// The main process nicely, everything in the end.
    Mixed,
    /// The main process only.
    Process,
}

/// A unit file: section, key, values in order, see systemd.syntax(7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitFile(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl UnitFile {
    /// Reads one. An empty value forgets the ones before it, as systemd has it.
    ///
    /// # Errors
    /// Names the first line that is neither section, setting nor comment.
    pub fn read(text: &str) -> Result<Self> {
        let mut file = Self::default();
        let mut section = None;
        let text = text.replace("\\\n", " ");
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = Some(name.to_owned());
                file.0.entry(name.to_owned()).or_default();
                continue;
            }
            let (Some(section), Some((key, value))) = (&section, line.split_once('=')) else {
                return Err(Trouble::new("read the unit file", line));
            };
            let values = file.0.entry(section.clone()).or_default().entry(key.trim().to_owned()).or_default();
            if value.trim().is_empty() {
                values.clear();
            } else {
                values.push(value.trim().to_owned());
            }
        }
        Ok(file)
    }

    /// The last value of a setting, which is the one in force where only one can be.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.0.get(section)?.get(key)?.last().map(String::as_str)
    }

    /// Whom it ends.
    ///
    /// # Errors
    /// When the mode is unknown here.
    pub fn kill_mode(&self) -> Result<KillMode> {
        match self.value("Service", "KillMode") {
            None | Some("control-group") => Ok(KillMode::ControlGroup),
            Some("mixed") => Ok(KillMode::Mixed),
            Some("process") => Ok(KillMode::Process),
            Some(other) => Err(Trouble::new("read KillMode", other)),
        }
    }

    /// How long the main process may take to stop.
    ///
    /// # Errors
    /// When it is not given in seconds.
    pub fn timeout_stop(&self) -> Result<Duration> {
        let written = self.value("Service", "TimeoutStopSec").unwrap_or("90");
        let seconds = written.trim_end_matches('s').parse();
        seconds
            .map(Duration::from_secs)
            .map_err(|e| Trouble::new(format!("read TimeoutStopSec={written}"), e))
    }
}

/// A running unit. Everything in it is killed when dropped.
#[derive(Debug)]
pub struct Unit {
    /// The main process.
    pub main: Kept,
    group: EndsTagged,
    also: Vec<EndsTagged>,
}

impl Unit {
    /// Starts a unit whose main process is this command, made with [`crate::keeper::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let name: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        command.env(GROUP, &name);
        Ok(Self {
            main: Kept::start(command)?,
            group: EndsTagged::new(GROUP, name),
            also: Vec::new(),
        })
    }

    /// Counts processes whose variable starts with `prefix` as the unit's, for programs that start others with an empty environment.
    #[must_use]
    pub fn also(mut self, variable: &str, prefix: &str) -> Self {
        self.also.push(EndsTagged::new(variable, prefix));
        self
    }

    /// Every living process of the unit.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<Proc> {
        let mut all = self.group.alive();
        all.extend(self.also.iter().flat_map(EndsTagged::alive));
        all
    }

    /// Everyone but the main process.
    #[must_use]
    pub fn others(&self) -> BTreeSet<Proc> {
        self.processes().into_iter().filter(|proc| *proc != self.main.main).collect()
    }

    /// Stops the unit as `systemctl stop` does. Says whether the main process stopped by itself in time.
    pub async fn stop(&mut self, mode: KillMode, timeout: Duration) -> bool {
        self.main.signal(Signal::TERM);
        if mode == KillMode::ControlGroup {
            self.signal_others(Signal::TERM);
        }
        let stopped = self.main.wait(timeout).await.is_ok();
        if !stopped {
            self.main.kill_alone();
        }
        match mode {
            KillMode::Process => {}
            KillMode::Mixed => self.signal_others(Signal::KILL),
            KillMode::ControlGroup => {
                // The time-out is the unit's, not each process's; what the main process left of it is short in practice.
                let rest = wait::until(timeout, "the unit is empty", async || {
                    if self.others().is_empty() { Ok(()) } else { Err("it is not") }
                });
                if rest.await.is_err() {
                    self.signal_others(Signal::KILL);
                }
            }
        }
        stopped
    }

    fn signal_others(&self, signal: Signal) {
        for proc in self.others() {
            proc.signal(signal);
        }
    }
}
