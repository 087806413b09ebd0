//! The process table, read for our tags.
//!
//! A machine of the local driver is every process that carries the same instance tag in its environment, or lives in the session of
//! one that does. Children inherit both, so that a worker's own children count, and a program that cleans its environment still
//! does through its session. Nothing has to be written down for that, so a process that was started and not recorded is found too.
//!
//! A pass costs one directory read and one small file a process: what a process carries does not change while it lives, and is
//! kept under its number and start time. Zombies run nothing and are left out.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use epu_core::id::{InstanceId, LaunchId};
use rustix::process::{Pid, PidfdFlags, Signal};

/// How much of an environment is read. Tags stand anywhere in it; a larger one is cut, which can only hide a process whose
/// session mates are still seen.
const ENVIRONMENT_MAX: u64 = 1 << 20;
/// A process younger than this may still show its parent's environment, between fork and exec, which on a busy machine takes its
/// time: that it carries no tag is then not believed. In clock ticks, which Linux shows to programs as hundredths of a second on every
/// platform it has today.
const YOUNG_TICKS: u64 = 300;
/// That a process carries no tag is believed for good only when two looks so far apart said it. Too low: one that was stopped before
/// its exec is overlooked for life. Too high: the environments of strangers are read for nothing.
const APART_TICKS: u64 = 200;

/// What a process of ours carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) instance: InstanceId,
    pub(super) launch: Option<LaunchId>,
    pub(super) index: Option<u32>,
}

/// A living process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) session: u32,
    pub(super) started: u64,
    /// Stopped by a signal.
    pub(super) frozen: bool,
    /// In a wait that no signal ends, such as a parent's for its child between vfork and exec.
    pub(super) waiting: bool,
}

/// All processes of one instance, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) tag: Tag,
    pub(super) processes: Vec<Process>,
}

impl Group {
    /// The agent: the leader of its session; when that is gone, the oldest process there is.
    pub(super) fn agent(&self) -> Option<&Process> {
        self.processes
            .iter()
            .find(|p| p.pid == p.session)
            .or_else(|| self.processes.first())
    }

    /// Whether its agent can do nothing: it is frozen, or it waits while the rest of its session is frozen.
    pub(super) fn is_frozen(&self) -> bool {
        let Some(agent) = self.agent() else { return false };
        let mut session = self.processes.iter().filter(|process| process.session == agent.session);
        let all_still = session.clone().all(|process| process.frozen || process.waiting);
        agent.frozen || all_still && session.any(|process| process.frozen)
    }
}

/// Reads the process table of one installation.
#[derive(Debug)]
pub(super) struct Table {
    installation: String,
    uid: u32,
    known: BTreeMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    started: u64,
    tag: Option<Tag>,
    /// When it was first seen, in clock ticks since the machine started.
    seen: u64,
    /// Whether what it carries is not read again.
    is_settled: bool,
}

impl Table {
    pub(super) fn new(installation: &str) -> Self {
        Self {
            installation: installation.to_owned(),
            uid: rustix::process::getuid().as_raw(),
            known: BTreeMap::new(),
        }
    }

    /// Every instance of this installation that has a living process. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub(super) fn groups(&mut self) -> std::io::Result<BTreeMap<InstanceId, Group>> {
        let uptime = uptime_ticks()?;
        let mut living = Vec::new();
        let mut seen = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Whatever cannot be read has ended meanwhile, or is not ours.
            let Some((process, zombie)) = stat(pid) else { continue };
            let kept = self.known.remove(&pid).filter(|known| known.started == process.started);
            let known = match kept {
                Some(known) if known.is_settled => known,
                None if zombie => continue,
                kept => {
                    let tag = self.read_tag(pid);
                    let seen = kept.map_or(uptime, |known| known.seen);
                    let is_old = uptime.saturating_sub(process.started) > YOUNG_TICKS;
                    Known {
                        started: process.started,
                        tag,
                        seen,
                        is_settled: tag.is_some() || is_old && uptime.saturating_sub(seen) >= APART_TICKS,
                    }
                }
            };
            let tag = known.tag;
            seen.insert(pid, known);
            if !zombie {
                living.push((process, tag));
            }
        }
        self.known = seen;
        Ok(grouped(living))
    }

    fn read_tag(&self, pid: u32) -> Option<Tag> {
        let directory = format!("/proc/{pid}");
        if std::fs::metadata(&directory).ok()?.uid() != self.uid {
            return None;
        }
        let mut environment = Vec::new();
        let file = std::fs::File::open(format!("{directory}/environ")).ok()?;
        file.take(ENVIRONMENT_MAX).read_to_end(&mut environment).ok()?;
        tag_in(&environment, &self.installation)
    }
}

