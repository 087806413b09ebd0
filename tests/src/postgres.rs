//! A private PostgreSQL server: its own data, port and directory for sockets, on loopback only.
//!
//! PostgreSQL refuses to run as root, so that it runs as nobody when the tests do. The process we hold is the postmaster itself;
//! everything else of a server is a child of it, and a kill takes them all, as the loss of the machine would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::keeper::{self, Kept};
use crate::processes::Proc;
use crate::{Result, Trouble, ports, tail_of, wait};

/// Below it Debian has one directory a version. `EPU_TESTS_POSTGRESQL` names the directory with the programs instead.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Starting takes a second, and much longer after a kill or on a busy machine.
const START: Duration = Duration::from_secs(90);
/// What a server may take to stop in good order before it is killed.
const STOP: Duration = Duration::from_secs(20);
/// Longest time for one exchange with the server.
const EXCHANGE: Duration = Duration::from_secs(20);
/// Attempts to start: another program may take a port between finding and using it.
const ATTEMPTS: usize = 3;
/// How often a restart is tried while something of the killed server is left.
const RESTARTS: usize = 50;
/// Who owns every database of a new server.
const USER: &str = "epu";
/// The owner's password, good on loopback only.
const PASSWORD: &str = "only-for-tests";
/// Who nobody is, by Debian's numbers.
const NOBODY: u32 = 65_534;

/// How much room a server's tables have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// As much as the disk.
    Disk,
    /// So many megabytes: a file system of its own, which only root can make, and which goes with the server.
    Megabytes(u32),
    /// As much as the disk, but no file may be longer than so many bytes; its log's files have 4 MiB. Anybody can limit that.
    EachFile(u32),
}

/// A server with its data. Ends with everything it started, and forgets its data, when dropped.
#[derive(Debug)]
pub struct Postgres {
    // Fields drop in this order: the server before its directory.
    server: Option<Kept>,
    dir: TempDir,
    port: u16,
    room: Room,
    databases: AtomicU32,
}

fn programs() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EPU_TESTS_POSTGRESQL") {
        return Ok(PathBuf::from(path));
    }
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let found = fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = found
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| number(path));
    newest.map(|path| path.join("bin")).ok_or_else(|| {
        Trouble::new(
            format!("find PostgreSQL below {VERSIONS}"),
            "it is not there; install the Debian package postgresql (tests/run does) or set EPU_TESTS_POSTGRESQL",
        )
    })
}

/// The words before a program that make it run as somebody who is not root, and end with the tests.
fn as_a_user() -> Vec<String> {
    let mut words: Vec<String> = vec!["--pdeathsig".into(), "KILL".into()];
    if rustix::process::geteuid().is_root() {
        words.extend(
            ["--reuid", "--regid"]
                .into_iter()
                .flat_map(|flag| [flag.to_owned(), NOBODY.to_string()]),
        );
        words.push("--clear-groups".into());
    }
    words.push("--".into());
    words
}

fn give(path: &Path) -> std::io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

