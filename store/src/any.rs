//! One of the stores that last, whichever it is: for whatever works with the store itself and not with what is in it.

use std::path::Path;

use crate::portable::Portable;
use crate::{Error, Migrated, PgSettings, PgStore, SqliteStore, Store};

/// Whichever.
#[derive(Debug)]
pub enum AnyStore {
    /// In a file.
    Sqlite(SqliteStore),
    /// In a database that several processes share.
    Postgres(PgStore),
}

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Place<'a> {
    /// In this data directory.
    Directory(&'a Path),
    /// In this database.
    Database(&'a PgSettings),
}

impl AnyStore {
    /// Opens it to use it: makes or migrates what is there.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`PgStore::connect`].
    pub async fn open(place: Place<'_>) -> Result<(Self, Migrated), Error> {
        match place {
            Place::Directory(dir) => {
                let store = SqliteStore::open(dir).await?;
                let migrated = store.migrated();
                Ok((Self::Sqlite(store), migrated))
            }
            Place::Database(settings) => {
                let store = PgStore::connect_as_it_is(settings).await?;
                let migrated = store.migrate().await?;
                Ok((Self::Postgres(store), migrated))
            }
        }
    }

    /// Opens it as it is, also while it is in use, to look at it.
    ///
    /// # Errors
    /// As [`SqliteStore::look`] and [`PgStore::connect_as_it_is`].
    pub async fn look(place: Place<'_>) -> Result<Self, Error> {
        match place {
            Place::Directory(dir) => SqliteStore::look(dir).await.map(Self::Sqlite),
            Place::Database(settings) => PgStore::connect_as_it_is(settings).await.map(Self::Postgres),
        }
    }

    /// As what keeps records.
    #[must_use]
    pub fn records(&self) -> &dyn Store {
        match self {
            Self::Sqlite(store) => store,
            Self::Postgres(store) => store,
        }
    }

    pub(crate) fn portable(&self) -> &dyn Portable {
        match self {
            Self::Sqlite(store) => store,
            Self::Postgres(store) => store,
        }
    }

    /// Which one, for people, without a password.
    #[must_use]
    pub fn place(&self) -> String {
        self.portable().place()
    }

    /// Waits until what runs is done, and closes it tidily.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
