//! How operator commands reach the services: over HTTP with the operators' token, or over AMQP as a user of the broker.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use epu_bus::Bus as _;
use epu_bus::amqp::{AmqpBus, Settings};
use epu_bus::http::{Client, Roots};
use epu_bus::users::Users;
use epu_core::code::Chain;
use epu_core::request::{Answer, Caller, Request};
use epu_core::secret::SecretUrl;
use epu_core::{Fault, Span};
use serde_json::Value;

use crate::cli::Reach;
use crate::commands::Service;
use crate::config;
use crate::exit::Failure;

/// The services, at the end of whichever way the command line, the environment and the config file name.
///
/// # Errors
/// When there is no token to show, or no broker to connect to.
pub(crate) async fn service(reach: &Reach) -> Result<Box<dyn Service>, Failure> {
    if let Some(settings) = broker(reach) {
        return Ok(Box::new(OverAmqp::connect(settings, reach.timeout).await?));
    }
    let url = url(reach);
    let roots = roots(reach, &url)?;
    Ok(Box::new(OverHttp {
        client: Client::with_roots(url, token(reach)?, roots),
        within: reach.timeout,
    }))
}

/// The broker, when one is named.
pub(crate) fn broker(reach: &Reach) -> Option<Settings> {
    let url = reach.amqp_url.as_deref().filter(|url| !url.is_empty())?;
    let name = format!("operator-{}", std::process::id());
    let mut settings = match config::amqp_of(&reach.config) {
        Some(amqp) => amqp.settings(&name),
        None => Settings::new(SecretUrl::new(url), config::DEFAULT_SYSNAME, name),
    };
    settings.url = SecretUrl::new(url);
    Some(settings)
}

/// The services behind a door.
#[derive(Debug)]
struct OverHttp {
    client: Client,
    within: Span,
}

#[async_trait]
impl Service for OverHttp {
    async fn ask(&self, request: &Request) -> Result<Value, Fault> {
        self.client.ask(request, *self.within).await
    }
}

/// The services behind a broker, which says who asks.
struct OverAmqp {
    bus: std::sync::Arc<AmqpBus>,
    within: Span,
}

impl OverAmqp {
    async fn connect(settings: Settings, within: Span) -> Result<Self, Failure> {
        let metrics = epu_bus::amqp::Metrics::new();
        let metrics = metrics.map_err(|error| Failure::while_doing("make the metrics", Fault::new("internal", error.to_string())))?;
        // Nothing is served here, so nobody's rights are needed.
        let bus = AmqpBus::connect(settings, std::sync::Arc::new(Users::default()), metrics).await;
        let bus = bus.map_err(|error| Failure::while_doing("reach the broker", Fault::new("no-contact", Chain(&error).to_string())))?;
        Ok(Self { bus, within })
    }
}

#[async_trait]
impl Service for OverAmqp {
    async fn ask(&self, request: &Request) -> Result<Value, Fault> {
        // Who this is, the broker tells the service.
        let me = Caller::Operator("operator".to_owned());
        self.bus.ask(me, request.clone(), *self.within).await.map(Answer::into_json)
    }
}

/// Where the service listens.
fn url(reach: &Reach) -> String {
    let written = || config::way_of(&reach.config).and_then(|way| way.here());
    let given = reach.url.clone().filter(|url| !url.is_empty());
    given
        .or_else(written)
        .unwrap_or_else(|| format!("http://{}", config::DEFAULT_LISTEN))
}

/// By whose word the service is known: the authority that was named, or the one of the installation that the config file is of, whose token is
/// shown, too. So that token goes nowhere else.
fn roots(reach: &Reach, url: &str) -> Result<Roots, Failure> {
    if let Some(file) = reach.ca.as_deref().filter(|file| !file.as_os_str().is_empty()) {
        let text = config::tls::authority_of(file);
        let named = |why| {
            Failure::while_doing(
                "use --ca or EPU_CA",
                Fault::new("bad-config", format!("{why}; name the PEM file of an authority")),
            )
        };
        return text.map(Roots::Pinned).map_err(named);
    }
    if !url.starts_with("https://") {
        return Ok(Roots::System);
    }
    let base = reach.config.parent().unwrap_or(Path::new(""));
    let Some(file) = config::way_of(&reach.config).and_then(|way| way.authority(base, &data_dir(reach))) else {
        return Ok(Roots::System);
    };
    let why = |why| {
        let text = format!("{why}; was `epumgmt serve` started? on another machine name a copy of that file with --ca");
        Failure::while_doing("find the authority of the door's certificate", Fault::new("bad-config", text))
    };
    config::tls::authority_of(&file).map(Roots::Pinned).map_err(why)
}

/// The operators' token: from the file that was named, the environment, or the data directory of this directory's installation.
fn token(reach: &Reach) -> Result<String, Failure> {
    if let Some(file) = &reach.token_file {
        return read_token(file);
    }
    if let Some(token) = std::env::var("EPU_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok(token);
    }
    read_token(&data_dir(reach).join(config::TOKEN_FILE))
}

fn data_dir(reach: &Reach) -> PathBuf {
    config::data_dir_of(&reach.config).unwrap_or_else(|| PathBuf::from(config::DEFAULT_DATA))
}

fn read_token(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map(|token| token.trim().to_owned()).map_err(|error| {
        let text = format!(
            "{}: {error}; pass --token-file or set EPU_TOKEN, or run this where `epumgmt serve` was started",
            file.display()
        );
        Failure::while_doing("read the operators' token", Fault::new("unauthorized", text))
    })
}
