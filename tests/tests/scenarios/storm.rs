//! Storms: a fixed set of seeds, some that nobody played before, and every plan that once broke something.

use std::fs;
use std::path::Path;

use epu_core::time::{Clock as _, SystemClock};
use epu_simulator::storm::{Campaign, Plan, Settings, play, story::story};

/// Fixed seeds, and fresh ones. `epumgmt simulate storm` plays as many as one likes.
const FIXED: u64 = 20;
const FRESH: u64 = 10;

fn weather(from: u64, seeds: u64) {
    let campaign = Campaign {
        from,
        seeds,
        threads: 2,
        settings: Settings::default(),
    };
    let report = campaign.run(|_| true);
    let stories: Vec<String> = report.failures.iter().map(|failure| story(&failure.plan, &failure.found)).collect();
    assert!(
        stories.is_empty(),
        "{}\nfrom seed {from}; shorter: epumgmt simulate storm --from {} --seeds 1",
        stories.join("\n\n"),
        report.failures[0].plan.seed
    );
    assert_eq!(report.played, seeds);
}

#[test]
fn the_fixed_storms_break_nothing() {
    weather(0, FIXED);
}

#[test]
fn storms_that_nobody_played_before_break_nothing() {
    weather(u64::try_from(SystemClock::start().now().0).unwrap(), FRESH);
}

/// Each file is the shortest plan in which something once went wrong, named after what it was.
#[test]
fn what_once_broke_breaks_no_more() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/storms");
    let mut plans: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    plans.sort();
    let mut broken = Vec::new();
    for path in &plans {
        let plan: Plan =
            serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Some(found) = play(&plan).found {
            broken.push(format!("{}: {}", path.display(), story(&plan, &found)));
        }
    }
    assert!(!plans.is_empty() && broken.is_empty(), "{}", broken.join("\n\n"));
}
