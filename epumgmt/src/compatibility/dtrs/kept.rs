//! The documents of the service: deployable types, sites and credentials, each under its owner.

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::Failed;
use epu_provisioner::sites::{BY_DTRS, SiteRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::credentials::Credentials;
use super::sites::{self, bad_request};
use crate::compatibility::domains::{Documents, Kept};

/// The kind of a deployable type's document.
pub(super) const TYPE: &str = "dashi-dt";
/// The kind of a site's document.
pub(super) const SITE: &str = "dashi-site";
/// The kind of the document of credentials.
pub(super) const CREDENTIALS: &str = "dashi-credentials";
/// The most things of one kind that one owner may have.
const EACH_MOST: usize = 1_000;
/// The largest definition, as JSON. Too low: a chef config does not fit. Too high: everybody's lists become slow.
const DEFINITION_MAX: usize = 256 << 10;

/// A deployable type, or a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Definition {
    /// Whose it is; none: everybody's.
    pub owner: Option<String>,
    /// What its owner calls it.
    pub name: String,
    /// What it says.
    pub is: Map<String, Value>,
}

/// What has an owner.
pub(super) trait Owned {
    /// Whose it is; none: everybody's.
    fn owner(&self) -> Option<&str>;
}

impl Owned for Definition {
    fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }
}

impl Owned for Credentials {
    fn owner(&self) -> Option<&str> {
        Some(&self.owner)
    }
}

/// The name of the document of a type or a site.
pub(super) fn key(owner: Option<&str>, name: &str) -> String {
    json!([owner, name]).to_string()
}

/// The name of the document of credentials.
pub(super) fn credentials_key(owner: &str, kind: &str, name: &str) -> String {
    json!([owner, kind, name]).to_string()
}

/// What a caller's site is called among those of ours; none when the names of both do not fit into one, or another pair could have the same.
pub(super) fn native_name(site: &str, owner: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name = format!("{site}.{owner}");
    let fits = !owner.is_empty() && owner.chars().all(good) && epu_core::SiteName::new(&name).is_ok();
    // The last dot parts the two.
    fits.then_some(name)
}

/// Whether a name and a definition may be kept.
///
/// # Errors
/// `BadRequestError`.
pub(super) fn check(what: &str, name: &str, definition: &Map<String, Value>) -> Result<(), Failed> {
    if name.is_empty() {
        return Err(bad_request(format!("The name of a {what} must not be empty")).into());
    }
    let size = Value::Object(definition.clone()).to_string().len();
    if size > DEFINITION_MAX {
        return Err(bad_request(format!("A {what} of {size} bytes is more than {DEFINITION_MAX}, which is the most")).into());
    }
    Ok(())
}

/// One document.
pub(super) async fn one<T: DeserializeOwned>(documents: &Documents, kind: &str, key: &str) -> Result<Option<Kept<T>>, Failed> {
    let all = documents.all::<T>(kind).await?;
    Ok(all.into_iter().find(|kept| kept.name == key))
}

/// Keeps a new document. False when it is there already.
///
/// # Errors
/// `BadRequestError` when its owner has too many of them.
pub(super) async fn add<T: Serialize + DeserializeOwned + Owned>(
    documents: &Documents,
    kind: &str,
    key: &str,
    is: T,
) -> Result<bool, Failed> {
    let all = documents.all::<T>(kind).await?;
    if all.iter().any(|kept| kept.name == key) {
        return Ok(false);
    }
    if all.iter().filter(|kept| kept.is.owner() == is.owner()).count() >= EACH_MOST {
        return Err(bad_request(format!("There are {EACH_MOST} already, which is the most")).into());
    }
    let kept = Kept {
        name: key.to_owned(),
        revision: 0,
        is,
    };
    documents.put(kind, &kept).await
}

/// The sites of ours that these sites and credentials make, by name. A caller's own site goes before the common one.
pub(super) fn natives(all_sites: &[Kept<Definition>], credentials: &[Kept<Credentials>]) -> BTreeMap<String, SiteRecord> {
    let visible = |owner: &str, name: &str| {
        let of = |owner: Option<&str>| {
            let key = key(owner, name);
            all_sites.iter().find(|kept| kept.name == key)
        };
        of(Some(owner)).or_else(|| of(None))
    };
    let made = credentials.iter().map(|kept| &kept.is).filter_map(|credentials| {
        if credentials.kind != super::credentials::SITE {
            return None;
        }
        let site = visible(&credentials.owner, &credentials.name)?;
        let native = SiteRecord {
            spec: sites::native(&site.is.is, credentials.keys()?)?,
            owner: Some(credentials.owner.clone()),
            by: BY_DTRS.to_owned(),
        };
        Some((native_name(&credentials.name, &credentials.owner)?, native))
    });
    made.collect()
}

#[cfg(test)]
mod tests {
    use super::super::credentials::{self, Field};
    use super::*;

    fn site(owner: Option<&str>, name: &str, is: Value) -> Kept<Definition> {
        Kept {
            name: key(owner, name),
            revision: 1,
            is: Definition {
                owner: owner.map(str::to_owned),
                name: name.to_owned(),
                is: is.as_object().cloned().expect("a mapping"),
            },
        }
    }

    fn keys(owner: &str, name: &str, fields: &[&str]) -> Kept<Credentials> {
        let field = |name: &&str| ((*name).to_owned(), Field::Reference(format!("env:{owner}_{name}")));
        Kept {
            name: credentials_key(owner, credentials::SITE, name),
            revision: 1,
            is: credentials::of(owner, name, fields.iter().map(field).collect()),
        }
    }

    #[test]
    fn a_site_with_credentials_is_one_of_ours_for_that_caller_only() {
        let sites = [
            site(None, "ec2", json!({"type": "ec2"})),
            site(Some("alice"), "ec2", json!({"type": "ec2", "region": "eu-west-1"})),
            site(Some("bob"), "mine", json!({"type": "fake"})),
        ];
        let both = ["access_key", "secret_key"];
        let credentials = [
            keys("alice", "ec2", &both),
            keys("bob", "ec2", &both),
            keys("bob", "mine", &both),
            keys("bob", "gone", &both),
            keys("carol", "ec2", &["access_key"]),
            keys("a.b", "ec2", &both),
        ];
        let natives = natives(&sites, &credentials);
        let names: Vec<&str> = natives.keys().map(String::as_str).collect();
        assert_eq!(names, ["ec2.alice", "ec2.bob"]);
        let region = |name: &str| natives[name].spec.ec2.as_ref().map(|ec2| ec2.region.clone());
        assert_eq!(
            (region("ec2.alice").as_deref(), region("ec2.bob").as_deref()),
            (Some("eu-west-1"), Some("us-east-1"))
        );
        let written = serde_json::to_value(&natives["ec2.bob"]).expect("JSON");
        assert_eq!((&written["owner"], &written["by"]), (&json!("bob"), &json!("dtrs")));
        assert_eq!(
            written["spec"]["ec2"]["credentials"],
            json!({"access-key-id": "env:bob_access_key", "secret-access-key": "env:bob_secret_key"})
        );
    }

    #[test]
    fn no_two_callers_have_one_name() {
        assert_eq!(native_name("a.b", "c").as_deref(), Some("a.b.c"));
        assert_eq!(native_name("a", "b.c"), None);
        for (site, owner) in [("a", ""), ("a b", "c"), ("a", "c@d"), (".a", "c"), (&"a".repeat(60), "caller")] {
            assert_eq!(native_name(site, owner), None, "{site} {owner}");
        }
        assert_ne!(key(None, "x"), key(Some(""), "x"));
    }
}
