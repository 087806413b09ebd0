//! What every driver must do: the contract of [`Iaas`] as checks that run against any of them.
//!
//! A plain module and not a test, so that each driver's tests, also those of other crates, can call [`holds`]. It panics with a
//! sentence at the first rule that is broken, and ends what it launched. Rules that need a fault to be provoked (a lost answer, a
//! full site, a killed control process) are tested beside the driver, which knows how.

use std::collections::BTreeSet;
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::pool::Template;
use epu_core::random::Random;
use epu_core::time::Timestamp;

use super::{Iaas, IaasLaunch, LaunchToken, Machine, MachineState};

/// What the checks need to know of the site.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The installation's tag that the driver was made for.
    pub installation: String,
    /// A template that stays up for as long as the checks take.
    pub template: Template,
    /// How long the site may take to show what it did.
    pub patience: Duration,
    /// Makes ids that differ between runs on a site that remembers.
    pub seed: u64,
}

/// Checks every rule on a site on which nothing of this installation runs.
///
/// # Panics
/// When a rule is broken.
pub async fn holds(site: &dyn Iaas, setting: &Setting) {
    let suite = Suite {
        site,
        setting,
        random: Random::seeded(setting.seed),
    };
    assert!(suite.listed().await.is_empty(), "something of this installation runs already");
    suite.nothing_is_known_of_strangers().await;
    suite.a_launch_gives_machines_in_order_and_again_the_same().await;
    suite.ended_machines_stay_ended().await;
    suite.calls_do_not_wait_for_each_other().await;
    assert!(suite.listed().await.is_empty(), "something is left running");
}

struct Suite<'a> {
    site: &'a dyn Iaas,
    setting: &'a Setting,
    random: Random,
}

