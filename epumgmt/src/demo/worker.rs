//! The demo's worker, as it would be written by somebody who knows nothing of this system but `$EPU_DIR`: it takes a job, says
//! `busy`, sleeps as long as the job takes, says `idle`. Told to drain, by SIGTERM, it finishes the job at hand and ends.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::spool::Spool;

/// How often it looks for work.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Works until told to drain.
///
/// # Errors
/// When it was not started by the demo, or its directories are gone.
pub(crate) fn run() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
}

async fn work() -> io::Result<()> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| io::Error::other(format!("{name} is not set; the demo starts this worker by itself")));
    let spool = Spool::open(Path::new(&variable("DEMO_SPOOL")?))?;
    let status = PathBuf::from(variable("EPU_DIR")?).join("status");
    let me = variable("EPU_INSTANCE")?;
    let mut drain = signal(SignalKind::terminate())?;
    std::fs::write(&status, "idle")?;
    loop {
        if let Some(claim) = spool.claim(&me)? {
            std::fs::write(&status, "busy")?;
            tokio::time::sleep(claim.takes).await;
            spool.done(&claim, &me)?;
            std::fs::write(&status, "idle")?;
        }
        tokio::select! {
            biased;
            _ = drain.recv() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
