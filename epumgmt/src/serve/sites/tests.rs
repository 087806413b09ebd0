use std::path::Path;

use epu_core::random::Random;
use epu_core::time::{Clock, ManualClock, Timestamp};
use epu_provisioner::iaas::ec2::Accounts;
use epu_provisioner::pace::Pacers;
use epu_store::MemoryStore;
use serde_json::{Value, json};

use super::*;

fn read(text: &str) -> Config {
    Config::read(Path::new("/etc/epu/epu.yaml"), text).unwrap()
}

struct Started {
    store: Arc<MemoryStore>,
    sites: Arc<Sites>,
    told: watch::Receiver<Arc<FileConfig>>,
}

async fn started(text: &str) -> Started {
    let config = read(text);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1)));
    let rented = Ec2Parts {
        installation: "test".to_owned(),
        ca_pem: None,
        pacers: Pacers::new(clock.clone(), Arc::new(epu_provisioner::Metrics::new().unwrap())),
        accounts: Accounts::default(),
        clock,
        random: Arc::new(Random::seeded(1)),
    };
    let store = Arc::new(MemoryStore::new());
    let (file, told) = watch::channel(Arc::new(file_config(&config)));
    let sites = Sites::start(config, "/bin/true".into(), rented, store.clone(), true, file).await;
    let sites = sites.unwrap_or_else(|fault| panic!("{fault}"));
    Started { store, sites, told }
}

impl Started {
    async fn keep(&self, name: &str, revision: u64, body: Value) {
        let document = Document {
            kind: KIND.to_owned(),
            name: name.to_owned(),
            revision,
            body,
        };
        self.store.put_document(&document, Vec::new()).await.unwrap();
        self.sites.look().await;
    }

    /// Sites by name, with what is wrong with each.
    fn offered(&self) -> Vec<(String, Option<String>)> {
        let offers = self.sites.offers();
        let offers = offers.borrow();
        let wrong = |offer: &Offer| offer.driver.as_ref().err().map(|unusable| unusable.fault.code.to_string());
        offers.iter().map(|(name, offer)| (name.to_string(), wrong(offer))).collect()
    }

    fn known(&self) -> Vec<String> {
        self.told.borrow().known.sites.iter().map(ToString::to_string).collect()
    }
}

fn local(most: u32) -> Value {
    json!({ "spec": { "local": { "max-instances": most } }, "owner": null, "by": "eve" })
}

fn fine(name: &str) -> (String, Option<String>) {
    (name.to_owned(), None)
}

fn wrong(name: &str, code: &str) -> (String, Option<String>) {
    (name.to_owned(), Some(code.to_owned()))
}

#[tokio::test]
async fn records_are_offered_beside_the_file_and_told_to_the_controller() {
    let started = started("sites: {}\n").await;
    assert_eq!((started.offered(), started.known()), (vec![], vec![]));
    started.keep("here", 1, local(5)).await;
    assert_eq!((started.offered(), started.known()), (vec![fine("here")], vec!["here".to_owned()]));
    let mut offers = started.sites.offers();
    let before = offers.borrow_and_update().clone();
    started.sites.look().await;
    assert!(!offers.has_changed().unwrap(), "nothing changed");
    started.keep("here", 2, local(6)).await;
    assert!(offers.has_changed().unwrap(), "another spec is another driver");
    let after = offers.borrow_and_update().clone();
    let driver = |offers: &Offers| offers.values().next().unwrap().driver.clone().ok().unwrap();
    assert!(!Arc::ptr_eq(&driver(&before), &driver(&after)));
    // Reads that fail change nothing.
    started.store.fail_with(Some("disk full"));
    started.sites.look().await;
    started.store.fail_with(None);
    assert!(!offers.has_changed().unwrap());
    started.store.forget_document(KIND, "here", Vec::new()).await.unwrap();
    started.sites.look().await;
    assert_eq!((started.offered(), started.known()), (vec![], vec![]));
}

