//! What the original knew of a domain and a pool has no place for, kept as documents: whose it is under which name, its configuration as it was
//! given, who is told of it. And domain definitions. Everything else about a domain is its pool.
//!
//! **Names.** A domain's id is unique among those of its owner, a pool's name in the installation, with fewer letters. A domain of the default user
//! whose id is a pool's name has that name; any other gets what its id and owner have of letters and digits, and a digest of both. So a name can be
//! found again from owner and id, and no two of them share one.
//!
//! A document is written before its pool is added and outlives it by a while, so a document whose pool is not there stands for nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use epu_bus::amqp::dashi::Failed;
use epu_core::id::PoolName;
use epu_core::id::UNPOOLED;
use epu_core::time::Timestamp;
use epu_store::{Document, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::{of_store, value_error};
use super::retiring::Shield;
use super::sections::Sections;

/// The kind of a domain's document.
const DOMAIN: &str = "dashi-domain";
/// The kind of a definition's document.
const DEFINITION: &str = "dashi-definition";
/// The longest id of a domain or a definition.
const ID_MAX: usize = 200;
/// Parts a readable name from its digest. A pool of the default user whose id holds it gets a digest too.
const MARK: &str = "--";

/// A domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Domain {
    /// Whose it is.
    pub owner: String,
    /// What its owner calls it.
    pub id: String,
    /// Its pool.
    pub pool: PoolName,
    /// Its configuration, merged.
    pub config: Sections,
    /// Who is told of it: a service and its operation.
    #[serde(default)]
    pub subscribers: Vec<(String, String)>,
    /// When it was added.
    pub added_at: Timestamp,
    /// Who is protected while it shrinks by those that its user named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shield: Option<Shield>,
    /// Whether its template was made of a deployable type of its owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

/// A thing with the revision it has in the store; 0 when it is not there yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept<T> {
    /// The document's name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// What it says.
    pub is: T,
}

/// Documents of old clients.
#[derive(Clone)]
pub(crate) struct Documents {
    store: Arc<dyn Store>,
}

impl Documents {
    /// The documents of a store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Every document of a kind that can be read.
    pub(crate) async fn all<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<Kept<T>>, Failed> {
        let documents = self.store.documents(kind).await.map_err(|error| of_store(&error))?;
        let read = |document: Document| {
            let Document { name, revision, body, .. } = document;
            let is = serde_json::from_value(body).ok()?;
            Some(Kept { name, revision, is })
        };
        Ok(documents.into_iter().filter_map(read).collect())
    }

    /// Keeps a document, one revision above what it had. False when somebody else was faster.
    pub(crate) async fn put<T: Serialize>(&self, kind: &str, kept: &Kept<T>) -> Result<bool, Failed> {
        let document = Document {
            kind: kind.to_owned(),
            name: kept.name.clone(),
            revision: kept.revision + 1,
            body: serde_json::to_value(&kept.is).map_err(|error| value_error(error.to_string()))?,
        };
        match self.store.put_document(&document, Vec::new()).await {
            Ok(()) => Ok(true),
            Err(epu_store::Error::Conflict(_) | epu_store::Error::Exists(_)) => Ok(false),
            Err(error) => Err(of_store(&error)),
        }
    }

    /// Forgets a document.
    pub(crate) async fn forget(&self, kind: &str, name: &str) -> Result<(), Failed> {
        self.store
            .forget_document(kind, name, Vec::new())
            .await
            .map_err(|error| of_store(&error))
    }

    // ---- domains

    /// Every domain, also those whose pool is not there.
    pub(crate) async fn domains(&self) -> Result<Vec<Kept<Domain>>, Failed> {
        self.all(DOMAIN).await
    }

    /// The names of the pools that are there.
    pub(crate) async fn pools(&self) -> Result<BTreeSet<PoolName>, Failed> {
        let revisions = self.store.pool_revisions().await.map_err(|error| of_store(&error))?;
        Ok(revisions.into_keys().collect())
    }

    /// A domain's document, whether or not its pool is there.
    pub(crate) async fn domain(&self, owner: &str, id: &str) -> Result<Option<Kept<Domain>>, Failed> {
        let name = domain_key(owner, id);
        Ok(self.domains().await?.into_iter().find(|kept| kept.name == name))
    }

