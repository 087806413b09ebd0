//! Shrinking a domain by the instances that its user named.
//!
//! The process dispatcher of the original lowers `preserve_n` and names in `retirable_nodes` the machines that have nothing to do any more. A pool
//! chooses its own victims, so for the time of that step the others are protected from being chosen; they are released when the named
//! ones are on their way, or after [`SHIELD_MOST`]. Which they are stands in the domain's document before any is protected, so that whoever comes
//! after us releases them. An instance that was protected by somebody else stays so.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_bus::amqp::dashi::Failed;
use epu_core::PoolName;
use epu_core::id::InstanceId;
use epu_core::request::{Caller, InstanceFilter, InstanceView, Protect, Request};
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::debug;

use super::domains::{Domain, Kept};
use super::engines::Engine;
use super::records::own_id;
use super::sections::Sections;
use super::{OURSELVES, Office};

/// How long instances are protected at the most. Too low: a pool that may not shrink yet chooses others in the end. Too high: one whose named
/// instances do not go is held up.
const SHIELD_MOST: Duration = Duration::from_secs(120);

/// How often to look whether the controller knows whom to spare.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many times. Too low: others are chosen when facts are slow. Too high: the client's call times out.
const LOOKS: usize = 60;

/// Instances that are protected so that others are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shield {
    /// The protected ones.
    pub protected: Vec<InstanceId>,
    /// Those that are to go.
    pub retired: Vec<InstanceId>,
    /// Since when.
    pub since: Timestamp,
}

impl Office {
    /// Whom to protect so that a domain with this configuration shrinks by those that it names; none when the pool may choose.
    pub(super) async fn shield(&self, domain: &Domain, merged: &Sections) -> Result<Option<Shield>, Failed> {
        let named = merged.engine_conf.get("retirable_nodes").and_then(Value::as_array);
        let named: BTreeSet<InstanceId> = named.into_iter().flatten().filter_map(Value::as_str).filter_map(own_id).collect();
        let n = merged.engine_conf.get("preserve_n").and_then(Value::as_u64);
        let (Some(n), false, Ok(Engine::Needy)) = (n, named.is_empty(), Engine::of(merged)) else {
            return Ok(None);
        };
        let staying = self.staying(&domain.pool).await?;
        let surplus = staying.len().saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
        let may_go = |view: &&InstanceView| named.contains(&view.instance.id) && view.instance.slot.is_none();
        let retired: Vec<InstanceId> = staying.iter().filter(may_go).take(surplus).map(|view| view.instance.id).collect();
        if retired.is_empty() {
            return Ok(None);
        }
        let others = staying
            .iter()
            .filter(|view| !view.instance.protected && !retired.contains(&view.instance.id));
        Ok(Some(Shield {
            protected: others.map(|view| view.instance.id).collect(),
            retired,
            since: self.clock.now(),
        }))
    }

    /// Protects them.
    pub(super) async fn raise(&self, domain: &Domain, shield: &Shield) -> Result<(), Failed> {
        if shield.protected.is_empty() {
            return Ok(());
        }
        let protect = Protect {
            instances: shield.protected.clone(),
            on: true,
        };
        self.ask::<Value>(Caller::Operator(domain.owner.clone()), Request::Protect(protect))
            .await?;
        // The controller hears of it by a fact; what it is asked next could be there before that.
        for _ in 0..LOOKS {
            let staying = self.staying(&domain.pool).await?;
            let open = |view: &InstanceView| shield.protected.contains(&view.instance.id) && !view.instance.protected;
            if !staying.iter().any(open) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Releases those that a domain has protected, and forgets that it had.
    pub(super) async fn lower(&self, kept: &mut Kept<Domain>) -> Result<bool, Failed> {
        let Some(shield) = kept.is.shield.take() else { return Ok(true) };
        // One by one: a list with one that has ended is refused as a whole.
        for id in shield.protected {
            let protect = Protect {
                instances: vec![id],
                on: false,
            };
            match self
                .ask::<Value>(Caller::Operator(kept.is.owner.clone()), Request::Protect(protect))
                .await
            {
                Ok(_) => {}
                Err(failed) if failed.passing => return Err(failed),
                Err(failed) => debug!(instance = %id, problem = %failed.problem, "it needs no release"),
            }
        }
        let put = self.documents.put_domain(kept).await?;
        if put {
            kept.revision += 1;
        }
        Ok(put)
    }

    /// Releases whoever needs no protection any more.
    pub(super) async fn lower_all(&self) -> Result<(), Failed> {
        for mut kept in self.documents.domains().await? {
            let Some(shield) = &kept.is.shield else { continue };
            let recorded = self.recorded(&shield.retired).await?;
            let gone = recorded.values().all(|instance| !instance.is_live() || instance.is_leaving());
            if gone || self.clock.now().since(shield.since) > SHIELD_MOST {
                // Changed by somebody else meanwhile: it is looked at again.
                self.lower(&mut kept).await?;
            }
        }
        Ok(())
    }

    /// Live instances that nobody told to go.
    async fn staying(&self, pool: &PoolName) -> Result<Vec<InstanceView>, Failed> {
        let filter = InstanceFilter {
            pool: Some(pool.clone()),
            all: false,
        };
        let mut all: Vec<InstanceView> = self
            .ask(Caller::Reader(OURSELVES.to_owned()), Request::InstanceList(filter))
            .await?;
        all.retain(|view| view.instance.is_live() && !view.instance.is_leaving());
        Ok(all)
    }
}
