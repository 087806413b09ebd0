//! The original's provisioner: nodes are instances. Those of a domain belong to its pool, those that a client asks for itself to none.

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::Failed;
use epu_bus::amqp::dashi::wire::Problem;
use epu_controller::spec;
use epu_core::Fault;
use epu_core::id::UNPOOLED;
use epu_core::id::{InstanceId, LaunchId, PoolName, TemplateName};
use epu_core::instance::{Cause, Instance, Work};
use epu_core::launch::{LaunchRequest, Wanted};
use epu_core::life::State;
use epu_core::request::{Caller, InstanceFilter, InstanceView, Nothing, Request, Teardown, Terminate};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::arguments::{Arguments, TEXT_MAX};
use super::domains::Kept;
use super::nodes::{Index, NODE, Node, Over, never_launched};
use super::problem::{self, KEY_ERROR, NOT_PERMITTED, PROVISIONING_ERROR};
use super::records::{self, own_id};
use super::{OURSELVES, Office, engines};

/// The launch of a node that was ended before it was asked for, in the original's words.
const UNKNOWN_LAUNCH: &str = "provisioner-unknown-launch";

impl Office {
    // ---- launching

    pub(super) async fn provision(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let refused = |text: &str| Failed::from(Problem::new(PROVISIONING_ERROR, text));
        for name in ["launch_id", "deployable_type", "site"] {
            if arguments.text(name).is_empty() {
                return Err(refused(&format!("{name} must not be empty")));
            }
        }
        let node_id = match arguments.value("instance_ids").as_array().map(Vec::as_slice) {
            Some([Value::String(id)]) if !id.is_empty() && id.chars().count() <= TEXT_MAX => id,
            _ => return Err(refused("instance_ids must be a list with one id, which is not empty")),
        };
        let index = Index::load(self).await?;
        let kept = match index.node(node_id) {
            Some(known) => known.clone(),
            None => {
                // An id of ours may be that of a domain's instance.
                let own = own_id(node_id);
                let recorded = self.recorded(&own.into_iter().collect::<Vec<_>>()).await?;
                if let Some(instance) = recorded.into_values().next() {
                    return self.known(caller, &index, node_id, &instance).map(|record| json!([record]));
                }
                let kept = self.new_node(caller, node_id, arguments);
                if !self.documents.put(NODE, &kept).await? {
                    // Somebody asks the same at this moment; whoever was faster launches it.
                    return Err(problem::write_conflict(format!("node {node_id} is being asked for by another request")).into());
                }
                Kept {
                    revision: kept.revision + 1,
                    ..kept
                }
            }
        };
        if kept.is.creator.as_deref().is_some_and(|creator| creator != caller) {
            return Err(not_permitted(caller, node_id));
        }
        if let Some(record) = never_launched(&kept) {
            return Ok(json!([records::with_version(record, 1)]));
        }
        if let Some(instance) = self.recorded(&[kept.is.instance]).await?.remove(&kept.is.instance) {
            return Ok(json!([self.stored(&kept, &instance)]));
        }
        self.launch(kept, arguments).await.map(|record| json!([record]))
    }

    fn new_node(&self, caller: &str, node_id: &str, arguments: &Arguments) -> Kept<Node> {
        let now = self.clock.now();
        let launch_id = arguments.text("launch_id");
        let launch = own_id(launch_id).map(|id| LaunchId(id.0));
        Kept {
            name: node_id.to_owned(),
            revision: 0,
            is: Node {
                launch_id: launch_id.to_owned(),
                instance: own_id(node_id).unwrap_or_else(|| self.random.instance(now)),
                launch: launch.unwrap_or_else(|| self.random.launch(now)),
                creator: Some(caller.to_owned()),
                deployable_type: Some(arguments.text("deployable_type").to_owned()),
                site: Some(arguments.text("site").to_owned()),
                allocation: arguments.some_text("allocation").map(str::to_owned),
                at: now,
                over: None,
            },
        }
    }

