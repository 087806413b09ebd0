//! What happened.

use std::time::Duration;

use epu_core::journal::Entry;
use epu_core::request::{EventsAfter, Request};

use super::Session;
use crate::cli::{Events, Output};
use crate::exit::{Exit, Failure};
use crate::show;

/// How often news is asked for. Too low: the service answers the same question all the time. Too high: news is old.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(session: &mut Session, which: &Events) -> Result<Exit, Failure> {
    let mut entries = next(session, which, which.after).await?;
    if !which.follow {
        session.screen.answer(&entries, |style| show::events(&entries, style))?;
        return Ok(Exit::Done);
    }
    let mut last = which.after;
    let mut silent = false;
    loop {
        for entry in &entries {
            let line = match session.screen.output {
                Output::Table => show::event(entry, session.screen.colour),
                Output::Json => serde_json::to_string(entry).map_err(std::io::Error::from)?,
            };
            session.screen.line(&line)?;
            last = last.max(Some(entry.sequence));
        }
        if entries.is_empty() {
            tokio::time::sleep(POLL).await;
        }
        // From the beginning when nothing has happened yet, or what happened first would never be shown.
        entries = match next(session, which, Some(last.unwrap_or(0))).await {
            Ok(entries) => {
                silent = false;
                entries
            }
            // A service that is being restarted is waited for.
            Err(failure) if failure.exit() == Exit::NoContact => {
                if !silent {
                    session.screen.say("-- nobody answers; waiting --")?;
                }
                silent = true;
                Vec::new()
            }
            Err(failure) => return Err(failure),
        };
    }
}

async fn next(session: &Session, which: &Events, after: Option<i64>) -> Result<Vec<Entry>, Failure> {
    let request = Request::Events(EventsAfter {
        after,
        pool: which.pool.clone(),
        limit: Some(which.limit),
    });
    session.ask("read the journal", request).await
}
