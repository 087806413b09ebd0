use epu_core::pool::Template;
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp(5_000);

fn template(program: &str) -> Template {
    serde_json::from_value(json!({ "run": [program] })).unwrap()
}

/// A pool that launched `t@old` before.
fn pool() -> Pool {
    serde_json::from_value(json!({
        "name": "web", "template_version": "t@new", "origin": {"is": "operator"}, "revision": 7, "added_at": 0,
        "template": template("new"),
        "spec": {"template": "t", "max": 10, "engine": {"keep": {"n": 3}}, "placements": [{"site": "here"}]},
        "previous": {"template": template("old"), "template_version": "s@old"},
    }))
    .unwrap()
}

fn asked(outdated: u32) -> Asked {
    Asked {
        by: "anna".to_owned(),
        why: "a reason".to_owned(),
        now: NOW,
        in_file: None,
        outdated,
    }
}

/// The record and the words of the journal, of something that has to change something.
fn steps(before: &Pool, step: RefreshStep) -> (Pool, Vec<String>) {
    let (after, events) = stepped(before, step, &asked(3)).unwrap().unwrap();
    assert_eq!(after.revision, before.revision + 1);
    let words = events.iter().map(|event| event_word(event).to_owned()).collect();
    (after, words)
}

fn changes_nothing(before: &Pool, step: RefreshStep) {
    assert_eq!(stepped(before, step, &asked(3)).unwrap(), None, "{step:?}");
}

fn refused(before: &Pool, step: RefreshStep) -> String {
    let fault = stepped(before, step, &asked(3)).unwrap_err();
    assert_eq!(fault.code, "conflict");
    fault.text
}

#[test]
fn a_refresh_is_begun_held_resumed_and_ended_and_saying_so_twice_changes_nothing() {
    let (on, words) = steps(&pool(), RefreshStep::Start);
    assert_eq!(words, ["started"]);
    let refresh = on.refresh.clone().unwrap();
    assert_eq!((refresh.since, refresh.by.as_str(), refresh.back), (NOW, "anna", false));
    changes_nothing(&on, RefreshStep::Start);
    changes_nothing(&on, RefreshStep::Resume);

    let (paused, words) = steps(&on, RefreshStep::Pause);
    assert_eq!(
        (words, paused.refresh.as_ref().unwrap().paused.as_deref()),
        (vec!["paused".to_owned()], Some("a reason"))
    );
    changes_nothing(&paused, RefreshStep::Pause);
    changes_nothing(&paused, RefreshStep::Start);

    let (resumed, words) = steps(&paused, RefreshStep::Resume);
    assert_eq!((words, &resumed.refresh), (vec!["resumed".to_owned()], &on.refresh));

    let (stopped, words) = steps(&resumed, RefreshStep::Stop);
    assert_eq!((words, &stopped.refresh), (vec!["stopped".to_owned()], &None));
    changes_nothing(&stopped, RefreshStep::Stop);
    changes_nothing(&stopped, RefreshStep::Show);
    assert!(refused(&stopped, RefreshStep::Pause).contains("no refresh is under way"));
    assert!(refused(&stopped, RefreshStep::Resume).contains("no refresh is under way"));
}

#[test]
fn where_nothing_is_outdated_nothing_is_begun() {
    assert_eq!(stepped(&pool(), RefreshStep::Start, &asked(0)).unwrap(), None);
}

#[test]
fn a_pool_that_is_being_removed_is_not_refreshed() {
    let removed = Pool { removed: true, ..pool() };
    for step in [RefreshStep::Start, RefreshStep::Rollback] {
        assert!(refused(&removed, step).contains("being removed"));
    }
    changes_nothing(&removed, RefreshStep::Show);
}

#[test]
fn going_back_puts_the_former_template_in_place_and_going_back_again_undoes_it() {
    let before = pool();
    let (back, words) = steps(&before, RefreshStep::Rollback);
    assert_eq!(words, ["template-changed", "rolled-back"]);
    assert_eq!(
        (&back.template, back.template_version.as_str(), back.spec.template.as_str()),
        (&template("old"), "s@old", "s")
    );
    let previous = back.previous.as_deref().unwrap();
    assert_eq!(
        (&previous.template, previous.template_version.as_str(), previous.held_back),
        (&template("new"), "t@new", false)
    );
    assert!(back.refresh.as_ref().unwrap().back);
    changes_nothing(&back, RefreshStep::Rollback);

    let (stopped, _) = steps(&back, RefreshStep::Stop);
    let (forth, _) = steps(&stopped, RefreshStep::Rollback);
    assert_eq!(
        (&forth.template, &forth.template_version, &forth.spec),
        (&before.template, &before.template_version, &before.spec)
    );

    let without = Pool { previous: None, ..pool() };
    assert!(refused(&without, RefreshStep::Rollback).contains("nothing to go back to"));
}

