//! The file itself.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use epu_core::time::Timestamp;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{Found, Head, Moved};
use crate::Error;
use crate::directory::FILE_MODE;
use crate::tables::{Cell, Last, TABLES, Table};
use crate::trouble::Trouble;

/// The form of the file. Another one: releases that do not know it refuse it.
const FORM: u32 = 1;
/// The longest line that is read. A row holds one record; none comes near it.
const LINE_MAX: u64 = 64 << 20;

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Header {
    #[serde(rename = "epu-store")]
    form: u32,
    /// The release that wrote it.
    release: String,
    /// The newest migration that the rows are of.
    migration: i64,
    /// Where from, for people.
    from: String,
    /// When.
    at: Timestamp,
    #[serde(flatten)]
    head: Head,
    /// The columns of each table, in the order in which rows have them.
    tables: BTreeMap<String, Vec<String>>,
}

impl Header {
    pub(super) fn new(migration: i64, from: String, at: Timestamp) -> Self {
        let columns = |table: &Table| table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self {
            form: FORM,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            migration,
            from,
            at,
            head: Head::default(),
            tables: TABLES.iter().map(|table| (table.name.to_owned(), columns(table))).collect(),
        }
    }
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    end: End,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    rows: u64,
    sha256: String,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "in")]
    table: String,
    row: Vec<Cell>,
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that is being written, under another name until it is whole. Dropped before, it leaves nothing.
pub(super) struct Writing {
    to: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    /// Until it is written, which is when the head is found.
    header: Option<Header>,
    digest: Context,
    moved: Moved,
    done: bool,
}

impl Writing {
    pub(super) fn begin(to: &Path, header: Header) -> Result<Self, Error> {
        let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = to.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&partial);
        let file = file.map_err(|error| failed(to, error))?;
        Ok(Self {
            to: to.to_owned(),
            partial,
            out: BufWriter::new(file),
            header: Some(header),
            digest: Context::new(&SHA256),
            moved: Moved {
                installation: String::new(),
                rows: TABLES.iter().map(|table| (table.name.to_owned(), 0)).collect(),
                bytes: 0,
            },
            done: false,
        })
    }

    pub(super) fn take(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Head(head) => {
                self.moved.installation.clone_from(&head.installation);
                match self.header.take() {
                    Some(header) => self.line(&Header { head, ..header }),
                    None => Ok(()),
                }
            }
            Found::Row(table, row) => {
                *self.moved.rows.entry(table.name.to_owned()).or_default() += 1;
                self.line(&Line {
                    table: table.name.to_owned(),
                    row,
                })
            }
        }
    }

    fn line(&mut self, what: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_vec(what).map_err(|error| failed(&self.to, error.into()))?;
        text.push(b'\n');
        self.digest.update(&text);
        self.moved.bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.out.write_all(&text).map_err(|error| failed(&self.to, error))
    }

    pub(super) fn finish(mut self) -> Result<Moved, Error> {
        let end = End {
            rows: self.moved.rows.values().sum(),
            sha256: hex(self.digest.clone().finish().as_ref()),
        };
        self.line(&Trailer { end })?;
        let done = || {
            self.out.flush()?;
            self.out.get_ref().sync_all()?;
            fs::rename(&self.partial, &self.to)?;
            let above = self.to.parent().filter(|above| !above.as_os_str().is_empty());
            File::open(above.unwrap_or(Path::new(".")))?.sync_all()
        };
        let (to, mut done) = (self.to.clone(), done);
        done().map_err(|error| failed(&to, error))?;
        self.done = true;
        Ok(self.moved.clone())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.done {
            // It is of no use to anybody; when it cannot be removed either, its name says what it is.
            drop(fs::remove_file(&self.partial));
        }
    }
}

fn failed(file: &Path, error: std::io::Error) -> Error {
    let above = file
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Trouble::of_disk(above, error).while_doing(format!("write {}", file.display()))
}

/// The rows of a file, in the order in which they stand there. The last one is given only when all of them are what was written.
pub(crate) struct Rows {
    path: PathBuf,
    lines: BufReader<File>,
    header: Header,
    digest: Context,
    moved: Moved,
    ended: bool,
    at: u64,
}

