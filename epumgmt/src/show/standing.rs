//! Who is there and who leads what.

use std::collections::BTreeSet;

use epu_core::Timestamp;
use epu_core::lease::{Domain, Lease, Member, Standing};
use epu_core::request::Service;

use super::{age, lines, table};
use crate::commands::Style;

/// Whether there is more to say than that one process does everything. A member is named by its service and its process.
pub(super) fn is_of_several(standing: &Standing) -> bool {
    let processes: BTreeSet<&str> = standing
        .members
        .iter()
        .filter_map(|member| Some(member.name.split_once('.')?.1))
        .collect();
    processes.len() > 1
}

/// A table of processes with what each leads, and what nobody leads.
pub(super) fn standing(standing: &Standing, now: Timestamp, style: Style) -> String {
    let mut table = table(style, &["PROCESS", "SERVICE", "UP", "LEADS", "EPOCH", "FOR"]);
    for member in &standing.members {
        let held: Vec<&Lease> = standing
            .leases
            .iter()
            .filter(|lease| lease.holder.as_deref() == Some(&member.name))
            .collect();
        let since = held.iter().map(|lease| lease.since).max();
        table.add_row(vec![
            member.name.clone(),
            member.service.name().to_owned(),
            age(now.since(member.since)),
            leads(member, &held),
            epochs(&held),
            since.map_or_else(|| "-".to_owned(), |since| age(now.since(since))),
        ]);
    }
    let free = |service: Service| {
        let all = Domain::all(service);
        let free = all.iter().filter(|domain| standing.leader(**domain).is_none()).count();
        (free, all.len())
    };
    let mut text = lines(&table);
    for service in [Service::Provisioner, Service::Controller] {
        match free(service) {
            (0, _) => {}
            (all, total) if all == total => text.push_str(&format!("NOBODY leads as {}\n", service.name())),
            (some, total) => text.push_str(&format!("NOBODY leads {some} of {total} shares of {}s\n", service.name())),
        }
    }
    text
}

fn leads(member: &Member, held: &[&Lease]) -> String {
    match (member.service, held.len()) {
        (Service::Aggregator, _) => "-".to_owned(),
        (_, 0) => "nothing, stands by".to_owned(),
        (Service::Provisioner, _) => "all sites".to_owned(),
        (Service::Controller, shards) => format!("{shards} of {} shares of pools", epu_core::lease::SHARDS),
    }
}

fn epochs(held: &[&Lease]) -> String {
    let epochs = || held.iter().map(|lease| lease.epoch);
    match (epochs().min(), epochs().max()) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, service: Service) -> Member {
        Member {
            name: name.to_owned(),
            service,
            url: None,
            since: Timestamp(60_000),
        }
    }

    fn lease(domain: Domain, holder: Option<&str>, epoch: u64) -> Lease {
        Lease {
            name: domain.name().into(),
            holder: holder.map(Into::into),
            epoch,
            since: Timestamp(90_000),
        }
    }

    #[test]
    fn who_leads_what_since_when_and_what_nobody_leads() {
        let mut leases = vec![lease(Domain::Provisioner, Some("provisioner.b-1"), 7)];
        leases.extend((0..60).map(|n| lease(Domain::Shard(n), Some("controller.a-2"), if n == 0 { 3 } else { 2 })));
        leases.push(lease(Domain::Shard(60), None, 9));
        let members = vec![
            member("aggregator.a-3", Service::Aggregator),
            member("controller.a-2", Service::Controller),
            member("provisioner.a-1", Service::Provisioner),
            member("provisioner.b-1", Service::Provisioner),
        ];
        let leases = leases.into();
        let shown = standing(&Standing { members, leases }, Timestamp(100_000), Style::default());
        insta::assert_snapshot!(shown, @r"
        PROCESS          SERVICE      UP   LEADS                     EPOCH   FOR
        aggregator.a-3   aggregator   40s  -                         -       -
        controller.a-2   controller   40s  60 of 64 shares of pools  2 to 3  10s
        provisioner.a-1  provisioner  40s  nothing, stands by        -       -
        provisioner.b-1  provisioner  40s  all sites                 7       10s
        NOBODY leads 4 of 64 shares of controllers
        ");
    }

    #[test]
    fn one_process_needs_no_table() {
        let one = vec![
            member("controller.a-1-ff", Service::Controller),
            member("provisioner.a-1-ff", Service::Provisioner),
        ];
        assert!(!is_of_several(&Standing {
            members: one,
            leases: [].into()
        }));
        let two = vec![
            member("controller.a-1-ff", Service::Controller),
            member("provisioner.a-2-ee", Service::Provisioner),
        ];
        assert!(is_of_several(&Standing {
            members: two,
            leases: [].into()
        }));
    }
}
