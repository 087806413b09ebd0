//! Sites as the original's clients describe them: what is taken, and what it is as a site of ours. Pure.
//!
//! | type | ours |
//! |---|---|
//! | `ec2` | EC2 in its region; with `host`, a cloud that speaks its API there |
//! | `nimbus`, `openstack` | a cloud that speaks a part of EC2's API: without client tokens, tags in the call, and launch index |
//! | `fake`, `mock-ec2` | nothing: the original's own tests had them |
//!
//! The original knew the seven regions that EC2 had then. Here every region is taken that is written like one.

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::wire::{BAD_REQUEST, Problem};
use epu_core::secret::SecretRef;
use epu_provisioner::iaas::ec2::settings::{Credentials, Ec2Settings};
use epu_provisioner::iaas::spec::SiteSpec;
use serde_json::{Map, Value, json};

use super::text;

/// A definition or credentials that cannot be taken.
pub(super) fn bad_request(text: impl Into<String>) -> Problem {
    Problem::new(BAD_REQUEST, text)
}

/// The region of a site that names none.
const DEFAULT_REGION: &str = "us-east-1";
/// Where OpenStack's first clients expected the API when no path was given.
const OPENSTACK_PATH: &str = "/services/Eucalyptus";
/// The most characters of a value that is repeated in an error.
const SHOWN: usize = 100;

/// What of credentials a site needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Keys {
    /// Where the access key's id is.
    pub access: SecretRef,
    /// Where the secret key is.
    pub secret: SecretRef,
    /// Where a session token is, for keys that expire.
    pub session: Option<SecretRef>,
}

/// Whether a definition can be taken.
///
/// # Errors
/// `BadRequestError`.
pub(super) fn check(site: &Map<String, Value>) -> Result<(), Problem> {
    let shown = |value: &Value| text::variable(value).chars().take(SHOWN).collect::<String>();
    let given = |key: &str| site.get(key).filter(|value| !value.is_null());
    let kind = given("type").ok_or_else(|| bad_request("IaaS site description is missing key 'type'"))?;
    if let Some(secure) = given("secure").filter(|secure| !secure.is_boolean()) {
        return Err(bad_request(format!("secure value '{}' is not a valid boolean", shown(secure))));
    }
    if let Some(host) = given("host")
        && !host.as_str().is_some_and(is_host)
    {
        return Err(bad_request(format!("host value '{}' is not a valid host name", shown(host))));
    }
    if let Some(path) = given("path")
        && !path.as_str().is_some_and(is_path)
    {
        return Err(bad_request(format!("path value '{}' is not a valid path", shown(path))));
    }
    if let Some(written) = given("port")
        && port(written).is_none()
    {
        return Err(bad_request(format!("port value '{}' is not a valid port number", shown(written))));
    }
    match kind.as_str().unwrap_or_default() {
        "ec2" => match given("region") {
            Some(region) if !region.as_str().is_some_and(is_region) => Err(bad_request(format!("EC2 region {} is unknown", shown(region)))),
            Some(_) | None => Ok(()),
        },
        "nimbus" | "openstack" => match ["host", "port"].into_iter().find(|key| given(key).is_none()) {
            Some(missing) => Err(bad_request(format!("IaaS site description missing key '{missing}'"))),
            None => Ok(()),
        },
        "fake" | "mock-ec2" => Ok(()),
        _ => Err(bad_request(format!("IaaS site type {} is unknown", shown(kind)))),
    }
}

/// The site as one of ours; none where there is nothing to launch on. `site` was checked.
pub(super) fn native(site: &Map<String, Value>, keys: Keys) -> Option<SiteSpec> {
    let text = |key: &str| site.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("type")?;
    let is_amazons = kind == "ec2";
    if !is_amazons && kind != "nimbus" && kind != "openstack" {
        return None;
    }
    let endpoint = text("host").map(|host| {
        let scheme = if site.get("secure").and_then(Value::as_bool).unwrap_or(true) {
            "https"
        } else {
            "http"
        };
        let port = site.get("port").and_then(port).map_or_else(String::new, |port| format!(":{port}"));
        let default = if kind == "openstack" { OPENSTACK_PATH } else { "" };
        let path = text("path").unwrap_or(default).trim_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        format!("{scheme}://{host}{port}{slash}{path}")
    });
    let region = text("region").unwrap_or(DEFAULT_REGION);
    let mut settings: Ec2Settings = serde_json::from_value(json!({ "region": region })).ok()?;
    settings.endpoint = endpoint;
    settings.credentials = Some(Credentials {
        name: None,
        access_key_id: Some(keys.access),
        secret_access_key: Some(keys.secret),
        session_token: keys.session,
        profile: None,
    });
    settings.client_tokens = is_amazons;
    settings.tags_on_create = is_amazons;
    settings.launch_index = is_amazons;
    settings.pace = BTreeMap::new();
    Some(SiteSpec {
        local: None,
        ec2: Some(settings),
    })
}

