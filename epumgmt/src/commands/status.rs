//! The state of the whole.

use epu_core::request::{Nothing, Request, SiteStatus, StatusView};
use serde_json::json;

use super::{Session, placement, site};
use crate::exit::{Exit, Failure};
use crate::show;

pub(super) async fn run(session: &mut Session) -> Result<Exit, Failure> {
    let mut status: StatusView = session.ask("show the status", Request::Status(Nothing {})).await?;
    let sites: Vec<SiteStatus> = match site::list(session).await {
        // Half of an answer is what somebody needs who asks why nothing works.
        Err(Failure::Fault { fault, .. }) if fault.code == "no-contact" || fault.code == "timeout" => {
            status
                .concerns
                .push(format!("no provisioner answers, so sites are not shown: {}", fault.text));
            Vec::new()
        }
        answer => answer?,
    };
    // A controller of another release may not know of placements.
    let mut placements = placement::list(session, None).await.unwrap_or_default();
    placements.retain(show::is_held_back);
    let answer = json!({ "status": status, "sites": sites, "placements": placements });
    session
        .screen
        .answer(&answer, |style| show::status(&status, &sites, &placements, style))?;
    Ok(Exit::Done)
}
