//! Closing the installation and emptying it, and opening it again.

use std::time::Duration;

use epu_core::State;
use epu_core::request::{InstanceFilter, InstanceView, Nothing, Request, Teardown as Order};
use serde_json::{Value, json};

use super::Session;
use crate::cli::Teardown;
use crate::exit::{Exit, Failure};

/// How often is looked at what is left.
const POLL: Duration = Duration::from_millis(500);
/// How long the service may be silent while it is waited for: long enough to be restarted.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(session: &mut Session, how: &Teardown) -> Result<Exit, Failure> {
    let live = live(session).await?;
    if !how.yes {
        confirm(session, how, live.len())?;
    }
    let order = Order {
        force: how.force,
        within: how.within,
    };
    let count: u64 = session.ask("tear down", Request::Teardown(order)).await?;
    if how.no_wait {
        let answer = json!({ "closed": true, "live": count });
        session
            .screen
            .answer(&answer, |_| format!("closed; {count} instances are still live\n"))?;
        return Ok(Exit::Done);
    }
    wait(session, how).await?;
    let answer = json!({ "closed": true, "live": 0 });
    session
        .screen
        .answer(&answer, |_| "closed; no live instance is left\n".to_owned())?;
    Ok(Exit::Done)
}

fn confirm(session: &Session, how: &Teardown, live: usize) -> Result<(), Failure> {
    let Some(ask) = session.confirm else {
        return Err(Failure::Usage(
            "teardown ends every worker; nobody is there to confirm it, so pass --yes".to_owned(),
        ));
    };
    let instances = if live == 1 {
        "instance".to_owned()
    } else {
        format!("{live} instances")
    };
    let what = match (live, how.force) {
        (0, _) => "This closes the installation; it has no live instance.".to_owned(),
        (_, true) => format!("This closes the installation and ends its {instances} AT ONCE: work in progress is lost or done again."),
        (_, false) => format!("This closes the installation, and drains and ends its {instances}."),
    };
    let answer = ask(&format!("{what}\nType yes to go on: "))?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::Usage("not confirmed; nothing was done".to_owned()))
}

/// Waits until no live instance is left, and shows how it goes.
async fn wait(session: &mut Session, how: &Teardown) -> Result<(), Failure> {
    let begun = session.clock.now();
    let mut heard = begun;
    let mut shown = String::new();
    loop {
        match live(session).await {
            Ok(live) if live.is_empty() => return Ok(()),
            Ok(live) => {
                heard = session.clock.now();
                let now = progress(&live);
                if now != shown {
                    session.screen.say(&now)?;
                    shown = now;
                }
            }
            Err(failure) if failure.exit() == Exit::NoContact && session.clock.now().since(heard) < SILENCE_MAX => {}
            Err(failure) => return Err(failure),
        }
        if session.clock.now().since(begun) > *how.wait {
            return Err(Failure::LeftOver(format!(
                "after {} there are still live instances ({}); they go on ending: see `epumgmt instance list`",
                how.wait,
                shown.trim()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn progress(live: &[InstanceView]) -> String {
    let ending = live.iter().filter(|view| view.instance.state == State::Terminating).count();
    let draining = live
        .iter()
        .filter(|view| view.instance.drain.is_some() && view.instance.state != State::Terminating)
        .count();
    format!("{} live: {draining} draining, {ending} ending", live.len())
}

async fn live(session: &Session) -> Result<Vec<InstanceView>, Failure> {
    let request = Request::InstanceList(InstanceFilter::default());
    session.ask("list instances", request).await
}

pub(super) async fn open(session: &mut Session) -> Result<Exit, Failure> {
    let answer: Value = session.ask("open the installation", Request::Open(Nothing {})).await?;
    session.screen.answer(&answer, |_| "open: pools are kept again\n".to_owned())?;
    Ok(Exit::Done)
}