#[test]
fn what_the_file_says_is_held_back_until_it_says_something_else() {
    let before = pool();
    let in_file = Asked {
        in_file: Some("t@new".to_owned()),
        ..asked(3)
    };
    let (back, _) = stepped(&before, RefreshStep::Rollback, &in_file).unwrap().unwrap();
    assert!(back.previous.as_ref().unwrap().held_back);
    let mut resolved = Resolved {
        name: before.name.clone(),
        spec: before.spec.clone(),
        template: before.template.clone(),
        template_version: before.template_version.clone(),
        line: 3,
    };
    resolved.spec.max = 20;
    let back = Arc::new(back);
    let applied = unless_held_back(&resolved, Some(&back));
    assert_eq!(
        (&applied.template, applied.template_version.as_str(), applied.spec.template.as_str()),
        (&back.template, "s@old", "s")
    );
    assert_eq!(applied.spec.max, 20, "anything else is applied");

    resolved.template_version = "t@newer".to_owned();
    assert_eq!(unless_held_back(&resolved, Some(&back)), resolved);
    assert_eq!(unless_held_back(&resolved, None), resolved);

    // Forth again: the file has what is launched.
    let stopped = Pool {
        refresh: None,
        ..back.as_ref().clone()
    };
    let (forth, _) = stepped(&stopped, RefreshStep::Rollback, &in_file).unwrap().unwrap();
    assert!(!forth.previous.unwrap().held_back);
}

#[test]
fn another_template_is_what_it_goes_on_with_and_the_former_one_is_remembered() {
    let (back, _) = steps(&pool(), RefreshStep::Rollback);
    let newest = Pool {
        template: template("newest"),
        template_version: "t@newest".to_owned(),
        ..back.clone()
    };
    let (after, event) = with_former(&back, newest);
    assert_eq!(event.map(|event| event.kind().to_owned()).as_deref(), Some("template-changed"));
    let previous = after.previous.as_deref().unwrap();
    assert_eq!(
        (previous.template_version.as_str(), &previous.template),
        ("s@old", &template("old"))
    );
    assert!(!after.refresh.as_ref().unwrap().back);
    assert_eq!(with_former(&after, after.clone()), (after.clone(), None));
}

#[test]
fn what_a_refresh_comes_to_by_itself_is_written_once() {
    assert_eq!(ended(&pool(), &Step::Done), None, "none is under way");
    let (on, _) = steps(&pool(), RefreshStep::Start);
    let (done, event) = ended(&on, &Step::Done).unwrap();
    assert_eq!((done.refresh, event_word(&event)), (None, "done"));
    let pause = Step::Pause("x".repeat(5_000));
    let (paused, event) = ended(&on, &pause).unwrap();
    assert_eq!(event_word(&event), "paused");
    let why = paused.refresh.as_ref().unwrap().paused.clone().unwrap();
    assert_eq!(why.len(), PAUSED_WHY_MAX);
    assert_eq!(ended(&paused, &pause), None);
}

/// A pool with one placement besides that asks for machines of a size.
fn sized(size: &str) -> Pool {
    let mut pool = Pool { previous: None, ..pool() };
    let large = json!({"site": "here", "name": "large", "machine": {"size": size}});
    pool.spec.placements.push(serde_json::from_value(large).unwrap());
    pool
}

#[test]
fn what_a_placement_changes_in_the_template_is_remembered_and_gone_back_to() {
    let (before, after) = (sized("m1"), sized("m2"));
    let (after, event) = with_former(&before, after);
    assert!(event.is_some() && after.previous.is_some());
    let (back, _) = steps(&after, RefreshStep::Rollback);
    assert_eq!(back.spec, before.spec);
    let (stopped, _) = steps(&back, RefreshStep::Stop);
    assert_eq!(steps(&stopped, RefreshStep::Rollback).0.spec, after.spec);

    let mut moved = before.clone();
    moved.spec.placements[1].max = Some(3);
    assert!(with_former(&before, moved).1.is_none(), "what is launched is the same");
}

#[test]
fn the_files_machines_are_held_back_too() {
    let (after, _) = with_former(&sized("m1"), sized("m2"));
    let in_file = Asked {
        in_file: Some("t@new".to_owned()),
        ..asked(3)
    };
    let (back, _) = stepped(&after, RefreshStep::Rollback, &in_file).unwrap().unwrap();
    let back = Arc::new(back);
    let resolved = |pool: &Pool| Resolved {
        name: pool.name.clone(),
        spec: pool.spec.clone(),
        template: pool.template.clone(),
        template_version: pool.template_version.clone(),
        line: 3,
    };
    assert_eq!(unless_held_back(&resolved(&after), Some(&back)).spec, back.spec);
    let other = resolved(&sized("m3"));
    assert_eq!(unless_held_back(&other, Some(&back)), other);
}
