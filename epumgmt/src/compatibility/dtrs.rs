//! The original's DTRS: deployable types, sites and credentials of callers, and what a type is at a site.
//!
//! | part | what it does |
//! |---|---|
//! | [`kept`] | the documents, and which sites of ours they make |
//! | [`sites`], [`credentials`] | what is taken of definitions; pure |
//! | [`secrets`] | secrets that were sent, in files |
//! | [`lookup`] | a type at a site, as clients are answered; pure |
//! | [`template`] | the same as a template of ours; pure |
//! | [`keeping`] | sites of ours are made, files of secrets tidied |
//! | [`launching`] | types and sites where nodes and domains name them |
//!
//! **Secrets.** None is ever in a document, an answer, an error or a log: what a client sends is in a file before anything else is done with it, and
//! what is described has `***` in its place.

mod credentials;
mod keeping;
mod kept;
mod launching;
mod lookup;
mod secrets;
mod sites;
mod template;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use epu_bus::amqp::dashi::Failed;
use epu_core::code::Chain;
use serde_json::{Map, Value};
use tracing::{info, warn};

pub(super) use self::keeping::run;

use self::credentials::{Credentials, Field, Given};
use self::kept::{CREDENTIALS, Definition, SITE, TYPE};
use self::lookup::{Known, lookup_error, validation_error};
use self::secrets::{Drawer, Label};
use self::sites::bad_request;
use super::Office;
use super::arguments::Arguments;
use super::domains::Kept;
use super::management::TRIES;
use super::problem::{not_found, write_conflict};

/// What names of sites begin with that nobody may give.
const COMMON: &str = "common::";
/// What the service has besides the documents.
pub(super) struct Registry {
    drawer: Drawer,
}

impl Registry {
    /// One whose secrets are in this data directory.
    pub(super) fn in_directory(data_dir: &Path) -> Self {
        Self {
            drawer: Drawer::in_directory(data_dir),
        }
    }
}

/// Which of the two kinds of definitions, in the words of errors.
#[derive(Clone, Copy)]
enum Which {
    Type,
    Site,
}

impl Which {
    fn kind(self) -> &'static str {
        match self {
            Self::Type => TYPE,
            Self::Site => SITE,
        }
    }

    fn taken(self, name: &str) -> Failed {
        match self {
            Self::Type => write_conflict(format!("DT {name} already exists")).into(),
            Self::Site => write_conflict(format!("Site {name} already exists")).into(),
        }
    }

    fn missing(self, owner: Option<&str>, name: &str) -> Failed {
        match self {
            Self::Type => not_found(format!("Caller {} has no DT named {name}", owner.unwrap_or_default())).into(),
            Self::Site => not_found(format!("No site named {name}")).into(),
        }
    }
}

/// A caller; none where nobody is named, which is everybody.
fn owner(caller: &str) -> Option<&str> {
    Some(caller).filter(|caller| !caller.is_empty())
}

impl Office {
    // ---- deployable types

    pub(super) async fn add_type(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (name, is) = type_of(arguments)?;
        self.add_definition_of(Which::Type, owner(caller), name, is).await
    }

    pub(super) async fn update_type(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (name, is) = type_of(arguments)?;
        self.update_definition_of(Which::Type, owner(caller), name, is).await?;
        self.renew_domains(caller, name).await;
        Ok(Value::Null)
    }

    pub(super) async fn describe_type(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let found = self.deployable_type(caller, arguments.text("dt_name")).await?;
        Ok(found.map_or(Value::Null, Value::Object))
    }

    pub(super) async fn remove_type(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        self.remove_definition_of(Which::Type, owner(caller), arguments.text("dt_name"))
            .await
    }

    pub(super) async fn list_types(&self, caller: &str) -> Result<Value, Failed> {
        let all: Vec<Kept<Definition>> = self.documents.all(TYPE).await?;
        Ok(names(&all, owner(caller)).map(Value::String).collect())
    }

