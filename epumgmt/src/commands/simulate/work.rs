//! Which work is for which pool.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use epu_core::PoolName;
use epu_core::input::nearest;
use epu_simulator::play::workload::{self, Format, Reading, TEXT_MAX, Workload, Written};

use crate::cli::simulate::{Form, RunArgs};
use crate::exit::Failure;

/// Reads every workload that was named, and gives each to its pool. `pools` are those that there are.
///
/// # Errors
/// Every fault of a workload, or what it is for that does not exist.
pub(super) fn gather(args: &RunArgs, pools: &[PoolName]) -> Result<BTreeMap<PoolName, Workload>, Failure> {
    let mut work: BTreeMap<PoolName, Workload> = BTreeMap::new();
    for pool in &args.pool {
        known(pool, pools)?;
    }
    let candidates = if args.pool.is_empty() { pools } else { &args.pool };
    for (number, written) in (0..).zip(&args.workload) {
        let (pool, source) = split(written, pools)?;
        let how = Reading {
            format: args.format.map(format),
            service: args.service_time,
            seed: args.seed.wrapping_add(u64::wrapping_mul(number, 7_919)),
            processors_per_worker: args.processors_per_worker,
        };
        let read = read(source, &how)?;
        let mut give = |pool: PoolName, workload: Workload| match work.insert(pool.clone(), workload) {
            None => Ok(()),
            Some(_) => Err(Failure::Usage(format!(
                "pool {pool} has two workloads: put them into one YAML file, one below `generator` and the other below `and`"
            ))),
        };
        if let Some(workload) = read.all {
            let pool = match (pool, candidates) {
                (Some(pool), _) => pool,
                (None, [only]) => only.clone(),
                (None, _) => return Err(for_which(source, candidates)),
            };
            give(pool, workload)?;
        } else if pool.is_some() {
            return Err(Failure::Usage(format!(
                "{source} says itself which pools its work is for; leave `POOL=` away"
            )));
        }
        for (pool, workload) in read.pools {
            known(&pool, pools)?;
            give(pool, workload)?;
        }
    }
    Ok(work)
}

fn for_which(source: &str, pools: &[PoolName]) -> Failure {
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    Failure::Usage(if names.is_empty() {
        "there is no pool in the config file to play".to_owned()
    } else {
        format!(
            "say which pool {source} is for: --workload POOL={source}; the pools are: {}",
            names.join(", ")
        )
    })
}

fn known(pool: &PoolName, pools: &[PoolName]) -> Result<(), Failure> {
    if pools.contains(pool) {
        return Ok(());
    }
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    let hint = nearest(pool.as_str(), names.iter().copied()).map_or_else(
        || format!("the pools are: {}", names.join(", ")),
        |near| format!("did you mean {near:?}?"),
    );
    Err(Failure::Usage(format!("there is no pool {pool} in the config file; {hint}")))
}

/// The pool before `=`, and what is after it. A generator has its `=` after a colon, and a path with one in it is written `./a=b`.
fn split<'a>(written: &'a str, pools: &[PoolName]) -> Result<(Option<PoolName>, &'a str), Failure> {
    let Some((before, after)) = written.split_once('=') else {
        return Ok((None, written));
    };
    if before.contains([':', '/', '.']) {
        return Ok((None, written));
    }
    let pool = PoolName::new(before).map_err(|error| Failure::Usage(format!("--workload {written}: {error}")))?;
    known(&pool, pools)?;
    Ok((Some(pool), after))
}

fn read(source: &str, how: &Reading) -> Result<Written, Failure> {
    let flawed = |text: String| move |flaws| Failure::Flaws { flaws, text };
    if workload::is_inline(source) {
        let workload = workload::read_inline(source, how).map_err(flawed(String::new()))?;
        return Ok(Written {
            all: Some(workload),
            pools: BTreeMap::new(),
        });
    }
    let text = text_of(source).map_err(|error| {
        let hint = workload::nearest_kind(source).map(|kind| format!("; did you mean the generator {kind:?}?"));
        Failure::Usage(format!("read the workload {source}: {error}{}", hint.unwrap_or_default()))
    })?;
    match workload::read(source, &text, how) {
        Ok(written) => Ok(written),
        Err(flaws) => Err(flawed(text)(flaws)),
    }
}

fn text_of(source: &str) -> std::io::Result<String> {
    let limit = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    if source == "-" {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(Path::new(source))?.take(limit).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn format(form: Form) -> Format {
    match form {
        Form::Jobs => Format::Jobs,
        Form::Counts => Format::Counts,
        Form::Yaml => Format::Yaml,
        Form::Swf => Format::Swf,
    }
}
