//! The simulator's chaos with real processes, see [`epu_tests::chaos`].
//!
//! `EPU_TESTS_SEED` repeats a run's choices (their timing is the machine's), `EPU_TESTS_ROUNDS` makes it longer, and `EPU_TESTS_KEEP` names a
//! directory for all files of a run in which something was broken. `tests/figures chaos-runs-broken --long` makes long ones.

mod behind;
mod networks;

use epu_tests::chaos::endure;

/// As many as draw nearly every kind of fault once.
const ROUNDS: u32 = 8;

fn given<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[tokio::test]
async fn whatever_fails_and_whatever_is_asked_meanwhile_what_must_be_true_is_true() {
    let seed = given("EPU_TESTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = given("EPU_TESTS_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("EPU_TESTS_SEED={seed} EPU_TESTS_ROUNDS={rounds}");
    let outcome = endure(seed, rounds).await.unwrap();
    eprintln!("{}", outcome.story.join("\n"));
    eprintln!(
        "{:?} faults; settled after {:?}; {} machines, {} launches, {} decisions, {} jobs ({} put back), requests {:?}, looks {:?}",
        outcome.faults,
        outcome.converged,
        outcome.machines,
        outcome.launches,
        outcome.decisions,
        outcome.jobs,
        outcome.put_back,
        outcome.asked,
        outcome.looks
    );
    // A run that saw nothing proves nothing.
    assert!(outcome.machines >= 6 && outcome.decisions > 0 && outcome.jobs > 0 && outcome.asked.1 > 0);
    assert!(outcome.looks.1 > 20, "the watch saw records only {:?} times", outcome.looks);
}
