//! Who leads what, and that nobody writes under a term that is over.

use std::time::Duration;

use epu_core::lease::{Domain, LeaseAsk, Member, Standing, Term};
use epu_core::life::State;
use epu_core::request::Service;
use epu_core::time::{Span, Timestamp};

use super::samples::{entry, events, instance, instance_id, launch, launch_id, memory, moved, name, outgoing, pool};
use crate::{DecisionCommit, Error, ProvisionCommit, Store};

/// Long enough that it does not run out by itself.
const LONG: Span = Span::secs(60);
/// Short enough to wait for.
const SHORT: Span = Span::millis(300);
/// After it, a lease of that length is over.
const AFTER: Duration = Duration::from_millis(400);

const ONE: Domain = Domain::Shard(1);
const TWO: Domain = Domain::Shard(2);

fn ask(name: &str, want: &[Domain], lasts: Span) -> LeaseAsk {
    LeaseAsk {
        member: Member {
            name: name.to_owned(),
            service: if want.contains(&Domain::Provisioner) {
                Service::Provisioner
            } else {
                Service::Controller
            },
            url: Some(format!("http://{name}:1")),
            since: Timestamp(7),
        },
        want: want.iter().copied().collect(),
        lasts,
    }
}

/// Asks, and gives the epoch of what it holds then.
async fn take(store: &dyn Store, who: &str, what: Domain, lasts: Span) -> Option<u64> {
    let standing = store.lease(ask(who, &[what], lasts)).await.expect("lease");
    epoch(&standing, who, what)
}

fn epoch(standing: &Standing, who: &str, what: Domain) -> Option<u64> {
    (standing.leader(what) == Some(who)).then(|| standing.lease(what).expect("a lease that is led").epoch)
}

fn names(standing: &Standing) -> Vec<&str> {
    standing.members.iter().map(|member| member.name.as_str()).collect()
}

fn is_deposed<T>(done: &Result<T, Error>, term: Term) -> bool {
    matches!(done, Err(Error::Deposed(over)) if *over == term)
}

pub(super) async fn the_first_taker_has_the_first_epoch_and_keeps_it(store: &dyn Store) {
    let standing = store.standing().await.expect("standing");
    assert!(
        standing.members.is_empty() && standing.leases.is_empty(),
        "a new store has leaders: {standing:?}"
    );
    assert_eq!(take(store, "a", ONE, LONG).await, Some(1));
    let first = store.standing().await.expect("standing");
    for _ in 0..3 {
        assert_eq!(take(store, "a", ONE, LONG).await, Some(1), "renewing changed the epoch");
    }
    let standing = store.standing().await.expect("standing");
    assert_eq!(
        standing.lease(ONE).map(|lease| lease.since),
        first.lease(ONE).map(|lease| lease.since)
    );
    assert_eq!(take(store, "b", ONE, LONG).await, None, "a lease that stands was taken over");
    assert_eq!(store.standing().await.expect("standing").leader(ONE), Some("a"));
}

pub(super) async fn what_is_not_wanted_any_more_is_given_back(store: &dyn Store) {
    let standing = store.lease(ask("a", &[ONE, TWO], LONG)).await.expect("lease");
    assert_eq!((epoch(&standing, "a", ONE), epoch(&standing, "a", TWO)), (Some(1), Some(1)));
    let standing = store.lease(ask("a", &[TWO], LONG)).await.expect("lease");
    assert_eq!((epoch(&standing, "a", ONE), epoch(&standing, "a", TWO)), (None, Some(1)));
    assert!(standing.lease(ONE).is_some_and(|lease| lease.holder.is_none()), "{standing:?}");
    assert_eq!(take(store, "b", ONE, LONG).await, Some(2), "the next one has the next epoch");
    store.lease(ask("b", &[], LONG)).await.expect("lease");
    assert_eq!(
        take(store, "b", ONE, LONG).await,
        Some(3),
        "giving back ends a term, also for the same holder"
    );
}

pub(super) async fn who_leads_nothing_is_told_of_members(store: &dyn Store) {
    store.lease(ask("a", &[ONE], LONG)).await.expect("lease");
    let mut listens = ask("b", &[], LONG);
    listens.member.service = Service::Aggregator;
    for _ in 0..2 {
        let told = store.lease(listens.clone()).await.expect("lease");
        assert_eq!((names(&told), told.leases.len()), (vec!["a", "b"], 0));
    }
    let standing = store.standing().await.expect("standing");
    assert_eq!((names(&standing), standing.leader(ONE)), (vec!["a", "b"], Some("a")));
}

