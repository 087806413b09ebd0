//! A real machine: programs are processes, what is kept are files in the instance's directory.
//!
//! Set-up and worker share the agent's process group and carry its environment, which holds the instance's tags; so whoever ends
//! the instance finds them all. The worker gets its input from nowhere and writes to `worker.log` itself: when the agent dies, it
//! notices nothing.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::future::pending;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::instance::Exit;
use epu_core::pool::DrainSignal;
use epu_core::request::Context;
use epu_core::{Fault, LaunchId, Timestamp};
use rustix::process::{Pid, kill_process};
use tokio::process::Command;
use tokio::sync::watch;
use tracing::warn;

use crate::error::Error;
use crate::files;
use crate::host::{Found, Host, Kept, Signal, Stage, WorkerMark};
use crate::procfs;
use crate::status::{self, Seen};

/// The longest `agent.json` that is read; a context is far shorter.
const KEPT_MAX: usize = 1_048_576;
/// How often a worker that is not this agent's child is looked for. Too high: its end is noticed that much later.
const ADOPTED_EVERY: Duration = Duration::from_secs(1);
/// The kernel's number for a file that is neither program nor script; errno(3).
const ENOEXEC: i32 = 8;
/// Where programs are looked for when nothing says where.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The instance's tags: a template's variables do not change them.
const TAGS: [&str; 9] = [
    "EPU_INSTALLATION",
    "EPU_POOL",
    "EPU_LAUNCH",
    "EPU_INDEX",
    "EPU_INSTANCE",
    "EPU_HOME",
    "EPU_URL",
    "EPU_CA",
    "EPU_METADATA",
];

/// A real machine, or one directory of it. While it lives, no other agent can have that directory.
#[derive(Debug)]
pub struct ProcessHost {
    home: PathBuf,
    run: PathBuf,
    log: PathBuf,
    /// Where in the log the running program's output begins.
    from: AtomicU64,
    worker: Mutex<Option<Watched>>,
    /// Its place in its launch, for its programs, where the environment does not say it.
    index: Option<u32>,
    /// When the site takes the machine away, once it said so; none where nobody asks it.
    taken_away: Option<watch::Receiver<Option<Timestamp>>>,
    /// Held, never read: the kernel lets go of it when the agent dies, however it dies.
    _lock: File,
}

#[derive(Debug)]
struct Watched {
    mark: WorkerMark,
    ended: watch::Receiver<Option<Exit>>,
}

