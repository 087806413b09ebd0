//! A site as one process reaches it: what lies between them may fail for that process alone.

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::InstanceId;
use epu_core::request::{BucketView, Finding, NamedTemplate};
use epu_core::time::Timestamp;
use epu_provisioner::iaas::{Admission, Capabilities, Iaas, IaasError, IaasLaunch, Machine, MachineState};

use super::SimCloud;
use crate::process::Process;

/// A site as one process reaches it.
pub struct CloudLine {
    cloud: Arc<SimCloud>,
    process: Process,
}

impl fmt::Debug for CloudLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} from {}", self.cloud.name, self.process)
    }
}

impl CloudLine {
    /// This site from this process.
    #[must_use]
    pub fn new(cloud: Arc<SimCloud>, process: Process) -> Self {
        Self { cloud, process }
    }

    /// Lets a call through, and its answer back.
    async fn through<T>(&self, call: impl Future<Output = T> + Send) -> T {
        if self.cloud.is_cut_from(self.process) {
            return pending().await;
        }
        let answer = call.await;
        if self.cloud.is_cut_from(self.process) {
            return pending().await;
        }
        answer
    }
}

#[async_trait]
impl Iaas for CloudLine {
    fn capabilities(&self) -> Capabilities {
        self.cloud.capabilities()
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        self.through(self.cloud.launch(launch)).await
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        self.through(self.cloud.terminate(machines)).await
    }

    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        self.through(self.cloud.list()).await
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        self.through(self.cloud.describe(machines)).await
    }

    async fn output(&self, instance: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        self.through(self.cloud.output(instance, machine, lines)).await
    }

    async fn admit(&self, call: Admission) {
        self.cloud.admit(call).await;
    }

    fn refuses_whole(&self) -> bool {
        self.cloud.refuses_whole()
    }

    async fn identity(&self) -> Result<Option<String>, IaasError> {
        self.through(self.cloud.identity()).await
    }

    async fn check(&self, templates: &[NamedTemplate]) -> Vec<Finding> {
        self.through(self.cloud.check(templates)).await
    }

    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        self.cloud.standing()
    }

    async fn tidy(&self, before: Timestamp) -> Result<u32, IaasError> {
        self.cloud.tidy(before).await
    }
}
