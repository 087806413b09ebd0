//! The sweep: machines that carry our installation's tag and that no record explains.
//!
//! One that matches a recorded launch was taken in before it comes here (`watching`). The rest are ended: after a grace, after a
//! second look, after the store has been asked too, and only a few after each look, so that a mistake is seen before it is large.
//! The tag of another installation makes a machine somebody else's: drivers do not list those.

use epu_core::id::SiteName;
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::time::Timestamp;
use tracing::warn;

use crate::iaas::{Machine, MachineState};
use crate::lifecycle::instance_at;
use crate::service::Service;
use crate::site::Stray;
use crate::turn::After;

impl Service {
    pub(crate) async fn sweep(&mut self, site: &SiteName, strays: Vec<Machine>, now: Timestamp) {
        let (grace, most) = (self.config.sweep_grace, usize::from(self.config.sweep_most));
        let Some(known) = self.sites.get_mut(site) else { return };
        let grace = *grace.unwrap_or(known.can.sweep_grace);
        known.strays.retain(|id, _| strays.iter().any(|machine| machine.id == *id));
        let mut ripe = Vec::new();
        for machine in strays {
            let stray = known.strays.entry(machine.id.clone()).or_insert_with(|| Stray {
                since: now,
                is_counted: false,
                first_seen: now,
                looks: 0,
                machine: machine.clone(),
            });
            stray.machine = machine.clone();
            stray.looks = stray.looks.saturating_add(1);
            let is_ripe = stray.looks >= 2 && now.since(stray.first_seen) >= grace && machine.state != MachineState::Stopping;
            if is_ripe && ripe.len() < most {
                ripe.push(machine);
            }
        }
        for machine in ripe {
            match self.is_recorded_live(&machine).await {
                Ok(false) => self.end_stray(site, machine, now),
                // Somebody recorded it and we did not hear of it: the book is what is wrong.
                Ok(true) => self.reload_at = Some(now),
                Err(error) => return self.not_written(&error),
            }
        }
    }

    pub(crate) async fn is_recorded_live(&self, machine: &Machine) -> Result<bool, epu_store::Error> {
        let mut id = machine.instance;
        if let (Some(launch), Some(index)) = (machine.launch, machine.index)
            && let Some(launch) = self.store.launch(launch).await?
        {
            let ids: Vec<_> = launch.request.instances.iter().map(|wanted| wanted.id).collect();
            id = instance_at(&ids, index);
        }
        let Some(id) = id else { return Ok(false) };
        // One that the book has too was looked at, and this is not its machine (nor another site's, `watching`).
        if self.book.get(id).is_some() {
            return Ok(false);
        }
        Ok(self.store.instance(id).await?.is_some_and(|instance| instance.is_live()))
    }

    fn end_stray(&mut self, site: &SiteName, machine: Machine, now: Timestamp) {
        warn!(%site, machine = %machine.id, "no record explains this machine of ours; ending it");
        self.metrics.swept.with_label_values(&[site.as_str(), "terminated"]).inc();
        let mut entry = Entry::new(
            now,
            "provisioner",
            Remembered::SweepTerminated {
                machine: machine.id.clone(),
                site: site.clone(),
            },
        );
        entry.instance = machine.instance;
        self.turn.journal.push(entry);
        // Should it still be there after another grace, it is ended again.
        if let Some(stray) = self.sites.get_mut(site).and_then(|known| known.strays.get_mut(&machine.id)) {
            stray.first_seen = now;
            stray.looks = 0;
        }
        self.later(After::EndMachine(site.clone(), machine.id));
    }
}
