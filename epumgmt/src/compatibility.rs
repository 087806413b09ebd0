//! Answers for Python clients of the original EPU: its services `provisioner`, `epu_management_service` and `dtrs` over the wire of dashi 0.3.
//!
//! One mapping a service ([`management`], [`provisioning`], [`dtrs`]) onto what is natively asked over the bus, and no second model: a domain is a pool of its
//! owner, a node is an instance. What has no native place (whose a domain is under which name, its configuration as it was given, who subscribed,
//! which names a client gave to nodes) is kept as documents in the store ([`domains`], [`nodes`]). Nothing that matters is in memory, so any
//! number of processes may do this at once; they share the messages.
//!
//! | part | what it does |
//! |---|---|
//! | [`table`] | every operation with its arguments: what is dispatched by, and the reference `docs/wire-compatibility.md` |
//! | [`arguments`] | binds arguments as Python does |
//! | [`engines`] | a domain's configuration to a pool's settings; pure |
//! | [`records`] | instances in the original's words; pure |
//! | [`telling`] | subscribers and `instance_info`, driven by the facts of the provisioner |
//!
//! **Trust.** A message on this wire carries no identity that anybody has checked: `caller` is what its sender says. It is honoured for each
//! object (a domain of another is not found, a node of another is not described and not ended), within the rights that the config gives to callers
//! and to operations without one. Whoever must be kept from more than that must be kept from publishing to the exchange, by the broker's rights.

mod arguments;
pub(crate) mod config;
mod domains;
mod dtrs;
mod engines;
mod heartbeats;
mod management;
mod nodes;
mod problem;
mod provisioning;
mod records;
pub(crate) mod reference;
mod retiring;
mod sections;
pub(crate) mod table;
mod telling;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::Bus;
use epu_bus::amqp::dashi::wire::{Asked, Problem};
use epu_bus::amqp::dashi::{Dashi, Failed, Fire, Handler, Served};
use epu_controller::service::FileConfig;
use epu_core::SiteName;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Request};
use epu_core::time::Clock;
use epu_provisioner::iaas::spec::SiteSpec;
use epu_store::Store;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use arguments::Arguments;
use config::{Compatibility, Role};
use domains::{Documents, Kept};
use problem::NOT_PERMITTED;
use table::{Op, Operation, Whose};

/// Longest time for one native request. The original's clients wait 5 to 60 s.
const WITHIN: Duration = Duration::from_secs(10);
/// Who we are to our own services.
const OURSELVES: &str = "dashi";

/// Everything that is needed.
pub(crate) struct Parts {
    /// The wire.
    pub dashi: Arc<Dashi>,
    /// How our own services are asked.
    pub bus: Arc<dyn Bus>,
    /// Where documents are kept.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// For ids of nodes that clients name otherwise.
    pub random: Arc<Random>,
    /// What the config file says.
    pub config: Compatibility,
    /// Where secrets are kept that clients send.
    pub data_dir: PathBuf,
    /// The sites of the config file.
    pub sites: BTreeMap<SiteName, SiteSpec>,
    /// Templates and sites, as the config file has them now.
    pub file: watch::Receiver<Arc<FileConfig>>,
}

/// Answers until cancelled.
pub(crate) async fn run(parts: Parts, cancel: CancellationToken) {
    let dashi = parts.dashi.clone();
    let office = Arc::new(Office {
        outlet: parts.dashi,
        bus: parts.bus,
        documents: Documents::new(parts.store),
        clock: parts.clock,
        random: parts.random,
        config: parts.config,
        registry: dtrs::Registry::in_directory(&parts.data_dir),
        sites: parts.sites,
        file: parts.file,
    });
    let services = office.config.services.iter().map(|role| Served {
        topic: office.name_of(*role).to_owned(),
        handler: Arc::new(Desk {
            role: *role,
            office: office.clone(),
        }),
    });
    let services: Vec<Served> = services.collect();
    info!(
        exchange = office.config.names().exchange(),
        services = services.len(),
        "old clients are answered; they are taken for who they say they are"
    );
    tokio::join!(
        dashi.run(services, cancel.clone()),
        office.begin_with_definitions(&cancel),
        telling::run(&office, &cancel),
        office.keep_registry(&cancel),
    );
}

/// Where messages to peers go.
pub(crate) trait Outlet: Send + Sync {
    /// Sends without waiting; false when it is dropped.
    fn fire(&self, fire: Fire) -> bool;
}

impl Outlet for Dashi {
    fn fire(&self, fire: Fire) -> bool {
        Dashi::fire(self, fire)
    }
}

/// What all parts share.
pub(crate) struct Office {
    outlet: Arc<dyn Outlet>,
    bus: Arc<dyn Bus>,
    documents: Documents,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    config: Compatibility,
    registry: dtrs::Registry,
    sites: BTreeMap<SiteName, SiteSpec>,
    file: watch::Receiver<Arc<FileConfig>>,
}

impl Office {
    /// What clients call a service.
    fn name_of(&self, role: Role) -> &str {
        match role {
            Role::Provisioner => &self.config.provisioner_name,
            Role::EpuManagement => &self.config.management_name,
            Role::Dtrs => &self.config.dtrs_name,
        }
    }

    /// Asks one of our own services.
    async fn ask<T: for<'de> Deserialize<'de>>(&self, caller: Caller, request: Request) -> Result<T, Failed> {
        let answer: Answer = self
            .bus
            .ask(caller, request, WITHIN)
            .await
            .map_err(|fault| problem::of_fault(&fault))?;
        answer.read().map_err(|fault| problem::of_fault(&fault))
    }

    /// A caller to our own services who owns what is his.
    fn owner(caller: &str) -> Caller {
        Caller::OwnersOperator(caller.to_owned(), vec![caller.to_owned()])
    }