impl Rows {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| {
            let above = path
                .parent()
                .filter(|above| !above.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            Trouble::of_disk(above, error).while_doing(format!("read {}", path.display()))
        })?;
        let mut rows = Self {
            path: path.to_owned(),
            lines: BufReader::new(file),
            header: Header::new(0, String::new(), Timestamp::START),
            digest: Context::new(&SHA256),
            moved: Moved {
                installation: String::new(),
                rows: TABLES.iter().map(|table| (table.name.to_owned(), 0)).collect(),
                bytes: 0,
            },
            ended: false,
            at: 0,
        };
        let first = rows.line()?.ok_or_else(|| rows.wrong("it is empty"))?;
        let form: serde_json::Value = serde_json::from_slice(&first).unwrap_or_default();
        match form.get("epu-store").and_then(serde_json::Value::as_u64) {
            Some(form) if form == u64::from(FORM) => {}
            Some(form) => {
                return Err(rows.wrong(format!(
                    "it is of form {form}, which another release wrote; this one reads form {FORM}"
                )));
            }
            None => return Err(rows.wrong("it was not written by `epumgmt store backup` or `export`")),
        }
        let header: Header = serde_json::from_slice(&first).map_err(|error| rows.wrong(format!("its first line: {error}")))?;
        let known = Header::new(0, String::new(), Timestamp::START);
        for (table, columns) in &header.tables {
            if known.tables.get(table) != Some(columns) {
                let release = &header.release;
                let text =
                    format!("it has a table {table} of a form that this release does not know; use release {release}, which wrote it");
                return Err(rows.wrong(text));
            }
        }
        rows.digest.update(&first);
        rows.moved.installation.clone_from(&header.head.installation);
        rows.header = header;
        Ok(rows)
    }

    /// The highest numbers that were given out.
    pub(crate) fn last(&self) -> Last {
        self.header.head.last
    }

    /// What was read.
    pub(super) fn moved(self) -> Moved {
        self.moved
    }

    /// The next line with its end; none when there is none.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LINE_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(|error| self.wrong(error.to_string()))?;
        self.at += 1;
        self.moved.bytes += u64::try_from(read).unwrap_or(u64::MAX);
        if read > 0 && line.last() != Some(&b'\n') {
            return Err(self.wrong("it ends in the middle of a line"));
        }
        Ok((read > 0).then_some(line))
    }

    fn wrong(&self, why: impl Into<String>) -> Error {
        Error::Corrupt {
            what: format!("{} at line {}", self.path.display(), self.at.max(1)),
            why: format!("{}; nothing was changed", why.into()),
        }
    }

    /// The next row; none after the last one, once the trailer says that all are there.
    pub(crate) fn next(&mut self) -> Result<Option<(&'static Table, Vec<Cell>)>, Error> {
        if self.ended {
            return Ok(None);
        }
        let line = self.line()?.ok_or_else(|| self.wrong("it was cut: its end is missing"))?;
        if let Ok(Trailer { end }) = serde_json::from_slice(&line) {
            let expected = End {
                rows: self.moved.rows.values().sum(),
                sha256: hex(self.digest.clone().finish().as_ref()),
            };
            if end != expected {
                return Err(self.wrong("it was changed or damaged: its rows are not those that were written"));
            }
            if self.line()?.is_some() {
                return Err(self.wrong("something follows its end"));
            }
            self.ended = true;
            return Ok(None);
        }
        self.digest.update(&line);
        let Line { table: name, row } = serde_json::from_slice(&line).map_err(|error| self.wrong(error.to_string()))?;
        let table = Table::named(&name).ok_or_else(|| self.wrong(format!("there is no table {name}")))?;
        let fits = row.len() == table.columns.len() && row.iter().zip(table.columns).all(|(cell, (_, of))| cell.is(*of));
        if !fits {
            return Err(self.wrong(format!("no row of {name}")));
        }
        *self.moved.rows.entry(name).or_default() += 1;
        Ok(Some((table, row)))
    }
}
