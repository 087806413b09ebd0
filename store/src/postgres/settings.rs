//! How to reach the database.

use epu_core::secret::SecretUrl;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::trouble::Trouble;
use crate::Error;

/// Limits that the server keeps for us, of each connection, in milliseconds: of a statement, of waiting for a lock, and of a
/// transaction in which nothing comes. The last one is what a process that is frozen in the middle costs others; it is well below
/// what a lease lasts.
const LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "8000"),
    ("lock_timeout", "5000"),
    ("idle_in_transaction_session_timeout", "2000"),
];

/// How to reach the database, and how much of it to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgSettings {
    /// Where: `postgres://user:password@host:5432/database?sslmode=verify-full`, or a reference to it. `sslmode`, `sslrootcert`,
    /// `sslcert` and `sslkey` mean what they mean to PostgreSQL's own programs.
    pub url: SecretUrl,
    /// The most connections of this process. Too few: methods wait for each other. Too many: other processes find none.
    pub connections: u32,
    /// Under which name the server lists them.
    pub application_name: String,
}

impl PgSettings {
    /// The usual ones, for the database at `url`.
    #[must_use]
    pub fn new(url: SecretUrl) -> Self {
        Self {
            url,
            connections: 5,
            application_name: "epumgmt".to_owned(),
        }
    }

    /// For the driver, with our limits.
    pub(super) fn options(&self) -> Result<PgConnectOptions, Error> {
        let doing = || "find the database".to_owned();
        let url = self.url.resolve().map_err(|error| Error::Database {
            doing: doing(),
            source: Box::new(error),
        })?;
        // The driver's words are not passed on, since they may repeat a part of the address.
        let options: PgConnectOptions = url
            .parse()
            .map_err(|_: sqlx::Error| Trouble::of_address(&self.url).while_doing(doing()))?;
        Ok(options
            .application_name(&self.application_name)
            .options(LIMITS)
            .disable_statement_logging())
    }
}

/// Server and database, without user and password.
pub(super) fn shown(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{}:{}/{database}", socket.display(), options.get_port()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epu_core::code::Chain;

    #[test]
    fn a_password_is_never_shown() {
        let settings = PgSettings::new(SecretUrl::new("postgres://me:hush-hush@db.example:5433/epu?sslmode=require"));
        assert_eq!(shown(&settings.options().unwrap()), "db.example:5433/epu");
        assert!(!format!("{settings:?}").contains("hush"));
        for wrong in [
            "postgres://me:hush-hush@db.example:99999/epu",
            "hush-hush",
            "postgres://me:hush-hush@[::1/x",
        ] {
            let error = PgSettings::new(SecretUrl::new(wrong)).options().unwrap_err();
            let said = format!("{} {error:?}", Chain(&error));
            assert!(wrong == "hush-hush" || !said.contains("hush"), "{said}");
            assert!(said.contains("postgres://user:password@host:5432/database"), "{said}");
        }
    }
}
