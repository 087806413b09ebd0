//! Sites: where machines come from, whether launching there can work, and what the sweep makes of what is there.

use std::path::Path;

use epu_core::request::{
    FindingVerdict, NamedTemplate, Nothing, PoolRef, PoolView, Request, SiteCheck, SiteFile, SiteFilter, SiteRemove, SiteReport,
    SiteStatus, SweepView,
};
use epu_core::{PoolName, SiteName};

use super::Session;
use crate::cli::{Site, Sweep};
use crate::config::text_of;
use crate::exit::{Exit, Failure};
use crate::show;

/// The most different templates of one check. Each costs the site some calls, which others wait for.
const TEMPLATES_MAX: usize = 50;
/// How many uses are named of those that share a template.
const NAMED_MAX: usize = 3;

pub(super) async fn run(session: &mut Session, command: Site) -> Result<Exit, Failure> {
    match command {
        Site::List => {
            let sites = list(session).await?;
            let now = session.clock.now();
            session.screen.answer(&sites, |style| show::sites(&sites, now, style))?;
            Ok(Exit::Done)
        }
        Site::Check { site, pool } => check(session, site, &pool).await,
        Site::Add { file, name } => add(session, &file, name).await,
        Site::Remove { site, force } => remove(session, site, force).await,
    }
}

async fn add(session: &mut Session, file: &Path, name: Option<SiteName>) -> Result<Exit, Failure> {
    let text = text_of(file).map_err(|flaws| Failure::Flaws {
        flaws,
        text: String::new(),
    })?;
    let called = if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let doing = format!("add the site of {called}");
    let request = Request::SiteAdd(SiteFile { file: called, text, name });
    let name: SiteName = session.ask(&doing, request).await?;
    session
        .screen
        .answer(&serde_json::json!({ "site": name }), |_| format!("site {name} is there\n"))?;
    Ok(Exit::Done)
}

async fn remove(session: &mut Session, site: SiteName, force: bool) -> Result<Exit, Failure> {
    let doing = format!("remove site {site}");
    let request = Request::SiteRemove(SiteRemove { site: site.clone(), force });
    let live: u32 = session.ask(&doing, request).await?;
    let answer = serde_json::json!({ "site": site, "live": live });
    session.screen.answer(&answer, |_| match live {
        0 => format!("site {site} removed\n"),
        live => format!("site {site} removed; {live} instances live there and are watched until they end\n"),
    })?;
    Ok(Exit::Done)
}

/// Every site.
pub(super) async fn list(session: &Session) -> Result<Vec<SiteStatus>, Failure> {
    session.ask("show the sites", Request::Sites(Nothing {})).await
}

async fn check(session: &mut Session, site: SiteName, only: &[PoolName]) -> Result<Exit, Failure> {
    let doing = format!("check site {site}");
    let mut pools: Vec<PoolView> = Vec::new();
    if only.is_empty() {
        pools = session.ask(&doing, Request::PoolList(Nothing {})).await?;
    }
    for pool in only {
        pools.push(session.ask(&doing, Request::PoolShow(PoolRef { pool: pool.clone() })).await?);
    }
    for view in pools.iter().filter(|_| !only.is_empty()) {
        if !view.pool.spec.placements.iter().any(|placement| placement.site == site) {
            let pool = &view.pool.name;
            return Err(Failure::Usage(format!("pool {pool} has no placement on site {site}")));
        }
    }
    let wanted = wanted_on(&site, &pools);
    let left_out = wanted.len().saturating_sub(TEMPLATES_MAX);
    let templates = wanted.into_iter().take(TEMPLATES_MAX).collect();
    let report: SiteReport = session.ask(&doing, Request::SiteCheck(SiteCheck { site, templates })).await?;
    session.screen.answer(&report, |style| show::site_report(&report, style))?;
    if left_out > 0 {
        let rest = format!("{left_out} more templates were not tried; name pools with --pool");
        session.screen.say(&rest)?;
    }
    let is_bad = report.findings.iter().any(|finding| finding.verdict == FindingVerdict::Bad);
    Ok(if is_bad { Exit::Failed } else { Exit::Done })
}

/// Every different template that pools launch on a site, named by who wants it.
fn wanted_on(site: &SiteName, pools: &[PoolView]) -> Vec<NamedTemplate> {
    let mut wanted: Vec<(Vec<String>, epu_core::pool::Template)> = Vec::new();
    for view in pools.iter().filter(|view| !view.pool.removed) {
        let several = view.pool.spec.placements.len() > 1;
        for placement in view.pool.spec.placements.iter().filter(|placement| placement.site == *site) {
            let template = placement.template(&view.pool.template);
            let name = if several {
                format!("pool {}, placement {}", view.pool.name, placement.called())
            } else {
                format!("pool {}", view.pool.name)
            };
            match wanted.iter_mut().find(|(_, known)| *known == template) {
                Some((names, _)) => names.push(name),
                None => wanted.push((vec![name], template)),
            }
        }
    }
    let named = |(names, template): (Vec<String>, _)| {
        let more = names.len().saturating_sub(NAMED_MAX);
        let mut name = names.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; ");
        if more > 0 {
            name.push_str(&format!("; and {more} more"));
        }
        NamedTemplate { name, template }
    };
    wanted.into_iter().map(named).collect()
}

/// What the sweep would do. It is the provisioner's own work: nobody has to start it.
pub(super) async fn sweep(session: &mut Session, how: Sweep) -> Result<Exit, Failure> {
    if !how.dry_run {
        return Err(Failure::Usage(
            "the provisioner sweeps by itself, after each complete list of a site; pass --dry-run to see what it makes of what is there \
             and what it will do"
                .to_owned(),
        ));
    }
    let view = look(session, how.site).await?;
    session.screen.answer(&view, |style| show::sweep(&view, style))?;
    Ok(Exit::Done)
}

/// What the sweep makes of what is there.
pub(super) async fn look(session: &Session, site: Option<SiteName>) -> Result<SweepView, Failure> {
    session
        .ask("look at what the sweep would do", Request::Sweep(SiteFilter { site }))
        .await
}

#[cfg(test)]
mod tests {
    use epu_core::pool::Placement;

    use super::*;
    use crate::show::tests::a_pool;

    #[test]
    fn what_several_pools_launch_alike_is_tried_once() {
        let site = SiteName::new("aws").unwrap();
        let pools: Vec<PoolView> = (0..5)
            .map(|n| {
                let mut view = a_pool();
                view.pool.name = PoolName::new(&format!("p{n}")).unwrap();
                view.pool.spec.placements = vec![Placement::on(site.clone())];
                view
            })
            .collect();
        let wanted = wanted_on(&site, &pools);
        assert_eq!(wanted.len(), 1);
        assert_eq!(wanted[0].name, "pool p0; pool p1; pool p2; and 2 more");

        let mut two = pools[0].clone();
        let mut spot = Placement::on(site.clone());
        spot.name = Some("spot".parse().unwrap());
        spot.machine.size = Some("large".to_owned());
        two.pool.spec.placements.push(spot);
        two.pool.spec.placements.push(Placement::on(SiteName::new("local").unwrap()));
        let wanted = wanted_on(&site, &[two]);
        let names: Vec<&str> = wanted.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["pool p0, placement aws", "pool p0, placement spot"]);
        assert_eq!(wanted[1].template.machine.size.as_deref(), Some("large"));
    }
}
