//! A connection to a site: who we are there, TLS, time limits. No retries: ours are the only ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, future};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{
    AppName, BehaviorVersion, ConfigBag, Credentials as Keys, IdentityCache, Intercept, ProvideCredentials, Region, RuntimeComponents,
    SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_ec2::error::BoxError;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
};
use epu_core::secret::SecretRef;
use epu_core::time::Clock;
use tokio::sync::OnceCell;

use super::settings::{Credentials, Ec2Settings};

/// To connect. Too low: a far site cannot be reached. Too high: a dead one holds a call up.
const CONNECT: Duration = Duration::from_secs(5);
/// For the longest call, RunInstances of many machines; what only asks has less, see `account`.
const CALL: Duration = Duration::from_secs(55);
/// No word of it yet.
const UNKNOWN: i64 = i64::MIN;

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) ec2: aws_sdk_ec2::Client,
    /// Who says who we are, where somebody does.
    pub(super) sts: Option<aws_sdk_sts::Client>,
    pub(super) credentials: SharedCredentialsProvider,
    pub(super) skew: Skew,
}

impl Client {
    pub(super) fn new(settings: &Ec2Settings, clock: Arc<dyn Clock>) -> Self {
        let region = Region::new(settings.region.clone());
        let http = Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let (credentials, cache) = credentials(settings.credentials.as_ref(), &region, &http);
        let skew = Skew {
            clock,
            millis: Arc::new(AtomicI64::new(UNKNOWN)),
        };
        let limits = TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(CALL).build();
        let mut config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(region.clone())
            .credentials_provider(credentials.clone())
            .identity_cache(cache.clone())
            .http_client(http.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(limits.clone())
            .interceptor(skew.clone())
            .interceptor(Whole);
        config.set_endpoint_url(settings.endpoint.clone());
        let name = AppName::new("epu").ok();
        config.set_app_name(name.clone());
        // With a cloud of its own kind Amazon is not asked who we are.
        let knows = settings.identity_endpoint.is_some() || settings.endpoint.is_none();
        let sts = knows.then(|| {
            let mut config = aws_sdk_sts::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(region)
                .credentials_provider(credentials.clone())
                .identity_cache(cache)
                .http_client(http)
                .retry_config(RetryConfig::disabled())
                .timeout_config(limits)
                .interceptor(skew.clone());
            config.set_endpoint_url(settings.identity_endpoint.clone());
            config.set_app_name(name);
            aws_sdk_sts::Client::from_conf(config.build())
        });
        Self {
            ec2: aws_sdk_ec2::Client::from_conf(config.build()),
            sts,
            credentials,
            skew,
        }
    }
}

/// Keys from references are read anew for each call, which is cheap and sees a changed file; what is asked of others is kept for as long
/// as they say.
fn credentials(
    wanted: Option<&Credentials>,
    region: &Region,
    http: &SharedHttpClient,
) -> (SharedCredentialsProvider, aws_sdk_ec2::config::SharedIdentityCache) {
    let asked = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_http_client(http.clone());
    match wanted {
        Some(wanted) if wanted.profile.is_none() => (
            SharedCredentialsProvider::new(Referenced(wanted.clone())),
            IdentityCache::no_cache(),
        ),
        Some(Credentials {
            profile: Some(profile), ..
        }) => {
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(&asked)
                .profile_name(profile)
                .build();
            (SharedCredentialsProvider::new(provider), IdentityCache::lazy().build())
        }
        Some(_) | None => {
            let found = Found {
                asked,
                chain: Arc::default(),
            };
            (SharedCredentialsProvider::new(found), IdentityCache::lazy().build())
        }
    }
}

/// Keys where references say.
#[derive(Debug)]
struct Referenced(Credentials);

impl ProvideCredentials for Referenced {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let wanted = self.0.clone();
        future::ProvideCredentials::new(async move {
            // A file can be on a disk that hangs.
            tokio::task::spawn_blocking(move || keys(&wanted))
                .await
                .map_err(CredentialsError::unhandled)?
        })
    }
}

