//! Looking into the fake from outside, past its lags: for tests, never for what is tested.

use super::count::{Call, Report, Shown};
use super::row::Row;
use super::world::World;

impl World {
    /// Everything that was counted; with every machine when asked for.
    #[must_use]
    pub fn report(&self, with_machines: bool) -> Report {
        let mut report = Report {
            ever: u64::try_from(self.rows.len()).unwrap_or(u64::MAX),
            calls: self.counts.calls.clone(),
            errors: self.counts.errors.clone(),
            faults: self.counts.faults.clone(),
            tallies: self.counts.tallies.values().cloned().collect(),
            ..Report::default()
        };
        let doubled = report.tallies.iter().filter(|tally| tally.most > 1).count();
        report.doubled = u64::try_from(doubled).unwrap_or(u64::MAX);
        for row in self.rows.values() {
            let state = if row.times.vanished.is_some() {
                "vanished"
            } else {
                row.state.name()
            };
            *report.states.entry(state.to_owned()).or_default() += 1;
            if with_machines {
                report.machines.push(shown(row));
            }
        }
        report
    }

    /// The last calls, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Call> {
        self.counts.recent.iter().cloned().collect()
    }
}

fn shown(row: &Row) -> Shown {
    Shown {
        id: row.id.clone(),
        account: row.home.account.clone(),
        region: row.home.region.clone(),
        zone: row.spec.zone.clone(),
        instance_type: row.spec.instance_type.clone(),
        image: row.spec.image.clone(),
        market: row.spec.market().to_owned(),
        reservation: row.reservation.clone(),
        index: row.index,
        token: row.spec.token.clone(),
        installation: row.key.0.clone(),
        launch: row.key.1.clone(),
        state: row.state.name().to_owned(),
        listed: row.seen().map(|state| state.name().to_owned()),
        tags: row.tags.clone(),
        times: row.times.clone(),
        up: row.is_up,
    }
}
