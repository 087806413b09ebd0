//! What each command does: ask the service, show the answer. One file a noun.
//!
//! Commands know the service only as something that can be asked ([`Service`]) and the terminal only as something that can be written to,
//! so that every one of them can be tried without either.

mod completions;
mod config;
mod dead;
mod events;
mod instance;
mod man;
mod placement;
mod pool;
mod refresh;
mod simulate;
mod site;
mod status;
mod store;
mod teardown;
mod template;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::request::Request;
use epu_core::time::{Clock, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{Command, Output};
use crate::config::text_of;
use crate::exit::{Exit, Failure};

pub(crate) use completions::completions;
pub(crate) use config::config;
pub(crate) use dead::dead;
pub(crate) use man::man;
pub(crate) use simulate::simulate;
pub(crate) use store::store;
pub(crate) use template::Version;

/// Whoever can be asked.
#[async_trait]
pub(crate) trait Service: Send + Sync {
    /// Asks, and waits for the answer.
    async fn ask(&self, request: &Request) -> Result<Value, Fault>;
}

/// Where answers go.
pub(crate) struct Screen {
    /// What is written to.
    pub to: Box<dyn Write + Send>,
    /// Tables or JSON.
    pub output: Output,
    /// Whether colours are wanted.
    pub colour: bool,
    /// How wide it is, when it is a terminal.
    pub width: Option<u16>,
}

impl Screen {
    /// A line for people; nothing in JSON.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        match self.output {
            Output::Table => self.line(line),
            Output::Json => Ok(()),
        }
    }

    /// A line, whatever the form.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.to, "{line}")?;
        self.to.flush()?;
        Ok(())
    }

    /// The answer: as JSON when that is wanted, otherwise as `table` makes it.
    pub(crate) fn answer(&mut self, answer: &impl Serialize, table: impl FnOnce(Style) -> String) -> Result<(), Failure> {
        let style = Style {
            colour: self.colour,
            width: self.width,
        };
        match self.output {
            Output::Table => write!(self.to, "{}", table(style))?,
            Output::Json => {
                serde_json::to_writer_pretty(&mut self.to, answer).map_err(std::io::Error::from)?;
                writeln!(self.to)?;
            }
        }
        self.to.flush()?;
        Ok(())
    }
}

/// How text for people looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// In colour.
    pub colour: bool,
    /// At most so wide.
    pub width: Option<u16>,
}

/// Asks a person a question and gives the answer.
pub(crate) type Confirm = fn(&str) -> std::io::Result<String>;

/// What a command works with.
pub(crate) struct Session {
    /// The service.
    pub service: Box<dyn Service>,
    /// Where answers go.
    pub screen: Screen,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Asks a person a question and gives the answer; none when nobody is there to answer.
    pub confirm: Option<Confirm>,
}

impl Session {
    /// Asks, and reads the answer as the type it should be.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, doing: &str, request: Request) -> Result<T, Failure> {
        let answer = self
            .service
            .ask(&request)
            .await
            .map_err(|fault| Failure::while_doing(doing, fault))?;
        serde_json::from_value(answer).map_err(|error| {
            let text = format!("the answer has another form than expected ({error}); are client and service of the same release?");
            Failure::while_doing(doing, Fault::new("internal", text))
        })
    }

    /// Does what an operator asked the service for. Commands that need no service are not for this.
    ///
    /// # Errors
    /// Why it was not done.
    pub(crate) async fn run(&mut self, command: Command) -> Result<Exit, Failure> {
        match command {
            Command::Pool(command) => pool::run(self, command).await,
            Command::Instance(command) => instance::run(self, command).await,
            Command::Placement(command) => placement::run(self, command).await,
            Command::Site(command) => site::run(self, command).await,
            Command::Template(command) => template::run(self, command).await,
            Command::Sweep(how) => site::sweep(self, how).await,
            Command::Status => status::run(self).await,
            Command::Events(which) => events::run(self, &which).await,
            Command::Teardown(how) => teardown::run(self, &how).await,
            Command::Open => teardown::open(self).await,
            Command::Config(_)
            | Command::Dead(_)
            | Command::Store(_)
            | Command::Simulate(_)
            | Command::Serve(_)
            | Command::Demo(_)
            | Command::DemoWorker
            | Command::Agent
            | Command::Docs { .. }
            | Command::Man { .. }
            | Command::Completions { .. } => Err(Failure::Usage("this command asks no service".to_owned())),
        }
    }
}

/// How long a service may be silent while something is waited for: long enough to be restarted.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Waiting for something that a service does, which may be restarted meanwhile.
struct Patience {
    heard: Timestamp,
}

/// A file to send to a service: its whole path, so that relative paths in it mean the same there, and its text. `-` is standard input.
fn to_send(file: &Path) -> Result<(String, String), Failure> {
    let text = text_of(file).map_err(|flaws| Failure::Flaws {
        flaws,
        text: String::new(),
    })?;
    let whole = if file == Path::new("-") {
        "standard input".into()
    } else {
        std::path::absolute(file)?
    };
    Ok((whole.display().to_string(), text))
}

impl Patience {
    fn since(heard: Timestamp) -> Self {
        Self { heard }
    }

    /// The answer, or none when nobody answered and that has not lasted too long.
    fn bears<T>(&mut self, now: Timestamp, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match answer {
            Ok(answer) => {
                self.heard = now;
                Ok(Some(answer))
            }
            Err(failure) if failure.exit() == Exit::NoContact && now.since(self.heard) < SILENCE_MAX => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests;