impl Suite<'_> {
    fn request(&self, instances: usize) -> IaasLaunch {
        // Only the order of ids depends on this.
        let now = Timestamp(1_763_840_236_000);
        IaasLaunch {
            installation: self.setting.installation.clone(),
            launch: LaunchId(self.random.uuid(now)),
            pool: PoolName::new("contract").expect("a name"),
            instances: (0..instances).map(|_| InstanceId(self.random.uuid(now))).collect(),
            min: 1,
            launch_token: LaunchToken("l.contract".to_owned()),
            url: "http://127.0.0.1:9".to_owned(),
            template: self.setting.template.clone(),
            doubtful: false,
        }
    }

    /// Launches; what may pass is repeated unchanged, as every caller does.
    async fn launch(&self, request: &IaasLaunch) -> Vec<Machine> {
        let tries = 100;
        for _ in 0..tries {
            match self.site.launch(request).await {
                Ok(machines) => return machines,
                Err(error) => assert!(error.class.is_passing(), "launch: {error}"),
            }
            tokio::time::sleep(self.setting.patience / tries).await;
        }
        panic!("no launch within {:?}", self.setting.patience);
    }

    /// Everything listed that is not gone.
    async fn listed(&self) -> Vec<Machine> {
        let mut machines = self.site.list().await.expect("list");
        machines.retain(|machine| machine.state != MachineState::Gone);
        machines
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let tries = 50;
        for _ in 0..tries {
            if is_so().await {
                return;
            }
            tokio::time::sleep(self.setting.patience / tries).await;
        }
        panic!("{what}: not within {:?}", self.setting.patience);
    }

    async fn end(&self, machines: &[String]) {
        self.until("machines are ended", async || match self.site.terminate(machines).await {
            Ok(()) => true,
            Err(error) => {
                assert!(error.class.is_passing(), "terminate: {error}");
                false
            }
        })
        .await;
        self.site.terminate(machines).await.expect("terminate a second time");
        self.until("ended machines are gone", async || {
            let said = self.site.describe(machines).await.expect("describe");
            said.iter().all(|(_, state)| state.is_none_or(|state| state == MachineState::Gone))
        })
        .await;
        let listed: BTreeSet<String> = self.listed().await.into_iter().map(|machine| machine.id).collect();
        assert!(
            machines.iter().all(|id| !listed.contains(id)),
            "a machine is listed after describe called it gone"
        );
    }

    async fn nothing_is_known_of_strangers(&self) {
        let strangers = ["nothing".to_owned(), self.random.uuid(Timestamp(0)).to_string()];
        self.site.terminate(&strangers).await.expect("terminate strangers");
        self.site.terminate(&[]).await.expect("terminate nothing");
        let said = self.site.describe(&strangers).await.expect("describe strangers");
        assert_eq!(said, strangers.map(|id| (id, None)), "a stranger is described, or out of order");
        assert_eq!(self.site.describe(&[]).await.expect("describe nothing"), []);
        let output = self.site.output(InstanceId(self.random.uuid(Timestamp(0))), None, 10).await;
        assert_eq!(output, Ok(None), "a stranger has output");
    }

    async fn a_launch_gives_machines_in_order_and_again_the_same(&self) {
        let request = self.request(3);
        let first = self.launch(&request).await;
        assert_eq!(first.len(), 3, "not all machines came");
        for (index, machine) in (0..).zip(&first) {
            assert_eq!(machine.launch, Some(request.launch), "the launch tag is missing or wrong");
            assert!(
                machine.index.is_none_or(|i| i == index),
                "machines are not in the order of their index"
            );
            let expected = request.instances[usize::try_from(index).expect("small")];
            assert!(
                machine.instance.is_none_or(|id| id == expected),
                "a machine has another's instance id"
            );
        }
        let ids: Vec<String> = first.iter().map(|machine| machine.id.clone()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3, "two machines have the same id");

        let again: Vec<String> = self.launch(&request).await.into_iter().map(|machine| machine.id).collect();
        assert_eq!(again, ids, "the same request gave other machines");
        self.until("launched machines are listed and run", async || {
            let listed = self.listed().await;
            let running = |id: &String| listed.iter().any(|m| m.id == *id && m.state == MachineState::Running);
            ids.iter().all(running)
        })
        .await;
        let listed = self.listed().await;
        assert_eq!(listed.len(), 3, "more is listed than was launched");
        for machine in &listed {
            assert_eq!(machine.launch, Some(request.launch), "a listed machine has lost its launch tag");
        }
        let mut backwards = ids.clone();
        backwards.reverse();
        let said = self.site.describe(&backwards).await.expect("describe");
        let running = backwards.iter().map(|id| (id.clone(), Some(MachineState::Running)));
        assert_eq!(said, running.collect::<Vec<_>>(), "describe is wrong or out of order");
        // Whatever is older than a time long ago: never a machine that runs.
        self.site.tidy(Timestamp::START).await.expect("tidy");
        assert_eq!(self.listed().await.len(), 3, "tidying ended a machine");
        self.end(&ids).await;
    }

    async fn ended_machines_stay_ended(&self) {
        let request = self.request(2);
        let ids: Vec<String> = self.launch(&request).await.into_iter().map(|machine| machine.id).collect();
        self.end(&ids[..1]).await;
        // A site may repeat its first answer word for word, in which the machine has yet to start: what counts is which it names.
        for machine in self.launch(&request).await {
            assert!(
                ids.contains(&machine.id),
                "repeating a launch brought {} where one had ended",
                machine.id
            );
        }
        let said = self.site.describe(&ids[..1]).await.expect("describe");
        let is_gone = said[0].1.is_none_or(|state| state == MachineState::Gone);
        assert!(is_gone, "repeating a launch brought an ended machine back");
        self.end(&ids).await;
    }

    async fn calls_do_not_wait_for_each_other(&self) {
        let (one, two) = (self.request(1), self.request(1));
        let (a, b, c) = tokio::join!(self.launch(&one), self.launch(&two), self.launch(&one));
        assert_eq!(a[0].id, c[0].id, "two calls at once with one token gave two machines");
        assert_ne!(a[0].id, b[0].id, "two launches gave one machine");
        self.end(&[a[0].id.clone(), b[0].id.clone()]).await;
    }
}
