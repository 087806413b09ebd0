//! What there is in a store, table by table, for whatever takes all of it: backup, moving to another database, checking.
//!
//! Members are left out: they are of the moment. Leases are taken along as nobody's, for the sake of their epochs.

use serde::{Deserialize, Serialize};

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Text,
    MaybeText,
    Number,
    Flag,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    Nothing,
    Flag(bool),
    Number(i64),
    Text(String),
}

impl Cell {
    /// Whether it may stand in such a column.
    pub(crate) fn is(&self, of: Of) -> bool {
        matches!(
            (self, of),
            (Self::Text(_), Of::Text | Of::MaybeText)
                | (Self::Nothing, Of::MaybeText)
                | (Self::Number(_), Of::Number)
                | (Self::Flag(_), Of::Flag)
        )
    }

    /// Its text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nothing | Self::Flag(_) | Self::Number(_) => None,
        }
    }

    /// Its number, if it is one.
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Nothing | Self::Flag(_) | Self::Text(_) => None,
        }
    }
}

/// A table: its name, its columns, and the statement that reads it whole in a fixed order.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Of)],
    pub(crate) read: &'static str,
    pub(crate) count: &'static str,
}

impl Table {
    /// The one with this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }
}

macro_rules! table {
    ($name:literal, $order:literal, $($column:literal $of:ident),+) => {
        table!($name, $order, $($column $of = $column),+)
    };
    ($name:literal, $order:literal, $first:literal $first_of:ident = $first_read:literal $(, $column:literal $of:ident = $read:literal)*) => {
        Table {
            name: $name,
            columns: &[($first, Of::$first_of) $(, ($column, Of::$of))*],
            read: concat!("SELECT ", $first_read, $(", ", $read,)* " FROM ", $name, " ORDER BY ", $order),
            count: concat!("SELECT count(*) FROM ", $name),
        }
    };
}

/// All of them; the one row that every store has, first.
pub(crate) const TABLES: &[Table] = &[
    table!("installation", "id", "id" Number = "id", "closed" Flag = "closed", "checks" Number = "CAST(0 AS BIGINT)"),
    table!("kept", "name", "name" Text, "value" Text),
    table!("pools", "name", "name" Text, "revision" Number, "body" Text),
    table!("memories", "pool", "pool" Text, "body" Text),
    table!("outbox", "place", "place" Number, "id" Text, "pool" Text, "since" Number, "body" Text),
    table!("launches", "id", "id" Text, "accepted_at" Number, "done" Flag, "body" Text),
    table!("instances", "id", "id" Text, "launch" Text, "version" Number, "state" Text, "state_since" Number, "body" Text),
    table!("documents", "kind, name", "kind" Text, "name" Text, "revision" Number, "body" Text),
    table!("leases", "name", "name" Text = "name", "holder" Text = "CAST('' AS TEXT)", "epoch" Number = "epoch", "since" Number = "since",
        "until" Number = "CAST(0 AS BIGINT)"),
    table!("journal", "sequence", "sequence" Number, "at" Number, "kind" Text, "pool" MaybeText, "instance" MaybeText, "body" Text),
];

/// The highest numbers that were ever given out, so that none is given twice, also by the store that all is moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) journal: i64,
    pub(crate) outbox: i64,
}
