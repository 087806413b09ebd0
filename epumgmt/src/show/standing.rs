//! Who is there and who leads what.

use epu_core::Timestamp;
use epu_core::lease::{Domain, Lease, Member, Standing};
use epu_core::request::Service;

use super::{age, lines, table};
use crate::commands::Style;

/// A table of processes with what each leads, and what nobody leads.
pub(super) fn standing(standing: &Standing, now: Timestamp, style: Style) -> String {
    let mut table = table(style, &["PROCESS", "SERVICE", "UP", "LEADS", "EPOCH", "FOR"]);
    for member in &standing.members {
        let held: Vec<&Lease> = standing
            .leases
            .iter()
            .filter(|lease| lease.is_held() && lease.holder.as_ref() == Some(&member.name))
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
