//! `simulate storm` as it is typed.

use std::path::Path;

use clap::Parser as _;
use serde_json::{Value, json};

use super::tests::typed;
use crate::cli::Cli;
use crate::exit::{Exit, Failure};

fn storm(line: &[&str]) -> (Result<Exit, Failure>, String) {
    typed("storm", line, Path::new("no-such-file"))
}

#[test]
fn storms_that_break_nothing_say_so() {
    let (ended, text) = storm(&["--seeds", "2", "--from", "7", "--lasts", "3m", "--coverage"]);
    assert!(matches!(ended, Ok(Exit::Done)), "{ended:?} {text}");
    assert!(
        text.starts_with("2 storms (seeds 7 to 8): ") && text.contains("worker-crash"),
        "{text}"
    );
    assert!(text.ends_with("nothing that must always be true was broken\n"), "{text}");
    let (ended, text) = storm(&["--seeds", "2", "--from", "7", "--lasts", "3m", "-o", "json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(
        matches!(ended, Ok(Exit::Done)) && answer["played"] == 2 && answer["failures"] == json!([]),
        "{answer}"
    );
}

#[test]
fn a_plan_that_breaks_something_is_played_again_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = serde_json::to_value(epu_simulator::storm::Plan::draw(1, &epu_simulator::storm::Settings::default())).unwrap();
    plan["events"] = json!([]);
    plan["calm_at"] = json!("1m");
    // Given up before any can be ready.
    plan["template"]["ready-within"] = json!("5s");
    let file = directory.path().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let (ended, text) = storm(&["--replay", file.to_str().unwrap()]);
    assert!(matches!(ended, Ok(Exit::Failed)), "{ended:?}");
    assert!(text.contains("plan.json: I6: ") && text.contains("what came of it:"), "{text}");
    std::fs::write(&file, "{}").unwrap();
    let (ended, _) = storm(&["--replay", file.to_str().unwrap()]);
    let said = ended.unwrap_err().shown(false);
    assert!(said.contains("plan.json: this is no plan of a storm"), "{said}");
}

#[test]
fn kinds_are_listed_and_unknown_ones_refused_all_at_once() {
    let (ended, text) = storm(&["--kinds"]);
    assert!(matches!(ended, Ok(Exit::Done)) && text.lines().any(|line| line == "store-replies-lost"));
    let (ended, _) = storm(&["--only", "crsh,pause", "--without", "teardwn"]);
    let said = ended.unwrap_err().shown(false);
    assert!(
        said.contains("did you mean crash?") && said.contains("did you mean teardown?"),
        "{said}"
    );
    assert!(Cli::try_parse_from(["epumgmt", "simulate", "storm", "--rate", "crash"]).is_err());
    assert!(Cli::try_parse_from(["epumgmt", "simulate", "storm", "--rate", "crash=-1"]).is_err());
}