impl ProcessHost {
    /// Takes hold of an instance's directory.
    ///
    /// # Errors
    /// [`Error::Locked`] when another agent has it; otherwise when it cannot be written to.
    pub fn open(home: &Path) -> Result<Self, Error> {
        let lock = lock(home)?;
        let run = home.join("run");
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&run)
            .map_err(at("create", &run))?;
        Ok(Self {
            home: home.to_path_buf(),
            log: home.join("worker.log"),
            run,
            from: AtomicU64::new(0),
            worker: Mutex::new(None),
            index: None,
            taken_away: None,
            _lock: lock,
        })
    }

    /// Puts away what the agent of another launch left here, as in an image that was made of a running machine: it is another instance's,
    /// and going on with it would be to speak for that one. Gives the index that an earlier agent of this launch had, if there was one.
    ///
    /// # Errors
    /// When it is there and cannot be read or put away.
    pub fn of_launch(&self, launch: LaunchId) -> Result<Option<u32>, Error> {
        let Some(kept) = self.kept()? else { return Ok(None) };
        match kept.launch {
            Some(other) if other != launch => {
                warn!(%other, "what an agent of another launch left here is put away; was the image made of a running machine?");
                let files = ["agent.json", "exit.json", "run/drain", "run/status", "run/readings"];
                for path in files.map(|name| self.home.join(name)) {
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(at("remove", &path)(error)),
                        Ok(()) | Err(_) => {}
                    }
                }
                Ok(None)
            }
            Some(_) | None => Ok(kept.index),
        }
    }

    /// Tells its programs their place in their launch.
    #[must_use]
    pub fn with_index(mut self, index: u32) -> Self {
        self.index = Some(index);
        self
    }

    /// Hears from this when the site takes the machine away.
    pub fn hear(&mut self, taken_away: watch::Receiver<Option<Timestamp>>) {
        self.taken_away = Some(taken_away);
    }

    fn kept(&self) -> Result<Option<Kept>, Error> {
        let path = self.kept_path();
        match files::read_bounded(&path, KEPT_MAX).map_err(at("read", &path))? {
            None => Ok(None),
            Some(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|source| Error::Damaged { path, source }),
        }
    }

    fn worker(&self) -> MutexGuard<'_, Option<Watched>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_path(&self) -> PathBuf {
        self.home.join("agent.json")
    }

    fn exit_path(&self) -> PathBuf {
        self.home.join("exit.json")
    }

    fn drain_path(&self) -> PathBuf {
        self.run.join("drain")
    }

    fn directory(&self, context: &Context) -> PathBuf {
        context
            .directory
            .as_ref()
            .map_or_else(|| self.home.clone(), |directory| self.home.join(directory))
    }

    /// A command that is ready to be started; the text of a refusal says what to do.
    fn command(&self, context: &Context, what: &str, program: &[String]) -> Result<Command, String> {
        let directory = self.directory(context);
        if !directory.is_dir() {
            return Err(format!(
                "directory {} of the template does not exist: create it, or change `directory`",
                directory.display()
            ));
        }
        let (name, arguments) = program
            .split_first()
            .ok_or_else(|| format!("{what} is empty: name a program in the template"))?;
        let agents_path = std::env::var("PATH").ok();
        let path = context
            .variables
            .get("PATH")
            .or(agents_path.as_ref())
            .map_or(DEFAULT_PATH, String::as_str);
        let found = find_program(name, &directory, path).map_err(|why| format!("{what} {why}"))?;

        let out = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.log)
            .map_err(|error| format!("{} cannot be opened for {what}: {error}", self.log.display()))?;
        let length = out.metadata().map_or(0, |metadata| metadata.len());
        let err = out
            .try_clone()
            .map_err(|error| format!("{} cannot be opened for {what}: {error}", self.log.display()))?;
        self.from.store(length, Ordering::Relaxed);

        let mut command = Command::new(found);
        command
            .args(arguments)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .envs(context.variables.iter().filter(|(name, _)| !TAGS.contains(&name.as_str())))
            .env("EPU_DIR", &self.run)
            .env("EPU_INSTANCE", context.instance.to_string())
            .env("EPU_POOL", context.pool.as_str());
        if let Some(index) = self.index {
            command.env("EPU_INDEX", index.to_string());
        }
        Ok(command)
    }

    /// Sends a signal to the worker; whether there was one to take it.
    fn send(&self, signal: rustix::process::Signal) -> bool {
        let worker = self.worker();
        let Some(worker) = worker.as_ref().filter(|worker| worker.ended.borrow().is_none()) else {
            return false;
        };
        // Its number may have become another process's.
        if !procfs::lives(&worker.mark) {
            return false;
        }
        let Some(pid) = i32::try_from(worker.mark.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        kill_process(pid, signal)
            .inspect_err(|error| warn!(%error, pid = worker.mark.pid, "signal the worker"))
            .is_ok()
    }

    /// Watches a worker that an earlier agent started.
    fn adopt(&self, mark: WorkerMark) {
        let (told, ended) = watch::channel(None);
        let watched = mark.clone();
        let log = self.log.clone();
        tokio::spawn(async move {
            while procfs::lives(&watched) {
                tokio::time::sleep(ADOPTED_EVERY).await;
            }
            // Only its parent could have learnt how it ended.
            told.send_replace(Some(Exit {
                code: None,
                signal: None,
                output: files::tail(&log, 0),
            }));
        });
        *self.worker() = Some(Watched { mark, ended });
    }
}

