//! What bad disks, bad files and bad directories get: an error that says what to do, and nothing lost.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use epu_core::code::Chain;
use epu_core::secret::SecretUrl;
use epu_store::contract::samples::{entry, events, instance, instance_id, launch};
use epu_store::{Error, PgSettings, PgStore, SqliteStore, Store};
use sqlx::{Connection, SqliteConnection, query};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn refused(dir: &Path) -> String {
    let error = SqliteStore::open(dir).await.expect_err("it was opened");
    Chain(&error).to_string()
}

/// A store with enough in it to fill several pages, closed again.
async fn filled(dir: &Path) {
    let store = SqliteStore::open(dir).await.unwrap();
    let ids: Vec<u64> = (0..200).collect();
    let requested: Vec<_> = ids.iter().map(|n| instance(*n, 1, 5)).collect();
    store
        .record_launch(&launch(1, &ids, 5), &requested, vec![entry(1)], &[])
        .await
        .unwrap();
    store.close().await;
}

async fn by_hand(dir: &Path, statement: &'static str) {
    let url = format!("sqlite://{}", dir.join("epu.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn everything_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("a/b");
    let store = SqliteStore::open(&new).await.unwrap();
    store.append(vec![entry(1)]).await.unwrap();
    assert_eq!(mode(&new), 0o700);
    for file in ["epu.db", "epu.db-wal", "epu.db-shm", "lock"] {
        assert_eq!(mode(&new.join(file)), 0o600, "{file}");
    }
    assert!(store.size().await.unwrap().bytes > 4_096);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
    SqliteStore::open(&empty).await.unwrap();
    assert_eq!(mode(&empty), 0o700, "an empty directory becomes ours");

    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("of-somebody-else"), "").unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    SqliteStore::open(&shared).await.unwrap();
    assert_eq!(mode(&shared), 0o755, "a directory with other content is left as it is");
    assert_eq!(mode(&shared.join("epu.db")), 0o600);
}

#[tokio::test]
async fn a_second_one_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(dir.path()).await.unwrap();
    let error = SqliteStore::open(dir.path()).await.expect_err("two at once");
    let Error::InUse { what, holder } = &error else { panic!("{error}") };
    assert!(what.contains(&dir.path().display().to_string()), "{what}");
    assert!(holder.starts_with(&format!("process {} (since 20", std::process::id())), "{holder}");
    first.append(vec![entry(1)]).await.unwrap();
    drop(first);
    let next = SqliteStore::open(dir.path()).await.expect("free again");
    assert_eq!(events(&next).await, [1]);
}

const DIRECTORY: &str = "EPU_STORE_READ_ONLY_TEST_DIRECTORY";