pub(super) async fn who_leaves_leaves_everything(store: &dyn Store) {
    store.lease(ask("a", &[ONE, TWO], LONG)).await.expect("lease");
    let standing = store.lease(ask("b", &[Domain::Provisioner], LONG)).await.expect("lease");
    assert_eq!(names(&standing), ["a", "b"], "members by name");
    let of_a = ask("a", &[], LONG).member;
    assert_eq!(standing.members[0], of_a, "a member is what it said it is");
    for _ in 0..2 {
        store.leave("a").await.expect("leave, twice");
    }
    let standing = store.standing().await.expect("standing");
    assert_eq!(names(&standing), ["b"]);
    assert_eq!(standing.leader(Domain::Provisioner), Some("b"), "another one's lease is left alone");
    assert_eq!((standing.leader(ONE), standing.leader(TWO)), (None, None));
    let all: Vec<&str> = standing.leases.iter().map(|lease| lease.name.as_ref()).collect();
    assert_eq!(
        all,
        ["controller/1", "controller/2", "provisioner"],
        "every lease there ever was, by name"
    );
    assert_eq!(take(store, "c", TWO, LONG).await, Some(2));
}

pub(super) async fn of_many_takers_one_wins(store: &dyn Store) {
    for round in 1..=5 {
        let (a, b) = tokio::join!(take(store, "a", ONE, LONG), take(store, "b", ONE, LONG));
        let won = a.or(b);
        assert!(a.is_some() != b.is_some(), "round {round}: of two takers one wins: {a:?} {b:?}");
        assert_eq!(won, Some(round), "the epoch grows by one a term");
        store.leave(if a.is_some() { "a" } else { "b" }).await.expect("leave");
    }
}

/// Checks of what runs out. `pass` lets time pass, for the store.
pub(super) async fn what_runs_out_is_free(store: &dyn Store, pass: &impl AsyncFn(Duration)) {
    assert_eq!(take(store, "a", ONE, SHORT).await, Some(1));
    store.lease(ask("b", &[], LONG)).await.expect("lease");
    let over = Term { domain: ONE, epoch: 1 };
    let write = async || {
        let commit = ProvisionCommit {
            term: Some(over),
            journal: vec![entry(1)],
            ..ProvisionCommit::default()
        };
        store.commit_provision(commit).await
    };
    pass(AFTER).await;
    let standing = store.standing().await.expect("standing");
    assert_eq!(names(&standing), ["b"], "a member that was not heard of is not live");
    assert_eq!(standing.leader(ONE), None, "a lease that ran out is led by nobody");
    assert!(standing.lease(ONE).is_some_and(|lease| lease.epoch == 1), "{standing:?}");
    write().await.expect("a term that nobody took over still stands");
    assert_eq!(
        take(store, "a", ONE, SHORT).await,
        Some(1),
        "who comes back in time goes on in the same term"
    );
    pass(AFTER).await;
    assert_eq!(
        take(store, "b", ONE, LONG).await,
        Some(2),
        "what ran out can be taken, with the next epoch"
    );
    let late = write().await;
    assert!(is_deposed(&late, over), "{late:?}");
    assert_eq!(take(store, "a", ONE, LONG).await, None, "the former holder does not get it back");
    assert_eq!(names(&store.standing().await.expect("standing")), ["a", "b"]);
}

pub(super) async fn nothing_is_written_under_a_term_that_is_over(store: &dyn Store) {
    let shard = take(store, "c", ONE, LONG).await.expect("a shard");
    let first = take(store, "p", Domain::Provisioner, LONG).await.expect("the provisioner");
    let shard = Term { domain: ONE, epoch: shard };
    let leads = Term {
        domain: Domain::Provisioner,
        epoch: first,
    };
    store.leave("p").await.expect("leave");
    let given_back = record(store, 1, &[leads, shard]).await;
    assert!(is_deposed(&given_back, leads), "what was given back stands: {given_back:?}");
    let next = take(store, "q", Domain::Provisioner, LONG).await.expect("the provisioner");
    let now = Term {
        domain: Domain::Provisioner,
        epoch: next,
    };
    let later = Term { epoch: next + 1, ..now };
    let never = Term { domain: TWO, epoch: 1 };
    for over in [leads, later, never] {
        for terms in [[over, shard], [shard, over]] {
            let done = record(store, 1, &terms).await;
            assert!(is_deposed(&done, over), "{over}: {done:?}");
        }
        let done = provision(store, 1, over).await;
        assert!(is_deposed(&done, over), "{over}: {done:?}");
        let done = decide(store, 1, over).await;
        assert!(is_deposed(&done, over), "{over}: {done:?}");
    }
    assert!(
        store.launch(launch_id(1)).await.expect("launch").is_none(),
        "a launch of a deposed one is there"
    );
    assert!(
        store.instances(false).await.expect("instances").is_empty(),
        "an instance of a deposed one is there"
    );
    assert!(store.memories().await.expect("memories").is_empty() && store.outbox().await.expect("outbox").is_empty());
    assert!(events(store).await.is_empty(), "what was refused was journalled");

    assert!(
        record(store, 1, &[now, shard]).await.expect("a launch"),
        "under terms that stand it is recorded"
    );
    let again = record(store, 1, &[leads]).await;
    assert!(is_deposed(&again, leads), "also a repetition is refused: {again:?}");
    provision(store, 1, now).await.expect("under a term that stands it is written");
    decide(store, 1, shard).await.expect("under a term that stands it is written");
    let one = store.instance(instance_id(10)).await.expect("instance").expect("it is there");
    assert_eq!(one.version, 2);
    assert_eq!(store.outbox().await.expect("outbox").len(), 1);
    assert_eq!(events(store).await, [1, 2, 3]);
}

