//! The first thing people run.

use std::process::Command;

use epu_tests::process::run;
use epu_tests::processes::EndsTagged;

#[tokio::test]
async fn the_demo_keeps_its_promises_within_its_minute_and_leaves_no_process() {
    let dir = tempfile::Builder::new().prefix("epu-demo-live.").tempdir().unwrap();
    let home = dir.path().to_str().unwrap().to_owned();
    // Also ends them, should the demo have failed to.
    let left = EndsTagged::new("EPU_HOME", home.clone());
    let output = run(&["demo", "--dir", &home], |command: &mut Command| {
        command.current_dir(&dir);
    })
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Every promise was kept."), "{said}");
    let leaked = left.alive();
    assert!(leaked.is_empty(), "{leaked:?}\n{said}");
}