    async fn deployable_type(&self, caller: &str, name: &str) -> Result<Option<Map<String, Value>>, Failed> {
        let found = kept::one::<Definition>(&self.documents, TYPE, &kept::key(owner(caller), name)).await?;
        Ok(found.map(|kept| kept.is.is))
    }

    // ---- sites

    pub(super) async fn add_site(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (name, is) = site_of(arguments)?;
        if owner(caller).is_some() && name.starts_with(COMMON) {
            return Err(bad_request(format!("Can't add a user site starting with {COMMON}")).into());
        }
        let added = self.add_definition_of(Which::Site, owner(caller), name, is).await?;
        self.make_sites_now().await;
        Ok(added)
    }

    pub(super) async fn update_site(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (name, is) = site_of(arguments)?;
        self.update_definition_of(Which::Site, owner(caller), name, is).await?;
        self.make_sites_now().await;
        Ok(Value::Null)
    }

    pub(super) async fn describe_site(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let found = self.site_seen_by(caller, arguments.text("site_name")).await?;
        Ok(found.map_or(Value::Null, Value::Object))
    }

    pub(super) async fn remove_site(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let removed = self
            .remove_definition_of(Which::Site, owner(caller), arguments.text("site_name"))
            .await?;
        self.make_sites_now().await;
        Ok(removed)
    }

    pub(super) async fn list_sites(&self, caller: &str) -> Result<Value, Failed> {
        let all: Vec<Kept<Definition>> = self.documents.all(SITE).await?;
        let mut list: Vec<String> = names(&all, None).collect();
        if owner(caller).is_some() {
            // One that hides a common one is the same to whoever looks.
            let own: Vec<String> = names(&all, owner(caller)).filter(|name| !list.contains(name)).collect();
            list.extend(own);
        }
        Ok(list.into())
    }

    /// The caller's site of this name, otherwise the common one.
    async fn site_seen_by(&self, caller: &str, name: &str) -> Result<Option<Map<String, Value>>, Failed> {
        let mut all: Vec<Kept<Definition>> = self.documents.all(SITE).await?;
        for key in [kept::key(owner(caller), name), kept::key(None, name)] {
            if let Some(at) = all.iter().position(|kept| kept.name == key) {
                return Ok(Some(all.swap_remove(at).is.is));
            }
        }
        Ok(None)
    }

    // ---- what types and sites have in common

    async fn add_definition_of(&self, which: Which, owner: Option<&str>, name: &str, is: Map<String, Value>) -> Result<Value, Failed> {
        let new = Definition {
            owner: owner.map(str::to_owned),
            name: name.to_owned(),
            is,
        };
        if kept::add(&self.documents, which.kind(), &kept::key(owner, name), new).await? {
            Ok(Value::Null)
        } else {
            Err(which.taken(name))
        }
    }

    async fn update_definition_of(&self, which: Which, owner: Option<&str>, name: &str, is: Map<String, Value>) -> Result<(), Failed> {
        let key = kept::key(owner, name);
        for _ in 0..TRIES {
            let found = kept::one::<Definition>(&self.documents, which.kind(), &key).await?;
            let mut kept = found.ok_or_else(|| which.missing(owner, name))?;
            kept.is.is.clone_from(&is);
            if self.documents.put(which.kind(), &kept).await? {
                return Ok(());
            }
        }
        Err(write_conflict(format!("{name} is being changed by others")).into())
    }

    async fn remove_definition_of(&self, which: Which, owner: Option<&str>, name: &str) -> Result<Value, Failed> {
        let key = kept::key(owner, name);
        if kept::one::<Definition>(&self.documents, which.kind(), &key).await?.is_none() {
            return Err(which.missing(owner, name));
        }
        self.documents.forget(which.kind(), &key).await?;
        Ok(Value::Null)
    }

    // ---- credentials

