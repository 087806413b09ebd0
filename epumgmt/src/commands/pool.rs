//! Pools.

use std::path::Path;

use epu_core::PoolName;
use epu_core::pool::{Origin, Paused};
use epu_core::request::{Nothing, PlacementView, PoolChange, PoolFile, PoolPause, PoolRef, PoolRemove, PoolView, Request};
use serde_json::{Value, json};

use super::{Session, placement, refresh, to_send};
use crate::cli::{self, Pool};
use crate::exit::{Exit, Failure};
use crate::show;

pub(super) async fn run(session: &mut Session, command: Pool) -> Result<Exit, Failure> {
    match command {
        Pool::Add { file } => add(session, &file).await,
        Pool::List => list(session).await,
        Pool::Show { pool } => show_one(session, pool).await,
        Pool::Reconfigure { pool, set, if_revision } => {
            let set = cli::settings(&set).map_err(Failure::Usage)?;
            let change_of = PoolChange {
                pool,
                set,
                template: None,
                if_revision,
            };
            change(session, change_of).await
        }
        Pool::Resize { pool, n, min, max } => resize(session, pool, n, min, max).await,
        Pool::Pause {
            pool,
            grow,
            shrink,
            replace,
            why,
        } => {
            let everything = !(grow || shrink || replace);
            let paused = Paused {
                grow: grow || everything,
                shrink: shrink || everything,
                replace: replace || everything,
                why,
            };
            pause(session, pool, paused).await
        }
        Pool::Resume { pool } => {
            let doing = format!("resume pool {pool}");
            let request = Request::PoolResume(PoolRef { pool: pool.clone() });
            let answer: Value = session.ask(&doing, request).await?;
            session.screen.answer(&answer, |_| format!("pool {pool} does everything again\n"))?;
            Ok(Exit::Done)
        }
        Pool::Refresh(how) => refresh::run(session, how).await,
        Pool::Remove { pool, force } => remove(session, pool, force).await,
    }
}

async fn add(session: &mut Session, file: &Path) -> Result<Exit, Failure> {
    let (whole, text) = to_send(file)?;
    let doing = format!("add the pools of {}", file.display());
    let names: Vec<PoolName> = session.ask(&doing, Request::PoolAdd(PoolFile { file: whole, text })).await?;
    session
        .screen
        .answer(&names, |_| names.iter().map(|name| format!("pool {name} added\n")).collect())?;
    Ok(Exit::Done)
}

async fn list(session: &mut Session) -> Result<Exit, Failure> {
    let pools: Vec<PoolView> = session.ask("list pools", Request::PoolList(Nothing {})).await?;
    session.screen.answer(&pools, |style| show::pools(&pools, style))?;
    Ok(Exit::Done)
}

async fn show_one(session: &mut Session, pool: PoolName) -> Result<Exit, Failure> {
    let view = view(session, pool.clone()).await?;
    // A controller of another release may not know of placements; the rest of the answer is worth having then.
    let placements = placement::list(session, Some(pool)).await.unwrap_or_default();
    let now = session.clock.now();
    let answer = Shown {
        view: &view,
        placements: &placements,
    };
    session.screen.answer(&answer, |style| show::pool(&view, &placements, now, style))?;
    Ok(Exit::Done)
}

/// A pool with its placements, for programs.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    view: &'a PoolView,
    placements: &'a [PlacementView],
}

async fn view(session: &Session, pool: PoolName) -> Result<PoolView, Failure> {
    let doing = format!("show pool {pool}");
    session.ask(&doing, Request::PoolShow(PoolRef { pool })).await
}

async fn change(session: &mut Session, change: PoolChange) -> Result<Exit, Failure> {
    let pool = change.pool.clone();
    let doing = format!("change pool {pool}");
    let revision: u64 = session.ask(&doing, Request::PoolReconfigure(change)).await?;
    let answer = json!({ "pool": pool, "revision": revision });
    session
        .screen
        .answer(&answer, |_| format!("pool {pool} is now at revision {revision}\n"))?;
    Ok(Exit::Done)
}

async fn resize(session: &mut Session, pool: PoolName, n: Option<u32>, min: Option<u32>, max: Option<u32>) -> Result<Exit, Failure> {
    if n.is_none() && min.is_none() && max.is_none() {
        return Err(Failure::Usage("say what to change: --n, --min or --max".to_owned()));
    }
    let view = view(session, pool.clone()).await?;
    if let Origin::File { path, line } = &view.pool.origin {
        // The service would refuse it; this says where to go.
        let text = format!("the settings of pool {pool} belong to {path}, line {line}");
        return Err(Failure::while_doing(
            format!("resize pool {pool}"),
            epu_core::Fault::new("from-file", text),
        ));
    }
    let mut set = std::collections::BTreeMap::new();
    for (key, value) in [("min", min), ("max", max)] {
        set.extend(value.map(|value| (key.to_owned(), value.into())));
    }
    if let Some(n) = n {
        let mut engines = view.pool.spec.engine.iter();
        match engines.next() {
            Some((engine, settings)) if settings.get("n").is_some() => {
                set.insert(format!("engine.{engine}.n"), n.into());
            }
            Some((engine, _)) => return Err(Failure::size_is_computed(&pool, engine)),
            None => return Err(Failure::size_is_computed(&pool, "none")),
        }
    }
    let if_revision = Some(view.pool.revision);
    let sizes = PoolChange {
        pool,
        set,
        template: None,
        if_revision,
    };
    change(session, sizes).await
}

async fn pause(session: &mut Session, pool: PoolName, paused: Paused) -> Result<Exit, Failure> {
    let doing = format!("pause pool {pool}");
    let what = show::paused(&paused);
    let request = Request::PoolPause(PoolPause {
        pool: pool.clone(),
        paused,
    });
    let answer: Value = session.ask(&doing, request).await?;
    session.screen.answer(&answer, |_| format!("pool {pool} {what}\n"))?;
    Ok(Exit::Done)
}

async fn remove(session: &mut Session, pool: PoolName, force: bool) -> Result<Exit, Failure> {
    let doing = format!("remove pool {pool}");
    let request = Request::PoolRemove(PoolRemove { pool: pool.clone(), force });
    let live: u64 = session.ask(&doing, request).await?;
    let answer = json!({ "pool": pool, "live": live });
    session.screen.answer(&answer, |_| {
        let how = if force { "being ended" } else { "draining" };
        match live {
            0 => format!("pool {pool} is being removed; it has no instances\n"),
            1 => format!("pool {pool} is being removed; its last instance is {how}\n"),
            _ => format!("pool {pool} is being removed; its {live} instances are {how}\n"),
        }
    })?;
    Ok(Exit::Done)
}
