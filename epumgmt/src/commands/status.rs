//! The state of the whole.

use epu_core::request::{Nothing, Request, SiteStatus, StatusView};
use serde_json::json;

use super::Session;
use crate::exit::{Exit, Failure};
use crate::show;

pub(super) async fn run(session: &mut Session) -> Result<Exit, Failure> {
    let mut status: StatusView = session.ask("show the status", Request::Status(Nothing {})).await?;
    let sites: Vec<SiteStatus> = match session.ask("show the sites", Request::Sites(Nothing {})).await {
        // Half of an answer is what somebody needs who asks why nothing works.
        Err(Failure::Fault { fault, .. }) if fault.code == "no-contact" || fault.code == "timeout" => {
            status
                .concerns
                .push(format!("no provisioner answers, so sites are not shown: {}", fault.text));
            Vec::new()
        }
        answer => answer?,
    };
    let answer = json!({ "status": status, "sites": sites });
    session.screen.answer(&answer, |style| show::status(&status, &sites, style))?;
    Ok(Exit::Done)
}
