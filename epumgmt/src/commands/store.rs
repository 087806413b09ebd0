//! The store itself: checked, migrated, kept in a file, moved to another database. No service is asked; what is only looked at may be
//! in use.

use std::fmt::Write as _;
use std::path::Path;

use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::secret::SecretUrl;
use epu_core::time::Clock;
use epu_store::portable::{self, Imported, Moved, Report};
use epu_store::{AnyStore, Error, PgSettings, Place};
use serde_json::json;

use super::Screen;
use crate::cli::{StoreArgs, StoreCommand};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::show::harmless;

/// Connections to the database. One reads or writes everything; the other finds out how large it is.
const CONNECTIONS: u32 = 2;

/// Does what was asked for.
///
/// # Errors
/// Why it was not done.
pub(crate) async fn store(screen: &mut Screen, args: &StoreArgs, file: &Path, clock: &dyn Clock) -> Result<Exit, Failure> {
    let place = Chosen::of(args, file)?;
    match &args.command {
        StoreCommand::Check => check(screen, &place).await,
        StoreCommand::Migrate => migrate(screen, &place).await,
        StoreCommand::Backup { file, replace } => backup(screen, &place, file, clock, *replace).await,
        StoreCommand::Restore { file } => restore(screen, &place, file).await,
    }
}

/// Which store.
enum Chosen {
    Directory(std::path::PathBuf),
    Database(PgSettings),
}

impl Chosen {
    fn of(args: &StoreArgs, file: &Path) -> Result<Self, Failure> {
        if let Some(dir) = &args.sqlite {
            return Ok(Self::Directory(dir.clone()));
        }
        if let Some(url) = &args.postgres {
            let url = SecretUrl::new(url.clone());
            if url.has_open_password() {
                let text = "a password on the command line can be read by everybody on this machine; put the address into a variable or \
                            a file and write --postgres env:NAME or --postgres file:/path";
                return Err(Failure::Usage(text.to_owned()));
            }
            return Ok(Self::database(url));
        }
        let text = config::text_of(file).map_err(|flaws| Failure::Flaws {
            flaws,
            text: String::new(),
        })?;
        let config = Config::read(file, &text).map_err(|flaws| Failure::Flaws { flaws, text })?;
        Ok(match config.store.postgres {
            Some(postgres) => Self::database(postgres.url),
            None => Self::Directory(config.data_dir),
        })
    }

    fn database(url: SecretUrl) -> Self {
        Self::Database(PgSettings {
            connections: CONNECTIONS,
            application_name: "epumgmt store".to_owned(),
            ..PgSettings::new(url)
        })
    }

    fn place(&self) -> Place<'_> {
        match self {
            Self::Directory(dir) => Place::Directory(dir),
            Self::Database(settings) => Place::Database(settings),
        }
    }
}

fn failed(doing: &str) -> impl Fn(Error) -> Failure {
    move |error| {
        let code = match &error {
            Error::InUse { .. } => "in-use",
            Error::Exists(_) | Error::Conflict(_) => "conflict",
            Error::Deposed(_) => "stale-epoch",
            Error::Closed => "closed",
            Error::Database { .. } | Error::Corrupt { .. } => "store-failed",
        };
        Failure::while_doing(doing, Fault::new(code, Chain(&error).to_string()))
    }
}

async fn check(screen: &mut Screen, place: &Chosen) -> Result<Exit, Failure> {
    let failed = failed("check the store");
    let store = AnyStore::look(place.place()).await.map_err(&failed)?;
    let report = portable::check(&store).await;
    store.close().await;
    let report = report.map_err(failed)?;
    screen.answer(&report, |_| shown(&report))?;
    Ok(if report.is_sound() { Exit::Done } else { Exit::Failed })
}

fn shown(report: &Report) -> String {
    let mut text = String::new();
    let yes = |so: bool| if so { "yes" } else { "no" };
    let form = match report.form {
        0 => "none yet".to_owned(),
        form => form.to_string(),
    };
    let mut line = |name: &str, value: &str| {
        // Writing to a text cannot fail.
        writeln!(text, "{name:14}{}", harmless(value)).ok();
    };
    line("store", &report.store);
    line("form", &format!("{form} (this release: {})", report.newest_form));
    line("writable", yes(report.writable));
    line(
        "installation",
        if report.installation.is_empty() {
            "none yet"
        } else {
            &report.installation
        },
    );
    line("closed", yes(report.closed));
    line("size", &format!("{} bytes", report.bytes));
    for (table, rows) in &report.rows {
        line(table, &rows.to_string());
    }
    line("faults", &report.faults_total.to_string());
    for fault in &report.faults {
        line("", fault);
    }
    text
}

