//! The one program: operator commands, and the services themselves.
//!
//! Everything but `serve`, `demo` and `agent` is a client: it asks a running service over HTTP, shows the answer and exits with a code that
//! scripts can use ([`exit`]). Nothing here knows what a pool is beyond how it looks.

mod cli;
mod commands;
mod compatibility;
mod config;
mod demo;
mod docs;
mod exit;
mod reach;
mod serve;
mod show;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use epu_core::Fault;
use epu_core::time::SystemClock;

use cli::{Cli, Command, Output, Reach};
use commands::{Screen, Session};
use exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.reach.output;
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            let shown = match output {
                Output::Table => failure.shown(colour(std::io::stderr().is_terminal())),
                Output::Json => serde_json::to_string(&serde_json::json!({ "error": failure.as_fault() })).unwrap_or_default() + "\n",
            };
            // Nobody is left to tell when even this cannot be written.
            drop(std::io::stderr().write_all(shown.as_bytes()));
            failure.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let mut screen = screen(cli.reach.output);
    match cli.command {
        Command::Serve(what) => Ok(serve::run(&what, &cli.reach.config)?.into()),
        Command::Demo(how) => Ok(demo::run(&how)?.into()),
        Command::DemoWorker => {
            let worked = demo::worker::run();
            worked.map_err(|error| Failure::while_doing("work for the demo", Fault::new("internal", error.to_string())))?;
            Ok(Exit::Done.into())
        }
        Command::Agent => Ok(epu_agent::start()),
        Command::Docs { directory } => docs::write(&directory).map(Into::into),
        Command::Man { directory } => commands::man(&directory).map(Into::into),
        Command::Completions { shell } => commands::completions(shell, &mut screen.to).map(Into::into),
        Command::Config(command) => commands::config(&mut screen, &command).map(Into::into),
        Command::Simulate(what) => commands::simulate(&mut screen, &cli.reach.config, &what, &SystemClock::start()).map(Into::into),
        Command::Store(args) => {
            let clock = SystemClock::start();
            let done = commands::store(&mut screen, &args, &cli.reach.config, &clock);
            runtime()?.block_on(done).map(Into::into)
        }
        Command::Dead(command) => {
            let confirm = std::io::stdin().is_terminal().then_some(confirm as commands::Confirm);
            runtime()?
                .block_on(commands::dead(&cli.reach, &mut screen, confirm, &command))
                .map(Into::into)
        }
        command @ (Command::Pool(_)
        | Command::Instance(_)
        | Command::Placement(_)
        | Command::Site(_)
        | Command::Template(_)
        | Command::Sweep(_)
        | Command::Status
        | Command::Events(_)
        | Command::Teardown(_)
        | Command::Open) => ask(&cli.reach, screen, command).map(Into::into),
    }
}

/// One thread is enough for everything but the services.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Does what needs a service.
fn ask(reach: &Reach, screen: Screen, command: Command) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let mut session = Session {
            service: reach::service(reach).await?,
            screen,
            clock: Arc::new(SystemClock::start()),
            confirm: std::io::stdin().is_terminal().then_some(confirm),
        };
        session.run(command).await
    })
}

fn screen(output: Output) -> Screen {
    let terminal = std::io::stdout().is_terminal();
    Screen {
        to: Box::new(std::io::stdout()),
        output,
        colour: colour(terminal),
        width: terminal.then(width).flatten(),
    }
}

/// Colours only on a terminal, and not where people asked for none (<https://no-color.org>).
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How wide the terminal is; narrower than this and tables become unreadable, so that lines are rather broken by the terminal.
fn width() -> Option<u16> {
    comfy_table::Table::new().width().filter(|width| *width >= 60)
}

fn confirm(question: &str) -> std::io::Result<String> {
    let mut out = std::io::stderr();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer)
}
