//! The real program, `epumgmt`, as a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::keeper::{self, Kept};
use crate::{Result, Trouble, tail_of, wait};

/// What one operator command may take before it is ended.
const COMMAND: &str = "60";

/// Where the program is: beside the tests, in the same profile. `EPU_TESTS_PROGRAM` names another.
///
/// # Errors
/// When it has not been built, with the command that builds it.
pub fn program() -> Result<PathBuf> {
    built("epumgmt", "EPU_TESTS_PROGRAM")
}

fn built(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let tests = std::env::current_exe().map_err(|e| Trouble::new("find the test program", e))?;
    // target/<profile>/deps/live-0123456789abcdef -> target/<profile>
    let profile = tests.ancestors().find(|dir| dir.join("deps").is_dir());
    let path = profile.unwrap_or_else(|| Path::new("target/debug")).join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Trouble::new(
        format!("find {}", path.display()),
        format!("it has not been built; run `cargo build -p {name}`, or `tests/run`, which builds everything first"),
    ))
}

/// Runs an operator command to its end: `run(&["status"], ...)`.
///
/// # Errors
/// When the program cannot be started, or does not end in time; an exit code other than 0 is an answer.
pub fn run(arguments: &[&str], set: impl FnOnce(&mut Command)) -> Result<Output> {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", COMMAND])
        .arg(program()?)
        .args(arguments)
        .stdin(Stdio::null());
    set(&mut command);
    let shown = format!("epumgmt {}", arguments.join(" "));
    let output = command.output().map_err(|e| Trouble::new(&shown, e))?;
    match output.status.code() {
        Some(124 | 137) => Err(Trouble::new(&shown, format!("not ended within {COMMAND} s"))),
        Some(_) | None => Ok(output),
    }
}

/// A running `epumgmt`, such as `serve all`. Killed when dropped; its workers, which live on by design, are ended with
/// [`crate::processes::EndsTagged`].
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Kept,
    output: PathBuf,
}

impl Running {
    /// Starts it with its output added to the file `output`; `set` may change environment and directory.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn start(arguments: &[&str], output: &Path, set: impl FnOnce(&mut Command)) -> Result<Self> {
        Self::start_through(&[], arguments, output, set)
    }

    /// The same through another program that becomes it, such as `prlimit`: its words come first.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn start_through(through: &[&str], arguments: &[&str], output: &Path, set: impl FnOnce(&mut Command)) -> Result<Self> {
        let program = program()?;
        let mut command = match through {
            [] => keeper::command(program),
            [first, rest @ ..] => {
                let mut command = keeper::command(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(arguments).stdin(Stdio::null());
        let file = std::fs::File::options().create(true).append(true).open(output);
        let files = file.and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = files.map_err(|e| Trouble::new(format!("open {}", output.display()), e))?;
        command.stdout(out).stderr(err);
        set(&mut command);
        Ok(Self {
            process: Kept::start(command)?,
            output: output.to_owned(),
        })
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the program ends before, or is not ready in time; with the end of its output.
    pub async fn until_ready(&mut self, within: Duration, mut ready: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let outcome = wait::until(within, "epumgmt is ready", async || match self.process.ended() {
            Some(status) => Ok(Err(Trouble::new("epumgmt", format!("ended with {status}")))),
            None => ready().await.map(Ok),
        });
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", self.output_tail()))),
        }
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub async fn stop(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        self.process.signal(Signal::TERM);
        let ended = self.process.wait(within).await;
        ended.map_err(|trouble| Trouble(format!("{trouble}\n{}", self.output_tail())))
    }

    /// Kills this process only, with SIGKILL, as a crash would; whoever it started lives on.
    pub fn kill9(&mut self) {
        self.process.kill_alone();
    }

    /// The end of what it said.
    #[must_use]
    pub fn output_tail(&self) -> String {
        tail_of(&self.output, 60)
    }
}
