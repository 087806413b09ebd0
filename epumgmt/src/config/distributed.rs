//! Settings of an installation of several processes: where its records are, how its parts talk, what they share.

use std::path::{Path, PathBuf};

use epu_bus::amqp::Settings;
use epu_bus::users::Users;
use epu_core::Span;
use epu_core::input::{Flaw, Tree, pointer};
use epu_core::secret::SecretUrl;
use epu_store::PgSettings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where records are kept. Exactly one is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1, "x-count" = "exactly one store is wanted: `sqlite: {}` or `postgres: {url: env:EPU_POSTGRES_URL}`"))]
pub(crate) struct StoreChoice {
    /// In one file of the data directory: for one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<Sqlite>,
    /// In a PostgreSQL database: for several processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

impl Default for StoreChoice {
    fn default() -> Self {
        Self {
            sqlite: Some(Sqlite {}),
            postgres: None,
        }
    }
}

/// SQLite needs no settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Sqlite {}

/// A PostgreSQL database, version 13 or newer. It is made beforehand, empty; tables are made at the first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub(crate) struct Postgres {
    /// Where, as `postgres://user:password@host:5432/database?sslmode=verify-full`.
    pub url: SecretUrl,
    /// The most connections of one process.
    #[serde(default = "connections")]
    #[schemars(range(min = 2, max = 100))]
    pub connections: u32,
}

fn connections() -> u32 {
    5
}

/// A RabbitMQ broker, version 3.10 or newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub(crate) struct Amqp {
    /// Where, as `amqp://user:password@host:5672/vhost`, or `amqps://` with TLS.
    pub url: SecretUrl,
    /// Before the names of all queues and exchanges, so that several installations can share a broker.
    #[serde(default = "sysname")]
    #[schemars(length(min = 1, max = 60), regex(pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"))]
    pub sysname: String,
    /// The authority that signed the broker's certificate, a PEM file; left out: those that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our own certificate, a PEM file, for a broker that wants one; with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, a PEM file in PKCS #8 form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Most requests that one process takes before it has answered some.
    #[serde(default = "prefetch")]
    #[schemars(range(min = 1, max = 10_000))]
    pub prefetch: u16,
    /// How long the broker may be silent before the connection counts as lost.
    #[serde(default = "heartbeat")]
    pub heartbeat: Span,
}

fn sysname() -> String {
    super::DEFAULT_SYSNAME.to_owned()
}

fn prefetch() -> u16 {
    256
}

fn heartbeat() -> Span {
    Span::secs(10)
}

impl Postgres {
    /// As the store takes them.
    #[must_use]
    pub(crate) fn settings(&self) -> PgSettings {
        PgSettings {
            connections: self.connections,
            ..PgSettings::new(self.url.clone())
        }
    }
}

impl Amqp {
    /// As the bus takes them, for a process of this name.
    #[must_use]
    pub(crate) fn settings(&self, name: &str) -> Settings {
        Settings {
            ca: self.ca.clone(),
            identity: self.certificate.clone().zip(self.key.clone()),
            heartbeat: *self.heartbeat,
            prefetch: self.prefetch,
            ..Settings::new(self.url.clone(), self.sysname.clone(), name)
        }
    }

    /// With every path counted from `base`.
    #[must_use]
    pub(crate) fn based(mut self, base: &Path) -> Self {
        for path in [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten() {
            *path = base.join(&*path);
        }
        self
    }
}

/// What the schema cannot say of these settings.
pub(super) fn rules(tree: &Tree, flaws: &mut Vec<Flaw>) {
    let text = |pointer: &str| tree.value().pointer(pointer).and_then(Value::as_str);
    for (place, schemes, example) in [
        ("/store/postgres/url", &["postgres://", "postgresql://"][..], "env:EPU_POSTGRES_URL"),
        ("/amqp/url", &["amqp://", "amqps://"], "env:EPU_AMQP_URL"),
    ] {
        let Some(written) = text(place) else { continue };
        let url = SecretUrl::new(written);
        let is_reference = written.starts_with("env:") || written.starts_with("file:");
        if url.has_open_password() {
            let flaw = tree.flaw(place, "a password stands in the file");
            flaws.push(flaw.help(format!("put the address into a variable or file and write {example} or file:/path")));
        } else if !is_reference && !schemes.iter().any(|scheme| written.starts_with(scheme)) {
            let flaw = tree.flaw(place, format!("{} is no such address", url.shown()));
            flaws.push(flaw.help(format!(
                "it begins with {}, or is written {example} or file:/path",
                schemes.join(" or ")
            )));
        }
    }
    if let Some(key) = text("/installation-key")
        && !key.starts_with("env:")
        && !key.starts_with("file:")
    {
        let flaw = tree.flaw("/installation-key", "a secret stands in the file");
        flaws.push(flaw.help("write env:NAME or file:/path"));
    }
    let has = |pointer: &str| tree.value().pointer(pointer).is_some_and(|value| !value.is_null());
    if has("/amqp/certificate") != has("/amqp/key") {
        let place = if has("/amqp/key") { "/amqp/key" } else { "/amqp/certificate" };
        let flaw = tree.flaw(place, "a certificate and its key are wanted together");
        flaws.push(flaw.help("give both `certificate` and `key`, or neither"));
    }
    let users = tree
        .value()
        .get("users")
        .and_then(|users| serde_json::from_value::<Users>(users.clone()).ok());
    for (name, wrong) in users.iter().flat_map(Users::faults) {
        flaws.push(tree.flaw(&pointer(["users", name]), wrong));
    }
}