/// Root may write everywhere, so that the one who is refused is this test program started again, as nobody when we are root.
#[tokio::test]
async fn a_directory_that_may_not_be_written_to_is_refused_with_what_to_do() {
    if let Ok(dir) = env::var(DIRECTORY) {
        writeln!(std::io::stdout(), "refused:{}", refused(Path::new(&dir)).await).unwrap();
        return;
    }
    let root = rustix::process::geteuid().is_root();
    let user = if root { 65_534 } else { rustix::process::geteuid().as_raw() };
    let dir = tempfile::tempdir().unwrap();
    let (used, empty) = (dir.path().join("used"), dir.path().join("empty"));
    filled(&used).await;
    fs::create_dir(&empty).unwrap();
    for file in ["epu.db", "lock"] {
        fs::set_permissions(used.join(file), Permissions::from_mode(0o444)).unwrap();
    }
    for place in [&used, &empty, &dir.path().to_owned()] {
        fs::set_permissions(place, Permissions::from_mode(0o555)).unwrap();
    }
    for (place, doing) in [
        (used, "lock the data directory"),
        (empty, "lock the data directory"),
        (dir.path().join("missing"), "make the data directory"),
    ] {
        let mut again = Command::new("/proc/self/exe");
        again
            .args(["a_directory_that_may_not_be_written_to_is_refused_with_what_to_do", "--exact"])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &place);
        if root {
            again.uid(user).gid(user);
        }
        let said = String::from_utf8(again.output().unwrap().stdout).unwrap();
        let place = place.display();
        let expected = format!(
            "refused:{doing} {place}: it may not be written to; \
             make {place} and the files in it writable for user id {user}, or choose another data-dir: "
        );
        assert!(said.contains(&expected), "expected {expected}\nin {said}");
    }
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_file_in_the_place_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.clone(), file.join("below")] {
        let said = refused(&place).await;
        assert!(said.contains("something that is no directory; choose another data-dir"), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = "this was never a database, however long it is ".repeat(200);
    fs::write(dir.path().join("epu.db"), &text).unwrap();
    let said = refused(dir.path()).await;
    assert!(said.starts_with(&format!("open {}/epu.db: ", dir.path().display())), "{said}");
    assert!(said.contains("is damaged, or no database; move it away together with"), "{said}");
    assert_eq!(
        fs::read_to_string(dir.path().join("epu.db")).unwrap(),
        text,
        "evidence was destroyed"
    );
}

#[tokio::test]
async fn a_damaged_page_is_named_when_it_is_met() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let path = dir.path().join("epu.db");
    let length = fs::metadata(&path).unwrap().len();
    let mut file = File::options().write(true).open(&path).unwrap();
    // The first page tells SQLite what the file is; everything after half of it holds records.
    file.seek(SeekFrom::Start(length / 2)).unwrap();
    file.write_all(&vec![0xff; usize::try_from(length / 2).unwrap()]).unwrap();
    drop(file);
    let said = match SqliteStore::open(dir.path()).await {
        Ok(store) => Chain(&store.instances(false).await.expect_err("it read garbage")).to_string(),
        Err(error) => Chain(&error).to_string(),
    };
    assert!(said.contains("epu.db is damaged"), "{said}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let id = instance_id(0);
    assert_eq!(id.to_string(), "00000000-0000-7000-8000-000000000000");
    by_hand(
        dir.path(),
        "UPDATE instances SET body = '{}' WHERE id = '00000000-0000-7000-8000-000000000000'",
    )
    .await;
    let store = SqliteStore::open(dir.path()).await.unwrap();
    for error in [
        store.instances(true).await.expect_err("it was read"),
        store.instance(id).await.expect_err("it was read"),
    ] {
        let said = error.to_string();
        assert!(said.starts_with(&format!("read instance {id}: missing field")), "{said}");
    }
    assert!(store.instance(instance_id(1)).await.unwrap().is_some(), "others can be read");
}

#[tokio::test]
async fn a_file_that_a_later_release_added_to_is_used_and_one_that_it_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    for statement in [
        "CREATE TABLE of_a_later_release (x TEXT)",
        "ALTER TABLE instances ADD COLUMN of_a_later_release TEXT NOT NULL DEFAULT ''",
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'added', TRUE, x'00', 0)",
    ] {
        by_hand(dir.path(), statement).await;
    }
    let store = SqliteStore::open(dir.path()).await.unwrap();
    assert_eq!(store.instances(true).await.unwrap().len(), 200);
    let added = store
        .record_launch(&launch(2, &[500], 5), &[instance(500, 2, 5)], vec![entry(2)], &[])
        .await;
    assert!(added.unwrap(), "what is new is written beside what a later release added");
    store.close().await;
    by_hand(
        dir.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (1000, 'changed', TRUE, x'00', 0)",
    )
    .await;
    let said = refused(dir.path()).await;
    assert!(
        said.contains("was made by another release; use that release or a newer one"),
        "{said}"
    );
}

/// A server on a port of its own that takes what comes, says this to everybody, and hangs up.
async fn one_who_says(words: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = [0; 1_024];
            assert!(socket.read(&mut asked).await.unwrap() > 0, "it asks for something");
            socket.write_all(words).await.unwrap();
        }
    });
    format!("postgres://epu:secret@{address}/epu?sslmode=disable")
}

#[tokio::test]
async fn who_hangs_up_or_speaks_something_else_than_postgresql_is_called_so() {
    for words in [&b""[..], b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"R\0\0"] {
        let settings = PgSettings::new(SecretUrl::new(one_who_says(words).await));
        let error = PgStore::connect(&settings).await.expect_err("that is no database");
        let said = Chain(&error).to_string();
        assert!(
            said.contains("does not speak as PostgreSQL does") || said.contains("was lost"),
            "{}: {said}",
            words.escape_ascii()
        );
        assert!(!said.contains("report it") && !said.contains("secret"), "{said}");
    }
}