    pub(super) async fn add_credentials(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (kind, name) = credentials_of(arguments);
        credentials::check(kind, name)?;
        let given = credentials::given(arguments.value("site_credentials"), &self.config.references, None)?;
        if kind == credentials::SITE && !self.is_known_site(caller, name).await? {
            return Err(not_found(format!("Cannot add credentials for unknown site {name}")).into());
        }
        let taken = || write_conflict(format!("Credentials '{name}' of type '{kind}' already exist"));
        let key = kept::credentials_key(caller, kind, name);
        if self.credentials(caller, kind, name).await?.is_some() {
            return Err(taken().into());
        }
        let new = self.written(caller, kind, name, given).await?;
        let files = new.files();
        match kept::add(&self.documents, CREDENTIALS, &key, new).await {
            Ok(true) => {}
            Ok(false) => {
                self.registry.drawer.remove(files).await;
                return Err(taken().into());
            }
            Err(failed) => {
                // When it is not known whether the document is there, its files stay; they are tidied if it is not.
                if !failed.passing {
                    self.registry.drawer.remove(files).await;
                }
                return Err(failed);
            }
        }
        info!(caller, credentials = name, kind, "credentials were added");
        self.make_sites_now().await;
        Ok(Value::Null)
    }

    pub(super) async fn update_credentials(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (kind, name) = credentials_of(arguments);
        credentials::check(kind, name)?;
        for _ in 0..TRIES {
            let found = self.credentials(caller, kind, name).await?;
            let mut kept = found.ok_or_else(|| no_credentials(caller, kind, name))?;
            let given = credentials::given(arguments.value("site_credentials"), &self.config.references, Some(&kept.is))?;
            let former = kept.is.files();
            kept.is = self.written(caller, kind, name, given).await?;
            let now = kept.is.files();
            let fresh = now.iter().filter(|file| !former.contains(file)).cloned().collect();
            match self.documents.put(CREDENTIALS, &kept).await {
                Ok(true) => {
                    let old = former.into_iter().filter(|file| !now.contains(file)).collect();
                    info!(caller, credentials = name, kind, "credentials were updated");
                    // Sites of ours name the new ones before the old ones are gone.
                    self.make_sites_now().await;
                    self.registry.drawer.remove(old).await;
                    return Ok(Value::Null);
                }
                Ok(false) => self.registry.drawer.remove(fresh).await,
                Err(failed) => {
                    if !failed.passing {
                        self.registry.drawer.remove(fresh).await;
                    }
                    return Err(failed);
                }
            }
        }
        Err(write_conflict(format!("Credentials '{name}' are being changed by others")).into())
    }

    pub(super) async fn describe_credentials(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (kind, name) = credentials_of(arguments);
        let found = self.credentials(caller, kind, name).await?;
        Ok(found.map_or(Value::Null, |kept| kept.is.described()))
    }

    pub(super) async fn remove_credentials(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (kind, name) = credentials_of(arguments);
        let found = self.credentials(caller, kind, name).await?;
        let kept = found.ok_or_else(|| no_credentials(caller, kind, name))?;
        self.documents.forget(CREDENTIALS, &kept.name).await?;
        info!(caller, credentials = name, kind, "credentials were removed");
        self.make_sites_now().await;
        self.registry.drawer.remove(kept.is.files()).await;
        Ok(Value::Null)
    }

    pub(super) async fn list_credentials(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let kind = credentials_of(arguments).0;
        let all: Vec<Kept<Credentials>> = self.documents.all(CREDENTIALS).await?;
        let own = all.into_iter().filter(|kept| kept.is.owner == caller && kept.is.kind == kind);
        Ok(own.map(|kept| Value::String(kept.is.name)).collect())
    }

    async fn credentials(&self, caller: &str, kind: &str, name: &str) -> Result<Option<Kept<Credentials>>, Failed> {
        kept::one(&self.documents, CREDENTIALS, &kept::credentials_key(caller, kind, name)).await
    }

    /// Whether there is a site that a caller can have credentials for: one that it sees, or one that everybody can launch on.
    async fn is_known_site(&self, caller: &str, name: &str) -> Result<bool, Failed> {
        Ok(self.site_seen_by(caller, name).await?.is_some() || self.site_meant(caller, name).await?.is_some())
    }

