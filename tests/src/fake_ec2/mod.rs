//! A small, honest EC2: what Amazon documents of the actions that EPU uses, and everything that can go wrong with them, by seed and by
//! plan.
//!
//! # What it is for
//!
//! moto's server, which nobody here wrote, ignores client tokens, pages by reservation, and knows neither throttling nor eventual
//! consistency nor a lack of room. Whether a launch is doubled or leaked is decided by exactly these. So this follows the rules that
//! Amazon documents for them, each where it stands with its source; where moto speaks too, the two are compared (`tests/live/fake_ec2`).
//!
//! # What there is
//!
//! - The Query protocol of EC2, API version 2016-11-15, and STS' GetCallerIdentity, on one port: RunInstances, TerminateInstances,
//!   StopInstances, CreateTags, and DescribeInstances, ...InstanceStatus, ...InstanceAttribute (user data), ...InstanceTypes, ...Images,
//!   ...KeyPairs, ...SecurityGroups, ...Subnets, ...AvailabilityZones, ...LaunchTemplates, ...LaunchTemplateVersions, GetConsoleOutput. What it does not know it
//!   refuses: actions, parameters, filters.
//! - Several accounts and regions ([`catalogue`]), told apart by the access key and region that a request is signed for.
//! - Faults ([`plan`]): room, quotas, throttling, errors, lost requests and replies, lists that lie, boots that fail, machines that die.
//! - Instance metadata for each machine at `/_imds/<instance id>/latest/...` ([`imds`]).
//! - Machines that boot for real ([`machines`]) when asked to.
//! - Everything is counted: `GET /_fake/state` ([`count::Report`]), `GET /_fake/calls`; `POST /_fake/plan`, `POST /_fake/befall`.
//!
//! # How it is built
//!
//! [`world::World`] is all of EC2 without threads, sockets or a clock: a request and the time go in, an answer and what is to be done to
//! processes come out. The same seed, requests and times give the same answers. `server` puts it behind a port.
//!
//! What is not there: signatures are not verified, only who signed; no networks, volumes or images are made; no price changes.

pub mod bucket;
pub mod catalogue;
mod change;
pub mod count;
pub mod imds;
mod launch;
mod life;
mod list;
pub mod machines;
pub mod params;
pub mod plan;
mod process;
pub mod refusal;
mod report;
mod room;
pub mod row;
#[cfg(test)]
mod rules;
mod server;
mod tags;
mod templates;
mod things;
pub mod world;
pub mod xml;

use std::net::SocketAddr;
use std::sync::Arc;

use epu_core::time::{Clock, SystemClock};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use catalogue::Catalogue;
use count::{Call, Report};
use machines::Boot;
use plan::{Fate, Plan};
use server::Shared;
use world::World;

pub use launch::{MAX_TOKEN, MAX_USER_DATA};
pub use process::FakeEc2Process;

use crate::{Result, Trouble};

/// How a fake EC2 is started.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens; port 0 is any that is free.
    pub listen: SocketAddr,
    /// From which everything random is drawn.
    pub seed: u64,
    /// What there is.
    pub catalogue: Catalogue,
    /// What goes wrong.
    pub plan: Plan,
    /// Whether and how machines are booted for real.
    pub boot: Option<Boot>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            catalogue: Catalogue::default(),
            plan: Plan::default(),
            boot: None,
            clock: Arc::new(SystemClock::start()),
        }
    }
}

/// A fake EC2 in this process. It ends, with every machine that it booted, when dropped.
#[derive(Debug)]
pub struct FakeEc2 {
    shared: Arc<Shared>,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl FakeEc2 {
    /// Starts one.
    ///
    /// # Errors
    /// When it cannot listen, or the directory of its machines cannot be made.
    pub async fn start(settings: Settings) -> Result<Self> {
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.map_err(|e| Trouble::new(format!("listen on {}", settings.listen), e))?;
        let address = listener.local_addr().map_err(|e| Trouble::new("ask for the port", e))?;
        if let Some(boot) = &settings.boot {
            machines::prepare(boot)?;
        }
        let directory = settings.boot.as_ref().map(|boot| boot.directory.clone());
        let world = World::new(settings.seed, settings.catalogue, settings.plan, directory);
        let shared = Arc::new(Shared::new(world, settings.clock, settings.boot, address));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(Arc::clone(&shared), listener, stop.clone()));
        Ok(Self {
            shared,
            stop,
            serving: Some(serving),
        })
    }

    /// Its address: the endpoint of EC2 and of STS.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// Replaces the plan.
    pub fn set_plan(&self, plan: Plan) {
        self.shared.with(|world, _| world.set_plan(plan));
    }

    /// Everything that was counted, with every machine that there ever was.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.with(|world, now| {
            world.advance(now);
            world.report(true)
        })
    }

    /// The last calls, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.with(|world, _| world.recent())
    }

    /// Makes something become of a machine, now or as much later as the fate says.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn befall(&self, id: &str, fate: Fate) -> Result<()> {
        let done = self.shared.with(|world, now| world.befall(id, fate, now));
        done.map_err(|why| Trouble::new("make something become of a machine", why))
    }

    /// Stops serving and ends every machine that was booted.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.await.ok();
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || end_machines(&shared)).await.ok();
    }
}

impl Drop for FakeEc2 {
    fn drop(&mut self) {
        self.stop.cancel();
        end_machines(&self.shared);
    }
}

fn end_machines(shared: &Shared) {
    if shared.boot.is_some() {
        machines::kill_all(&shared.url());
    }
}
