//! The whole store in one file: for a backup, and to move an installation from one database to another. It is one form for both.
//!
//! The file is text, one JSON value a line: a header that says what it is and which columns each table has, one line a row, and a
//! trailer with the number of rows and the SHA-256 of every line before it. So a file that was cut or changed is noticed before
//! anything is written. It holds the installation's keys; only its owner may read it. It appears under its name whole or not at all.
//!
//! What is read is one moment's: the store may be in use. What is put into a store is put there whole, and only into an empty one. Rows
//! stay as they are, with their numbers; leases come as nobody's with their epochs, which therefore never go back.

mod check;
mod file;

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::tables::{Cell, Last, Table};
use crate::{AnyStore, Error};

pub use check::{Report, check};
pub(crate) use file::Rows;
use file::{Header, Writing};

/// Under which key the installation's id is kept.
pub(crate) const INSTALLATION: &str = "installation";

/// Something found in a store.
pub(crate) enum Found {
    /// First, what is true of the whole.
    Head(Head),
    /// Then every row.
    Row(&'static Table, Vec<Cell>),
}

/// What is true of the whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The installation's id; empty when it has none yet.
    pub(crate) installation: String,
    pub(crate) last: Last,
}

/// A store is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotEmpty {
    /// What is in it, for one.
    pub table: &'static str,
    /// How many.
    pub rows: u64,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// All of it is there.
    Done(Moved),
    /// Nothing was changed.
    NotEmpty(NotEmpty),
}

/// A store that can be taken out and put in as a whole.
#[async_trait]
pub(crate) trait Portable: Send + Sync {
    /// Which one, for people, without a password.
    fn place(&self) -> String;
    /// The form that it has, and the newest that this release knows; 0 when it has none yet.
    ///
    /// # Errors
    /// When the database fails.
    async fn form(&self) -> Result<(i64, i64), Error>;
    /// Whether it can be written to.
    ///
    /// # Errors
    /// When it cannot, with why.
    async fn writable(&self) -> Result<(), Error>;
    /// Shows everything there is, as of one moment.
    ///
    /// # Errors
    /// When the database fails, or what `take` says.
    async fn dump(&self, take: &mut (dyn FnMut(Found) -> Result<(), Error> + Send)) -> Result<(), Error>;
    /// Puts everything in, or nothing.
    ///
    /// # Errors
    /// When the file is not whole or the database fails.
    async fn load(&self, rows: &mut Rows) -> Result<Option<NotEmpty>, Error>;
}

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The installation's id; empty when it had none yet.
    pub installation: String,
    /// How many rows, table by table.
    pub rows: BTreeMap<String, u64>,
    /// The file's length.
    pub bytes: u64,
}

/// Writes everything into a file, which must not exist unless it is to be replaced. The store may be in use meanwhile.
///
/// # Errors
/// When the store or the disk fails; then there is no such file, or the one before.
pub async fn export(store: &AnyStore, to: &Path, now: Timestamp, replace: bool) -> Result<Moved, Error> {
    let store = store.portable();
    if !replace && to.exists() {
        return Err(Error::Exists(format!("the file {}", to.display())));
    }
    let (form, newest) = store.form().await?;
    let header = Header::new(form.min(newest), store.place(), now);
    let mut writing = Writing::begin(to, header)?;
    store.dump(&mut |found| writing.take(found)).await?;
    writing.finish()
}

/// Puts everything that is in a file into an empty store.
///
/// # Errors
/// [`Error::Corrupt`] when the file is not as it was written, or when the database fails; nothing is changed then.
pub async fn import(store: &AnyStore, from: &Path) -> Result<Imported, Error> {
    let store = store.portable();
    // All of it is read once before anything is touched, and once more as it is written.
    let mut rows = Rows::open(from)?;
    while rows.next()?.is_some() {}
    let mut rows = Rows::open(from)?;
    Ok(match store.load(&mut rows).await? {
        None => Imported::Done(rows.moved()),
        Some(not_empty) => Imported::NotEmpty(not_empty),
    })
}