    /// Launches a node that has its document.
    async fn launch(&self, kept: Kept<Node>, arguments: &Arguments) -> Result<Value, Failed> {
        let request = match self.launch_request(&kept, arguments).await? {
            Ok(request) => request,
            Err(fault) => return self.refused(kept, &fault).await,
        };
        let asked = self
            .bus
            .ask(
                Caller::Service(OURSELVES),
                Request::Launch(Box::new(request.clone())),
                super::WITHIN,
            )
            .await;
        match asked {
            Ok(_) => {
                info!(node = kept.name, launch = %request.launch, "a node was launched for an old client");
                let recorded = self.recorded(&[kept.is.instance]).await?.remove(&kept.is.instance);
                let instance = recorded.or_else(|| {
                    let wanted = request.instances.first()?;
                    Some(request.instance(0, wanted, kept.is.at))
                });
                Ok(instance.map_or(Value::Null, |instance| self.stored(&kept, &instance)))
            }
            Err(fault) if problem::passes(&fault) => Err(problem::of_fault(&fault)),
            Err(fault) => self.refused(kept, &fault).await,
        }
    }

    /// What is asked of our own provisioner, or why it cannot be asked for.
    async fn launch_request(&self, kept: &Kept<Node>, arguments: &Arguments) -> Result<Result<LaunchRequest, Fault>, Failed> {
        let lookup = |text: String| Ok(Err(Fault::new("no-such-site", text)));
        let caller = kept.is.creator.as_deref().unwrap_or_default();
        let (type_name, site_name) = (arguments.text("deployable_type"), arguments.text("site"));
        let mut vars: BTreeMap<String, Value> = self.config.provisioner_vars.clone();
        vars.extend(arguments.mapping("vars"));
        vars.entry("node_id".to_owned()).or_insert_with(|| json!(kept.name));
        let variables = engines::variables(&vars);
        let allocation = arguments.some_text("allocation");
        let template = match self.template_of_file(type_name) {
            Some(template) => Some(template),
            None => match self.template_of_type(caller, type_name, site_name, allocation, &variables).await {
                Ok(template) => template,
                Err(failed) if failed.passing => return Err(failed),
                Err(failed) => return lookup(failed.problem.value),
            },
        };
        let Some((template, name)) = template.zip(TemplateName::new(type_name).ok()) else {
            return lookup(format!(
                "there is no template {type_name} in the config file, and {caller} has no deployable type of that name"
            ));
        };
        let Some(meant) = self.site_meant(caller, site_name).await? else {
            return lookup(format!(
                "there is no site {site_name} in the config file, and {caller} has none with credentials under names that can stand in one"
            ));
        };
        self.until_known(&meant).await;
        let template = engines::with_variables(&template, &variables);
        let wanted = Wanted {
            id: kept.is.instance,
            slot: None,
            variables: BTreeMap::new(),
        };
        let pool = match PoolName::new(UNPOOLED) {
            Ok(pool) => pool,
            Err(error) => return Ok(Err(Fault::new("internal", error.to_string()))),
        };
        Ok(Ok(LaunchRequest {
            launch: kept.is.launch,
            pool,
            site: meant.site,
            placement: None,
            purpose: epu_core::launch::Purpose::default(),
            template_version: spec::version(&name, &template),
            template,
            instances: vec![wanted],
            min: 1,
            max: None,
            epoch: 0,
        }))
    }

    /// Remembers that a node will never be, and says so to those who are told of nodes.
    async fn refused(&self, mut kept: Kept<Node>, fault: &Fault) -> Result<Value, Failed> {
        warn!(node = kept.name, %fault, "a node for an old client was not launched");
        let state = if fault.code == "closed" { State::Rejected } else { State::Failed };
        kept.is.over = Some(Over {
            state,
            desc: Some(records::fault_description(fault)),
        });
        if !self.documents.put(NODE, &kept).await? {
            return Err(problem::write_conflict(format!("node {} is being changed by another request", kept.name)).into());
        }
        let record = never_launched(&kept).unwrap_or_default();
        self.inform(&record, None);
        Ok(records::with_version(record, 1))
    }

