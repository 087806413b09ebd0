//! The process table, read by the demo itself: by another process than those that launch and end workers, so that a leak is
//! counted by somebody who did not make it.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal};

/// One process that carries the installation's tag.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// Its process group.
    pub(crate) group: i32,
    /// Its instance.
    pub(crate) instance: String,
    /// Whether it is the worker, and not the agent that watches it.
    pub(crate) is_worker: bool,
}

/// Every living process of an installation.
pub(crate) fn processes(installation: &str) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| process(pid, installation))
        .collect();
    found.sort_by_key(|p| p.pid);
    found
}

fn process(pid: i32, installation: &str) -> Option<Process> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let line = environment
            .split(|b| *b == 0)
            .find_map(|line| line.strip_prefix(format!("{name}=").as_bytes()))?;
        String::from_utf8(line.to_vec()).ok()
    };
    if value("EPU_INSTALLATION")? != installation {
        return None;
    }
    // "pid (name) state ppid group ...": the name may hold anything, so what follows its last bracket is read.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after = stat.rsplit_once(')')?.1.split_whitespace();
    if after.next()? == "Z" {
        return None;
    }
    let group = after.nth(1)?.parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_worker = words.split(|b| *b == 0).any(|word| word == b"demo-worker");
    Some(Process {
        pid,
        group,
        instance: value("EPU_INSTANCE").unwrap_or_default(),
        is_worker,
    })
}

/// Agents by instance: more than one for an instance means that it was launched twice.
pub(crate) fn agents(installation: &str) -> BTreeMap<String, Vec<i32>> {
    let mut agents: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for process in processes(installation).into_iter().filter(|p| !p.is_worker) {
        agents.entry(process.instance).or_default().push(process.pid);
    }
    agents
}

/// Sends a signal to one process, by id.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that ended meanwhile needs no signal.
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Sends a signal to a whole process group.
pub(crate) fn send_group(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        rustix::process::kill_process_group(group, signal).ok();
    }
}
