//! A private RabbitMQ node: its own name, ports, port mapper, directory, cookie and home, run by whoever runs the tests.
//!
//! The server script is the one inside the package, not the wrapper in `sbin`, which insists on the user `rabbitmq`. Told that a
//! service manager watches it, the script becomes the Erlang machine (exec) and does not stay above it, so that the process id we
//! hold is the broker's and SIGKILL means what it says. An Erlang port mapper (epmd) of its own keeps the broker from starting one that
//! would outlive it.

mod admin;
mod tls;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::keeper::{self, Kept};
use crate::{Result, Trouble, ports, tail_of, wait, web};

pub use tls::Certificates;

/// Where the package has the server script. `EPU_TESTS_RABBITMQ` names another place.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// A node starts in about ten seconds on an idle machine, several times that on a busy one.
const START: Duration = Duration::from_secs(120);
/// What a node may take to stop in good order before it is killed.
const STOP: Duration = Duration::from_secs(30);
/// Longest time for one exchange with the broker.
const EXCHANGE: Duration = Duration::from_secs(20);
/// Attempts to start: another program may take a port between finding and using it.
const ATTEMPTS: usize = 3;
/// The user that every new node has.
pub const USER: &str = "guest";
/// And its password, good on loopback only.
pub const PASSWORD: &str = "guest";
/// Mode of a message that survives a restart, AMQP 0-9-1 `delivery-mode`.
const PERSISTENT: u8 = 2;

/// A node with its data. Ends with everything it started, and forgets its data, when dropped.
#[derive(Debug)]
pub struct Rabbit {
    // Fields drop in this order: the broker before its port mapper before its directory.
    broker: Option<Kept>,
    epmd: Kept,
    dir: TempDir,
    ports: Ports,
    certificates: Option<Certificates>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
    tls: u16,
}

/// Messages taken and not acknowledged; they go back to their queue when this is dropped.
#[derive(Debug)]
pub struct Held {
    connection: Connection,
    _channel: Channel,
    /// How many.
    pub count: usize,
}

impl Held {
    /// Gives them back and waits until the broker has them.
    ///
    /// # Errors
    /// When the broker does not take part.
    pub async fn give_back(self) -> Result<()> {
        bounded(
            "close the connection that holds messages",
            self.connection.close(200, "test ends".into()),
        )
        .await
    }
}

async fn bounded<T, E: std::error::Error>(doing: &str, future: impl Future<Output = std::result::Result<T, E>>) -> Result<T> {
    match tokio::time::timeout(EXCHANGE, future).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Trouble::new(doing, epu_core::code::Chain(&error))),
        Err(_) => Err(Trouble::new(doing, format!("not within {}", epu_core::Span(EXCHANGE)))),
    }
}

