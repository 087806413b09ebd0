//! What every store must do: the rules of [`Store`] as checks that run against any implementation.
//!
//! A plain module and not a test, so that each implementation's tests, also those of other crates, can call [`holds`]. It panics
//! with a sentence at the first rule that is broken. A rule that only one implementation keeps is not in here: what survives a
//! `kill -9`, or what a full disk says, is tested beside that implementation.

mod documents;
pub mod filled;
mod journal;
mod launches;
mod leases;
mod pools;
pub mod samples;

use std::time::Duration;

use crate::{Error, Store};
use samples::{entry, events};

/// Checks every rule, each against a new, empty store from `make`; `pass` lets that much time pass by the store's clock.
///
/// # Panics
/// When a rule is broken.
pub async fn holds_with_time<S: Store>(make: impl AsyncFn() -> S, pass: impl AsyncFn(Duration)) {
    holds(&make).await;
    leases::the_first_taker_has_the_first_epoch_and_keeps_it(&make().await).await;
    leases::what_is_not_wanted_any_more_is_given_back(&make().await).await;
    leases::who_leads_nothing_is_told_of_members(&make().await).await;
    leases::who_leaves_leaves_everything(&make().await).await;
    leases::of_many_takers_one_wins(&make().await).await;
    leases::what_runs_out_is_free(&make().await, &pass).await;
    leases::nothing_is_written_under_a_term_that_is_over(&make().await).await;
    leases::nothing_is_closed_or_forgotten_under_a_term_that_is_over(&make().await).await;
    leases::what_was_ordered_under_a_term_that_is_over_is_not_written(&make().await).await;
}

/// Checks every rule but those about leases, each against a new, empty store from `make`.
///
/// # Panics
/// When a rule is broken.
pub async fn holds<S: Store>(make: impl AsyncFn() -> S) {
    a_new_store_is_empty_and_open(&make().await).await;
    the_first_value_kept_wins(&make().await).await;
    closing_is_remembered(&make().await).await;
    it_can_be_written_to(&make().await).await;

    pools::one_revision_after_another(&make().await).await;
    pools::a_conflict_keeps_nothing(&make().await).await;
    pools::a_decision_is_kept_whole(&make().await).await;
    pools::commands_are_kept_in_order_until_accepted(&make().await).await;
    pools::a_forgotten_pool_leaves_nothing(&make().await).await;
    pools::another_revision_is_not_forgotten(&make().await).await;

    launches::a_launch_is_recorded_once(&make().await).await;
    launches::a_closed_installation_records_no_launch(&make().await).await;
    launches::an_instance_has_one_launch(&make().await).await;
    launches::one_version_after_another(&make().await).await;
    launches::a_conflict_writes_nothing(&make().await).await;
    launches::of_two_writers_one_wins(&make().await).await;
    launches::live_ones_are_told_from_ended_ones(&make().await).await;
    launches::open_launches_have_a_live_instance_or_no_outcome(&make().await).await;
    launches::many_at_once(&make().await).await;

    journal::it_is_read_in_order_and_in_pages(&make().await).await;
    journal::it_is_read_by_pool_and_by_instance(&make().await).await;
    journal::what_is_written_is_what_is_read(&make().await).await;
    journal::retiring_takes_the_oldest_and_no_more_than_told(&make().await).await;
    journal::retiring_keeps_what_is_needed(&make().await).await;
    journal::a_number_is_never_given_twice(&make().await).await;

    documents::one_revision_after_another(&make().await).await;
    documents::a_forgotten_one_begins_anew(&make().await).await;
    documents::of_two_writers_one_wins(&make().await).await;
    documents::revisions_of_pools_are_those_of_the_pools(&make().await).await;
}

async fn a_new_store_is_empty_and_open(store: &dyn Store) {
    assert!(!store.closed().await.expect("closed"), "a new store is closed");
    assert!(store.pools().await.expect("pools").is_empty());
    assert!(store.memories().await.expect("memories").is_empty());
    assert!(store.outbox().await.expect("outbox").is_empty());
    assert!(store.instances(false).await.expect("instances").is_empty());
    assert!(store.open_launches().await.expect("open launches").is_empty());
    assert!(events(store).await.is_empty());
    let size = store.size().await.expect("size");
    assert_eq!((size.instances, size.journal), (0, 0));
}

async fn the_first_value_kept_wins(store: &dyn Store) {
    let odd = "it's \"quoted\", ünïcödé 🦀\n";
    assert_eq!(store.keep("key", odd).await.expect("keep"), odd);
    assert_eq!(store.keep("key", "second").await.expect("keep"), odd, "the second value won");
    assert_eq!(
        store.keep("KEY", "other").await.expect("keep"),
        "other",
        "keys differ in upper and lower case"
    );
    let (a, b) = tokio::join!(store.keep("race", "a"), store.keep("race", "b"));
    assert_eq!(
        a.expect("keep"),
        b.expect("keep"),
        "two who keep at once go on with different values"
    );
}

async fn closing_is_remembered(store: &dyn Store) {
    for (closed, at) in [(true, 1), (true, 2), (false, 3)] {
        store.set_closed(closed, None, vec![entry(at)]).await.expect("set closed");
        assert_eq!(store.closed().await.expect("closed"), closed);
    }
    assert_eq!(events(store).await.len(), 3, "closing and opening are remembered");
}

async fn it_can_be_written_to(store: &dyn Store) {
    for _ in 0..2 {
        store.check().await.expect("check");
    }
    store.append(Vec::new()).await.expect("append nothing");
    assert!(events(store).await.is_empty(), "a check leaves a trace in the journal");
}

/// Whether it was refused because of a change meanwhile.
fn is_conflict<T>(done: &Result<T, Error>) -> bool {
    matches!(done, Err(Error::Conflict(_)))
}
