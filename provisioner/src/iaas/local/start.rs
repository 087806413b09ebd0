//! Starting agents, each at most once.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epu_core::id::InstanceId;
use epu_core::time::Span;
use process_wrap::tokio::{CommandWrap, ProcessSession};
use serde::{Deserialize, Serialize};

use super::super::{Class, IaasError, IaasLaunch, Machine, MachineState};
use super::{Inner, failed, held, machine};

const MARKER: &str = "started.json";
/// The authority by which the agent knows the services, in the instance's directory.
const AUTHORITY: &str = "ca.pem";
/// Tells apart the drafts of drivers in one process.
static DRAFTS: AtomicU64 = AtomicU64::new(0);
/// Inherited by every agent: what programs need to find themselves, and nothing that could be a secret.
const USUAL: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
];

/// What is written down before an agent is started. Its presence says that nobody may start it again.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    launch: String,
    index: u32,
    stop_grace: Span,
}

pub(super) fn was_started(directory: &Path) -> bool {
    directory.join(MARKER).exists()
}

/// From the order to stop to SIGKILL for the worker, as the instance's template has it; none when nobody wrote it down.
pub(super) fn stop_grace(directory: &Path) -> Option<Duration> {
    let text = std::fs::read(directory.join(MARKER)).ok()?;
    serde_json::from_slice::<Marker>(&text).ok().map(|marker| *marker.stop_grace)
}

pub(super) fn launch(inner: &Arc<Inner>, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
    launch_by(inner, launch, |id, index| start(inner, launch, id, index))
}

fn launch_by(
    inner: &Arc<Inner>,
    launch: &IaasLaunch,
    mut start: impl FnMut(InstanceId, u32) -> Result<(), IaasError>,
) -> Result<Vec<Machine>, IaasError> {
    if launch.installation != inner.installation {
        return Err(IaasError::new(
            Class::Permanent,
            format!(
                "this site is of installation {}, not of {}",
                inner.installation, launch.installation
            ),
        ));
    }
    let _alone = held(&inner.starting);
    let groups = inner.running(true, &launch.instances.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let started = |id: &InstanceId| groups.contains_key(id) || was_started(&inner.directory(*id));
    let missing = launch.instances.iter().filter(|id| !started(id)).count();
    let present = launch.instances.len() - missing;
    let room = usize::try_from(inner.settings.max_instances)
        .unwrap_or(usize::MAX)
        .saturating_sub(groups.len());
    let min = usize::try_from(launch.min).unwrap_or(usize::MAX);
    if missing > 0 && (room == 0 || present + room < min) {
        return Err(IaasError::new(
            Class::Capacity,
            format!(
                "{} instances run here and `max-instances` is {}",
                groups.len(),
                inner.settings.max_instances
            ),
        ));
    }
    if missing > 0 {
        check_program(&inner.agent.program)?;
    }
    let mut room = room;
    let mut refused = None;
    let mut machines = Vec::with_capacity(launch.instances.len());
    for (index, id) in (0..).zip(&launch.instances) {
        let (state, tag) = match groups.get(id) {
            Some(group) => (held(&inner.endings).state(*id), Some(machine(group, MachineState::Running))),
            None if was_started(&inner.directory(*id)) => (MachineState::Gone, None),
            None if room == 0 || refused.is_some() => continue,
            None => match start(*id, index) {
                Ok(()) => {
                    room -= 1;
                    (MachineState::Running, None)
                }
                // The call is made again and starts the rest.
                Err(error) if error.class.is_passing() => return Err(error),
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            },
        };
        machines.push(Machine {
            id: id.to_string(),
            launch: Some(launch.launch),
            index: Some(index),
            instance: Some(*id),
            state,
            address: tag.and_then(|m| m.address).or_else(|| Some("127.0.0.1".to_owned())),
        });
    }
    // What was started counts: a machine that has no room for the thirtieth has room for the twenty-nine.
    match refused {
        Some(error) if machines.len() < min.max(1) => Err(error),
        Some(_) | None => Ok(machines),
    }
}

fn check_program(program: &Path) -> Result<(), IaasError> {
    let unusable = |why: String| IaasError::new(Class::Permanent, format!("the agent program {}: {why}", program.display()));
    let about = std::fs::metadata(program).map_err(|error| unusable(error.to_string()))?;
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        return Err(unusable("is not an executable file".to_owned()));
    }
    Ok(())
}

