//! What operators ask about sites: what the sweep makes of what it saw, and whether a launch would work.
//!
//! The sweep's preview is told from the last look and asks no site, so that looking costs nothing and changes nothing. A check of a
//! site makes calls; it runs beside everything else with a deadline of its own, and few at a time.

use std::time::Duration;

use epu_bus::Answering;
use epu_core::Fault;
use epu_core::id::SiteName;
use epu_core::request::{Answer, Finding, FindingVerdict, SiteCheck, SiteFilter, SiteReport, StrayView, SweepVerdict, SweepView};
use epu_core::time::{Span, Timestamp};

use crate::iaas::{Machine, MachineState};
use crate::service::Service;
use crate::site::{Done, Site, Spared, Stray, Why};
use crate::turn::store_failed;

/// How long a check of a site may take.
const CHECK_WITHIN: Duration = Duration::from_secs(60);
/// Most templates of one check. Too high: it does not end in time.
const TEMPLATES_MOST: usize = 200;
/// Most machines that one answer tells of, those first that are ended first.
const TOLD_MOST: usize = 5_000;
/// Most machines of one answer for which the store is asked too.
const READ_MOST: usize = 500;

impl Service {
    pub(crate) async fn sweep_view(&self, filter: &SiteFilter) -> Result<Answer, Fault> {
        let now = self.clock.now();
        let is_meant = |name: &SiteName| filter.site.as_ref().is_none_or(|site| site == name);
        let mut statuses = self.site_statuses();
        statuses.retain(|status| is_meant(&status.site));
        if let Some(site) = filter.site.as_ref().filter(|_| statuses.is_empty()) {
            return Err(Fault::new("no-such-site", format!("sweep: there is no site {site}")));
        }
        let mut machines = Vec::new();
        let mut read = 0;
        for site in self.sites.values().filter(|site| is_meant(&site.name)) {
            let mut strays: Vec<&Stray> = site.strays.values().collect();
            strays.sort_by_key(|stray| (stray.first_seen, stray.machine.id.clone()));
            for (place, stray) in strays.into_iter().enumerate() {
                let mut view = self.stray_view(site, stray, place, now);
                if view.verdict == SweepVerdict::Terminate && read < READ_MOST {
                    read += 1;
                    if self.is_recorded_live(&stray.machine).await.map_err(|error| store_failed(&error))? {
                        view.verdict = SweepVerdict::Adopt;
                        "the store has a record of it that was not read yet; it is taken in once that is".clone_into(&mut view.why);
                    }
                }
                machines.push(view);
            }
            machines.extend(site.spared.iter().map(|spared| spared_view(site, spared)));
        }
        machines.truncate(TOLD_MOST);
        Answer::of(&SweepView {
            now,
            sites: statuses,
            machines,
        })
    }

    fn stray_view(&self, site: &Site, stray: &Stray, place: usize, now: Timestamp) -> StrayView {
        let (verdict, at, why) = self.will_sweep(site, stray, place, now);
        view(site, &stray.machine, stray.first_seen, (verdict, at, why))
    }

    /// What comes of the stray that is so far behind in the order in which strays are ended.
    fn will_sweep(&self, site: &Site, stray: &Stray, place: usize, now: Timestamp) -> (SweepVerdict, Option<Timestamp>, String) {
        let grace = *self.config.sweep_grace.unwrap_or(site.can.sweep_grace);
        let what = describe(&stray.machine);
        if site.to_end.contains(&stray.machine.id) {
            return (
                SweepVerdict::Terminate,
                Some(site.end_at.max(now)),
                format!("{what}: it is being ended now"),
            );
        }
        if stray.machine.state == MachineState::Stopping {
            return (SweepVerdict::Leave, None, format!("{what}: it is going away already"));
        }
        let ripe_at = (stray.first_seen + grace).max(site.next_look);
        if stray.looks < 2 {
            let why = format!(
                "{what}: seen by {} looks so far; it is ended when a second one {} after the first still shows it",
                stray.looks,
                Span(grace)
            );
            return (SweepVerdict::Wait, Some(ripe_at), why);
        }
        let most = usize::from(self.config.sweep_most.max(1));
        let later = if place >= most {
            format!("; {most} are ended after one look, and {place} come before it")
        } else {
            String::new()
        };
        let why = format!("{what}: seen by {} looks, and no record explains it{later}", stray.looks);
        (SweepVerdict::Terminate, Some(ripe_at), why)
    }

    pub(crate) fn site_check(&mut self, check: SiteCheck, answering: Answering) {
        let count = check.templates.len();
        let refused = if count > TEMPLATES_MOST {
            let text = format!("site check: {count} templates; at most {TEMPLATES_MOST} at once");
            Err(Fault::new("too-large", text))
        } else {
            self.may_wait()
        };
        if let Err(fault) = refused {
            return answering.answer(Err(fault));
        }
        let Some(site) = self.sites.get(&check.site) else {
            let fault = Fault::new("no-such-site", format!("site check: there is no site {}", check.site));
            return answering.answer(Err(fault));
        };
        let (driver, permits, can) = (site.driver.clone(), site.question_permits.clone(), site.can.driver);
        self.tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let SiteCheck { site, templates } = check;
            let tried = driver.call_within(CHECK_WITHIN, "check", |iaas| async move { Ok(iaas.check(&templates).await) });
            let findings = tried.await.unwrap_or_else(|error| {
                vec![Finding {
                    what: "site".to_owned(),
                    verdict: FindingVerdict::Unknown,
                    text: error.text,
                }]
            });
            answering.answer(Answer::of(&SiteReport {
                site,
                driver: can.to_owned(),
                findings,
            }));
            Done::Answered(Vec::new())
        });
    }
}

fn spared_view(site: &Site, spared: &Spared) -> StrayView {
    let seen = site.listed_at.unwrap_or(Timestamp::START);
    let what = describe(&spared.machine);
    let (verdict, why) = match spared.why {
        Why::Adopted(instance) => (
            SweepVerdict::Adopt,
            format!("{what}: it belongs to a recorded launch and was taken in as instance {instance}"),
        ),
        Why::Elsewhere => (
            SweepVerdict::Leave,
            format!("{what}: it is, or is about to become, the machine of an instance on another site, which ends it"),
        ),
    };
    view(site, &spared.machine, seen, (verdict, None, why))
}

fn view(site: &Site, machine: &Machine, first_seen: Timestamp, what: (SweepVerdict, Option<Timestamp>, String)) -> StrayView {
    let (verdict, at, why) = what;
    StrayView {
        site: site.name.clone(),
        machine: machine.id.clone(),
        launch: machine.launch,
        index: machine.index,
        first_seen,
        verdict,
        at,
        why,
    }
}

fn describe(machine: &Machine) -> &'static str {
    match machine.state {
        MachineState::Pending => "coming up",
        MachineState::Running => "running",
        MachineState::Stopping => "going away",
        MachineState::Stopped => "stopped",
        MachineState::Gone => "gone",
    }
}
