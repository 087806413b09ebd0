use epu_bus::token::Keyring;
use epu_provisioner::iaas::contract;

use super::*;
use crate::net::SimNet;
use crate::queue::Queues;
use crate::time::{SimClock, seconds};

fn cloud() -> (SimCloud, Arc<SimClock>) {
    let clock = Arc::new(SimClock::start(tokio::runtime::Handle::current()));
    let transcript = Arc::new(Transcript::new(clock.clone()));
    let net = Arc::new(SimNet::new(transcript.clone()));
    let random = Arc::new(Random::seeded(1));
    let keyring = Arc::new(Keyring::new(b"the key of a world that is not there").unwrap());
    let machines = Machines::new(
        net,
        Arc::new(Queues::default()),
        keyring,
        clock.clone(),
        random.clone(),
        transcript.clone(),
    );
    let watch = Arc::new(Watch::new(machines.clone(), "ours"));
    let name = SiteName::new("here").unwrap();
    let cloud = SimCloud::new(name, "ours", machines, clock.clone(), random, transcript, watch);
    (cloud, clock)
}

#[tokio::test(start_paused = true)]
async fn the_simulated_site_keeps_the_contract_of_every_driver() {
    let (cloud, _) = cloud();
    let setting = contract::Setting {
        installation: "ours".to_owned(),
        template: serde_json::from_value(serde_json::json!({ "run": ["worker"] })).unwrap(),
        patience: seconds(60),
        seed: 1,
    };
    contract::holds(&cloud, &setting).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_halted_is_kept_until_it_is_ended() {
    let (cloud, _) = cloud();
    let machine = cloud.add_machine_of("ours");
    tokio::time::sleep(seconds(10)).await;
    cloud.halts(&machine);
    let ids = [machine];
    let state = async || cloud.describe(&ids).await.unwrap()[0].1;
    assert_eq!(state().await, Some(MachineState::Stopped));
    assert_eq!(cloud.list().await.unwrap()[0].state, MachineState::Stopped);
    cloud.terminate(&ids).await.unwrap();
    assert_eq!(state().await, Some(MachineState::Stopping));
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(state().await, Some(MachineState::Gone));
}

#[tokio::test(start_paused = true)]
async fn calls_wait_where_they_are_paced_and_refusals_are_heard_of() {
    let (cloud, clock) = cloud();
    let metrics = Arc::new(epu_provisioner::Metrics::new().unwrap());
    let pace = epu_provisioner::pace::Pacers::new(clock.clone(), metrics).account("simulated", "here");
    cloud.is_paced_by(Some(pace.clone()));
    let launch = Admission::Launch {
        machines: 600,
        purpose: Purpose::Grow,
    };
    let began = clock.now();
    cloud.admit(launch).await;
    assert_eq!(clock.now(), began);
    cloud.admit(launch).await;
    assert_eq!(clock.now().since(began).as_secs(), 101);
    cloud.next_call(Call::Terminate, Mishap::Refused(Class::Throttled));
    cloud.terminate(&[]).await.unwrap_err();
    let (account, levels) = cloud.standing();
    assert_eq!(account.as_deref(), Some("simulated"));
    let refused = levels.iter().find(|view| view.what == "TerminateInstances").unwrap();
    assert!((refused.refill - 2.5).abs() < 1e-9, "{refused:?}");
}

/// A launch of so many, each with its own token.
fn order(n: u64, machines: u32) -> IaasLaunch {
    let (random, at) = (Random::seeded(n), crate::time::BEGIN);
    IaasLaunch {
        installation: "ours".to_owned(),
        launch: random.launch(at),
        pool: epu_core::id::PoolName::new("pool").unwrap(),
        instances: (0..machines).map(|_| random.instance(at)).collect(),
        min: 1,
        launch_token: epu_provisioner::iaas::LaunchToken("token".to_owned()),
        url: String::new(),
        template: serde_json::from_value(serde_json::json!({ "run": ["worker"] })).unwrap(),
        doubtful: false,
    }
}

async fn with(machines: u32) -> SimCloud {
    let (cloud, _) = cloud();
    cloud.launch(&order(1, machines)).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    cloud
}

fn names(list: &[Listed]) -> Vec<String> {
    list.iter().map(|machine| machine.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_are_refused_lost_and_unanswered_while_that_lasts_and_no_longer() {
    let cloud = with(1).await;
    let refused = cloud.troubled_by(Trouble::Refuses(Call::List, Class::Quota, 1.0));
    assert_eq!(cloud.list().await.unwrap_err().class, Class::Quota);
    cloud.describe(&[]).await.unwrap();
    cloud.is_rid_of(refused);
    cloud.is_rid_of(refused);
    let lost = cloud.troubled_by(Trouble::LosesAnswers(Call::Launch, 1.0));
    assert_eq!(cloud.launch(&order(2, 2)).await.unwrap_err().class, Class::Retryable);
    cloud.is_rid_of(lost);
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(cloud.list().await.unwrap().len(), 3, "it had its effect");
    let hangs = [cloud.troubled_by(Trouble::Hangs(Call::List)), cloud.troubled_by(Trouble::Away)];
    for id in hangs {
        assert!(tokio::time::timeout(seconds(600), cloud.list()).await.is_err());
        cloud.is_rid_of(id);
    }
    cloud.list().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_a_share_of_the_calls_some_get_through() {
    let cloud = with(1).await;
    cloud.troubled_by(Trouble::Refuses(Call::List, Class::Throttled, 0.5));
    let mut refused = 0;
    for _ in 0..200 {
        refused += u32::from(cloud.list().await.is_err());
    }
    assert!((70..130).contains(&refused), "{refused} of 200");
}

#[tokio::test(start_paused = true)]
async fn lists_are_short_and_the_machines_are_known_by_name_all_the_same() {
    let cloud = with(20).await;
    let all = names(&cloud.list().await.unwrap());
    cloud.troubled_by(Trouble::ListsShort(0.5));
    let (one, other) = (names(&cloud.list().await.unwrap()), names(&cloud.list().await.unwrap()));
    assert!(one.len() < 20 && other.len() < 20 && one != other, "{one:?} {other:?}");
    let said = cloud.describe(&all).await.unwrap();
    assert!(said.iter().all(|(_, state)| *state == Some(MachineState::Running)), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_list_shows_what_was() {
    let cloud = with(2).await;
    let before = cloud.list().await.unwrap();
    cloud.terminate(std::slice::from_ref(&before[0].id)).await.unwrap();
    cloud.launch(&order(2, 1)).await.unwrap();
    tokio::time::sleep(seconds(30)).await;
    let now = cloud.list().await.unwrap();
    assert_eq!(now.len(), 2);
    cloud.troubled_by(Trouble::ListsLate(seconds(80)));
    let mut lists = Vec::new();
    for _ in 0..30 {
        lists.push(cloud.list().await.unwrap());
    }
    assert!(lists.contains(&before), "the one that ended runs, and the new one is not there");
    assert!(lists.contains(&now), "and sometimes it is right");
}

#[tokio::test(start_paused = true)]
async fn lists_are_shuffled_and_tags_and_machines_are_missing_from_them() {
    let cloud = with(20).await;
    let all = names(&cloud.list().await.unwrap());
    let shuffled = cloud.troubled_by(Trouble::ListsShuffled);
    let mut list = names(&cloud.list().await.unwrap());
    assert_ne!(list, all);
    list.sort();
    assert_eq!(list, all);
    cloud.is_rid_of(shuffled);
    let untagged = cloud.troubled_by(Trouble::Untagged(0.5));
    let list = cloud.list().await.unwrap();
    let bare = list.iter().filter(|machine| machine.launch.is_none() && machine.index.is_none());
    assert!((1..20).contains(&bare.count()));
    assert_eq!(cloud.list().await.unwrap(), list, "the same ones");
    cloud.is_rid_of(untagged);
    cloud.troubled_by(Trouble::Unlisted(0.5));
    let list = names(&cloud.list().await.unwrap());
    assert!((1..20).contains(&list.len()));
    assert_eq!(names(&cloud.list().await.unwrap()), list, "the same ones");
}

#[tokio::test(start_paused = true)]
async fn launches_give_a_part_or_as_many_as_there_is_room_for() {
    let cloud = with(2).await;
    let part = cloud.troubled_by(Trouble::Partial(0.5));
    assert_eq!(cloud.launch(&order(2, 5)).await.unwrap().len(), 2);
    assert_eq!(cloud.launch(&order(3, 1)).await.unwrap().len(), 1);
    cloud.is_rid_of(part);
    let room = cloud.troubled_by(Trouble::Room(7));
    assert_eq!(cloud.launch(&order(4, 5)).await.unwrap().len(), 2);
    assert_eq!(cloud.launch(&order(5, 1)).await.unwrap_err().class, Class::Capacity);
    cloud.is_rid_of(room);
    assert_eq!(cloud.launch(&order(5, 1)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn machines_are_slow_to_boot_or_never_do() {
    let (cloud, _) = cloud();
    cloud.boots_in(seconds(20), 0.0);
    cloud.troubled_by(Trouble::BootsSlowly(3.0));
    cloud.troubled_by(Trouble::Stillborn(1));
    let ids = names(&cloud.launch(&order(1, 2)).await.unwrap());
    let states = async || -> Vec<Option<MachineState>> { cloud.describe(&ids).await.unwrap().into_iter().map(|said| said.1).collect() };
    tokio::time::sleep(seconds(50)).await;
    assert_eq!(states().await, [Some(MachineState::Gone), Some(MachineState::Pending)]);
    tokio::time::sleep(seconds(15)).await;
    assert_eq!(states().await, [Some(MachineState::Gone), Some(MachineState::Running)]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_cut_off_hears_nothing_and_the_others_do() {
    let cloud = Arc::new(with(1).await);
    let process = |copy| Process {
        service: epu_core::request::Service::Provisioner,
        copy,
    };
    let (cut, other) = (CloudLine::new(cloud.clone(), process(0)), CloudLine::new(cloud.clone(), process(1)));
    let id = cloud.troubled_by(Trouble::Cut(process(0)));
    assert!(tokio::time::timeout(seconds(600), cut.list()).await.is_err());
    assert_eq!(other.list().await.unwrap().len(), 1);
    cloud.is_rid_of(id);
    assert_eq!(cut.list().await.unwrap().len(), 1);
    // What was asked before it was cut off has its effect, and the answer does not come.
    let launch = order(7, 1);
    let (answer, ()) = tokio::join!(tokio::time::timeout(seconds(60), cut.launch(&launch)), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        cloud.troubled_by(Trouble::Cut(process(0)));
    });
    assert!(answer.is_err());
    assert_eq!(other.list().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_a_machine_of_another_installation_is_told_on() {
    let (cloud, _) = cloud();
    let theirs = cloud.add_machine_of("theirs");
    tokio::time::sleep(seconds(10)).await;
    assert!(cloud.list().await.unwrap().is_empty() && cloud.watch.violations().is_empty());
    cloud.terminate(std::slice::from_ref(&theirs)).await.unwrap();
    let found = cloud.watch.violations();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].invariant, epu_core::invariant::Invariant::I7);
    tokio::time::sleep(seconds(10)).await;
    assert!(cloud.machines.look(|all| all[&theirs].is_there()), "it is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_site_that_went_away_twice_is_back_when_it_is_back() {
    let cloud = with(1).await;
    cloud.goes_away(true);
    cloud.goes_away(true);
    cloud.goes_away(false);
    cloud.list().await.unwrap();
    cloud.goes_away(false);
}
