//! Moving everything from one store to another through a file: nothing is lost or changed, and what is not whole is refused.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use epu_core::code::Chain;
use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::request::Service;
use epu_core::time::{Span, Timestamp};
use epu_store::contract::filled::{everything, fill};
use epu_store::contract::samples::{entry, events};
use epu_store::portable::{Imported, check, export, import};
use epu_store::{AnyStore, Error, Place, SqliteStore, Store};
use sqlx::{Connection, SqliteConnection, query};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

async fn open(dir: &Path) -> AnyStore {
    AnyStore::open(Place::Directory(dir)).await.unwrap().0
}

async fn imported(dir: &Path, file: &Path) -> Result<Imported, Error> {
    let store = open(dir).await;
    let done = import(&store, file).await;
    store.close().await;
    done
}

#[tokio::test]
async fn everything_arrives_also_from_a_store_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("backup"));
    let serving = SqliteStore::open(&from).await.unwrap();
    fill(&serving).await.unwrap();
    let there = everything(&serving).await.unwrap();

    let looked = AnyStore::look(Place::Directory(&from)).await.unwrap();
    let written = export(&looked, &file, NOW, false).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "others can read it");
    assert_eq!(fs::metadata(&file).unwrap().len(), written.bytes);
    assert_eq!((written.installation.as_str(), written.rows["instances"]), ("the one", 80));
    serving.append(vec![entry(1)]).await.expect("whoever has the store goes on");

    let done = imported(&to, &file).await.unwrap();
    assert_eq!(done, Imported::Done(written.clone()));
    let store = open(&to).await;
    assert!(everything(store.records()).await.unwrap() == there, "something did not arrive");

    // Numbers and epochs go on where they were.
    let before = events(store.records()).await.len();
    store.records().append(vec![entry(2)]).await.unwrap();
    let newest = |journal: Vec<epu_core::journal::Entry>| journal.last().unwrap().sequence;
    let asked = epu_store::JournalQuery {
        limit: 1,
        ..Default::default()
    };
    let (here, beside) = (
        newest(store.records().journal(asked.clone()).await.unwrap()),
        newest(serving.journal(asked).await.unwrap()),
    );
    assert_eq!(
        (here, events(store.records()).await.len()),
        (beside, before + 1),
        "a number was given twice"
    );
    let member = Member {
        name: "d".to_owned(),
        service: Service::Controller,
        url: None,
        since: NOW,
    };
    let ask = LeaseAsk {
        member,
        want: [Domain::Shard(3)].into(),
        lasts: Span::secs(5),
    };
    let standing = store.records().lease(ask).await.unwrap();
    assert_eq!(
        standing.lease(Domain::Shard(3)).map(|lease| lease.epoch),
        Some(4),
        "an epoch went back"
    );

    let again = dir.path().join("again");
    let report = check(&store).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    store.close().await;
    let (looked, second) = (AnyStore::look(Place::Directory(&to)).await.unwrap(), dir.path().join("second"));
    export(&looked, &again, NOW, false).await.unwrap();
    export(&looked, &second, NOW, false).await.unwrap();
    assert_eq!(
        fs::read(&again).unwrap(),
        fs::read(&second).unwrap(),
        "the same store gives the same file"
    );
}