async fn migrate(screen: &mut Screen, place: &Chosen) -> Result<Exit, Failure> {
    let (store, migrated) = AnyStore::open(place.place()).await.map_err(failed("migrate the store"))?;
    let place = store.place();
    store.close().await;
    let answer = json!({ "store": place, "from": migrated.from, "to": migrated.to });
    screen.answer(&answer, |_| {
        let what = match (migrated.from, migrated.to) {
            (from, to) if from == to => format!("has form {to} already"),
            (0, to) => format!("was made, with form {to}"),
            (from, to) => format!("was brought from form {from} to {to}"),
        };
        format!("{place} {what}\n")
    })?;
    Ok(Exit::Done)
}

async fn backup(screen: &mut Screen, place: &Chosen, file: &Path, clock: &dyn Clock, replace: bool) -> Result<Exit, Failure> {
    let doing = format!("write {}", file.display());
    let store = AnyStore::look(place.place()).await.map_err(failed(&doing))?;
    let written = portable::export(&store, file, clock.now(), replace).await;
    let place = store.place();
    store.close().await;
    let written = written.map_err(failed(&doing))?;
    answer(
        screen,
        &written,
        &place,
        &format!("{place} was written to {}", file.display()),
        file,
    )
}

async fn restore(screen: &mut Screen, place: &Chosen, file: &Path) -> Result<Exit, Failure> {
    let doing = format!("restore from {}", file.display());
    let (store, _) = AnyStore::open(place.place()).await.map_err(failed(&doing))?;
    let done = portable::import(&store, file).await;
    let place = store.place();
    store.close().await;
    match done.map_err(failed(&doing))? {
        Imported::Done(read) => answer(screen, &read, &place, &format!("{place} was filled from {}", file.display()), file),
        Imported::NotEmpty(found) => {
            let text = format!(
                "{place} is not empty ({} rows in {}), and nothing was changed; name an empty database, or a data directory without one",
                found.rows, found.table
            );
            Err(Failure::while_doing(doing, Fault::new("conflict", text)))
        }
    }
}