    /// Keeps a domain. False when somebody else was faster.
    pub(crate) async fn put_domain(&self, kept: &Kept<Domain>) -> Result<bool, Failed> {
        self.put(DOMAIN, kept).await
    }

    /// Forgets a domain's document.
    pub(crate) async fn forget_domain(&self, name: &str) -> Result<(), Failed> {
        self.forget(DOMAIN, name).await
    }

    // ---- definitions

    /// Every definition.
    pub(crate) async fn definitions(&self) -> Result<Vec<Kept<Value>>, Failed> {
        self.all(DEFINITION).await
    }

    /// One definition.
    pub(crate) async fn definition(&self, id: &str) -> Result<Option<Kept<Value>>, Failed> {
        Ok(self.definitions().await?.into_iter().find(|kept| kept.name == id))
    }

    /// Keeps a definition. False when somebody else was faster.
    pub(crate) async fn put_definition(&self, kept: &Kept<Value>) -> Result<bool, Failed> {
        self.put(DEFINITION, kept).await
    }

    /// Forgets a definition.
    pub(crate) async fn forget_definition(&self, id: &str) -> Result<(), Failed> {
        self.forget(DEFINITION, id).await
    }
}

/// The name of a domain's document.
pub(crate) fn domain_key(owner: &str, id: &str) -> String {
    json!([owner, id]).to_string()
}

/// Whether an id may name a domain or a definition. The original meant this set of letters and looked at the first one only.
///
/// # Errors
/// What it may be, in words.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    let reserved = matches!(id, "." | ".." | "zookeeper");
    if !id.is_empty() && id.len() <= ID_MAX && id.chars().all(good) && !reserved {
        return Ok(());
    }
    let shown: String = id.chars().take(80).collect();
    Err(format!(
        "invalid name {shown:?}: use 1 to {ID_MAX} letters, digits, '_', '.', '@' or '-'"
    ))
}

/// The pool of an owner's domain.
pub(crate) fn pool_name(owner: &str, id: &str, default_user: Option<&str>) -> Result<PoolName, String> {
    if default_user == Some(owner)
        && id != UNPOOLED
        && !id.contains(MARK)
        && let Ok(name) = PoolName::new(id)
    {
        return Ok(name);
    }
    let digest = digest(&domain_key(owner, id));
    let name = format!("{}{MARK}{digest:016x}", letters(&format!("{owner}.{id}"), 40));
    PoolName::new(&name).map_err(|error| error.to_string())
}

/// A text as a name: what it has of a name's letters, at most `most` of them, and a digest of all of it.
pub(crate) fn plain(text: &str, most: usize) -> String {
    format!("{}{MARK}{:012x}", letters(text, most), digest(text) >> 16)
}

fn letters(text: &str, most: usize) -> String {
    let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let kept: String = text
        .chars()
        .filter(good)
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(most)
        .collect();
    if kept.is_empty() { "x".to_owned() } else { kept }
}

/// FNV-1a, 64 bits: the same on every machine and in every release.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_has_names_of_his_own() {
        let name = |owner, id| pool_name(owner, id, Some("default")).expect("a name").to_string();
        assert_eq!(name("default", "web-1"), "web-1");
        let all = [
            name("default", "web"),
            name("alice", "web"),
            name("bob", "web"),
            name("alice.web", "x"),
            name("alice", "web.x"),
            name("default", UNPOOLED),
            name("default", "a@b"),
            name("default", "_a"),
            name("default", "a--b"),
            name("ö", "é"),
        ];
        assert_eq!(BTreeSet::from_iter(&all).len(), all.len(), "{all:?}");
        assert!(all.iter().all(|name| name != UNPOOLED));
        assert_eq!(
            pool_name("alice", &"x".repeat(200), None).expect("a name").as_str().len(),
            40 + 2 + 16
        );
    }

    #[test]
    fn ids_are_what_the_original_meant_them_to_be() {
        for good in ["web", "a@b.c", "_x", "-", "..."] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "zookeeper", "a/b", "a b", "é", &"x".repeat(201)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
