//! Where agents reach the installation.
//!
//! Each process has a door, and every door passes on whatever an agent asks to whoever answers it. So an agent needs any one of
//! them, and is told of all: at its launch, with its context, and whenever it reports. They are those of the live members; where
//! none says its url, those of the config.

use epu_core::lease::Standing;
use epu_core::request::{DOORS_MAX, Service};

use crate::config::Addresses;

/// The doors as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Doors {
    /// All of them, without doubles; those of provisioners first, since that is who is asked first.
    pub(crate) all: Vec<String>,
    /// Those of aggregators, where heartbeats have the shortest way.
    pub(crate) aggregators: Vec<String>,
}

impl Doors {
    pub(crate) fn of(addresses: &Addresses, standing: &Standing) -> Self {
        let urls = |service: Service| -> Vec<String> { standing.of(service).filter_map(|member| member.url.clone()).collect() };
        let or = |live: Vec<String>, set: &[String]| if live.is_empty() { set.to_vec() } else { live };
        let provisioners = or(urls(Service::Provisioner), std::slice::from_ref(&addresses.provisioner));
        let aggregators = some_of(or(urls(Service::Aggregator), &addresses.aggregators));
        Self {
            all: some_of(provisioners.into_iter().chain(aggregators.iter().cloned())),
            aggregators,
        }
    }
}

fn some_of(urls: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut some: Vec<String> = Vec::new();
    for url in urls {
        if some.len() < DOORS_MAX && !url.is_empty() && !some.contains(&url) {
            some.push(url);
        }
    }
    some
}

#[cfg(test)]
mod tests {
    use epu_core::lease::Member;
    use epu_core::time::Timestamp;

    use super::*;

    fn member(name: &str, service: Service, url: Option<&str>) -> Member {
        Member {
            name: name.to_owned(),
            service,
            url: url.map(str::to_owned),
            since: Timestamp(0),
        }
    }

    #[test]
    fn the_live_members_doors_take_the_place_of_the_configured_ones() {
        let addresses = Addresses {
            provisioner: "http://set:1".to_owned(),
            aggregators: vec!["http://set:1".to_owned()],
        };
        let mut standing = Standing::default();
        let doors = Doors::of(&addresses, &standing);
        assert_eq!(
            (doors.all, doors.aggregators),
            (vec!["http://set:1".to_owned()], vec!["http://set:1".to_owned()])
        );
        standing.members = vec![
            member("a", Service::Aggregator, Some("http://a:1")),
            member("c", Service::Controller, Some("http://c:1")),
            member("p", Service::Provisioner, Some("http://p:1")),
            member("q", Service::Provisioner, None),
            member("r", Service::Provisioner, Some("http://a:1")),
        ];
        let doors = Doors::of(&addresses, &standing);
        assert_eq!(doors.all, ["http://p:1", "http://a:1"]);
        assert_eq!(doors.aggregators, ["http://a:1"]);
        standing.members = (0..40)
            .map(|n| member(&format!("m{n}"), Service::Aggregator, Some(&format!("http://a:{n}"))))
            .collect();
        assert_eq!(Doors::of(&addresses, &standing).all.len(), DOORS_MAX, "bounded");
    }
}
