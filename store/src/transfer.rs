//! Taking everything out of a database, and putting it into an empty one. One text, compiled once for each database.

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::query::Query;
use sqlx::{Row as _, query};

use super::batch::{last, set_last};
use super::{Arguments, CLEAR, Connection, Db, LOCK_ALL, Own, Row, TRANSFERRED_WITHIN};
use crate::portable::{Found, Head, INSTALLATION, NotEmpty, Portable, Rows};
use crate::stop::Stop;
use crate::tables::{Cell, Of, TABLES, Table};
use crate::{Error, migrate, sql};

/// Values of one statement. Every database takes at least this many.
const VALUES: usize = 3_000;

#[async_trait]
impl Portable for Own {
    fn place(&self) -> String {
        self.shown_place()
    }

    async fn form(&self) -> Result<(i64, i64), Error> {
        let version = self.version().await.map_err(|stop| self.failed(stop, "read the store's form"))?;
        Ok((version, migrate::newest(super::MIGRATIONS)))
    }

    async fn writable(&self) -> Result<(), Error> {
        self.may_write().await
    }

    async fn dump(&self, take: &mut (dyn FnMut(Found) -> Result<(), Error> + Send)) -> Result<(), Error> {
        let done = async {
            let mut tx = self.snapshot().await?;
            // The snapshot is of the first look at a table, and numbers are read after it, so that none in it is higher.
            query(TABLES[0].count).fetch_one(&mut *tx).await?;
            let installation = query(sql::KEPT).bind(INSTALLATION).fetch_optional(&mut *tx).await?;
            let installation = installation.map(|row| row.try_get::<String, _>(0)).transpose()?;
            let last = last(&mut tx).await?;
            take(Found::Head(Head {
                installation: installation.unwrap_or_default(),
                last,
            }))?;
            for table in TABLES {
                let mut rows = query(table.read).fetch(&mut *tx);
                while let Some(row) = self.bounded(TRANSFERRED_WITHIN, async { Ok(rows.try_next().await?) }).await? {
                    take(Found::Row(table, cells(table, &row)?))?;
                }
            }
            Ok(())
        };
        done.await.map_err(|stop| self.failed(stop, "read the whole store"))
    }

    async fn load(&self, rows: &mut Rows) -> Result<Option<NotEmpty>, Error> {
        let done = async {
            let mut tx = self.begin().await?;
            if let Some(lock) = LOCK_ALL {
                sqlx::raw_sql(lock).execute(&mut *tx).await?;
            }
            for table in TABLES.iter().filter(|table| table.name != "installation") {
                let count: i64 = query(table.count).fetch_one(&mut *tx).await?.try_get(0)?;
                if count > 0 {
                    return Ok(Some(NotEmpty {
                        table: table.name,
                        rows: u64::try_from(count).unwrap_or_default(),
                    }));
                }
            }
            query(CLEAR).execute(&mut *tx).await?;
            let mut some: Vec<Vec<Cell>> = Vec::new();
            let mut of: Option<&'static Table> = None;
            while let Some((table, row)) = rows.next()? {
                let full = some.len() * table.columns.len() >= VALUES;
                if let Some(before) = of.filter(|before| before.name != table.name || full) {
                    self.bounded(TRANSFERRED_WITHIN, put(&mut tx, before, &some)).await?;
                    some.clear();
                }
                of = Some(table);
                some.push(row);
            }
            if let Some(table) = of.filter(|_| !some.is_empty()) {
                self.bounded(TRANSFERRED_WITHIN, put(&mut tx, table, &some)).await?;
            }
            set_last(&mut tx, rows.last()).await?;
            self.commit(tx).await?;
            Ok(None)
        };
        done.await.map_err(|stop| self.failed(stop, "write the whole store"))
    }
}

fn cells(table: &Table, row: &Row) -> Result<Vec<Cell>, Stop> {
    let cell = |(at, (_, of)): (usize, &(&str, Of))| {
        Ok(match of {
            Of::Text => Cell::Text(row.try_get(at)?),
            Of::MaybeText => row.try_get::<Option<String>, _>(at)?.map_or(Cell::Nothing, Cell::Text),
            Of::Number => Cell::Number(row.try_get(at)?),
            Of::Flag => Cell::Flag(row.try_get(at)?),
        })
    };
    table.columns.iter().enumerate().map(cell).collect()
}

async fn put(to: &mut Connection, table: &Table, rows: &[Vec<Cell>]) -> Result<(), Stop> {
    let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let mut place = 0;
    let mut values = |row: &Vec<Cell>| {
        let places: Vec<String> = row
            .iter()
            .map(|_| {
                place += 1;
                format!("${place}")
            })
            .collect();
        format!("({})", places.join(", "))
    };
    let values: Vec<String> = rows.iter().map(&mut values).collect();
    let statement = format!("INSERT INTO {} ({}) VALUES {}", table.name, columns.join(", "), values.join(", "));
    // Only names and places of ours are in it; what comes from outside is bound.
    let mut put: Query<'_, Db, Arguments> = query(sqlx::AssertSqlSafe(statement)).persistent(false);
    for cell in rows.iter().flatten() {
        put = match cell {
            Cell::Text(text) => put.bind(text.as_str()),
            Cell::Number(number) => put.bind(*number),
            Cell::Flag(flag) => put.bind(*flag),
            Cell::Nothing => put.bind(None::<String>),
        };
    }
    put.execute(to).await?;
    Ok(())
}