    fn stored(&self, kept: &Kept<Node>, instance: &Instance) -> Value {
        let about = records::About {
            node_id: Some(kept.name.clone()),
            launch_id: Some(kept.is.launch_id.clone()),
            creator: kept.is.creator.clone(),
            allocation: kept.is.allocation.clone(),
            deployable_type: kept.is.deployable_type.clone(),
        };
        records::stored_node(instance, &about)
    }

    /// The record of an instance that is the caller's.
    fn known(&self, caller: &str, index: &Index, node_id: &str, instance: &Instance) -> Result<Value, Failed> {
        match index.about(self, instance) {
            Some(about) if about.creator.as_deref() == Some(caller) => Ok(records::stored_node(instance, &about)),
            Some(_) | None => Err(not_permitted(caller, node_id)),
        }
    }

    // ---- ending

    pub(super) async fn terminate_nodes(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let mut ids = arguments.texts("nodes");
        let mut seen = std::collections::BTreeSet::new();
        ids.retain(|id| !id.is_empty() && seen.insert(*id));
        let index = Index::load(self).await?;
        let instances: Vec<InstanceId> = ids.iter().filter_map(|id| index.instance_of(id)).collect();
        let recorded = self.recorded(&instances).await?;
        // All are looked at before one is ended, so that a refusal ends none.
        let mut live = Vec::new();
        let mut unknown = Vec::new();
        for id in &ids {
            match index.instance_of(id).and_then(|instance| recorded.get(&instance)) {
                Some(instance) => {
                    self.known(caller, &index, id, instance)?;
                    if instance.is_live() {
                        live.push((instance.id, Work::Unknown));
                    }
                }
                None => match index.node(id) {
                    Some(node) if node.is.creator.as_deref().is_some_and(|creator| creator != caller) => {
                        return Err(not_permitted(caller, id));
                    }
                    Some(_) => {}
                    None => unknown.push(*id),
                },
            }
        }
        for id in unknown {
            self.ended_before(id).await?;
        }
        if !live.is_empty() {
            let order = Terminate {
                instances: live,
                why: Cause::Operator,
                epoch: 0,
            };
            self.ask::<Value>(Caller::Operator(caller.to_owned()), Request::Terminate(order))
                .await?;
        }
        let index = Index::load(self).await?;
        let recorded = self.recorded(&instances).await?;
        let record = |id: &&str| {
            if let Some(instance) = index.instance_of(id).and_then(|instance| recorded.get(&instance)) {
                return Some(records::stored_node(instance, &index.about(self, instance)?));
            }
            never_launched(index.node(id)?).map(|record| records::with_version(record, 1))
        };
        Ok(ids.iter().filter_map(record).collect())
    }

    /// Remembers a node as ended that nobody asked for yet, so that a `provision` which was overtaken launches nothing.
    async fn ended_before(&self, id: &str) -> Result<(), Failed> {
        let now = self.clock.now();
        let kept = Kept {
            name: id.to_owned(),
            revision: 0,
            is: Node {
                launch_id: UNKNOWN_LAUNCH.to_owned(),
                instance: own_id(id).unwrap_or_else(|| self.random.instance(now)),
                launch: self.random.launch(now),
                creator: None,
                deployable_type: None,
                site: None,
                allocation: None,
                at: now,
                over: Some(Over {
                    state: State::Terminated,
                    desc: None,
                }),
            },
        };
        if self.documents.put(NODE, &kept).await? {
            self.inform(&never_launched(&kept).unwrap_or_default(), None);
        }
        Ok(())
    }

    pub(super) async fn terminate_all(&self) -> Result<Value, Failed> {
        let teardown = Teardown { force: true, within: None };
        let live: u64 = self
            .ask(Caller::Operator(OURSELVES.to_owned()), Request::Teardown(teardown))
            .await?;
        Ok(Value::Bool(live == 0))
    }