fn answer(screen: &mut Screen, moved: &Moved, place: &str, said: &str, file: &Path) -> Result<Exit, Failure> {
    let answer = json!({
        "store": place,
        "file": file,
        "installation": moved.installation,
        "rows": moved.rows,
        "bytes": moved.bytes,
    });
    screen.answer(&answer, |_| {
        let rows = |table: &str| moved.rows.get(table).copied().unwrap_or_default();
        let all: u64 = moved.rows.values().sum();
        let installation = if moved.installation.is_empty() {
            "none yet"
        } else {
            &moved.installation
        };
        format!(
            "{said}: installation {installation}, {all} rows ({} pools, {} instances, {} journal entries), {} bytes\n\
             The installation's key is not in it: keep `installation.key` of the data directory, too.\n",
            rows("pools"),
            rows("instances"),
            rows("journal"),
            moved.bytes,
        )
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use epu_core::time::{ManualClock, Timestamp};
    use epu_store::SqliteStore;
    use epu_store::contract::filled::fill;
    use serde_json::Value;

    use super::super::tests::Paper;
    use super::*;
    use crate::cli::{Cli, Command, Output};

    async fn run(line: &str, dir: &Path) -> (Result<Exit, Failure>, String) {
        let words = line.split(' ').map(|word| word.replace("DIR", &dir.display().to_string()));
        let cli = Cli::try_parse_from(std::iter::once("epumgmt".to_owned()).chain(words)).unwrap();
        let paper = Paper::default();
        let mut screen = paper.screen(cli.reach.output);
        let Command::Store(args) = cli.command else { panic!("{line}") };
        let ended = store(&mut screen, &args, &cli.reach.config, &ManualClock::at(Timestamp(1_000))).await;
        let text = paper.text();
        assert!(
            cli.reach.output == Output::Table || text.is_empty() || serde_json::from_str::<Value>(&text).is_ok(),
            "{text}"
        );
        (ended, text)
    }

    #[tokio::test]
    async fn a_store_is_checked_kept_and_restored_also_while_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (ended, text) = run("store migrate --sqlite DIR/a", dir).await;
        assert_eq!(ended.unwrap(), Exit::Done);
        assert!(text.ends_with("was made, with form 2\n"), "{text}");
        let (_, text) = run("store migrate --sqlite DIR/a -o json", dir).await;
        assert!(text.contains("\"from\": 2"), "{text}");

        let serving = SqliteStore::open(&dir.join("a")).await.unwrap();
        fill(&serving).await.unwrap();
        let (ended, text) = run("store check --sqlite DIR/a", dir).await;
        assert_eq!(ended.unwrap(), Exit::Done, "{text}");
        assert!(
            text.contains("installation  the one\n") && text.contains("instances     80\n"),
            "{text}"
        );
        let (ended, text) = run("store backup --sqlite DIR/a DIR/kept", dir).await;
        assert_eq!(ended.unwrap(), Exit::Done);
        assert!(
            text.contains("2 pools, 80 instances") && text.contains("installation.key"),
            "{text}"
        );
        let again = run("store export --sqlite DIR/a DIR/kept", dir).await.0.unwrap_err();
        assert_eq!(again.exit(), Exit::Refused, "{}", again.shown(false));
        assert_eq!(
            run("store export --replace --sqlite DIR/a DIR/kept", dir).await.0.unwrap(),
            Exit::Done
        );
        for into in ["restore", "migrate"] {
            let file = if into == "restore" { " DIR/kept" } else { "" };
            let used = run(&format!("store {into} --sqlite DIR/a{file}"), dir).await.0.unwrap_err();
            assert_eq!(used.exit(), Exit::Refused, "{}", used.shown(false));
        }

        let (ended, text) = run("store restore --sqlite DIR/b DIR/kept -o json", dir).await;
        assert_eq!(ended.unwrap(), Exit::Done);
        assert!(text.contains("\"installation\": \"the one\""), "{text}");
        let full = run("store import --sqlite DIR/b DIR/kept", dir).await.0.unwrap_err();
        assert_eq!(full.exit(), Exit::Refused);
        assert!(
            full.shown(false).contains("is not empty (2 rows in kept), and nothing was changed"),
            "{}",
            full.shown(false)
        );
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let none = run("store check --sqlite DIR/none", dir).await.0.unwrap_err();
        assert_eq!(none.exit(), Exit::Failed);
        assert!(none.shown(false).contains("none/epu.db"), "{}", none.shown(false));
        std::fs::write(dir.join("kept"), "{}\n").unwrap();
        let bad = run("store restore --sqlite DIR/b DIR/kept", dir).await.0.unwrap_err();
        assert!(
            bad.shown(false).contains("kept at line 1: it was not written by"),
            "{}",
            bad.shown(false)
        );
        let open = run("store check --postgres postgres://me:hush@host/db", dir).await.0.unwrap_err();
        assert_eq!(open.exit(), Exit::Bad);
        assert!(
            !open.shown(false).contains("hush") && open.shown(false).contains("--postgres env:NAME"),
            "{}",
            open.shown(false)
        );
        let unset = run("store check --postgres env:EPU_TESTS_NOT_SET", dir).await.0.unwrap_err();
        assert!(
            unset.shown(false).contains("EPU_TESTS_NOT_SET is not set"),
            "{}",
            unset.shown(false)
        );
        let no_config = run("store check --config DIR/no.yaml", dir).await.0.unwrap_err();
        assert_eq!(no_config.exit(), Exit::Bad);
    }

    #[tokio::test]
    async fn without_a_choice_it_is_the_one_of_the_config_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("epu.yaml"), "data-dir: here\n").unwrap();
        let (ended, text) = run("store migrate --config DIR/epu.yaml", dir).await;
        assert_eq!(ended.unwrap(), Exit::Done);
        assert!(text.contains("here/epu.db") && dir.join("here/epu.db").exists(), "{text}");
    }
}