fn start(inner: &Arc<Inner>, launch: &IaasLaunch, id: InstanceId, index: u32) -> Result<(), IaasError> {
    let directory = inner.directory(id);
    let doing = |what: &str| format!("{what} {}", directory.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| failed(&doing("make"), &error))?;
    std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).map_err(|error| failed(&doing("protect"), &error))?;
    write_secret(&directory.join("launch-token"), launch.launch_token.0.as_bytes())
        .map_err(|error| failed(&doing("write the launch token in"), &error))?;
    if let Some(ca) = &inner.ca {
        write_secret(&directory.join(AUTHORITY), ca.as_bytes()).map_err(|error| failed(&doing("write the authority in"), &error))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(directory.join("agent.log"))
        .map_err(|error| failed(&doing("make agent.log in"), &error))?;
    let errors = log.try_clone().map_err(|error| failed(&doing("make agent.log in"), &error))?;

    let mut command = CommandWrap::with_new(&inner.agent.program, |command| {
        command
            .args(&inner.agent.arguments)
            .env_clear()
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(false);
        let passed = inner.settings.pass_environment.iter().map(String::as_str);
        for name in USUAL.into_iter().chain(passed) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("EPU_INSTALLATION", &launch.installation)
            .env("EPU_POOL", launch.pool.as_str())
            .env("EPU_LAUNCH", launch.launch.to_string())
            .env("EPU_INDEX", index.to_string())
            .env("EPU_INSTANCE", id.to_string())
            .env("EPU_HOME", &directory)
            .env("EPU_URL", &launch.url);
        if inner.ca.is_some() {
            command.env("EPU_CA", AUTHORITY);
        }
    });
    command.wrap(ProcessSession);

    match mark(&directory, launch, index) {
        Ok(()) => {}
        // Another process of ours, which acted before this one, is just starting it.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(&doing("mark the start in"), &error)),
    }
    match command.spawn() {
        Ok(child) => {
            // Only to reap it: what becomes of it is read from the process table.
            let mut child = child.into_inner();
            tokio::spawn(async move { drop(child.wait().await) });
            Ok(())
        }
        Err(error) => {
            // Nothing was started, so that it may be tried again.
            if let Err(error) = std::fs::remove_file(directory.join(MARKER)) {
                tracing::warn!(instance = %id, %error, "the mark of a failed start could not be removed");
            }
            Err(spawn_failed(&inner.agent.program, &error))
        }
    }
}

fn mark(directory: &Path, launch: &IaasLaunch, index: u32) -> std::io::Result<()> {
    let marker = Marker {
        launch: launch.launch.to_string(),
        index,
        stop_grace: launch.template.stop_grace,
    };
    let text = serde_json::to_vec(&marker)?;
    // Whole or not at all: the name appears with the content, and only once. Nobody else has this draft.
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = directory.join(format!("started.draft.{}.{number}", std::process::id()));
    std::fs::write(&draft, text)?;
    let linked = std::fs::hard_link(&draft, directory.join(MARKER));
    std::fs::remove_file(&draft)?;
    linked
}

fn write_secret(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}

fn spawn_failed(program: &Path, error: &std::io::Error) -> IaasError {
    use std::io::ErrorKind as K;
    let class = match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::AGAIN | rustix::io::Errno::NOMEM) => Class::Capacity,
        Some(rustix::io::Errno::NOEXEC) => Class::Permanent,
        Some(_) | None if matches!(error.kind(), K::NotFound | K::PermissionDenied) => Class::Permanent,
        Some(_) | None => Class::Retryable,
    };
    IaasError::new(class, format!("start the agent program {}: {error}", program.display()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use epu_core::id::{LaunchId, PoolName};
    use epu_core::random::Random;
    use epu_core::time::Timestamp;

    use super::super::{AgentProgram, Local, LocalSettings};
    use super::*;
    use crate::iaas::LaunchToken;

    #[test]
    fn what_was_started_before_the_machine_was_full_is_the_answer_when_it_is_enough() {
        let home = tempfile::tempdir().unwrap();
        let agent = AgentProgram {
            program: "/bin/sh".into(),
            arguments: Vec::new(),
        };
        let site = Local::new("test", home.path(), agent, LocalSettings::default());
        let random = Random::seeded(1);
        let mut request = IaasLaunch {
            installation: "test".to_owned(),
            launch: LaunchId(random.uuid(Timestamp(1))),
            pool: PoolName::new("web").unwrap(),
            instances: (0..50).map(|_| InstanceId(random.uuid(Timestamp(1)))).collect(),
            min: 29,
            launch_token: LaunchToken("l.secret".to_owned()),
            url: "http://127.0.0.1:1".to_owned(),
            template: serde_json::from_value(serde_json::json!({ "run": ["work"] })).unwrap(),
            doubtful: false,
        };
        let tried = Cell::new(0);
        let full = |class| {
            tried.set(0);
            let tried = &tried;
            move |_, index| {
                tried.set(tried.get() + 1);
                if index < 29 {
                    Ok(())
                } else {
                    Err(IaasError::new(class, "fork: EAGAIN"))
                }
            }
        };
        let machines = launch_by(&site.inner, &request, full(Class::Capacity)).unwrap();
        assert_eq!((machines.len(), tried.get()), (29, 30), "it goes on starting on a full machine");
        assert!((0..).zip(&machines).all(|(index, machine)| machine.index == Some(index)));

        let error = launch_by(&site.inner, &request, full(Class::Retryable)).unwrap_err();
        assert_eq!(error.class, Class::Retryable, "what may pass is repeated for the whole");
        request.min = 30;
        let error = launch_by(&site.inner, &request, full(Class::Capacity)).unwrap_err();
        assert_eq!(error.class, Class::Capacity);
    }
}