#[async_trait]
impl Host for ProcessHost {
    fn find(&self) -> Result<Found, Error> {
        let kept = self.kept()?;
        // A damaged one is as good as none: the worker's end is reported all the same.
        let exit = files::read_bounded(&self.exit_path(), KEPT_MAX)
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_str(&text).ok());
        let mut worker_lives = false;
        if let Some(Stage::Running(mark)) = kept.as_ref().map(|kept| &kept.stage)
            && exit.is_none()
            && procfs::lives(mark)
        {
            worker_lives = true;
            self.adopt(mark.clone());
        }
        Ok(Found {
            kept,
            exit,
            worker_lives,
            told: self.drain_path().exists(),
        })
    }

    fn nonce(&self) -> Result<String, Error> {
        let mut bytes = [0_u8; 16];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .map_err(|source| Error::System {
                doing: "read a random number",
                source,
            })?;
        Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    fn keep(&self, kept: &Kept) -> Result<(), Error> {
        let path = self.kept_path();
        let text = serde_json::to_vec(kept).map_err(|error| at("write", &path)(io::Error::other(error)))?;
        files::replace(&path, &text, 0o600, true).map_err(at("write", &path))
    }

    fn keep_exit(&self, exit: &Exit) -> Result<(), Error> {
        let path = self.exit_path();
        let text = serde_json::to_vec(exit).map_err(|error| at("write", &path)(io::Error::other(error)))?;
        files::replace(&path, &text, 0o600, true).map_err(at("write", &path))
    }

    async fn set_up(&self, context: &Context) -> Result<Exit, Fault> {
        let failed = |text: String| Fault::new("set-up-failed", text);
        let mut command = self.command(context, "set-up program", &context.set_up).map_err(failed)?;
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(not_started("set-up program", &context.set_up, &error)))?;
        let status = child
            .wait()
            .await
            .map_err(|error| failed(format!("the end of set-up was not learnt: {error}")))?;
        Ok(exit_of(status, self.output()))
    }

    async fn start(&self, context: &Context) -> Result<WorkerMark, Fault> {
        let failed = |text: String| Fault::new("worker-failed", text);
        let mut command = self.command(context, "run program", &context.run).map_err(failed)?;
        let mut child = command
            .spawn()
            .map_err(|error| failed(not_started("run program", &context.run, &error)))?;
        let pid = child.id().unwrap_or_default();
        // One that has ended already has a mark that fits nothing, which is right; that it ended comes from `wait`.
        let mark = procfs::mark(pid).unwrap_or(WorkerMark {
            pid,
            started: 0,
            boot: String::new(),
        });
        let (told, ended) = watch::channel(None);
        let (log, from) = (self.log.clone(), self.from.load(Ordering::Relaxed));
        tokio::spawn(async move {
            let exit = match child.wait().await {
                Ok(status) => exit_of(status, files::tail(&log, from)),
                Err(error) => Exit {
                    code: None,
                    signal: None,
                    output: format!("the end of the worker was not learnt: {error}"),
                },
            };
            told.send_replace(Some(exit));
        });
        *self.worker() = Some(Watched { mark: mark.clone(), ended });
        Ok(mark)
    }

    async fn ended(&self) -> Exit {
        let ended = self.worker().as_ref().map(|worker| worker.ended.clone());
        let Some(mut ended) = ended else {
            return pending().await;
        };
        let exit = ended.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        match exit {
            Some(exit) => exit,
            // The runtime is being shut down, and this with it.
            None => pending().await,
        }
    }

    fn output(&self) -> String {
        files::tail(&self.log, self.from.load(Ordering::Relaxed))
    }

    fn look(&self) -> Seen {
        match files::put_aside(&self.log, files::LOG_MAX) {
            Ok(true) => self.from.store(0, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => warn!(%error, "worker.log is too long and could not be put aside"),
        }
        let path = self.run.join("status");
        let work = files::read_bounded(&path, status::STATUS_MAX)
            .ok()
            .flatten()
            .map(|text| status::work(&text));
        let written_at = fs::metadata(&path).ok().map(|file| {
            let milliseconds = file.mtime().saturating_mul(1_000).saturating_add(file.mtime_nsec() / 1_000_000);
            Timestamp(milliseconds)
        });
        let (readings, ignored) = match files::read_bounded(&self.run.join("readings"), status::READINGS_FILE_MAX) {
            Ok(Some(text)) => status::readings(&text),
            Ok(None) => Default::default(),
            Err(_) => (Default::default(), 1),
        };
        Seen {
            work: work.unwrap_or_default(),
            written_at,
            readings,
            ignored,
        }
    }

    fn tell_drain(&self, deadline: Timestamp, signal: DrainSignal) -> Result<(), Error> {
        let path = self.drain_path();
        let written = files::replace(&path, format!("{}\n", deadline.0).as_bytes(), 0o644, false).map_err(at("write", &path));
        let signalled = unix_signal(signal).is_some_and(|signal| self.send(signal));
        match written {
            Err(error) if signalled => {
                warn!(error = %epu_core::code::Chain(&error), "only the signal tells the worker to drain");
                Ok(())
            }
            written => written,
        }
    }

    fn signal(&self, signal: Signal) {
        let reached = self.send(match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        });
        if !reached {
            tracing::debug!(?signal, "no worker to signal");
        }
    }

    async fn taken_away(&self) -> Timestamp {
        let Some(mut taken_away) = self.taken_away.clone() else {
            return pending().await;
        };
        let at = taken_away.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        match at {
            Some(at) => at,
            // Nobody asks any more.
            None => pending().await,
        }
    }
}

