//! Whether a store is as it should be: reachable, of a known form, writable, and every record readable and what its columns say.

use std::collections::BTreeMap;

use epu_core::code::Chain;
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::pool::Pool;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Found;
use crate::tables::{Cell, TABLES, Table};
use crate::{AnyStore, Document, Error, Outgoing, PoolMemory};

/// How many faults are told one by one.
const TOLD: usize = 50;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which store.
    pub store: String,
    /// The newest migration that it has; 0 when it is empty.
    pub form: i64,
    /// The newest that this release knows.
    pub newest_form: i64,
    /// Whether it can be written to.
    pub writable: bool,
    /// The installation's id; empty when it has none yet.
    pub installation: String,
    /// Whether the installation is closed by teardown.
    pub closed: bool,
    /// How many rows, table by table.
    pub rows: BTreeMap<String, u64>,
    /// How large it is.
    pub bytes: u64,
    /// Everything that is wrong; the first ones when there is much.
    pub faults: Vec<String>,
    /// How much is wrong in all.
    pub faults_total: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults_total == 0
    }

    fn fault(&mut self, text: String) {
        self.faults_total += 1;
        if self.faults.len() < TOLD {
            self.faults.push(text);
        }
    }
}

/// Looks at everything. The store may be in use; it is not changed.
///
/// # Errors
/// When it cannot be read; what can be read and is wrong stands in the report.
pub async fn check(store: &AnyStore) -> Result<Report, Error> {
    let all = store.portable();
    let (form, newest_form) = all.form().await?;
    let mut report = Report {
        store: all.place(),
        form,
        newest_form,
        writable: true,
        installation: String::new(),
        closed: false,
        rows: TABLES.iter().map(|table| (table.name.to_owned(), 0)).collect(),
        bytes: 0,
        faults: Vec::new(),
        faults_total: 0,
    };
    if form == 0 {
        report.fault("it has no tables yet; they are made by `epumgmt store migrate`, or when it is first served".to_owned());
        return Ok(report);
    }
    if !crate::migrate::works(newest_form, form) {
        report.fault(format!("its form {form} is of a later release, which this one does not understand"));
        return Ok(report);
    }
    if form < newest_form {
        report.fault(format!(
            "its form {form} is not yet {newest_form}, that of this release; `epumgmt store migrate` changes that"
        ));
        return Ok(report);
    }
    if let Err(error) = all.writable().await {
        report.writable = false;
        report.fault(Chain(&error).to_string());
    }
    all.dump(&mut |found| {
        match found {
            Found::Head(head) => report.installation = head.installation,
            Found::Row(table, row) => {
                *report.rows.entry(table.name.to_owned()).or_default() += 1;
                if table.name == "installation" {
                    report.closed = row.get(1) == Some(&Cell::Flag(true));
                }
                if let Err(why) = sound(table, &row) {
                    let name = row.first().map(shown).unwrap_or_default();
                    report.fault(format!("{} {name}: {why}", table.name));
                }
            }
        }
        Ok(())
    })
    .await?;
    report.bytes = store.records().size().await?.bytes;
    if report.rows.get("installation") != Some(&1) {
        report.fault("the row that says whether the installation is closed is not there once".to_owned());
    }
    Ok(report)
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.chars().take(100).collect(),
        Cell::Number(number) => number.to_string(),
        Cell::Flag(flag) => flag.to_string(),
        Cell::Nothing => String::new(),
    }
}

/// Whether a row can be read, and its columns say what its record says.
fn sound(table: &Table, row: &[Cell]) -> Result<(), String> {
    let column = |name: &str| {
        let at = table.columns.iter().position(|(column, _)| *column == name);
        at.and_then(|at| row.get(at))
    };
    let text = |name: &str| column(name).and_then(Cell::text).unwrap_or_default();
    let number = |name: &str| column(name).and_then(Cell::number).unwrap_or_default();
    let body = text("body");
    let mut says = Vec::new();
    match table.name {
        "pools" => {
            let pool: Pool = read(body)?;
            says.push(("name", pool.name.as_str() == text("name")));
            says.push(("revision", i64::try_from(pool.revision).ok() == Some(number("revision"))));
        }
        "memories" => drop(read::<PoolMemory>(body)?),
        "outbox" => {
            let outgoing: Outgoing = read(body)?;
            says.push(("id", outgoing.id.to_string() == text("id")));
            says.push(("pool", outgoing.pool.as_str() == text("pool")));
        }
        "launches" => {
            let launch: Launch = read(body)?;
            says.push(("id", launch.id.to_string() == text("id")));
            says.push(("done", column("done") == Some(&Cell::Flag(launch.outcome.is_some()))));
        }
        "instances" => {
            let instance: Instance = read(body)?;
            says.push(("id", instance.id.to_string() == text("id")));
            says.push(("launch", instance.launch.to_string() == text("launch")));
            says.push(("version", i64::try_from(instance.version).ok() == Some(number("version"))));
            says.push(("state", instance.state.code() == text("state")));
        }
        "documents" => {
            let document: Document = read(body)?;
            says.push(("name", document.name == text("name") && document.kind == text("kind")));
            says.push(("revision", i64::try_from(document.revision).ok() == Some(number("revision"))));
        }
        "journal" => {
            let entry: Entry = read(body)?;
            says.push(("kind", entry.event.kind() == text("kind")));
            says.push(("at", entry.at.0 == number("at")));
        }
        "leases" => says.push(("epoch", number("epoch") > 0)),
        _ => {}
    }
    match says.into_iter().find(|(_, agrees)| !agrees) {
        None => Ok(()),
        Some((column, _)) => Err(format!("its record says something else than its column {column}")),
    }
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T, String> {
    serde_json::from_str(body).map_err(|error| error.to_string())
}
