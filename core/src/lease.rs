//! Who leads what: members, leases with epochs, and how leases are spread.
//!
//! A **member** is one running process of a service. A **lease** is the sole right to act for something, for a while: `provisioner`
//! (the sites) or one of [`SHARDS`] shards of pools, such as `controller/17`. Every time a lease gets another holder its **epoch**
//! grows, and whatever acts under an epoch that is over is refused where it is recorded. Whether a lease is over is judged by the
//! store's clock alone; a holder stops sooner, by its own.
//!
//! Shards are spread by rendezvous hashing: each goes to the live member with the highest hash of both names, so that everybody
//! who knows the members comes to the same answer, and a member that goes moves only its own shards.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::PoolName;
use crate::request::Service;
use crate::time::{Span, Timestamp};

/// Into how many parts the pools are divided. Never changed: an epoch belongs to a shard. Fewer: copies share unevenly. More: longer
/// renewals.
pub const SHARDS: u16 = 64;

const PROVISIONER: &str = "provisioner";
/// Made once: every member goes through all of them with every renewal.
static SHARD_NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..SHARDS).map(|shard| format!("controller/{shard}")).collect());

/// What is led by one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// Launching, watching and ending instances.
    Provisioner,
    /// Deciding for the pools of one shard, from 0.
    Shard(u16),
}

impl Domain {
    /// The one that a pool belongs to.
    #[must_use]
    pub fn of(pool: &PoolName) -> Self {
        let shard = u16::try_from(hash(&[pool.as_str()]) % u64::from(SHARDS)).unwrap_or_default();
        Self::Shard(shard)
    }

    /// Its name in the store and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisioner => PROVISIONER,
            Self::Shard(shard) => SHARD_NAMES.get(usize::from(shard)).map_or("controller", String::as_str),
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if name == PROVISIONER {
            return Some(Self::Provisioner);
        }
        let shard = name.strip_prefix("controller/")?.parse().ok()?;
        (shard < SHARDS).then_some(Self::Shard(shard))
    }

    /// Everything that members of a service share out among themselves.
    #[must_use]
    pub fn all(service: Service) -> Vec<Self> {
        match service {
            Service::Provisioner => vec![Self::Provisioner],
            Service::Controller => (0..SHARDS).map(Self::Shard).collect(),
            Service::Aggregator => Vec::new(),
        }
    }
}

/// Its name.
impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One running process of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Its name, another one at each start.
    pub name: String,
    /// What it is.
    pub service: Service,
    /// Where agents reach it, as `http://host:port`; none when they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Since when it has been there.
    pub since: Timestamp,
}

impl Member {
    /// Whether its service leads anything. Aggregators listen, all of them at once.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.service != Service::Aggregator
    }
}

/// The right to act for something, until it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// For what: the name of a [`Domain`].
    pub name: Cow<'static, str>,
    /// Which member has it; none when nobody has, or its time is over by the store's clock.
    pub holder: Option<Arc<str>>,
    /// Grows with every change of the holder; 0 when there never was one.
    pub epoch: u64,
    /// Since when the holder has it.
    pub since: Timestamp,
}

/// A leadership term, as whoever acts under it says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// For what.
    pub domain: Domain,
    /// Which one.
    pub epoch: u64,
}

impl fmt::Display for Term {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at epoch {}", self.domain, self.epoch)
    }
}

/// What a member asks of the store now and then, all in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Who asks; it counts as alive for `lasts` from now.
    pub member: Member,
    /// What it wants to have, each once: what it has of these is renewed, and what nobody has is taken. What it has beside these is given
    /// back.
    pub want: Arc<[Domain]>,
    /// For how long.
    pub lasts: Span,
}

/// Who is there and who leads what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// Live members of every service, by name.
    pub members: Vec<Member>,
    /// Every lease there ever was, by name. As long as nothing moves a store may give the very same ones again and again.
    pub leases: Arc<[Lease]>,
}

impl Standing {
    /// The lease for something.
    #[must_use]
    pub fn lease(&self, domain: Domain) -> Option<&Lease> {
        let name = domain.name();
        self.leases.iter().find(|lease| lease.name == name)
    }

    /// Who leads it now.
    #[must_use]
    pub fn leader(&self, domain: Domain) -> Option<&str> {
        self.lease(domain)?.holder.as_deref()
    }

    /// Live members of a service.
    pub fn of(&self, service: Service) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.service == service)
    }
}

/// What falls to `me` of a service's share when these are its live members.
#[must_use]
pub fn share<'a>(service: Service, me: &str, members: impl Iterator<Item = &'a str>) -> BTreeSet<Domain> {
    let mut members: BTreeSet<&str> = members.collect();
    members.insert(me);
    let falls_to = |domain: &Domain| {
        let name = domain.name();
        members.iter().copied().max_by_key(|member| (hash(&[member, name]), *member))
    };
    let mut all = Domain::all(service);
    all.retain(|domain| falls_to(domain) == Some(me));
    all.into_iter().collect()
}

/// Of all parts, each told from the next.
fn hash(parts: &[&str]) -> u64 {
    crate::hash::hash(parts.iter().flat_map(|part| part.bytes().chain([0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(members: &[&str]) -> Vec<BTreeSet<Domain>> {
        members
            .iter()
            .map(|me| share(Service::Controller, me, members.iter().copied()))
            .collect()
    }

    /// An epoch belongs to a shard, so a pool must stay in its own whatever the release.
    #[test]
    fn a_pool_stays_in_its_shard_for_ever() {
        for (pool, shard) in [("web", 38), ("jobs", 59), ("a", 37)] {
            assert_eq!(Domain::of(&PoolName::new(pool).unwrap()), Domain::Shard(shard), "{pool}");
        }
    }

    #[test]
    fn names_and_domains_are_one() {
        for domain in Domain::all(Service::Controller).into_iter().chain([Domain::Provisioner]) {
            assert_eq!(Domain::named(&domain.to_string()), Some(domain));
        }
        assert_eq!(Domain::named("controller/64"), None);
        assert_eq!(Domain::named("aggregator"), None);
    }

    #[test]
    fn every_shard_falls_to_exactly_one_and_to_all_alike() {
        for members in [&["a"][..], &["a", "b"], &["one", "two", "three", "four", "five"]] {
            let shares = shares(members);
            let all: usize = shares.iter().map(BTreeSet::len).sum();
            let distinct: BTreeSet<Domain> = shares.iter().flatten().copied().collect();
            assert_eq!((all, distinct.len()), (usize::from(SHARDS), usize::from(SHARDS)));
            let least = shares.iter().map(BTreeSet::len).min().unwrap();
            assert!(
                least * members.len() * 3 >= usize::from(SHARDS),
                "{members:?}: one has only {least}"
            );
        }
    }

    #[test]
    fn who_goes_moves_only_its_own_shards() {
        let before = shares(&["a", "b", "c"]);
        let after = shares(&["a", "c"]);
        assert!(before[0].is_subset(&after[0]) && before[2].is_subset(&after[1]));
    }
}
