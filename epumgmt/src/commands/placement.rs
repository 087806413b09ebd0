//! Placements: where pools launch.

use epu_core::request::{PlacementFilter, PlacementReset, PlacementView, Request};
use epu_core::{PlacementName, PoolName};
use serde_json::json;

use super::Session;
use crate::cli::Placement;
use crate::exit::{Exit, Failure};
use crate::show;

pub(super) async fn run(session: &mut Session, command: Placement) -> Result<Exit, Failure> {
    match command {
        Placement::List { pool } => {
            let placements = list(session, pool).await?;
            let now = session.clock.now();
            session
                .screen
                .answer(&placements, |style| show::placements(&placements, now, style))?;
            Ok(Exit::Done)
        }
        Placement::Reset { pool, placement } => reset(session, pool, placement).await,
    }
}

/// Every placement of a pool, or of all.
pub(super) async fn list(session: &Session, pool: Option<PoolName>) -> Result<Vec<PlacementView>, Failure> {
    let request = Request::PlacementList(PlacementFilter { pool });
    session.ask("list placements", request).await
}

async fn reset(session: &mut Session, pool: PoolName, placement: Option<PlacementName>) -> Result<Exit, Failure> {
    let doing = match &placement {
        Some(placement) => format!("reset placement {placement} of pool {pool}"),
        None => format!("reset the placements of pool {pool}"),
    };
    let request = Request::PlacementReset(PlacementReset {
        pool: pool.clone(),
        placement: placement.clone(),
    });
    let were: Vec<String> = session.ask(&doing, request).await?;
    let answer = json!({ "pool": pool, "reset": were });
    session.screen.answer(&answer, |_| match (were.as_slice(), &placement) {
        ([], Some(placement)) => format!("placement {placement} of pool {pool} was neither parked nor paused\n"),
        ([], None) => format!("no placement of pool {pool} was parked or paused\n"),
        (were, _) => were
            .iter()
            .map(|name| format!("placement {} of pool {pool} may launch again\n", show::brief(name)))
            .collect(),
    })?;
    Ok(Exit::Done)
}