fn grouped(mut living: Vec<(Process, Option<Tag>)>) -> BTreeMap<InstanceId, Group> {
    living.sort_by_key(|(process, _)| (process.started, process.pid));
    let sessions: BTreeMap<u32, Tag> = living
        .iter()
        .filter_map(|(process, tag)| tag.map(|tag| (process.session, tag)))
        .collect();
    let mut groups = BTreeMap::new();
    for (process, tag) in living {
        if let Some(tag) = tag.or_else(|| sessions.get(&process.session).copied()) {
            groups
                .entry(tag.instance)
                .or_insert_with(|| Group {
                    tag,
                    processes: Vec::new(),
                })
                .processes
                .push(process);
        }
    }
    groups
}

fn tag_in(environment: &[u8], installation: &str) -> Option<Tag> {
    let value = |name: &str| {
        environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .and_then(|value| std::str::from_utf8(value).ok())
    };
    if value("EPU_INSTALLATION")? != installation {
        return None;
    }
    Some(Tag {
        instance: value("EPU_INSTANCE")?.parse().ok()?,
        launch: value("EPU_LAUNCH").and_then(|text| text.parse().ok()),
        index: value("EPU_INDEX").and_then(|text| text.parse().ok()),
    })
}

/// One process and whether it is a zombie, from `/proc/PID/stat` (proc_pid_stat(5)): the name in brackets may hold anything, so
/// fields are counted from the last bracket on: state is field 3, session 6, start time 22.
fn stat(pid: u32) -> Option<(Process, bool)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &text)
}

fn parse_stat(pid: u32, text: &[u8]) -> Option<(Process, bool)> {
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(text.get(after_name..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    let process = Process {
        pid,
        session,
        started,
        frozen: matches!(state, "T" | "t"),
        waiting: state == "D",
    };
    Some((process, matches!(state, "Z" | "X" | "x")))
}

fn uptime_ticks() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    parse_uptime(&text).ok_or_else(|| std::io::Error::other("/proc/uptime is not a number of seconds"))
}

/// The first number, seconds with two digits behind the point, in hundredths.
fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    Some(seconds.parse::<u64>().ok()?.saturating_mul(100).saturating_add(hundredths))
}

