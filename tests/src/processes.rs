//! The process table, read from `/proc`: who is there, who carries which tag, who descends from whom.
//!
//! A process id alone is not a name, since ids are used again. [`Proc`] therefore also holds the time at which the process started,
//! and no signal is sent to a process that started at another time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Longest environment that is read, which is above what Linux allows a process to start with by default (a quarter of the stack).
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// A clock tick as Linux shows it to programs, on every platform it has today.
const TICK_MS: u64 = 10;
/// How long a process that was told to stop may run on; one that waits for a disk does.
const STANDS_WITHIN_MS: u32 = 2_000;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proc {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name is in parentheses and may hold anything, parentheses too; after the last one come the fields, see proc(5).
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Proc {
    /// The process that has this id now, also when it has ended and waits to be reaped.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self {
            pid,
            started: stat.started,
        })
    }

    /// Every process.
    #[must_use]
    pub fn all() -> BTreeSet<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return BTreeSet::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Self::of)
            .collect()
    }

    /// Whether it still runs. One that has ended and waits to be reaped does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Its state as the kernel names it: `R`, `S`, `T` for stopped, ...; none when it is gone.
    #[must_use]
    pub fn state(self) -> Option<char> {
        stat(self.pid).filter(|stat| stat.started == self.started).map(|stat| stat.state)
    }

    /// Who started it, or took it over; none when it is gone.
    #[must_use]
    pub fn parent(self) -> Option<u32> {
        stat(self.pid).filter(|stat| stat.started == self.started).map(|stat| stat.parent)
    }

    /// How long ago it started; none when that cannot be told.
    #[must_use]
    pub fn age(self) -> Option<Duration> {
        let text = fs::read_to_string("/proc/uptime").ok()?;
        let uptime = Duration::try_from_secs_f64(text.split_ascii_whitespace().next()?.parse().ok()?).ok()?;
        Some(uptime.saturating_sub(Duration::from_millis(self.started.saturating_mul(TICK_MS))))
    }

    /// The environment it was started with; empty when it is gone or somebody else's.
    #[must_use]
    pub fn environment(self) -> BTreeMap<String, String> {
        let mut environment = Vec::new();
        let file = fs::File::open(format!("/proc/{}/environ", self.pid));
        let read = file.and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
        if read.is_err() {
            return BTreeMap::new();
        }
        let entries = environment.split(|byte| *byte == 0).filter_map(|entry| {
            let entry = String::from_utf8_lossy(entry);
            let (key, value) = entry.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        // The first of two counts, as it does for programs.
        let mut all = BTreeMap::new();
        for (key, value) in entries {
            all.entry(key).or_insert(value);
        }
        all
    }

    /// The value of a variable in the environment it was started with.
    #[must_use]
    pub fn variable(self, name: &str) -> Option<String> {
        self.environment().remove(name)
    }

    /// Its command line, for messages.
    #[must_use]
    pub fn command_line(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
    }

    /// Living processes whose environment satisfies `wanted` in the variable `name`.
    #[must_use]
    pub fn whose(name: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<Self> {
        Self::all()
            .into_iter()
            .filter(|proc| proc.is_alive() && proc.variable(name).is_some_and(|value| wanted(&value)))
            .collect()
    }

    /// Living processes that carry exactly this tag, such as `EPU_INSTALLATION`.
    #[must_use]
    pub fn carrying(name: &str, value: &str) -> BTreeSet<Self> {
        Self::whose(name, |found| found == value)
    }

    /// Children, their children and so on of a process, not itself. A child whose parent has died belongs to nobody here.
    #[must_use]
    pub fn descendants_of(pid: u32) -> BTreeSet<Self> {
        let table: Vec<(Self, u32)> = Self::all()
            .into_iter()
            .filter_map(|proc| stat(proc.pid).map(|stat| (proc, stat.parent)))
            .collect();
        let mut found = BTreeSet::new();
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            for (proc, of) in &table {
                if *of == parent && found.insert(*proc) {
                    parents.push(proc.pid);
                }
            }
        }
        found
    }

    /// Children of a process, not theirs.
    #[must_use]
    pub fn children_of(pid: u32) -> BTreeSet<Self> {
        Self::all()
            .into_iter()
            .filter(|proc| stat(proc.pid).is_some_and(|stat| stat.parent == pid))
            .collect()
    }

    /// Sends a signal; a process that is gone, or another one that took its id, is left alone. One that is to stop stands when this is
    /// back: on a busy machine its threads run on for a moment.
    pub fn signal(self, signal: Signal) {
        let same = stat(self.pid).is_some_and(|stat| stat.started == self.started);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| same) else {
            return;
        };
        kill_process(pid, signal).ok();
        if signal == Signal::STOP {
            for _ in 0..STANDS_WITHIN_MS {
                if self.stands() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether none of its threads runs.
    fn stands(self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        // A thread's own file is also found beside those of processes.
        let mut states = ids.filter_map(|id: u32| Some(stat(id)?.state));
        states.all(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    }

    /// Sends a signal to the process group that it leads; one that is gone is left alone.
    pub fn signal_group(self, signal: Signal) {
        let same = stat(self.pid).is_some_and(|stat| stat.started == self.started);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| same) else {
            return;
        };
        kill_process_group(pid, signal).ok();
    }
}

/// Ends every process that carries a tag when dropped: what a test's own installation left running.
#[derive(Debug)]
pub struct EndsTagged {
    name: String,
    prefix: String,
}

impl EndsTagged {
    /// Processes whose variable `name` starts with `prefix`, which must be unique to the test, such as its temporary directory.
    ///
    /// # Panics
    /// When the prefix is so short that it might name processes of others.
    #[must_use]
    pub fn new(name: impl Into<String>, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        assert!(prefix.len() >= 8, "{prefix:?} is too short to be unique");
        Self { name: name.into(), prefix }
    }

    /// Who carries it now.
    #[must_use]
    pub fn alive(&self) -> BTreeSet<Proc> {
        Proc::whose(&self.name, |value| value.starts_with(&self.prefix))
    }
}

impl Drop for EndsTagged {
    fn drop(&mut self) {
        // What they start while they are being ended is found in the next round.
        for _ in 0..10 {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            for proc in alive {
                proc.signal(Signal::KILL);
            }
        }
    }
}
