//! Closing the installation and emptying it, and opening it again.
//!
//! The order: the installation is closed, so that nothing more is launched; workers drain; their machines are ended, and an instance is
//! gone when its site says so. Then machines are waited for that carry our tags and that no record explains, since somebody pays for
//! those too. Exit code 0 means that nothing is left.

use std::time::Duration;

use epu_core::State;
use epu_core::request::{InstanceFilter, InstanceView, Nothing, Request, StrayView, SweepVerdict, Teardown as Order};
use serde_json::{Value, json};

use super::{Patience, Session, site};
use crate::cli::Teardown;
use crate::exit::{Exit, Failure};

/// How often is looked at what is left.
const POLL: Duration = Duration::from_millis(500);

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
        session.screen.answer(&answer, |_| {
            format!("closed; {}\n", still(usize::try_from(count).unwrap_or(usize::MAX)))
        })?;
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

/// Waits until no live instance is left, nor a machine of ours, and shows how it goes.
async fn wait(session: &mut Session, how: &Teardown) -> Result<(), Failure> {
    let begun = session.clock.now();
    let mut patience = Patience::since(begun);
    let (mut most, mut shown) = (0, String::new());
    loop {
        let asked = left(session).await;
        if let Some(left) = patience.bears(session.clock.now(), asked)? {
            if left.is_nothing() {
                return Ok(());
            }
            most = most.max(left.live.len());
            let now = left.progress(most);
            if now != shown {
                session.screen.say(&now)?;
                shown = now;
            }
        }
        if session.clock.now().since(begun) > *how.wait {
            return Err(Failure::LeftOver(format!(
                "after {} not everything is gone ({}); it goes on ending: see `epumgmt instance list` and `epumgmt sweep --dry-run`",
                how.wait,
                shown.trim()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is not gone yet.
struct Left {
    live: Vec<InstanceView>,
    /// Machines with our tags that no record explains, by site; looked for when no instance is live.
    strays: Vec<StrayView>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.live.is_empty() && self.strays.is_empty()
    }

    /// In one line, of `most` that there were.
    fn progress(&self, most: usize) -> String {
        if self.live.is_empty() {
            let count = self.strays.len();
            let machines = if count == 1 { "machine" } else { "machines" };
            return format!("no instance is live; {count} {machines} with our tags that no record explains, to be ended by the sweep");
        }
        let (live, gone) = (self.live.len(), most.saturating_sub(self.live.len()));
        let ending: Vec<&InstanceView> = self.live.iter().filter(|view| view.instance.state == State::Terminating).collect();
        let draining = self
            .live
            .iter()
            .filter(|view| view.instance.drain.is_some() && view.instance.state != State::Terminating)
            .count();
        let mut sites: Vec<&str> = ending.iter().map(|view| view.instance.site.as_str()).collect();
        sites.sort_unstable();
        sites.dedup();
        let by = if sites.is_empty() {
            String::new()
        } else {
            format!(" (waiting for {} to say that they are gone)", sites.join(", "))
        };
        format!("{gone} gone, {live} live: {draining} draining, {} ending{by}", ending.len())
    }
}

async fn left(session: &Session) -> Result<Left, Failure> {
    let live = live(session).await?;
    let mut strays = Vec::new();
    if live.is_empty() {
        strays = match site::look(session, None).await {
            Ok(view) => view.machines,
            Err(failure) if failure.exit() == Exit::NoContact => return Err(failure),
            // A provisioner of another release does not know the question.
            Err(_) => Vec::new(),
        };
        strays.retain(|stray| match stray.verdict {
            SweepVerdict::Adopt | SweepVerdict::Terminate | SweepVerdict::Wait => true,
            SweepVerdict::Leave => false,
        });
    }
    Ok(Left { live, strays })
}

fn still(live: usize) -> String {
    match live {
        0 => "no live instance is left".to_owned(),
        1 => "1 instance is still live".to_owned(),
        _ => format!("{live} instances are still live"),
    }
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
