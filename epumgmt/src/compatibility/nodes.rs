//! Nodes that clients asked for by `provision`: what they were called, by whom, and what became of those that were never launched.
//!
//! A node's document is written before it is launched, so that the same request again finds the same instance. It is forgotten some time after
//! the record of its instance is ([`super::telling`] tidies).

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::Failed;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::life::State;
use epu_core::request::{Caller, Ids, Request};
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::domains::{Domain, Kept};
use super::records::{self, About, own_id};
use super::{OURSELVES, Office};

/// The kind of a node's document.
pub(super) const NODE: &str = "dashi-node";
/// Most ids in one native question.
const IDS_MOST: usize = 1_000;

/// A node that a client asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    /// What the client called its launch.
    pub launch_id: String,
    /// Its instance.
    pub instance: InstanceId,
    /// Its launch.
    pub launch: LaunchId,
    /// Whose it is; none for one that was ended before it was asked for.
    pub creator: Option<String>,
    /// Its template.
    #[serde(default)]
    pub deployable_type: Option<String>,
    /// Its site.
    #[serde(default)]
    pub site: Option<String>,
    /// The size that was asked for.
    #[serde(default)]
    pub allocation: Option<String>,
    /// When it was asked for.
    pub at: Timestamp,
    /// That it was never launched, and why.
    #[serde(default)]
    pub over: Option<Over>,
}

/// How it ended before it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Over {
    /// The state it is shown in.
    pub state: State,
    /// Why.
    pub desc: Option<String>,
}

impl Node {
    fn about(&self, node_id: &str) -> About {
        About {
            node_id: Some(node_id.to_owned()),
            launch_id: Some(self.launch_id.clone()),
            creator: self.creator.clone(),
            allocation: self.allocation.clone(),
            deployable_type: self.deployable_type.clone(),
        }
    }
}

/// Who is who, as the documents have it at one moment.
pub(super) struct Index {
    nodes: BTreeMap<String, Kept<Node>>,
    names: BTreeMap<InstanceId, String>,
    domains: BTreeMap<PoolName, Domain>,
}

impl Index {
    pub(super) async fn load(office: &Office) -> Result<Self, Failed> {
        let nodes: Vec<Kept<Node>> = office.documents.all(NODE).await?;
        let domains = office.documents.domains().await?;
        Ok(Self {
            names: nodes.iter().map(|kept| (kept.is.instance, kept.name.clone())).collect(),
            nodes: nodes.into_iter().map(|kept| (kept.name.clone(), kept)).collect(),
            domains: domains.into_iter().map(|kept| (kept.is.pool.clone(), kept.is)).collect(),
        })
    }

    /// A node by the name that its client gave it.
    pub(super) fn node(&self, node_id: &str) -> Option<&Kept<Node>> {
        self.nodes.get(node_id)
    }

    /// Every node of somebody.
    pub(super) fn nodes_of<'a>(&'a self, caller: &'a str) -> impl Iterator<Item = &'a Kept<Node>> {
        self.nodes.values().filter(move |kept| kept.is.creator.as_deref() == Some(caller))
    }

    /// Every domain of somebody.
    pub(super) fn domains_of<'a>(&'a self, caller: &'a str) -> impl Iterator<Item = &'a Domain> {
        self.domains.values().filter(move |domain| domain.owner == caller)
    }

    /// Which instance a client's name stands for.
    pub(super) fn instance_of(&self, node_id: &str) -> Option<InstanceId> {
        self.nodes.get(node_id).map(|kept| kept.is.instance).or_else(|| own_id(node_id))
    }

    /// What is known of an instance beside its record; nothing of one that old clients have no part in.
    pub(super) fn about(&self, office: &Office, instance: &Instance) -> Option<About> {
        if let Some(name) = self.names.get(&instance.id) {
            return self.nodes.get(name).map(|kept| kept.is.about(name));
        }
        self.domains.get(&instance.pool).map(|domain| office.about(domain))
    }
}

/// The record of a node that was never launched; none when it was.
pub(super) fn never_launched(kept: &Kept<Node>) -> Option<Map<String, Value>> {
    let over = kept.is.over.as_ref()?;
    let node = &kept.is;
    let mut record = records::stub(
        &kept.name,
        &node.launch_id,
        over.state,
        over.desc.as_deref(),
        node.creator.as_deref(),
        node.at,
    );
    if node.creator.is_some() {
        record.insert("site".to_owned(), node.site.clone().into());
        record.insert("allocation".to_owned(), node.allocation.clone().into());
    }
    Some(record)
}

impl Office {
    /// Instances as they are recorded, by id; those that nobody knows are not there.
    pub(super) async fn recorded(&self, ids: &[InstanceId]) -> Result<BTreeMap<InstanceId, Instance>, Failed> {
        let mut found = BTreeMap::new();
        for page in ids.chunks(IDS_MOST) {
            let ids = Ids {
                instances: page.to_vec(),
                epoch: 0,
            };
            let page: Vec<Instance> = self.ask(Caller::Reader(OURSELVES.to_owned()), Request::Records(ids)).await?;
            found.extend(page.into_iter().map(|instance| (instance.id, instance)));
        }
        Ok(found)
    }
}
