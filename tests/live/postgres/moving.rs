//! Moving an installation from one database to another, and back.

use epu_core::time::Timestamp;
use epu_store::contract::filled::{everything, fill};
use epu_store::contract::samples::entry;
use epu_store::portable::{Imported, check, export, import};
use epu_store::{AnyStore, JournalQuery, Place};
use epu_tests::postgres::Postgres;
use epu_tests::process;

use super::{settings, store};

#[tokio::test]
async fn an_installation_moves_from_sqlite_to_postgresql_and_back() {
    let server = Postgres::shared().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp(1_700_000_000_000);
    let (first, _) = AnyStore::open(Place::Directory(&dir.path().join("first"))).await.unwrap();
    fill(first.records()).await.unwrap();
    let there = everything(first.records()).await.unwrap();
    let file = dir.path().join("moving");
    let written = export(&first, &file, now, false).await.unwrap();

    let database = server.database().await.unwrap();
    let settings = settings(&server, &database);
    let (second, migrated) = AnyStore::open(Place::Database(&settings)).await.unwrap();
    assert_eq!((migrated.from, migrated.to), (0, 2));
    assert_eq!(import(&second, &file).await.unwrap(), Imported::Done(written.clone()));
    assert!(everything(second.records()).await.unwrap() == there, "something did not arrive");
    assert!(matches!(import(&second, &file).await.unwrap(), Imported::NotEmpty(_)), "twice");
    let report = check(&second).await.unwrap();
    assert!(
        report.is_sound() && report.rows == written.rows && report.installation == "the one",
        "{report:?}"
    );

    let back = dir.path().join("back");
    export(&second, &back, now, false).await.unwrap();
    let lines = |path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        lines.pop();
        lines
    };
    assert!(lines(&back) == lines(&file), "what comes back is not what went");
    let (third, _) = AnyStore::open(Place::Directory(&dir.path().join("third"))).await.unwrap();
    assert!(matches!(import(&third, &back).await.unwrap(), Imported::Done(_)));
    assert!(everything(third.records()).await.unwrap() == there, "something did not come back");
    // Numbers go on where they were, in both alike.
    let mut newest = Vec::new();
    for store in [&first, &second, &third] {
        store.records().append(vec![entry(1)]).await.unwrap();
        let asked = JournalQuery {
            limit: 1,
            ..JournalQuery::default()
        };
        newest.push(store.records().journal(asked).await.unwrap()[0].sequence);
    }
    assert_eq!(newest, [newest[0]; 3]);
}

/// With the program itself, as an operator does it.
#[tokio::test]
async fn the_program_moves_an_installation_into_a_database_and_checks_it() {
    let server = Postgres::shared().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("moving"));
    let (first, _) = AnyStore::open(Place::Directory(&data)).await.unwrap();
    fill(first.records()).await.unwrap();
    let there = everything(first.records()).await.unwrap();
    let database = server.database().await.unwrap();
    let url = server.url(&database);
    let run = |words: &[&str]| {
        let mut all = vec!["store"];
        all.extend(words);
        let ended = process::run(&all, |command| {
            command.env("EPU_TESTS_DATABASE", &url);
        });
        let ended = ended.unwrap();
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert!(!said.contains("only-for-tests"), "the password is in it: {said}");
        (ended.status.code(), said)
    };
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let place = ["--postgres", "env:EPU_TESTS_DATABASE"];
    let with = |words: &[&str]| run(&[words, &place].concat());
    let (code, said) = with(&["check"]);
    assert!(code == Some(1) && said.contains("it has no tables yet"), "{code:?} {said}");
    // The store is in use meanwhile.
    let (code, said) = run(&["export", file, "--sqlite", data]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = with(&["migrate"]);
    assert!(code == Some(0) && said.contains("was made, with form 2"), "{code:?} {said}");
    let (code, said) = with(&["import", file]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = with(&["import", file]);
    assert!(code == Some(6) && said.contains("nothing was changed"), "{code:?} {said}");
    let (code, said) = with(&["check", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &report["faults_total"], &report["writable"]),
        (Some(0), &0.into(), &true.into()),
        "{said}"
    );
    let moved = store(&server, &database).await;
    assert!(everything(&moved).await.unwrap() == there, "something did not arrive");
}
