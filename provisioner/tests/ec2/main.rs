//! The EC2 driver where a site does what real ones do rarely: it loses answers, lags, refuses, and goes in circles.
#![cfg(feature = "ec2")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod cloud;
mod launching;
mod looking;

use std::sync::Arc;

use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::machine::MachineSpec;
use epu_core::pool::Template;
use epu_core::random::Random;
use epu_core::time::{Clock as _, ManualClock, Timestamp};
use epu_provisioner::Metrics;
use epu_provisioner::iaas::ec2::{self, Accounts, Ec2Parts, Ec2Settings};
use epu_provisioner::iaas::{Iaas, IaasLaunch, LaunchToken};
use epu_provisioner::pace::Pacers;

const INSTALLATION: &str = "here";

/// A process with sites of which the answers are written down.
struct Process {
    keys: tempfile::TempDir,
    clock: Arc<ManualClock>,
    parts: Ec2Parts,
}

impl Process {
    fn new() -> Self {
        let keys = tempfile::tempdir().unwrap();
        std::fs::write(keys.path().join("id"), "AKIAFIRST").unwrap();
        std::fs::write(keys.path().join("secret"), "secret").unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_763_840_236_000)));
        let parts = Ec2Parts {
            installation: INSTALLATION.to_owned(),
            ca_pem: None,
            pacers: Pacers::new(clock.clone(), Arc::new(Metrics::new().unwrap())),
            accounts: Accounts::default(),
            clock: clock.clone(),
            random: Arc::new(Random::seeded(7)),
        };
        Self { keys, clock, parts }
    }

    fn settings(&self, url: &str, more: &str) -> Ec2Settings {
        let keys = self.keys.path().display();
        let text = format!(
            "{{region: here-1, endpoint: '{url}', {more}
              credentials: {{access-key-id: 'file:{keys}/id', secret-access-key: 'file:{keys}/secret'}}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn site(&self, name: &str, url: &str, more: &str) -> Arc<dyn Iaas> {
        ec2::build(&SiteName::new(name).unwrap(), &self.settings(url, more), &self.parts).unwrap()
    }

    fn launch(&self, machines: usize) -> IaasLaunch {
        let now = self.clock.now();
        IaasLaunch {
            installation: INSTALLATION.to_owned(),
            launch: LaunchId(self.parts.random.uuid(now)),
            pool: PoolName::new("web").unwrap(),
            instances: (0..machines).map(|_| InstanceId(self.parts.random.uuid(now))).collect(),
            min: 1,
            launch_token: LaunchToken("l.very-secret".to_owned()),
            url: "http://127.0.0.1:9".to_owned(),
            template: Template {
                machine: MachineSpec {
                    image: Some("ami-1".to_owned()),
                    ..MachineSpec::default()
                },
                ..serde_yaml::from_str("{run: ['true']}").unwrap()
            },
            doubtful: false,
        }
    }
}

/// The id of the n-th machine.
fn id(n: u32) -> String {
    format!("i-{n:017x}")
}

fn ids(machines: &[epu_provisioner::iaas::Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.id.clone()).collect()
}