impl Postgres {
    /// A new server, ready for logins.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; then with the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_with(Room::Disk).await
    }

    /// A new server whose tables have only so much room. Its log of changes is on the disk, so that the server itself goes on when no
    /// room is left.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_with(room: Room) -> Result<Self> {
        let mut last = Trouble::new("start PostgreSQL", "never tried");
        for _ in 0..ATTEMPTS {
            match Self::start_once(room).await {
                Ok(server) => return Ok(server),
                Err(trouble) => last = trouble,
            }
            if !last.0.contains("could not bind") {
                break;
            }
        }
        Err(last)
    }

    /// The server that the tests of one program share while any of them uses it. Only for tests that use a database of their own, see
    /// [`Postgres::database`], and leave the server alone.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    async fn start_once(room: Room) -> Result<Self> {
        let programs = programs()?;
        let dir = tempfile::Builder::new().prefix("epu-postgres-").tempdir();
        let dir = dir.map_err(|e| Trouble::new("make a directory for PostgreSQL", e))?;
        let port = ports::free()?;
        let path = dir.path();
        let prepare = || {
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
            for below in ["data", "wal", "sockets"] {
                fs::create_dir(path.join(below))?;
                give(&path.join(below))?;
            }
            fs::write(path.join("password"), PASSWORD)?;
            give(&path.join("password"))
        };
        prepare().map_err(|e| Trouble::new("write PostgreSQL's files", e))?;
        let mut server = Self {
            server: None,
            dir,
            port,
            room,
            databases: AtomicU32::new(0),
        };
        if !matches!(room, Room::Megabytes(_)) {
            let mut make = Command::new("setpriv");
            make.args(as_a_user()).arg(programs.join("initdb")).args(server.initdb_words());
            let made = make.stdin(Stdio::null()).output().map_err(|e| Trouble::new("run initdb", e))?;
            if !made.status.success() {
                return Err(Trouble::new("make PostgreSQL's data", String::from_utf8_lossy(&made.stderr)));
            }
        }
        server.run().await?;
        Ok(server)
    }

    fn initdb_words(&self) -> Vec<String> {
        let path = |below: &str| self.dir.path().join(below).display().to_string();
        vec![
            format!("--pgdata={}", path("data")),
            format!("--waldir={}", path("wal")),
            format!("--username={USER}"),
            format!("--pwfile={}", path("password")),
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--locale=C.UTF-8".into(),
            "--wal-segsize=4".into(),
            "--no-sync".into(),
        ]
    }

    fn server_words(&self) -> Vec<String> {
        let path = |below: &str| self.dir.path().join(below).display().to_string();
        let mut words = vec!["-D".to_owned(), path("data"), "-p".to_owned(), self.port.to_string()];
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", path("sockets")),
            "shared_buffers=16MB".to_owned(),
            "max_connections=100".to_owned(),
            "max_wal_size=64MB".to_owned(),
            "log_line_prefix=%m %p %a ".to_owned(),
        ] {
            words.extend(["-c".to_owned(), setting]);
        }
        words
    }

    async fn run(&mut self) -> Result<()> {
        let programs = programs()?;
        let mut command = match self.room {
            Room::Disk => {
                let mut command = keeper::command("setpriv");
                command.args(as_a_user()).arg(programs.join("postgres")).args(self.server_words());
                command
            }
            Room::EachFile(bytes) => {
                let mut command = keeper::command("setpriv");
                // Half a block more, so that the last block is written by half: that is what a server takes for a full disk.
                let limit = format!("--fsize={}", u64::from(bytes) + 4_096);
                command.args(as_a_user()).arg("prlimit").arg(limit).arg("--");
                command.arg(programs.join("postgres")).args(self.server_words());
                command
            }
            // Mounted where only this process and its children see it: whatever ends them, nothing stays mounted.
            Room::Megabytes(megabytes) => {
                let quoted = |words: Vec<String>| words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
                let user = quoted(as_a_user());
                let script = format!(
                    "set -e; mount -t tmpfs -o size={megabytes}m,uid={NOBODY},gid={NOBODY},mode=700 tmpfs '{data}'\n\
                     setpriv {user} '{bin}/initdb' {initdb}\n\
                     exec setpriv {user} '{bin}/postgres' {server}\n",
                    data = self.dir.path().join("data").display(),
                    bin = programs.display(),
                    initdb = quoted(self.initdb_words()),
                    server = quoted(self.server_words()),
                );
                let mut command = keeper::command("unshare");
                command.args(["--mount", "--propagation", "private", "--", "sh", "-c", &script]);
                command
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("output.log"));
        let output = log.and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = output.map_err(|e| Trouble::new("make PostgreSQL's output file", e))?;
        command.stdout(out).stderr(err);
        self.server = Some(Kept::start(command)?);
        match wait::until(START, "PostgreSQL takes a login", async || self.look().await).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", self.log_tail()))),
        }
    }

    /// Whether it is ready: `Err` not yet, `Ok(Err)` never.
    async fn look(&mut self) -> Result<Result<()>> {
        if let Some(status) = self.server.as_mut().and_then(Kept::ended) {
            return Ok(Err(Trouble::new("start PostgreSQL", format!("it ended with {status}"))));
        }
        self.execute("postgres", "SELECT 1").await?;
        Ok(Ok(()))
    }

    /// The address of a database, with its owner's password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database: its name.
    ///
    /// # Errors
    /// When the server does not make it.
    pub async fn database(&self) -> Result<String> {
        let name = format!("epu_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(name)
    }

    /// Runs statements in a database, on a connection of their own.
    ///
    /// # Errors
    /// When the server refuses them or does not answer.
    pub async fn execute(&self, database: &str, statements: &str) -> Result<()> {
        let mut connection = self.connect(database).await?;
        let doing = format!("run {statements:?}");
        bounded(&doing, connection.execute(AssertSqlSafe(statements.to_owned()))).await?;
        bounded("close a connection", connection.close()).await
    }

    /// A connection to a database, for tests that look at it beside the store.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        bounded("log in to PostgreSQL", PgConnection::connect(&self.url(database))).await
    }

    /// Ends every other connection to a database, as an administrator would.
    ///
    /// # Errors
    /// When the server does not do it.
    pub async fn cut(&self, database: &str) -> Result<()> {
        let all = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
        self.execute("postgres", &all).await
    }

    /// The postmaster's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Kept::pid)
    }

    /// Kills it whole with SIGKILL, as the loss of its machine would.
    pub fn kill9(&mut self) {
        self.server = None;
    }

    /// Stops it in good order, ending its connections; kills it if it does not.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // "Fast shutdown": it does not wait for clients to go.
            server.signal(Signal::INT);
            drop(server.wait(STOP).await);
        }
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        if let Some(server) = &self.server {
            server.signal(signal);
            for proc in Proc::descendants_of(server.pid()) {
                proc.signal(signal);
            }
        }
    }

    /// Starts it again with its data and port.
    ///
    /// # Errors
    /// When it does not start, or its data went with its process.
    pub async fn restart(&mut self) -> Result<()> {
        if matches!(self.room, Room::Megabytes(_)) {
            return Err(Trouble::new("restart PostgreSQL", "its data went with its process"));
        }
        self.stop().await;
        let mut started = self.run().await;
        for _ in 0..RESTARTS {
            match &started {
                // Connections' own processes outlive a killed server by a moment, and keep its memory.
                Err(trouble) if trouble.0.contains("pre-existing shared memory") => tokio::time::sleep(Duration::from_millis(200)).await,
                Ok(()) | Err(_) => break,
            }
            started = self.run().await;
        }
        started
    }

    /// The end of what it said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail_of(&self.dir.path().join("output.log"), 40)
    }
}

async fn bounded<T>(doing: &str, future: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(EXCHANGE, future).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Trouble::new(doing, epu_core::code::Chain(&error))),
        Err(_) => Err(Trouble::new(doing, format!("not within {}", epu_core::Span(EXCHANGE)))),
    }
}