/// Sends a signal to exactly this process: never to one that has taken over its number since. One that is gone is fine.
///
/// # Errors
/// When the signal may not be sent.
pub(super) fn signal(process: &Process, signal: Signal) -> std::io::Result<()> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let result = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => match stat(process.pid) {
            Some((now, _)) if now.started == process.started => rustix::process::pidfd_send_signal(&handle, signal),
            Some(_) | None => Ok(()),
        },
        // A kernel without handles for processes (before 5.3): the number was right a moment ago.
        Err(rustix::io::Errno::NOSYS) => rustix::process::kill_process(pid, signal),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, session: u32, started: u64) -> Process {
        Process {
            pid,
            session,
            started,
            frozen: false,
            waiting: false,
        }
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let line = b"42 (a) Z (b) T 1 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 1";
        let (read, zombie) = parse_stat(42, line).unwrap();
        assert_eq!((read.session, read.started, read.frozen, zombie), (41, 777, true, false));
        assert!(parse_stat(1, b"1 (x").is_none());
    }

    #[test]
    fn one_that_took_its_time_to_become_ours_is_seen() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        use std::time::Duration;

        let id = "0198f000-0000-7000-8000-000000000001";
        let installation = format!("late-{}", std::process::id());
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                "read go; exec env EPU_INSTALLATION=\"$0\" EPU_INSTANCE=\"$1\" sleep 100",
                &installation,
                id,
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut table = Table::new(&installation);
        std::thread::sleep(Duration::from_millis(1_200));
        let before = table.groups().unwrap().len();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut found = false;
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(10));
            found = table.groups().unwrap().contains_key(&id.parse().unwrap());
            if found {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((before, found), (0, true));
    }

    #[test]
    fn a_stranger_is_not_read_for_ever() {
        let mut table = Table::new("nobody");
        let ours = std::process::id();
        table.groups().unwrap();
        assert!(!table.known[&ours].is_settled, "it was seen once");
        std::thread::sleep(std::time::Duration::from_millis(3_200));
        table.groups().unwrap();
        assert!(table.known[&ours].is_settled);
        assert_eq!(parse_uptime("12345.67 9.00\n"), Some(1_234_567));
    }

    #[test]
    fn only_this_installations_tags_count() {
        let id = "0198f000-0000-7000-8000-000000000001";
        let environment = format!("PATH=/bin\0EPU_INSTANCE={id}\0EPU_INSTALLATION=ours\0EPU_INDEX=2\0");
        let tag = tag_in(environment.as_bytes(), "ours").unwrap();
        assert_eq!((tag.instance.to_string().as_str(), tag.index, tag.launch), (id, Some(2), None));
        assert!(tag_in(environment.as_bytes(), "our").is_none());
        assert!(tag_in(b"EPU_INSTALLATION=ours\0", "ours").is_none());
    }

    #[test]
    fn a_group_is_frozen_when_its_agent_can_do_nothing() {
        let tag = Tag {
            instance: "0198f000-0000-7000-8000-000000000001".parse().unwrap(),
            launch: None,
            index: None,
        };
        let group = |agent: (bool, bool), worker: bool| {
            let mut processes = vec![process(10, 10, 1), process(11, 10, 2)];
            (processes[0].frozen, processes[0].waiting) = agent;
            processes[1].frozen = worker;
            Group { tag, processes }
        };
        assert!(group((true, false), false).is_frozen());
        assert!(group((false, true), true).is_frozen());
        assert!(
            !group((false, false), true).is_frozen(),
            "an agent that runs deals with a frozen worker itself"
        );
        assert!(!group((false, true), false).is_frozen());
    }

    #[test]
    fn a_process_without_tags_belongs_to_its_session() {
        let tag = Tag {
            instance: "0198f000-0000-7000-8000-000000000001".parse().unwrap(),
            launch: None,
            index: None,
        };
        let living = vec![
            (process(12, 10, 3), None),
            (process(10, 10, 1), Some(tag)),
            (process(11, 10, 2), Some(tag)),
            (process(99, 99, 1), None),
        ];
        let groups = grouped(living);
        let group = &groups[&tag.instance];
        assert_eq!(group.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [10, 11, 12]);
        assert_eq!(group.agent().unwrap().pid, 10);
        assert_eq!(groups.len(), 1);
    }

    proptest::proptest! {
        /// What stands in `/proc` is written by strangers: their names, and their environments.
        #[test]
        fn any_process_may_call_itself_anything(
            name in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
            numbers in proptest::collection::vec(0_u64..6_000_000_000, 0..24),
            state in "[A-Za-z]",
        ) {
            let mut line = b"7 (".to_vec();
            line.extend(&name);
            line.extend(b") ");
            line.extend(state.bytes());
            for number in &numbers {
                line.extend(format!(" {number}").bytes());
            }
            let read = parse_stat(7, &line);
            if let Some((process, _)) = read {
                proptest::prop_assert_eq!((Some(&u64::from(process.session)), Some(&process.started)), (numbers.get(2), numbers.get(18)));
            }
            let readable = numbers.len() > 18 && u32::try_from(numbers[2]).is_ok();
            proptest::prop_assert_eq!(read.is_some(), readable);
            // Cut anywhere, it is no panic.
            for end in 0..line.len() {
                let _read = parse_stat(7, &line[..end]);
            }
        }

        #[test]
        fn only_an_environment_with_our_tags_is_ours(
            entries in proptest::collection::vec("(EPU_INSTALLATION|EPU_INSTANCE|EPU_LAUNCH|EPU_INDEX|X)?=?(ours|theirs|7|-1|0198f000-0000-7000-8000-000000000001|[a-z=]{0,5})", 0..8),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..30),
            uptime in ".{0,20}",
        ) {
            let mut environment = entries.join("\0").into_bytes();
            environment.push(0);
            environment.extend(&rest);
            let is_ours = tag_in(&environment, "ours");
            let says_so = entries.iter().any(|entry| entry == "EPU_INSTALLATION=ours")
                && entries.iter().any(|entry| entry.starts_with("EPU_INSTANCE=0198f000"));
            proptest::prop_assert!(is_ours.is_none() || says_so || rest.windows(4).any(|word| word == b"EPU_"));
            let _ticks = parse_uptime(&uptime);
        }
    }
}