    /// Credentials whose secrets are in files.
    async fn written(&self, caller: &str, kind: &str, name: &str, given: BTreeMap<String, Given>) -> Result<Credentials, Failed> {
        let mut new = Credentials {
            owner: caller.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            fields: BTreeMap::new(),
        };
        for (field, given) in given {
            let ready = match given {
                Given::Ready(ready) => ready,
                Given::Secret { secret, shown } => {
                    let label = Label {
                        caller,
                        kind,
                        name,
                        field: &field,
                    };
                    match self.registry.drawer.put(&label, secret).await {
                        Ok(file) => Field::Kept { file, shown },
                        Err(error) => {
                            warn!(caller, credentials = name, field, error = %Chain(&error), "a secret could not be kept");
                            self.registry.drawer.remove(new.files()).await;
                            return Err(bad_request(format!("The credentials could not be kept: {field}: {error}")).into());
                        }
                    }
                }
            };
            new.fields.insert(field, ready);
        }
        Ok(new)
    }

    // ---- looking up

    pub(super) async fn lookup(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let name = arguments.text("dt_name");
        let dt = self.deployable_type(caller, name).await?;
        let dt = dt.ok_or_else(|| lookup_error(format!("Unknown deployable type name: {name}")))?;
        let request = arguments.mapping("dtrs_request_node");
        let site = request.get("site").and_then(Value::as_str).filter(|site| !site.is_empty());
        let site = site.ok_or_else(|| lookup_error("Node request missing site"))?;
        let vars = match arguments.value("vars") {
            Value::Null => Map::new(),
            Value::Object(vars) => vars.clone(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(validation_error(name, "vars must be a dict").into());
            }
        };
        let all: Vec<Kept<Credentials>> = self.documents.all(CREDENTIALS).await?;
        let of = |kind: &str, name: &str| {
            let key = kept::credentials_key(caller, kind, name);
            all.iter().find(|kept| kept.name == key).map(|kept| &kept.is)
        };
        let known = Known {
            key: &|| {
                let found = of(credentials::SITE, site);
                let found = found.ok_or_else(|| lookup_error(format!("Credentials missing for caller {caller} and site {site}")))?;
                let key = found.key_name();
                key.map(Some)
                    .ok_or_else(|| lookup_error(format!("key_name missing from credentials of caller {caller} and site {site}")))
            },
            chef: &|name| of(credentials::CHEF, name).is_some(),
            chef_credential: vars.get("chef_credential").map(text::variable),
        };
        let found = lookup::find(name, &dt, site, request.get("allocation"), &known)?;
        Ok(found.answer(name, &vars)?)
    }
}

fn names<'a>(all: &'a [Kept<Definition>], owner: Option<&'a str>) -> impl Iterator<Item = String> + 'a {
    let own = all.iter().filter(move |kept| kept.is.owner.as_deref() == owner);
    own.map(|kept| kept.is.name.clone())
}

fn type_of(arguments: &Arguments) -> Result<(&str, Map<String, Value>), Failed> {
    let name = arguments.text("dt_name");
    let definition = arguments
        .value("dt_definition")
        .as_object()
        .filter(|definition| !definition.is_empty());
    let definition = definition.ok_or_else(|| {
        validation_error(
            name,
            "The definition of the dt cannot be None nor can it be empty, and it is a mapping",
        )
    })?;
    let definition = credentials::without_version(definition.clone());
    kept::check("deployable type", name, &definition)?;
    Ok((name, definition))
}

fn site_of(arguments: &Arguments) -> Result<(&str, Map<String, Value>), Failed> {
    let name = arguments.text("site_name");
    let definition = credentials::without_version(arguments.mapping("site_definition"));
    kept::check("site", name, &definition)?;
    sites::check(&definition)?;
    Ok((name, definition))
}

fn credentials_of(arguments: &Arguments) -> (&str, &str) {
    let kind = arguments.some_text("credential_type").unwrap_or(credentials::SITE);
    (kind, arguments.text("site_name"))
}

fn no_credentials(caller: &str, kind: &str, name: &str) -> Failed {
    not_found(format!("Credentials '{name}' not found for user {caller} and type {kind}")).into()
}