#[tokio::test]
async fn what_was_cut_or_changed_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("backup"));
    let store = open(&from).await;
    fill(store.records()).await.unwrap();
    export(&store, &file, NOW, false).await.unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let n = lines.len();
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let swapped: Vec<&str> = [&lines[..5], &[lines[6], lines[5]], &lines[7..]].concat();
    let cases = [
        (String::new(), "it is empty"),
        ("epu_core: 1\n".to_owned(), "it was not written by"),
        (whole[..whole.len() / 2].to_owned(), "it ends in the middle of a line"),
        (whole.trim_end().to_owned(), "it ends in the middle of a line"),
        (joined(&lines[..n - 1]), "its end is missing"),
        (joined(&lines[..n / 2]), "its end is missing"),
        (joined(&[&lines[..9], &lines[10..]].concat()), "it was changed or damaged"),
        (joined(&swapped), "it was changed or damaged"),
        (whole.replacen("200-REQUESTED", "600-RUNNING", 1), "it was changed or damaged"),
        (whole.replacen("\"epu-store\":1", "\"epu-store\":2", 1), "it is of form 2"),
        (
            whole.replacen("\"revision\"", "\"rev\"", 1),
            "of a form that this release does not know",
        ),
        (format!("{whole}{{}}\n"), "something follows its end"),
    ];
    for (text, why) in cases {
        fs::write(&file, text).unwrap();
        let error = imported(&to, &file).await.expect_err(why);
        let said = Chain(&error).to_string();
        assert!(said.contains(why) && said.contains("nothing was changed"), "{said}");
    }
    fs::write(&file, &whole).unwrap();
    let empty = open(&to).await;
    assert!(
        check(&empty).await.unwrap().rows.values().sum::<u64>() == 1,
        "something was written"
    );
    empty.close().await;
    assert!(
        matches!(imported(&to, &file).await.unwrap(), Imported::Done(_)),
        "the whole file is fine"
    );
    let second = imported(&to, &file).await.unwrap();
    assert!(
        matches!(second, Imported::NotEmpty(_)),
        "it was put into a store that is not empty: {second:?}"
    );
}

#[tokio::test]
async fn a_file_is_not_replaced_unless_told_and_never_by_half() {
    let dir = tempfile::tempdir().unwrap();
    let (from, file) = (dir.path().join("from"), dir.path().join("backup"));
    let store = open(&from).await;
    fs::write(&file, "precious").unwrap();
    let refused = export(&store, &file, NOW, false).await;
    assert!(matches!(refused, Err(Error::Exists(_))), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let nowhere = export(&store, &dir.path().join("no/such/place"), NOW, false)
        .await
        .expect_err("it was written");
    assert!(Chain(&nowhere).to_string().starts_with("write "), "{}", Chain(&nowhere));
    export(&store, &file, NOW, true).await.unwrap();
    assert!(matches!(imported(&dir.path().join("to"), &file).await.unwrap(), Imported::Done(_)));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
}

#[tokio::test]
async fn a_check_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(store.records()).await.unwrap();
    let report = check(&store).await.unwrap();
    assert!(report.is_sound() && report.writable && report.closed, "{report:?}");
    assert_eq!(
        (
            report.form,
            report.newest_form,
            report.rows["launches"],
            report.installation.as_str()
        ),
        (2, 2, 40, "the one")
    );
    store.close().await;
    let url = format!("sqlite://{}", dir.path().join("epu.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    for statement in [
        "UPDATE instances SET state = '100-REQUESTING' WHERE id LIKE '00000000-0001-%'",
        "UPDATE pools SET body = '{' WHERE name = 'web'",
    ] {
        query(statement).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let looked = AnyStore::look(Place::Directory(dir.path())).await.unwrap();
    let report = check(&looked).await.unwrap();
    assert!(report.faults.iter().any(|fault| fault.starts_with("pools web: ")), "{report:?}");
    let instance = report.faults.iter().find(|fault| fault.starts_with("instances 00000000-0001-"));
    assert!(instance.is_some_and(|fault| fault.ends_with("than its column state")), "{report:?}");
    assert_eq!(report.faults_total, 2, "{report:?}");
    let file = dir.path().join("backup");
    export(&looked, &file, NOW, false)
        .await
        .expect("what cannot be read can be kept all the same");

    let empty = tempfile::tempdir().unwrap();
    let missing = AnyStore::look(Place::Directory(empty.path())).await.expect_err("there is none");
    assert!(Chain(&missing).to_string().contains("epu.db"), "{}", Chain(&missing));
    assert!(fs::read_dir(empty.path()).unwrap().next().is_none(), "looking made something");
}
