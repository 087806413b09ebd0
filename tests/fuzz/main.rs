//! Input from outside, made up in thousands at each run: see `epu_tests::fuzz`. A program of its own, because its allocator counts.
//!
//! `EPU_FUZZ_CASES=N` makes up N inputs over all kinds in place of the usual number; `EPU_FUZZ_SEED=S` makes up others. A failure is
//! printed with the smallest input that fails: put it into `corpus/<kind>/failed-<what>`, where it is tried first from then on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why")]

mod evil;
mod world;

use std::sync::{Mutex, PoisonError};

use epu_tests::fuzz::{self, Failure, Kind, Meter};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Made up at each run, over all kinds.
const CASES: u64 = 6_000;
/// Memory is that of the whole process: one test at a time.
static ALONE: Mutex<usize> = Mutex::new(0);

/// Counts what is allocated.
struct Counting(std::cell::Cell<usize>);

impl Counting {
    fn new() -> Self {
        Self(std::cell::Cell::new(0))
    }
}

impl Meter for Counting {
    fn begin(&self) {
        ALLOCATED.reset_peak_usage();
        self.0.set(ALLOCATED.current_usage());
    }

    fn most(&self) -> usize {
        ALLOCATED.peak_usage().saturating_sub(self.0.get())
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable} is {text:?}: {error}")),
        Err(_) => otherwise,
    }
}

fn made_up(name: &str) {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kind: &Kind = fuzz::all().iter().find(|kind| kind.name == name).unwrap();
    let cases = number("EPU_FUZZ_CASES", CASES) * u64::from(kind.share) / 1_000;
    let ran = kind
        .run(u32::try_from(cases.max(10)).unwrap(), number("EPU_FUZZ_SEED", 1), &Counting::new())
        .unwrap();
    drop(alone);
    if let Some(failure) = ran.failure {
        panic!("{}", failure.told());
    }
    assert!(ran.most > 0, "nothing was measured");
}

#[test]
fn every_kind_has_a_test_and_all_shares_are_one() {
    let tested = [
        "requests",
        "answers",
        "dashi",
        "heartbeats",
        "management",
        "notices",
        "worker-files",
        "tokens",
        "words",
        "yaml",
        "json",
        "pools",
        "reconfigure",
    ];
    let kinds: Vec<&str> = fuzz::all().iter().map(|kind| kind.name).collect();
    assert_eq!(kinds, tested);
    assert_eq!(fuzz::all().iter().map(|kind| kind.share).sum::<u32>(), 1_000);
}

#[test]
fn requests_are_understood_or_refused() {
    made_up("requests");
}

#[test]
fn answers_and_facts_survive_a_round_trip() {
    made_up("answers");
}

#[test]
fn calls_of_old_clients_are_read_or_answered_with_a_problem() {
    made_up("dashi");
}

#[test]
fn heartbeats_that_are_refused_change_nothing() {
    made_up("heartbeats");
}

#[test]
fn a_queue_s_length_is_never_guessed() {
    made_up("management");
}

#[test]
fn an_interruption_is_never_put_off() {
    made_up("notices");
}

#[test]
fn what_a_worker_writes_is_bounded() {
    made_up("worker-files");
}

#[test]
fn nobody_is_let_in_but_with_what_was_given_out() {
    made_up("tokens");
}

#[test]
fn words_are_read_as_they_are_written() {
    made_up("words");
}

#[test]
fn yaml_is_read_with_places() {
    made_up("yaml");
}

#[test]
fn json_means_the_same_as_yaml() {
    made_up("json");
}

#[test]
fn pools_are_taken_or_refused_with_places() {
    made_up("pools");
}

#[test]
fn a_refused_change_leaves_nothing_behind() {
    made_up("reconfigure");
}

/// What judges finds what is wrong: a panic, too much memory, an untrue property.
#[test]
fn a_reader_that_fails_is_found_and_its_input_made_small() {
    fn shouts(input: &[u8]) -> fuzz::Verdict {
        assert!(!input.contains(&b'!'), "it shouts");
        Ok(())
    }
    fn hoards(input: &[u8]) -> fuzz::Verdict {
        let hoard = vec![1_u8; input.len() * 10_000];
        if hoard.len() == 1 { Err("never".to_owned()) } else { Ok(()) }
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let base = fuzz::all().iter().find(|kind| kind.name == "words").unwrap();
    let found = |kind: Kind| kind.run(2_000, 1, &Counting::new()).unwrap().failure.unwrap();
    let shouting = found(Kind { property: shouts, ..*base });
    assert!(shouting.why.contains("it shouts"), "{shouting:?}");
    assert_eq!(shouting.input.as_ref().unwrap().0, b"!");
    let told = shouting.told();
    let (_, kept) = told.rsplit_once("kept in ").unwrap();
    assert_eq!(std::fs::read(kept).unwrap(), b"!");
    std::fs::remove_file(kept).unwrap();
    let hoarding = found(Kind { property: hoards, ..*base });
    assert!(hoarding.why.contains("bytes of memory"), "{hoarding:?}");
    let endless = Failure {
        kind: "words",
        why: "long ".repeat(10_000),
        input: None,
    };
    assert!(endless.told().lines().next().unwrap().chars().count() < 1_100);
}