fn server() -> Result<PathBuf> {
    let path = std::env::var_os("EPU_TESTS_RABBITMQ").map_or_else(|| PathBuf::from(SERVER), PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    Err(Trouble::new(
        format!("find {}", path.display()),
        "it is not there; install the Debian package rabbitmq-server (tests/run does) or set EPU_TESTS_RABBITMQ",
    ))
}

impl Rabbit {
    /// A new node with the management plugin, ready for logins.
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not start; then with the end of its log.
    pub async fn start() -> Result<Self> {
        Self::started(false).await
    }

    /// The same with a second listener that speaks TLS and wants a certificate, see [`Rabbit::certificates`].
    ///
    /// # Errors
    /// As [`Rabbit::start`].
    pub async fn start_with_tls() -> Result<Self> {
        Self::started(true).await
    }

    async fn started(tls: bool) -> Result<Self> {
        let mut last = Trouble::new("start RabbitMQ", "never tried");
        for _ in 0..ATTEMPTS {
            match Self::start_once(tls).await {
                Ok(rabbit) => return Ok(rabbit),
                Err(trouble) => last = trouble,
            }
            if !last.0.contains("eaddrinuse") {
                break;
            }
        }
        Err(last)
    }

    /// The node that the tests of one program share while any of them uses it. Only for tests that give their queues names of their
    /// own and do not stop the broker.
    ///
    /// # Errors
    /// As [`Rabbit::start`].
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Rabbit>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(rabbit) = shared.upgrade() {
            return Ok(rabbit);
        }
        let rabbit = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&rabbit);
        Ok(rabbit)
    }

    async fn start_once(tls: bool) -> Result<Self> {
        server()?;
        let ports = Ports {
            amqp: ports::free()?,
            management: ports::free()?,
            distribution: ports::free()?,
            epmd: ports::free()?,
            tls: ports::free()?,
        };
        let dir = tempfile::Builder::new().prefix("epu-rabbit-").tempdir();
        let dir = dir.map_err(|e| Trouble::new("make a directory for RabbitMQ", e))?;
        let certificates = if tls { Some(Certificates::make(dir.path())?) } else { None };
        write_files(dir.path(), ports, certificates.as_ref()).map_err(|e| Trouble::new("write RabbitMQ's files", e))?;
        let mut epmd = keeper::command("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
        epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd = Kept::start(epmd)?;
        let mut rabbit = Self {
            broker: None,
            epmd,
            dir,
            ports,
            certificates,
        };
        rabbit.run().await?;
        Ok(rabbit)
    }

    async fn run(&mut self) -> Result<()> {
        let dir = self.dir.path();
        let mut command = keeper::command(server()?);
        // Settings of the machine's own node must not reach this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        command
            .current_dir(dir)
            .env("HOME", dir)
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("RABBITMQ_NODENAME", format!("epu-{}@localhost", self.ports.amqp))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", dir.join("generated"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            // One scheduler is plenty for tests and leaves the machine to them; and nothing listens beyond loopback.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .stdin(Stdio::null());
        let output = fs::File::create(dir.join("output.log")).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = output.map_err(|e| Trouble::new("make RabbitMQ's output file", e))?;
        command.stdout(out).stderr(err);
        self.broker = Some(Kept::start(command)?);
        let ready = wait::until(START, "RabbitMQ takes a login", async || self.look().await).await;
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", self.log_tail()))),
        }
    }

    /// Whether it is ready: `Err` not yet, `Ok(Err)` never.
    async fn look(&mut self) -> Result<Result<()>> {
        if let Some(status) = self.broker.as_mut().and_then(Kept::ended) {
            return Ok(Err(Trouble::new("start RabbitMQ", format!("it ended with {status}"))));
        }
        drop(self.connect().await?);
        self.management("GET", "/api/overview", "").await?.json()?;
        Ok(Ok(()))
    }

    /// Its address with the good password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as(USER, PASSWORD)
    }

    /// Its address with any user and password (letters and digits only).
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Its address for TLS, by the name that its certificate is made out for.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://{USER}:{PASSWORD}@localhost:{}/%2f", self.ports.tls)
    }

    /// What TLS needs, for a node that speaks it.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The management API's address, without a path.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.management)
    }

    /// The broker's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.broker.as_ref().map(Kept::pid)
    }

    /// Asks the management API. `path` starts with `/api/`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn management(&self, method: &str, path: &str, body: &str) -> Result<web::Page> {
        let method = hyper::Method::from_bytes(method.as_bytes()).map_err(|e| Trouble::new("ask the management API", e))?;
        let url = format!("{}{path}", self.management_url());
        web::ask(method, &url, Some(&web::basic(USER, PASSWORD)), body.to_owned()).await
    }

    /// Kills it with SIGKILL, as a crash or a lost machine would.
    pub fn kill9(&mut self) {
        self.broker = None;
    }

    /// Stops it in good order; kills it if it does not.
    pub async fn stop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            broker.signal(Signal::TERM);
            drop(broker.wait(STOP).await);
        }
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    pub fn freeze(&self) {
        if let Some(broker) = &self.broker {
            broker.signal(Signal::STOP);
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if let Some(broker) = &self.broker {
            broker.signal(Signal::CONT);
        }
    }

    /// Starts it again with its data and ports.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        if let Some(status) = self.epmd.ended() {
            return Err(Trouble::new("restart RabbitMQ", format!("its port mapper ended with {status}")));
        }
        self.run().await
    }

    /// The end of what it said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail_of(&self.dir.path().join("output.log"), 40)
    }

    /// A connection with the good password.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn connect(&self) -> Result<Connection> {
        let url = self.url();
        bounded("log in to RabbitMQ", Connection::connect(&url, ConnectionProperties::default())).await
    }

    async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = self.connect().await?;
        let channel = bounded("open a channel", connection.create_channel()).await?;
        Ok((connection, channel))
    }

    /// Declares a durable queue.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub async fn declare(&self, queue: &str) -> Result<()> {
        let (connection, channel) = self.channel().await?;
        let declaring = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), FieldTable::default());
        bounded(&format!("declare queue {queue}"), declaring).await?;
        bounded("close", connection.close(200, "done".into())).await
    }

    /// Deletes a queue with its messages.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete(&self, queue: &str) -> Result<()> {
        let (connection, channel) = self.channel().await?;
        let deleting = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        bounded(&format!("delete queue {queue}"), deleting).await?;
        bounded("close", connection.close(200, "done".into())).await
    }

    /// Puts `count` persistent messages into a queue; each is confirmed by the broker when this returns.
    ///
    /// # Errors
    /// When one is not confirmed.
    pub async fn publish(&self, queue: &str, count: usize) -> Result<()> {
        let doing = format!("publish {count} messages to {queue}");
        let (connection, channel) = self.channel().await?;
        bounded(&doing, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mut sent = Vec::new();
        for number in 0..count {
            let body = format!("job {number}").into_bytes();
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let publishing = channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), &body, properties);
            sent.push(bounded(&doing, publishing).await?);
        }
        for confirmation in sent {
            let confirmation = bounded(&doing, confirmation).await?;
            if !confirmation.is_ack() {
                return Err(Trouble::new(&doing, "the broker refused one"));
            }
        }
        bounded("close", connection.close(200, "done".into())).await
    }

    /// Takes `count` messages and does not acknowledge them, as a worker does that is working on them.
    ///
    /// # Errors
    /// When there are not as many.
    pub async fn take(&self, queue: &str, count: usize) -> Result<Held> {
        let (connection, channel) = self.channel().await?;
        for taken in 0..count {
            let doing = format!("take message {} of {count} from {queue}", taken + 1);
            let got = bounded(&doing, channel.basic_get(queue.into(), BasicGetOptions::default())).await?;
            got.ok_or_else(|| Trouble::new(&doing, "the queue is empty"))?;
        }
        Ok(Held {
            connection,
            _channel: channel,
            count,
        })
    }

    /// How many messages are ready in a queue, by passive declaration.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn ready(&self, queue: &str) -> Result<u32> {
        let (_connection, channel) = self.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let doing = format!("look at queue {queue}");
        let found = bounded(&doing, channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
        Ok(found.message_count())
    }
}

fn write_files(dir: &Path, ports: Ports, tls: Option<&Certificates>) -> std::io::Result<()> {
    for folder in ["mnesia", "log", "generated"] {
        fs::create_dir(dir.join(folder))?;
    }
    fs::write(dir.join("rabbitmq-env.conf"), "")?;
    fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].\n")?;
    // Statistics every half second in place of five: tests wait for them.
    fs::write(
        dir.join("rabbitmq.conf"),
        format!(
            "listeners.tcp.only = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             collect_statistics_interval = 500\n\
             disk_free_limit.absolute = 10MB\n{}",
            ports.amqp,
            ports.management,
            tls.map_or_else(String::new, |tls| tls.listener(ports.tls)),
        ),
    )?;
    let cookie = dir.join(".erlang.cookie");
    let letters: String = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
    fs::write(&cookie, letters)?;
    fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))
}