    /// Who asks, after looking at whether he may; empty for everybody.
    fn admitted(&self, operation: &Operation, caller: Option<&str>) -> Result<String, Problem> {
        let not = |text: String| Problem::new(NOT_PERMITTED, text);
        let for_everybody = match operation.whose {
            Whose::Nobody => true,
            Whose::Caller => false,
            Whose::CallerOrEverybody => caller.is_none(),
        };
        if for_everybody {
            if self.config.without_caller >= operation.right {
                return Ok(String::new());
            }
            return Err(not(format!("{} is not permitted here", operation.name)));
        }
        let caller = caller.or(self.config.default_user.as_deref());
        let caller = caller.ok_or_else(|| not(format!("{}: no caller is named and there is no default user", operation.name)))?;
        if self.config.right_of(caller) >= operation.right {
            Ok(caller.to_owned())
        } else {
            Err(not(format!("user {caller} is not permitted to {} here", operation.name)))
        }
    }

    /// Sends a node record to everyone who is to have them, and to `also`.
    fn inform(&self, record: &Map<String, Value>, also: Option<&str>) {
        let others = also.filter(|also| !self.config.instance_info_to.iter().any(|to| to == also));
        for to in self.config.instance_info_to.iter().map(String::as_str).chain(others) {
            self.outlet.fire(Fire {
                from: self.config.provisioner_name.clone(),
                to: to.to_owned(),
                op: "instance_info".to_owned(),
                args: Map::from_iter([("record".to_owned(), Value::Object(record.clone()))]),
            });
        }
    }

    /// Keeps what the dtrs makes in step, where that is answered for here.
    async fn keep_registry(&self, cancel: &CancellationToken) {
        if self.config.services.contains(&Role::Dtrs) {
            dtrs::run(self, cancel).await;
        }
    }

    /// Puts the config's definitions where clients find them. Those that are there stay as they are: a client may have changed them.
    async fn begin_with_definitions(&self, cancel: &CancellationToken) {
        for (name, definition) in &self.config.definitions {
            let kept = Kept {
                name: name.clone(),
                revision: 0,
                is: definition.clone(),
            };
            while let Err(failed) = self.documents.put_definition(&kept).await {
                warn!(definition = name, problem = %failed.problem, "the config's definition could not be kept; trying again");
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(WITHIN) => {}
                }
            }
        }
    }
}

/// One service of the original.
struct Desk {
    role: Role,
    office: Arc<Office>,
}

#[async_trait]
impl Handler for Desk {
    async fn handle(&self, asked: Asked) -> Result<Value, Failed> {
        let operation = table::find(self.role, &asked.op).ok_or_else(|| Problem::unknown_operation(&asked.op))?;
        let arguments = Arguments::bind(operation, asked.args)?;
        let office = &*self.office;
        let caller = office.admitted(operation, arguments.caller.as_deref())?;
        match operation.op {
            Op::Provision => office.provision(&caller, &arguments).await,
            Op::TerminateNodes => office.terminate_nodes(&caller, &arguments).await,
            Op::TerminateAll => office.terminate_all().await,
            Op::Enable => office.enable().await,
            Op::DescribeNodes => office.describe_nodes(&caller, &arguments).await,
            Op::DumpState => office.dump_state(&arguments).await,
            Op::AddDomain => office.add_domain(&caller, &arguments).await,
            Op::RemoveDomain => office.remove_domain(&caller, &arguments).await,
            Op::ReconfigureDomain => office.reconfigure_domain(&caller, &arguments).await,
            Op::ListDomains => office.list_domains(&caller).await,
            Op::DescribeDomain => office.describe_domain(&caller, &arguments).await,
            Op::SubscribeDomain => office.subscribe(&caller, &arguments).await,
            Op::UnsubscribeDomain => office.unsubscribe(&caller, &arguments).await,
            Op::AddDefinition => office.add_definition(&arguments).await,
            Op::UpdateDefinition => office.update_definition(&arguments).await,
            Op::RemoveDefinition => office.remove_definition(&arguments).await,
            Op::ListDefinitions => office.list_definitions().await,
            Op::DescribeDefinition => office.describe_definition(&arguments).await,
            Op::OuHeartbeat => office.ou_heartbeat(&arguments).await,
            Op::InstanceInfo => Ok(Value::Null),
            Op::AddType => office.add_type(&caller, &arguments).await,
            Op::UpdateType => office.update_type(&caller, &arguments).await,
            Op::DescribeType => office.describe_type(&caller, &arguments).await,
            Op::RemoveType => office.remove_type(&caller, &arguments).await,
            Op::ListTypes => office.list_types(&caller).await,
            Op::AddSite => office.add_site(&caller, &arguments).await,
            Op::UpdateSite => office.update_site(&caller, &arguments).await,
            Op::DescribeSite => office.describe_site(&caller, &arguments).await,
            Op::RemoveSite => office.remove_site(&caller, &arguments).await,
            Op::ListSites => office.list_sites(&caller).await,
            Op::AddCredentials => office.add_credentials(&caller, &arguments).await,
            Op::UpdateCredentials => office.update_credentials(&caller, &arguments).await,
            Op::DescribeCredentials => office.describe_credentials(&caller, &arguments).await,
            Op::RemoveCredentials => office.remove_credentials(&caller, &arguments).await,
            Op::ListCredentials => office.list_credentials(&caller, &arguments).await,
            Op::Lookup => office.lookup(&caller, &arguments).await,
        }
    }

    fn in_order(&self, op: &str) -> bool {
        table::find(self.role, op).is_none_or(|operation| operation.in_order)
    }
}
