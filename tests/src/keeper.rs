//! Starts programs that cannot outlive the tests.
//!
//! A handle ends its program when it is dropped, but a test program that is killed drops nothing. So programs are started through
//! `setpriv --pdeathsig KILL`, which asks the kernel to kill them when their parent dies. The kernel means the *thread* that
//! started them, and test threads come and go; therefore one thread, which lives as long as the test program, starts them all.
//!
//! The programs replace `setpriv` (exec), so the process id is that of the program itself.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::Signal;

use crate::processes::Proc;
use crate::{Result, Trouble, wait};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

static KEEPER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();

/// A command for [`Kept::start`], which ends when the test program does. The caller adds arguments, environment and files.
#[must_use]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn keep(orders: &mpsc::Receiver<Order>) {
    while let Ok((mut command, reply)) = orders.recv() {
        drop(reply.send(command.spawn()));
    }
}

fn spawn(command: Command) -> io::Result<Child> {
    let keeper = KEEPER.get_or_init(|| {
        let (orders, arriving) = mpsc::channel();
        std::thread::spawn(move || keep(&arriving));
        Mutex::new(orders)
    });
    let gone = || io::Error::other("the thread that starts programs is gone");
    let (reply, answer) = mpsc::channel();
    let sent = keeper.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply));
    sent.map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A running program; ended with its descendants when dropped.
#[derive(Debug)]
pub struct Kept {
    child: Child,
    /// Which process, safe to signal for as long as this handle lives.
    pub main: Proc,
}

impl Kept {
    /// Starts what [`command`] prepared.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        let shown = format!("start {command:?}");
        let child = spawn(command).map_err(|e| Trouble::new(&shown, e))?;
        // A child that was not waited for keeps its entry in the process table, so this finds it even if it ended at once.
        let main = Proc::of(child.id()).ok_or_else(|| Trouble::new(&shown, "it is not in the process table"))?;
        Ok(Self { child, main })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.main.pid
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal; one that has ended is left alone.
    pub fn signal(&self, signal: Signal) {
        self.main.signal(signal);
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let pid = self.pid();
        wait::until(within, &format!("process {pid} ends"), async || self.ended().ok_or("it still runs")).await
    }

    /// Kills it with SIGKILL and reaps it; whoever it started lives on. Doing so twice is fine.
    pub fn kill_alone(&mut self) {
        if self.ended().is_none() {
            self.main.signal(Signal::KILL);
            drop(self.child.wait());
        }
    }

    /// Kills it and its descendants with SIGKILL and reaps it. Doing so twice is fine.
    pub fn kill(&mut self) {
        let below = Proc::descendants_of(self.pid());
        self.kill_alone();
        for proc in below {
            proc.signal(Signal::KILL);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.kill();
    }
}
