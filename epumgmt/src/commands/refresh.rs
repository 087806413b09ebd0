//! Replacing a pool's instances of older template versions, and waiting until that is done.

use std::time::Duration;

use epu_core::request::{PoolRefresh, RefreshStep, RefreshView, Request};
use epu_core::{PoolName, Span};

use super::{Patience, Session};
use crate::cli::Refresh;
use crate::exit::{Exit, Failure};
use crate::show;

/// How often is looked at how far it is.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(session: &mut Session, how: Refresh) -> Result<Exit, Failure> {
    let step = match how {
        Refresh { pause: true, .. } => RefreshStep::Pause,
        Refresh { resume: true, .. } => RefreshStep::Resume,
        Refresh { stop: true, .. } => RefreshStep::Stop,
        Refresh { rollback: true, .. } => RefreshStep::Rollback,
        Refresh { show: true, .. } => RefreshStep::Show,
        Refresh { .. } => RefreshStep::Start,
    };
    let doing = match step {
        RefreshStep::Start => "refresh",
        RefreshStep::Pause => "hold the refresh of",
        RefreshStep::Resume => "go on with the refresh of",
        RefreshStep::Stop => "stop the refresh of",
        RefreshStep::Rollback => "roll back",
        RefreshStep::Show => "show the refresh of",
    };
    let doing = format!("{doing} pool {}", how.pool);
    let asked = PoolRefresh {
        pool: how.pool.clone(),
        step,
        why: how.why,
    };
    let mut view: RefreshView = session.ask(&doing, Request::PoolRefresh(asked)).await?;
    if let Some(within) = how.wait {
        view = wait(session, &how.pool, within, view).await?;
    }
    let now = session.clock.now();
    session.screen.answer(&view, |style| show::refresh(&view, now, style))?;
    Ok(Exit::Done)
}

/// Waits until nothing is left to replace, and shows how it goes.
async fn wait(session: &mut Session, pool: &PoolName, within: Span, first: RefreshView) -> Result<RefreshView, Failure> {
    let begun = session.clock.now();
    let mut patience = Patience::since(begun);
    let (mut view, mut shown) = (first, String::new());
    loop {
        // Going back stays on record for a while after the last one is replaced.
        if view.outdated == 0 {
            return Ok(view);
        }
        if view.refresh.is_none() {
            return Err(Failure::LeftOver(format!(
                "the refresh of pool {pool} was stopped; {} instances still run older versions",
                view.outdated
            )));
        }
        let now = show::refreshing(&view);
        if now != shown {
            session.screen.say(&now)?;
            shown = now;
        }
        if session.clock.now().since(begun) > *within {
            return Err(Failure::LeftOver(format!(
                "after {within} the refresh of pool {pool} is not done ({shown}); it goes on: see `epumgmt pool refresh {pool} --show`"
            )));
        }
        tokio::time::sleep(POLL).await;
        let asked = PoolRefresh {
            pool: pool.clone(),
            step: RefreshStep::Show,
            why: String::new(),
        };
        let answer: Result<RefreshView, Failure> = session
            .ask(&format!("show the refresh of pool {pool}"), Request::PoolRefresh(asked))
            .await;
        if let Some(answer) = patience.bears(session.clock.now(), answer)? {
            view = answer;
        }
    }
}