fn unix_signal(signal: DrainSignal) -> Option<rustix::process::Signal> {
    match signal {
        DrainSignal::TERM => Some(rustix::process::Signal::TERM),
        DrainSignal::INT => Some(rustix::process::Signal::INT),
        DrainSignal::HUP => Some(rustix::process::Signal::HUP),
        DrainSignal::USR1 => Some(rustix::process::Signal::USR1),
        DrainSignal::USR2 => Some(rustix::process::Signal::USR2),
        DrainSignal::QUIT => Some(rustix::process::Signal::QUIT),
        DrainSignal::None => None,
    }
}

fn lock(home: &Path) -> Result<File, Error> {
    let path = home.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = files::read_bounded(&path, 32)
                .ok()
                .flatten()
                .and_then(|text| text.trim().parse().ok());
            return Err(Error::Locked {
                home: home.to_path_buf(),
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(at("lock", &path)(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(at("write", &path))?;
    Ok(file)
}

fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        doing,
        path: path.to_path_buf(),
        source,
    }
}

fn exit_of(status: ExitStatus, output: String) -> Exit {
    Exit {
        code: status.code(),
        signal: status.signal(),
        output,
    }
}

/// The program that a name means, found as a shell in `directory` would find it.
fn find_program(name: &str, directory: &Path, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let program = directory.join(name);
        return match fs::metadata(&program) {
            Ok(file) if file.is_file() && file.mode() & 0o111 != 0 => Ok(program),
            Ok(file) if file.is_file() => Err(format!("{} is not executable: `chmod +x` it", program.display())),
            Ok(_) => Err(format!("{} is not a file: name a program", program.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(format!("{} does not exist: put it there, or mend the template", program.display()))
            }
            Err(error) => Err(format!("{} cannot be looked at: {error}", program.display())),
        };
    }
    std::env::split_paths(OsStr::new(path))
        .map(|folder| directory.join(folder).join(name))
        .find(|program| fs::metadata(program).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0))
        .ok_or_else(|| format!("{name} is not in PATH ({path}): install it, or write its whole path in the template"))
}

fn not_started(what: &str, program: &[String], error: &io::Error) -> String {
    let name = program.first().map_or("", String::as_str);
    // The program itself was found before.
    let hint = if error.kind() == ErrorKind::NotFound {
        ": does the interpreter named in its first line exist?"
    } else if error.kind() == ErrorKind::PermissionDenied {
        ": may this user run it, and is its file system mounted without noexec?"
    } else if error.raw_os_error() == Some(ENOEXEC) {
        ": a script must begin with a line like #!/bin/sh, a program fit this machine"
    } else {
        ""
    };
    format!("{what} {name} could not be started: {error}{hint}")
}
