//! Instances.

use epu_core::instance::{Cause, Drain};
use epu_core::request::{DrainOrder, InstanceFilter, InstanceRef, InstanceView, Logs, PoolRef, PoolView, Protect, Request, Terminate};
use epu_core::{InstanceId, Span};
use serde_json::Value;

use super::Session;
use crate::cli::Instance;
use crate::exit::{Exit, Failure};
use crate::show;

/// How many ids are named when the end of one fits several.
const NAMED_MAX: usize = 5;

pub(super) async fn run(session: &mut Session, command: Instance) -> Result<Exit, Failure> {
    match command {
        Instance::List { pool, all } => {
            let request = Request::InstanceList(InstanceFilter { pool, all });
            let instances: Vec<InstanceView> = session.ask("list instances", request).await?;
            let now = session.clock.now();
            session.screen.answer(&instances, |style| show::instances(&instances, now, style))?;
            Ok(Exit::Done)
        }
        Instance::Show { instance } => {
            let view = view(session, &instance).await?;
            let now = session.clock.now();
            session.screen.answer(&view, |style| show::instance(&view, now, style))?;
            Ok(Exit::Done)
        }
        Instance::Logs { instance, lines } => logs(session, &instance, lines).await,
        Instance::Drain { instance, within } => drain(session, &instance, within).await,
        Instance::Protect { instance, off } => protect(session, &instance, !off).await,
        Instance::Kill { instance } => kill(session, &instance).await,
    }
}

/// The id that was meant. The end of one will do when only one ends like it.
async fn find(session: &Session, written: &str) -> Result<InstanceId, Failure> {
    if let Ok(id) = written.parse() {
        return Ok(id);
    }
    let plain = written.replace('-', "").to_lowercase();
    if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::Usage(format!("{written:?} is no instance's id, nor the end of one")));
    }
    let doing = format!("find instance {written}");
    let request = Request::InstanceList(InstanceFilter { pool: None, all: true });
    let instances: Vec<InstanceView> = session.ask(&doing, request).await?;
    let ids = instances.iter().map(|view| view.instance.id);
    let fitting: Vec<InstanceId> = ids.filter(|id| id.0.simple().to_string().ends_with(&plain)).collect();
    match fitting.as_slice() {
        [] => Err(Failure::no_such_instance(written)),
        [only] => Ok(*only),
        several => {
            let some: Vec<String> = several.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            let count = several.len();
            Err(Failure::Usage(format!(
                "{count} instances end with {written:?}, write more of it: {}",
                some.join(", ")
            )))
        }
    }
}

async fn view(session: &Session, written: &str) -> Result<InstanceView, Failure> {
    let id = find(session, written).await?;
    let doing = format!("show instance {written}");
    let request = Request::InstanceShow(InstanceRef { instance: id.to_string() });
    session.ask(&doing, request).await
}

async fn logs(session: &mut Session, written: &str, lines: u32) -> Result<Exit, Failure> {
    let instance = find(session, written).await?;
    let doing = format!("read the output of instance {written}");
    let text: String = session.ask(&doing, Request::Logs(Logs { instance, lines })).await?;
    session.screen.answer(&text, |_| {
        let mut shown = show::harmless(&text);
        if !shown.is_empty() && !shown.ends_with('\n') {
            shown.push('\n');
        }
        shown
    })?;
    Ok(Exit::Done)
}

async fn drain(session: &mut Session, written: &str, within: Option<Span>) -> Result<Exit, Failure> {
    let view = view(session, written).await?;
    let doing = format!("drain instance {written}");
    let within = match within {
        Some(within) => within,
        None => {
            let pool = view.instance.pool.clone();
            let pool: PoolView = session.ask(&doing, Request::PoolShow(PoolRef { pool })).await?;
            pool.pool.spec.limits.drain
        }
    };
    let now = session.clock.now();
    let order = DrainOrder {
        instances: vec![view.instance.id],
        drain: Drain {
            since: now,
            deadline: now + *within,
            why: Cause::Operator,
        },
        epoch: 0,
    };
    let answer: Value = session.ask(&doing, Request::Drain(order)).await?;
    let id = view.instance.id;
    session.screen.answer(&answer, |_| {
        format!("instance {id} finishes its work and ends, in {within} at the latest\n")
    })?;
    Ok(Exit::Done)
}

async fn protect(session: &mut Session, written: &str, on: bool) -> Result<Exit, Failure> {
    let id = find(session, written).await?;
    let doing = format!("protect instance {written}");
    let request = Request::Protect(Protect { instances: vec![id], on });
    let answer: Value = session.ask(&doing, request).await?;
    session.screen.answer(&answer, |_| match on {
        true => format!("instance {id} is not chosen when its pool shrinks; it is still replaced when it fails\n"),
        false => format!("instance {id} may be chosen when its pool shrinks\n"),
    })?;
    Ok(Exit::Done)
}

async fn kill(session: &mut Session, written: &str) -> Result<Exit, Failure> {
    let view = view(session, written).await?;
    let id = view.instance.id;
    let doing = format!("end instance {written}");
    let order = Terminate {
        instances: vec![(id, view.work)],
        why: Cause::Operator,
        epoch: 0,
    };
    let answer: Value = session.ask(&doing, Request::Terminate(order)).await?;
    session.screen.answer(&answer, |_| {
        format!("instance {id} is being ended; its worker was {}\n", view.work.word())
    })?;
    Ok(Exit::Done)
}
