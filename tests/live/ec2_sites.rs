//! EC2 sites as one process has them, at whatever answers like EC2.

use std::sync::Arc;
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::machine::MachineSpec;
use epu_core::pool::Template;
use epu_core::random::Random;
use epu_core::request::NamedTemplate;
use epu_core::time::SystemClock;
use epu_provisioner::Metrics;
use epu_provisioner::iaas::ec2::{self, Accounts, Ec2Parts, Ec2Settings};
use epu_provisioner::iaas::{Iaas, IaasLaunch, LaunchToken, Machine, contract};
use epu_provisioner::pace::Pacers;

/// Sites at one cloud.
pub(crate) struct Sites {
    url: String,
    region: String,
    image: String,
    keys: tempfile::TempDir,
    pub(crate) parts: Ec2Parts,
}

impl Sites {
    pub(crate) fn at(url: String, access_key: &str, region: &str, image: &str) -> Self {
        let keys = tempfile::tempdir().unwrap();
        for (name, value) in [("id", access_key), ("secret", "not a secret\n")] {
            std::fs::write(keys.path().join(name), value).unwrap();
        }
        let clock = Arc::new(SystemClock::start());
        let random = Arc::new(Random::from_system());
        let parts = Ec2Parts {
            installation: format!("test-{}", random.number()),
            ca_pem: None,
            pacers: Pacers::new(clock.clone(), Arc::new(Metrics::new().unwrap())),
            accounts: Accounts::default(),
            clock,
            random,
        };
        Self {
            url,
            region: region.to_owned(),
            image: image.to_owned(),
            keys,
            parts,
        }
    }

    fn settings(&self) -> Ec2Settings {
        let (keys, url, region) = (self.keys.path().display(), &self.url, &self.region);
        serde_yaml::from_str(&format!(
            "{{region: {region}, endpoint: '{url}', identity-endpoint: '{url}',
              credentials: {{access-key-id: 'file:{keys}/id', secret-access-key: 'file:{keys}/secret'}}}}"
        ))
        .unwrap()
    }

    pub(crate) fn site(&self, name: &str, set: impl FnOnce(&mut Ec2Settings)) -> Arc<dyn Iaas> {
        self.site_of(&self.parts, name, set)
    }

    pub(crate) fn site_of(&self, parts: &Ec2Parts, name: &str, set: impl FnOnce(&mut Ec2Settings)) -> Arc<dyn Iaas> {
        let mut settings = self.settings();
        set(&mut settings);
        ec2::build(&SiteName::new(name).unwrap(), &settings, parts).unwrap()
    }

    pub(crate) fn parts_of_another_process(&self) -> Ec2Parts {
        Ec2Parts {
            accounts: Accounts::default(),
            ..self.parts.clone()
        }
    }

    /// A machine with nothing special.
    pub(crate) fn plain(&self) -> MachineSpec {
        MachineSpec {
            image: Some(self.image.clone()),
            size: Some("t3.micro".to_owned()),
            ..MachineSpec::default()
        }
    }

    pub(crate) fn launch(&self, machines: usize, machine: MachineSpec) -> IaasLaunch {
        let now = self.parts.clock.now();
        IaasLaunch {
            installation: self.parts.installation.clone(),
            launch: LaunchId(self.parts.random.uuid(now)),
            pool: PoolName::new("web").unwrap(),
            instances: (0..machines).map(|_| InstanceId(self.parts.random.uuid(now))).collect(),
            min: 1,
            launch_token: LaunchToken("l.very-secret".to_owned()),
            url: "http://127.0.0.1:9".to_owned(),
            template: template(machine),
            doubtful: false,
        }
    }

    pub(crate) async fn contract_holds(&self, site: &dyn Iaas) {
        let setting = contract::Setting {
            installation: self.parts.installation.clone(),
            template: template(self.plain()),
            patience: Duration::from_secs(30),
            seed: self.parts.random.number(),
        };
        contract::holds(site, &setting).await;
    }
}

pub(crate) fn template(machine: MachineSpec) -> Template {
    Template {
        machine,
        ..serde_yaml::from_str("{run: ['true']}").unwrap()
    }
}

pub(crate) fn named(name: &str, machine: MachineSpec) -> NamedTemplate {
    NamedTemplate {
        name: name.to_owned(),
        template: template(machine),
    }
}

pub(crate) fn ids(machines: &[Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.id.clone()).collect()
}