    pub(super) async fn enable(&self) -> Result<Value, Failed> {
        self.ask::<Value>(Caller::Operator(OURSELVES.to_owned()), Request::Open(Nothing {}))
            .await?;
        Ok(Value::Null)
    }

    // ---- looking

    pub(super) async fn describe_nodes(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let index = Index::load(self).await?;
        let named = arguments.texts("nodes");
        if named.is_empty() {
            return self.describe_all(caller, &index).await;
        }
        let instances: Vec<InstanceId> = named.iter().filter_map(|id| index.instance_of(id)).collect();
        let recorded = self.recorded(&instances).await?;
        let mut all = Vec::new();
        for id in named {
            let instance = index.instance_of(id).and_then(|instance| recorded.get(&instance));
            let about = instance.and_then(|instance| Some((instance, index.about(self, instance)?)));
            match (about, index.node(id)) {
                (Some((instance, about)), _) if about.creator.as_deref() == Some(caller) => {
                    all.push(Value::Object(records::node(instance, &about)));
                }
                // Another's, in silence.
                (Some(_), _) => {}
                (None, Some(node)) if node.is.creator.as_deref().is_none_or(|creator| creator == caller) => {
                    all.extend(never_launched(node).map(Value::Object));
                }
                (None, Some(_)) => {}
                (None, None) if instance.is_some() => {}
                (None, None) => return Err(Problem::new(KEY_ERROR, format!("'{id}'")).into()),
            }
        }
        Ok(Value::Array(all))
    }

    async fn describe_all(&self, caller: &str, index: &Index) -> Result<Value, Failed> {
        let mut all = Vec::new();
        for domain in index.domains_of(caller) {
            let filter = InstanceFilter {
                pool: Some(domain.pool.clone()),
                all: true,
            };
            let asked = self.ask(Caller::Reader(OURSELVES.to_owned()), Request::InstanceList(filter)).await;
            let views: Vec<InstanceView> = match asked {
                Ok(views) => views,
                // Forgotten meanwhile.
                Err(failed) if failed.problem.exc_type == epu_bus::amqp::dashi::wire::NOT_FOUND => Vec::new(),
                Err(failed) => return Err(failed),
            };
            let about = self.about(domain);
            all.extend(views.iter().map(|view| Value::Object(records::node(&view.instance, &about))));
        }
        let nodes: Vec<&Kept<Node>> = index.nodes_of(caller).collect();
        let instances: Vec<InstanceId> = nodes.iter().map(|kept| kept.is.instance).collect();
        let recorded = self.recorded(&instances).await?;
        for kept in nodes {
            let instance = recorded.get(&kept.is.instance);
            let record = instance.and_then(|instance| Some(records::node(instance, &index.about(self, instance)?)));
            all.extend(record.or_else(|| never_launched(kept)).map(Value::Object));
        }
        Ok(Value::Array(all))
    }

    pub(super) async fn dump_state(&self, arguments: &Arguments) -> Result<Value, Failed> {
        let named = arguments.texts("nodes");
        if named.is_empty() {
            warn!("dump_state without nodes does nothing");
            return Ok(Value::Null);
        }
        let index = Index::load(self).await?;
        let instances: Vec<InstanceId> = named.iter().filter_map(|id| index.instance_of(id)).collect();
        let recorded = self.recorded(&instances).await?;
        for id in named {
            let instance = index.instance_of(id).and_then(|instance| recorded.get(&instance));
            let record = instance.and_then(|instance| Some(records::node(instance, &index.about(self, instance)?)));
            match record.or_else(|| index.node(id).and_then(never_launched)) {
                Some(record) => self.inform(&record, arguments.some_text("force_subscribe")),
                None => warn!(node = id, "dump_state: nobody knows it"),
            }
        }
        Ok(Value::Null)
    }
}

fn not_permitted(caller: &str, node_id: &str) -> Failed {
    Problem::new(NOT_PERMITTED, format!("node {node_id} does not belong to user {caller}")).into()
}
