//! Where one process meets the others and the sites: the same bus and drivers as the rest of the world has, behind the process's
//! [`Gate`]. Tasks that a process started beside its main one are held and end here with it, and the moments around what others can see
//! of it are those at which it may die. The store's side of it is [`crate::ledger::Line`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::{Bus, Calls, Facts};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::id::InstanceId;
use epu_core::request::{Answer, BucketView, Caller, Finding, NamedTemplate, Request, Service};
use epu_core::time::Timestamp;
use epu_provisioner::iaas::{Admission, Capabilities, Iaas, IaasError, IaasLaunch, Machine, MachineState};

use crate::pausable::{Edge, Gate, Side};

/// The bus as one process has it.
pub struct Wire {
    bus: Arc<dyn Bus>,
    gate: Gate,
}

impl Wire {
    /// This bus, behind this gate.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, gate: Gate) -> Self {
        Self { bus, gate }
    }
}

#[async_trait]
impl Bus for Wire {
    fn tell(&self, fact: Fact) {
        // It does not wait, so what a held process's tasks tell gets out.
        if self.gate.meet(Edge::Tell, Side::Before) {
            self.bus.tell(fact);
            // Whoever dies here notices when it next waits.
            let _lives = self.gate.meet(Edge::Tell, Side::After);
        }
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.gate.pass(Edge::Tell, Side::Before).await;
        let answer = self.bus.ask(caller, request, within).await;
        self.gate.pass(Edge::Tell, Side::After).await;
        answer
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.gate.pass(Edge::Tell, Side::Before).await;
        let answer = self.bus.ask_member(member, caller, request, within).await;
        self.gate.pass(Edge::Tell, Side::After).await;
        answer
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        self.bus.listen(kinds)
    }

    fn serve(&self, service: Service) -> Calls {
        self.bus.serve(service)
    }

    fn serve_member(&self, member: &str) -> Calls {
        self.bus.serve_member(member)
    }

    fn in_touch(&self) -> Result<(), Fault> {
        self.bus.in_touch()
    }
}

/// A site as one process has it.
pub struct Driver {
    site: Arc<dyn Iaas>,
    gate: Gate,
}

impl Driver {
    /// This site, behind this gate.
    #[must_use]
    pub fn new(site: Arc<dyn Iaas>, gate: Gate) -> Self {
        Self { site, gate }
    }
}

#[async_trait]
impl Iaas for Driver {
    fn capabilities(&self) -> Capabilities {
        self.site.capabilities()
    }

    fn refuses_whole(&self) -> bool {
        self.site.refuses_whole()
    }

    async fn admit(&self, call: Admission) {
        self.gate.wait().await;
        self.site.admit(call).await;
        self.gate.wait().await;
    }

    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        self.site.standing()
    }

    async fn identity(&self) -> Result<Option<String>, IaasError> {
        self.gate.wait().await;
        let answer = self.site.identity().await;
        self.gate.wait().await;
        answer
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        self.gate.pass(Edge::Call, Side::Before).await;
        let answer = self.site.launch(launch).await;
        self.gate.pass(Edge::Call, Side::After).await;
        answer
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        self.gate.pass(Edge::Call, Side::Before).await;
        let answer = self.site.terminate(machines).await;
        self.gate.pass(Edge::Call, Side::After).await;
        answer
    }

    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        self.gate.wait().await;
        let answer = self.site.list().await;
        self.gate.wait().await;
        answer
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        self.gate.wait().await;
        let answer = self.site.describe(machines).await;
        self.gate.wait().await;
        answer
    }

    async fn output(&self, instance: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        self.gate.wait().await;
        self.site.output(instance, machine, lines).await
    }

    async fn check(&self, templates: &[NamedTemplate]) -> Vec<Finding> {
        self.gate.wait().await;
        self.site.check(templates).await
    }

    async fn tidy(&self, before: Timestamp) -> Result<u32, IaasError> {
        self.gate.wait().await;
        self.site.tidy(before).await
    }
}