fn keys(wanted: &Credentials) -> provider::Result {
    let read = |what: &str, reference: Option<&SecretRef>| -> Result<Option<String>, CredentialsError> {
        let Some(reference) = reference else { return Ok(None) };
        let text = reference.resolve().map_err(|error| {
            CredentialsError::invalid_configuration(format!("{what} ({}): {}", reference.shown(), epu_core::code::Chain(&error)))
        })?;
        Ok(Some(text))
    };
    let needed = |what: &str, found: Option<String>| {
        found.filter(|text| !text.is_empty()).ok_or_else(|| {
            CredentialsError::invalid_configuration(format!("`credentials` has no `{what}`, or there is nothing where it points"))
        })
    };
    let id = needed("access-key-id", read("access-key-id", wanted.access_key_id.as_ref())?)?;
    let secret = needed("secret-access-key", read("secret-access-key", wanted.secret_access_key.as_ref())?)?;
    let session = read("session-token", wanted.session_token.as_ref())?;
    Ok(Keys::new(id, secret, session, None, "epu"))
}

/// As the vendor's tools find them; found out at the first use, because looking takes calls.
#[derive(Debug)]
struct Found {
    asked: ProviderConfig,
    chain: Arc<OnceCell<DefaultCredentialsChain>>,
}

impl ProvideCredentials for Found {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let chain = self
                .chain
                .get_or_init(|| DefaultCredentialsChain::builder().configure(self.asked.clone()).build())
                .await;
            chain.provide_credentials().await
        })
    }
}

/// How far the site's clock is ahead of ours, by the `Date` of its last answer.
#[derive(Debug, Clone)]
pub(super) struct Skew {
    clock: Arc<dyn Clock>,
    millis: Arc<AtomicI64>,
}

impl Skew {
    /// In milliseconds; none while no answer had a date. A date has whole seconds, so it is true to a second.
    pub(super) fn millis(&self) -> Option<i64> {
        Some(self.millis.load(Ordering::Relaxed)).filter(|millis| *millis != UNKNOWN)
    }
}

impl Intercept for Skew {
    fn name(&self) -> &'static str {
        "Skew"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let theirs = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(theirs) = theirs.and_then(|theirs| theirs.to_millis().ok()) {
            self.millis.store(theirs.saturating_sub(self.clock.now().0), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Refuses half an answer. The vendor's library takes what it understood of one that ends too soon, and half a list would be taken for a
/// complete one.
#[derive(Debug)]
struct Whole;

impl Intercept for Whole {
    fn name(&self) -> &'static str {
        "Whole"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        match response.body().bytes() {
            Some(body) if response.status().is_success() && !is_whole(body) => Err("the answer ends too soon".into()),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether a document ends with the end of its first element.
fn is_whole(document: &[u8]) -> bool {
    let trimmed = document.trim_ascii();
    let mut starts = trimmed
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'<')
        .map(|(at, _)| &trimmed[at + 1..]);
    let Some(root) = starts.find(|rest| !rest.starts_with(b"?") && !rest.starts_with(b"!")) else {
        return false;
    };
    let length = root
        .iter()
        .position(|byte| matches!(byte, b'>' | b'/' | b' ' | b'\n' | b'\r' | b'\t'));
    let Some(name) = length.and_then(|length| root.get(..length)) else {
        return false;
    };
    let end = [b"</", name, b">"].concat();
    trimmed.ends_with(&end) || (trimmed.ends_with(b"/>") && !root.contains(&b'<'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = "<?xml version=\"1.0\"?>\n<AResponse xmlns=\"x\"><a>1</a></AResponse>\n";
        assert!(is_whole(whole.as_bytes()));
        assert!(is_whole(b"<AResponse/>"));
        for end in 1..whole.trim_end().len() {
            assert!(!is_whole(&whole.as_bytes()[..end]), "{}", &whole[..end]);
        }
        assert!(!is_whole(b""));
    }
}
