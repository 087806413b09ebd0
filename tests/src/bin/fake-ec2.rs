//! A fake EC2 as a program, see `epu_tests::fake_ec2`.
//!
//! It prints one line, `listening on http://127.0.0.1:PORT`, and serves until it gets SIGTERM or SIGINT, or the process that started it is
//! gone. Then it ends every machine that it booted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epu_tests::fake_ec2::machines::Boot;
use epu_tests::fake_ec2::plan::Plan;
use epu_tests::fake_ec2::{FakeEc2, Settings};
use epu_tests::{Result, Trouble};
use rustix::process::getppid;
use tokio::signal::unix::{SignalKind, signal};

/// Time between two looks at whether the process that started it is still there.
const PARENT_LOOK: Duration = Duration::from_millis(250);

/// A fake EC2 for tests. It is not secure: it is for loopback only.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 is any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// From which everything random is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Boot machines for real, each in a directory of its own under this one.
    #[arg(long, requires = "agent")]
    boot: Option<PathBuf>,
    /// The program that is the agent of booted machines when started as `PROGRAM agent`.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// What goes wrong, as JSON.
    #[arg(long)]
    plan: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            say(&format!("fake-ec2: {trouble}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is how it says where it listens")]
fn say(text: &str) {
    println!("{text}");
}

async fn run(arguments: Arguments) -> Result<()> {
    // Asked first: a parent that ends while this starts is noticed.
    let parent = getppid();
    let catch = |kind| signal(kind).map_err(|e| Trouble::new("catch signals", e));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let plan = match &arguments.plan {
        None => Plan::default(),
        Some(path) => {
            let doing = format!("read the plan {}", path.display());
            let text = std::fs::read(path).map_err(|e| Trouble::new(&doing, e))?;
            serde_json::from_slice(&text).map_err(|e| Trouble::new(&doing, e))?
        }
    };
    let boot = match (arguments.boot, arguments.agent) {
        (Some(directory), Some(agent)) => {
            std::fs::create_dir_all(&directory).map_err(|e| Trouble::new(format!("make {}", directory.display()), e))?;
            let whole = |path: PathBuf| path.canonicalize().map_err(|e| Trouble::new(format!("find {}", path.display()), e));
            Some(Boot::new(whole(directory)?, whole(agent)?))
        }
        (_, _) => None,
    };
    let fake = FakeEc2::start(Settings {
        listen: arguments.listen,
        seed: arguments.seed,
        plan,
        boot,
        ..Settings::default()
    })
    .await?;
    say(&format!("listening on {}", fake.url()));
    let orphaned = async {
        while getppid() == parent {
            tokio::time::sleep(PARENT_LOOK).await;
        }
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = orphaned => {}
    }
    fake.stop().await;
    Ok(())
}
