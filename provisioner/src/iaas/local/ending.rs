//! Ending machines: asking the agent first, then making sure.
//!
//! One task sees to all of them and ends with the last. When the control process dies in the middle, the provisioner asks again
//! after its restart, and the grace begins anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_core::id::InstanceId;
use rustix::process::Signal;
use tokio::time::Instant;
use tracing::warn;

use super::super::{IaasError, MachineState};
use super::table::{Group, signal};
use super::{Inner, held, start};

/// Over the template's `stop-grace`, for the agent to do its part: too low and a worker is killed that was about to stop.
const AGENT_TIME: Duration = Duration::from_secs(2);
/// For a machine whose agent was frozen and has just been woken.
const FROZEN_GRACE: Duration = Duration::from_secs(1);
/// The longest grace, whatever a template says.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// Between two looks while something is ending. Each reads the process table.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is being ended.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// When each is killed; none until the task has seen it.
    due: BTreeMap<InstanceId, Due>,
    watched: bool,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    In(Duration),
    At(Instant),
}

impl Endings {
    pub(super) fn state(&self, id: InstanceId) -> MachineState {
        if self.due.contains_key(&id) {
            MachineState::Stopping
        } else {
            MachineState::Running
        }
    }
}

/// Tells the agents to stop. Those that are being ended already are left to it; those that do not run are fine.
pub(super) fn begin(inner: &Arc<Inner>, ids: &[InstanceId]) -> Result<(), IaasError> {
    let groups = inner.groups()?;
    for id in ids {
        let Some(group) = groups.get(id) else { continue };
        let known = held(&inner.endings).due.contains_key(id);
        if known {
            continue;
        }
        let grace = tell(inner, group);
        held(&inner.endings).due.insert(*id, Due::In(grace));
    }
    Ok(())
}

fn tell(inner: &Inner, group: &Group) -> Duration {
    let Some(agent) = group.agent() else { return Duration::ZERO };
    send(group.tag.instance, signal(agent, Signal::TERM));
    if group.is_frozen() {
        return FROZEN_GRACE;
    }
    let stop_grace = start::stop_grace(&inner.directory(group.tag.instance)).unwrap_or(Duration::from_secs(10));
    stop_grace.saturating_add(AGENT_TIME).min(GRACE_MAX)
}

fn send(instance: InstanceId, sent: std::io::Result<()>) {
    if let Err(error) = sent {
        warn!(%instance, %error, "a signal could not be sent");
    }
}

/// Starts the task that sees to everything that is being ended, unless it runs.
pub(super) fn see_to_it(inner: &Arc<Inner>) {
    see_to_it_by(inner, pass);
}

fn see_to_it_by(inner: &Arc<Inner>, pass: impl Fn(&Arc<Inner>, Instant) -> bool + Clone + Send + 'static) {
    let mut endings = held(&inner.endings);
    if endings.watched || endings.due.is_empty() {
        return;
    }
    endings.watched = true;
    // It holds no claim on the driver: when that is dropped, it ends.
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = look.tick().await;
            let Some(inner) = weak.upgrade() else { return };
            let (pass, held_by) = (pass.clone(), inner.clone());
            match tokio::task::spawn_blocking(move || pass(&held_by, now)).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) if error.is_panic() => warn!(%error, "ending machines goes on at the next look"),
                // The runtime ends.
                Err(_) => {
                    held(&inner.endings).watched = false;
                    return;
                }
            }
        }
    });
}

/// One look: kills what is overdue, forgets what is gone. False when nothing is left.
fn pass(inner: &Arc<Inner>, now: Instant) -> bool {
    let groups = match inner.groups() {
        Ok(groups) => groups,
        Err(error) => {
            warn!(%error, "ending machines goes on at the next look");
            return true;
        }
    };
    let mut endings = held(&inner.endings);
    endings.due.retain(|id, _| groups.contains_key(id));
    for (id, due) in &mut endings.due {
        let Some(group) = groups.get(id) else { continue };
        let mut at = match *due {
            Due::In(grace) => now + grace,
            Due::At(at) => at,
        };
        // Frozen it can do nothing in good order: it is woken and has little time.
        if group.is_frozen() {
            for process in &group.processes {
                send(*id, signal(process, Signal::CONT));
            }
            at = at.min(now + FROZEN_GRACE);
        }
        *due = Due::At(at);
        if at <= now {
            for process in &group.processes {
                send(*id, signal(process, Signal::KILL));
            }
        }
    }
    endings.watched = !endings.due.is_empty();
    endings.watched
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::{AgentProgram, Local, LocalSettings};
    use super::*;

    #[tokio::test]
    async fn a_look_that_panicked_is_followed_by_the_next() {
        let home = tempfile::tempdir().unwrap();
        let agent = AgentProgram {
            program: "/bin/sh".into(),
            arguments: Vec::new(),
        };
        let site = Local::new("test", home.path(), agent, LocalSettings::default());
        let id = "0198f000-0000-7000-8000-000000000001".parse().unwrap();
        held(&site.inner.endings).due.insert(id, Due::In(Duration::ZERO));
        let looks = Arc::new(AtomicU32::new(0));
        let counted = looks.clone();
        see_to_it_by(&site.inner, move |inner, now| {
            assert!(counted.fetch_add(1, Ordering::Relaxed) > 0, "as the test wishes");
            pass(inner, now)
        });
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if !held(&site.inner.endings).watched {
                break;
            }
        }
        let endings = held(&site.inner.endings);
        assert!(!endings.watched && endings.due.is_empty(), "{endings:?}");
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }
}