#[tokio::test]
async fn a_record_that_is_wrong_is_offered_with_its_fault_and_breaks_nothing() {
    let started = started("sites: {mine: {local: {}}}\n").await;
    started.keep("empty", 1, json!("nothing")).await;
    started.keep("typo", 1, json!({ "spec": { "locl": {} }, "by": "dtrs" })).await;
    started.keep("also", 1, local(5)).await;
    // Its machines would need a way to reach us.
    started
        .keep(
            "far",
            1,
            json!({ "spec": { "ec2": { "region": "us-east-1" } }, "owner": "bob", "by": "dtrs" }),
        )
        .await;
    started.keep("not a name", 1, local(5)).await;
    assert_eq!(
        started.offered(),
        [
            wrong("also", "conflict"),
            wrong("empty", "bad-config"),
            wrong("far", "bad-config"),
            fine("mine"),
            wrong("typo", "bad-config")
        ]
    );
    assert_eq!(started.known(), ["mine"]);
    let offers = started.sites.offers();
    let far = offers.borrow()[&SiteName::new("far").unwrap()].clone();
    let owner = Some("bob".to_owned());
    assert_eq!(
        far.origin,
        Some(SiteOrigin::Record {
            by: "dtrs".to_owned(),
            owner
        })
    );
}

#[tokio::test]
async fn the_file_goes_before_a_record_of_the_same_name() {
    let started = started("sites: {}\n").await;
    started.keep("here", 1, local(5)).await;
    started.sites.reload(read("sites:\n  here: {local: {}}\n")).await.unwrap();
    let offers = started.sites.offers();
    let here = offers.borrow().values().next().unwrap().clone();
    assert!(matches!(here.origin, Some(SiteOrigin::File { line: 2, .. })));
    // Another line is no other driver.
    started.sites.reload(read("\n\nsites:\n  here: {local: {}}\n")).await.unwrap();
    let moved = offers.borrow().values().next().unwrap().clone();
    assert!(matches!(moved.origin, Some(SiteOrigin::File { line: 4, .. })));
    assert!(Arc::ptr_eq(&here.driver.ok().unwrap(), &moved.driver.ok().unwrap()));
    started.sites.reload(read("sites: {}\n")).await.unwrap();
    let record = offers.borrow().values().next().unwrap().clone();
    assert!(matches!(record.origin, Some(SiteOrigin::Record { .. })), "it is back");
}

/// A program without the driver refuses the whole file, and only shows the record.
#[cfg(not(feature = "ec2"))]
#[tokio::test]
async fn a_site_without_its_driver_is_refused_in_the_file_and_shown_of_a_record() {
    let started = started("sites: {}\n").await;
    let near = "sites: {aws: {ec2: {region: r, endpoint: \"http://127.0.0.1:1\"}}}\n";
    let refused = started.sites.reload(read(near)).await.unwrap_err();
    assert_eq!(refused.code, "driver-missing");
    assert!(started.offered().is_empty(), "it was applied in part");
    let spec = json!({ "ec2": { "region": "r", "endpoint": "http://127.0.0.1:1" } });
    started.keep("aws", 1, json!({ "spec": spec, "by": "eve" })).await;
    assert_eq!(started.offered(), [wrong("aws", "driver-missing")]);
}

/// What a record names is what the file says now.
#[tokio::test]
async fn credentials_that_a_record_names_are_those_of_the_file() {
    let started = started("sites: {}\n").await;
    let spec = json!({ "ec2": { "region": "r", "endpoint": "http://127.0.0.1:1", "credentials": { "name": "main" } } });
    started.keep("aws", 1, json!({ "spec": spec, "by": "eve" })).await;
    assert_eq!((started.offered(), started.known()), (vec![wrong("aws", "bad-config")], vec![]));
    started
        .sites
        .reload(read("sites: {}\ncredentials: {main: {profile: p}}\n"))
        .await
        .unwrap();
    assert_eq!(started.known(), ["aws"]);
    let facts = |started: &Started| started.told.borrow().sites.clone();
    let before = facts(&started);
    started
        .sites
        .reload(read("sites: {}\ncredentials: {main: {profile: q}}\n"))
        .await
        .unwrap();
    assert_ne!(before, facts(&started), "a parked placement is not tried again");
}