/// A port, as a number or a text of digits.
fn port(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Number(number) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|port| *port > 0)
}

/// Whether a region is written like EC2's: `us-east-1`, `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    let letters = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    let [first, middle @ .., last] = words.as_slice() else {
        return false;
    };
    text.len() <= 30
        && first.len() == 2
        && letters(first)
        && !middle.is_empty()
        && middle.iter().all(letters)
        && (1..=2).contains(&last.len())
        && last.chars().all(|c| c.is_ascii_digit())
}

fn is_host(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&text.len()) && text.chars().all(good)
}

fn is_path(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '~' | '%' | ':' | '+');
    text.len() <= 200 && text.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("a mapping")
    }

    #[test]
    fn bad_sites_are_refused_in_the_words_that_were_used() {
        for (site, says) in [
            (json!({}), "IaaS site description is missing key 'type'"),
            (json!({"type": "nimbus", "host": "h"}), "IaaS site description missing key 'port'"),
            (json!({"type": "openstack", "port": 1}), "IaaS site description missing key 'host'"),
            (
                json!({"type": "nimbus", "host": "h", "port": "x"}),
                "port value 'x' is not a valid port number",
            ),
            (
                json!({"type": "nimbus", "host": "h", "port": 65536}),
                "port value '65536' is not a valid port number",
            ),
            (
                json!({"type": "nimbus", "host": "h", "port": 0}),
                "port value '0' is not a valid port number",
            ),
            (
                json!({"type": "ec2", "secure": "true"}),
                "secure value 'true' is not a valid boolean",
            ),
            (json!({"type": "ec2", "region": "mars"}), "EC2 region mars is unknown"),
            (
                json!({"type": "ec2", "host": "a@b/c"}),
                "host value 'a@b/c' is not a valid host name",
            ),
            (json!({"type": "vms"}), "IaaS site type vms is unknown"),
        ] {
            let problem = check(&map(site)).expect_err(says);
            assert_eq!((problem.exc_type.as_ref(), problem.value.as_str()), (BAD_REQUEST, says));
        }
    }

    #[test]
    fn good_ones_are_taken() {
        for site in [
            json!({"type": "ec2"}),
            json!({"type": "ec2", "region": "us-gov-west-1", "secure": false, "else": {}}),
            json!({"type": "ec2", "region": "mx-central-1"}),
            json!({"type": "nimbus", "host": "h.org", "port": "8444"}),
            json!({"type": "openstack", "host": "h.org", "port": 8773, "path": "/services/Cloud", "secure": null}),
            json!({"type": "fake"}),
            json!({"type": "mock-ec2", "sqlite_db": "/tmp/x"}),
        ] {
            check(&map(site.clone())).unwrap_or_else(|problem| panic!("{site}: {problem}"));
        }
    }

    #[test]
    fn a_site_with_keys_is_one_of_ours() {
        let keys = || Keys {
            access: SecretRef::new("file:/a"),
            secret: SecretRef::new("file:/s"),
            session: None,
        };
        let spec = |site: Value| native(&map(site), keys()).and_then(|site| site.ec2);
        let amazon = spec(json!({"type": "ec2"})).expect("a site");
        assert_eq!(
            (amazon.region.as_str(), amazon.endpoint, amazon.client_tokens),
            ("us-east-1", None, true)
        );
        assert_eq!(
            amazon.credentials.and_then(|c| c.secret_access_key),
            Some(SecretRef::new("file:/s"))
        );
        let cloud = spec(json!({"type": "nimbus", "host": "h.org", "port": "8444"})).expect("a site");
        assert_eq!(
            (
                cloud.endpoint.as_deref(),
                cloud.client_tokens,
                cloud.tags_on_create,
                cloud.launch_index
            ),
            (Some("https://h.org:8444"), false, false, false)
        );
        let endpoint = |site| spec(site).and_then(|site| site.endpoint);
        assert_eq!(
            endpoint(json!({"type": "openstack", "host": "h", "port": 8773, "path": "/services/Cloud/", "secure": false})).as_deref(),
            Some("http://h:8773/services/Cloud")
        );
        assert_eq!(
            endpoint(json!({"type": "openstack", "host": "h", "port": 8773})).as_deref(),
            Some("https://h:8773/services/Eucalyptus")
        );
        assert!(spec(json!({"type": "fake"})).is_none() && spec(json!({"type": "mock-ec2"})).is_none());
    }
}