pub(super) async fn nothing_is_closed_or_forgotten_under_a_term_that_is_over(store: &dyn Store) {
    let epoch = take(store, "c", ONE, LONG).await.expect("a shard");
    let stands = Term { domain: ONE, epoch };
    let over = Term {
        epoch: epoch + 1,
        ..stands
    };
    store.put_pools(&[pool("web", 1)], Vec::new()).await.expect("a pool");
    decide(store, 1, stands).await.expect("a decision");
    let done = store.set_closed(true, Some(over), vec![entry(4)]).await;
    assert!(is_deposed(&done, over), "{done:?}");
    let done = store.forget_pool(&name("web"), 1, Some(over), vec![entry(5)]).await;
    assert!(is_deposed(&done, over), "{done:?}");
    let done = store.forget_pool(&name("none"), 1, Some(over), vec![entry(5)]).await;
    assert!(is_deposed(&done, over), "also of one that is not there: {done:?}");
    assert!(!store.closed().await.expect("closed"), "a deposed one closed it");
    assert_eq!(store.pools().await.expect("pools"), [pool("web", 1)]);
    assert_eq!(
        (
            store.memories().await.expect("memories").len(),
            store.outbox().await.expect("outbox").len()
        ),
        (1, 1)
    );
    assert_eq!(events(store).await, [3], "what was refused was journalled");
    store.settle(ONE).await.expect("settle");
    store.settle(TWO).await.expect("settle what nobody ever had");
    store.set_closed(true, Some(stands), vec![entry(4)]).await.expect("close");
    store
        .forget_pool(&name("web"), 1, Some(stands), vec![entry(5)])
        .await
        .expect("forget");
    assert!(store.closed().await.expect("closed") && store.pools().await.expect("pools").is_empty());
    assert_eq!(events(store).await, [3, 4, 5]);
}

pub(super) async fn what_was_ordered_under_a_term_that_is_over_is_not_written(store: &dyn Store) {
    let shard = take(store, "c", ONE, LONG).await.expect("a shard");
    let epoch = take(store, "p", Domain::Provisioner, LONG).await.expect("the provisioner");
    let asked = Term { domain: ONE, epoch: shard };
    let over = Term { epoch: shard + 1, ..asked };
    let commit = |also: &[Term]| ProvisionCommit {
        term: Some(Term {
            domain: Domain::Provisioner,
            epoch,
        }),
        also: also.to_vec(),
        instances: vec![instance(10, 1, 5)],
        launches: Vec::new(),
        journal: vec![entry(1)],
    };
    for also in [[over, asked], [asked, over]] {
        let done = store.commit_provision(commit(&also)).await;
        assert!(is_deposed(&done, over), "{done:?}");
    }
    assert!(store.instances(false).await.expect("instances").is_empty() && events(store).await.is_empty());
    store.commit_provision(commit(&[asked])).await.expect("all of them stand");
    assert_eq!(store.instances(false).await.expect("instances").len(), 1);
}

async fn record(store: &dyn Store, n: u64, terms: &[Term]) -> Result<bool, Error> {
    store
        .record_launch(&launch(n, &[10], 5), &[instance(10, n, 5)], vec![entry(1)], terms)
        .await
}

async fn provision(store: &dyn Store, n: u64, term: Term) -> Result<(), Error> {
    let commit = ProvisionCommit {
        term: Some(term),
        also: Vec::new(),
        instances: vec![moved(&instance(10, n, 5), State::Pending, 6)],
        launches: Vec::new(),
        journal: vec![entry(2)],
    };
    store.commit_provision(commit).await
}

async fn decide(store: &dyn Store, n: u64, term: Term) -> Result<(), Error> {
    let commit = DecisionCommit {
        term: Some(term),
        memory: Some(memory(n)),
        outbox: vec![outgoing(n, "web", 5)],
        journal: vec![entry(3)],
    };
    store.commit_decision(&name("web"), commit).await
}
