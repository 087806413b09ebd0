//! Reading every instance fast: many come as one row, since a row costs far more on its way from the database's thread than
//! reading it there, and pages are decoded elsewhere while the next ones are fetched.

use std::collections::VecDeque;

use epu_core::instance::Instance;
use epu_core::life::State;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, query};

use super::SqliteStore;
use crate::Error;
use crate::stop::Stop;

/// Instances of one row. Too many: memory. Too few: rows.
const PAGE: i64 = 250;
/// Pages that are decoded while others are fetched. Too few: fetching waits. Too many: memory.
const PAGES_AHEAD: usize = 8;
/// What stands between two records of a page; no JSON has it unescaped.
const BETWEEN: char = '\u{1e}';
/// $1 the place after which, $2 how many.
const ANY_PAGE: &str = "SELECT count(*), max(place), group_concat(body, char(30)) FROM \
     (SELECT rowid AS place, body FROM instances WHERE rowid > $1 ORDER BY rowid LIMIT $2)";
/// $1 the place after which, $2 how many, $3 state.
const PAGE_IN_STATE: &str = "SELECT count(*), max(place), group_concat(body, char(30)) FROM \
     (SELECT rowid AS place, body FROM instances WHERE state = $3 AND rowid > $1 ORDER BY rowid LIMIT $2)";

/// The records of a page; none when they are not what was written.
fn page(row: &SqliteRow) -> Option<Vec<Instance>> {
    let count = usize::try_from(row.try_get::<i64, _>(0).ok()?).ok()?;
    let text: &str = row.try_get(2).ok()?;
    let mut page = Vec::with_capacity(count);
    for body in text.split(BETWEEN) {
        page.push(serde_json::from_str(body).ok()?);
    }
    (page.len() == count).then_some(page)
}

/// A page was not decoded to its end.
fn lost(error: tokio::task::JoinError) -> Error {
    Error::Database {
        doing: "decode instances".to_owned(),
        source: Box::new(error),
    }
}

impl SqliteStore {
    /// Every instance, or every live one, from one moment. None when one of them cannot be decoded: reading them one by one then
    /// finds out which.
    pub(super) async fn paged_instances(&self, live_only: bool) -> Result<Option<Vec<Instance>>, Stop> {
        let states: Vec<Option<State>> = if live_only {
            State::ALL.into_iter().filter(|state| !state.is_end()).map(Some).collect()
        } else {
            vec![None]
        };
        let (mut decoding, mut pages) = (VecDeque::new(), Vec::new());
        let mut tx = self.readers.begin().await?;
        for state in states {
            let mut after = i64::MIN;
            loop {
                let read = query(if state.is_some() { PAGE_IN_STATE } else { ANY_PAGE }).bind(after).bind(PAGE);
                let read = match state {
                    Some(state) => read.bind(state.code()),
                    None => read,
                };
                let row = read.fetch_one(&mut *tx).await?;
                let count: i64 = row.try_get(0)?;
                if count > 0 {
                    after = row.try_get(1)?;
                    decoding.push_back(tokio::task::spawn_blocking(move || page(&row)));
                }
                if count < PAGE {
                    break;
                }
                if decoding.len() > PAGES_AHEAD
                    && let Some(first) = decoding.pop_front()
                {
                    pages.push(first.await.map_err(lost)?);
                }
            }
        }
        tx.rollback().await?;
        for rest in decoding {
            pages.push(rest.await.map_err(lost)?);
        }
        let pages: Option<Vec<Vec<Instance>>> = pages.into_iter().collect();
        Ok(pages.map(|pages| {
            let mut all = Vec::with_capacity(pages.iter().map(Vec::len).sum());
            pages.into_iter().for_each(|page| all.extend(page));
            all
        }))
    }
}
