//! What a refresh makes of single instances; the whole of it is in `tests/rollout.rs`.

use epu_core::code::Fault;
use epu_core::instance::{Ending, Work};
use serde_json::json;

use super::*;

const ENDED: Timestamp = Timestamp(60_000);

fn instance(state: State, template: &str, site: &str) -> Instance {
    serde_json::from_value(json!({
        "id": uuid::Uuid::nil(), "pool": "web", "launch": uuid::Uuid::nil(), "index": 0, "site": site, "state": state, "version": 1,
        "created_at": 0, "state_since": ENDED, "template": template,
    }))
    .unwrap()
}

fn ended(why: Cause, ready_at: Option<Timestamp>) -> Instance {
    Instance {
        ready_at,
        ending: Some(Ending {
            since: ENDED,
            why,
            work: Work::Idle,
            drained_for: None,
        }),
        ..instance(State::Terminating, "t@1", "here")
    }
}

#[test]
fn what_came_to_nothing_is_what_failed_by_itself() {
    for state in [State::Failed, State::Rejected, State::RunningFailed] {
        assert_eq!(came_to_nothing(&instance(state, "t@1", "here")), Some(ENDED), "{state}");
    }
    for state in [State::Requesting, State::Pending, State::Running, State::Terminated] {
        assert_eq!(came_to_nothing(&instance(state, "t@1", "here")), None, "{state}");
    }
    for why in [Cause::Unhealthy, Cause::NotReady, Cause::StartFailed] {
        assert_eq!(came_to_nothing(&ended(why, None)), Some(ENDED), "{why:?}");
    }
    for why in [
        Cause::ScaleIn,
        Cause::Refresh,
        Cause::Interrupted,
        Cause::Vanished,
        Cause::Drained,
        Cause::Operator,
    ] {
        assert_eq!(came_to_nothing(&ended(why, Some(ENDED))), None, "{why:?}");
    }
    let soon = ended(Cause::Finished, Some(ENDED - Duration::from_secs(9)));
    let late = ended(Cause::Finished, Some(ENDED - Duration::from_secs(10)));
    assert_eq!((came_to_nothing(&soon), came_to_nothing(&late)), (Some(ENDED), None));
}

#[test]
fn that_a_site_has_no_room_says_nothing_about_a_version() {
    for (code, counts) in [
        ("site-capacity", false),
        ("site-quota-exceeded", false),
        ("site-refused", true),
        ("launch-failed", true),
    ] {
        let failed = Instance {
            fault: Some(Fault::new(code, "the site says so")),
            ..instance(State::Failed, "t@1", "here")
        };
        assert_eq!(came_to_nothing(&failed).is_some(), counts, "{code}");
    }
}

#[test]
fn an_instance_is_outdated_by_what_its_own_placement_would_launch() {
    let pool: Pool = serde_json::from_value(json!({
        "name": "web", "template_version": "t@1", "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
        "template": {"run": ["sleep", "1"]},
        "spec": {"template": "t", "max": 10, "engine": {"keep": {"n": 3}},
                 "placements": [{"site": "here"}, {"site": "far", "machine": {"size": "large"}}]},
    }))
    .unwrap();
    let versions = Versions::of(&pool);
    let large = version_on(&pool, &pool.spec.placements[1]);
    assert_ne!(large, "t@1");
    let outdated = |template: &str, site: &str| versions.is_outdated(&instance(State::Running, template, site));
    assert!(!outdated("t@1", "here") && outdated("t@0", "here"));
    assert!(!outdated(&large, "far") && outdated("t@1", "far"));
    assert!(!outdated("t@0", "gone"), "it leaves for that");
}

#[test]
fn what_is_remembered_is_stored_and_read_again() {
    let progress = Progress {
        version: "t@1".to_owned(),
        since: Timestamp(1),
        surge: 2,
        counted_until: Timestamp(9_000),
        failed: [LaunchId(uuid::Uuid::nil())].into(),
        counts_from: Timestamp(2_000),
        was_paused: true,
    };
    let mut again: Progress = serde_json::from_str(&serde_json::to_string(&progress).unwrap()).unwrap();
    assert_eq!(again, progress);
    again.not_after(Timestamp(5_000));
    assert_eq!(again.counted_until, Timestamp(5_000));
    assert_eq!(serde_json::from_str::<Progress>("{}").unwrap(), Progress::default());
}
