//! The original's EPU Management service: domains are pools of their owner.

use epu_bus::amqp::dashi::Failed;
use epu_core::request::{Caller, InstanceFilter, InstanceView, PoolChange, PoolFile, PoolRef, PoolRemove, PoolView, Request};
use serde_json::{Map, Value, json};
use tracing::info;

use super::arguments::Arguments;
use super::domains::{Domain, Kept, check_id, domain_key, pool_name};
use super::engines::{self, Engine, Wanted};
use super::problem::{not_found, value_error, write_conflict};
use super::records::{self, About};
use super::sections::Sections;
use super::{OURSELVES, Office};

/// How often a document is written anew that somebody else changed meanwhile.
pub(super) const TRIES: usize = 8;

impl Office {
    // ---- domains

    pub(super) async fn add_domain(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (id, definition) = (arguments.text("domain_id"), arguments.text("definition_id"));
        check_id(id).map_err(value_error)?;
        let found = self.documents.definition(definition).await?;
        let found = found.ok_or_else(|| value_error(format!("Domain definition {definition} does not exist")))?;
        let below = Sections::of(&found.is.as_object().cloned().unwrap_or_default())
            .map_err(|why| value_error(format!("definition {definition}: {why}")))?;
        let config = below.merged(&Sections::of(&arguments.mapping("config")).map_err(value_error)?);
        let mut wanted = engines::wanted(&config, &self.config)?;
        let template = self.template_wanted(caller, &wanted).await.map_err(as_value_error)?;
        self.place(caller, &mut wanted).await?;
        let before = self.documents.domain(caller, id).await?;
        let pool = match &before {
            Some(before) => before.is.pool.clone(),
            None => pool_name(caller, id, self.config.default_user.as_deref()).map_err(value_error)?,
        };
        let taken = || write_conflict(format!("Domain {id} already exists for user {caller}"));
        if before.is_some() && self.documents.pools().await?.contains(&pool) {
            return Err(taken().into());
        }
        let subscriber = arguments.some_text("subscriber_name").zip(arguments.some_text("subscriber_op"));
        let kept = Kept {
            name: domain_key(caller, id),
            revision: before.map_or(0, |before| before.revision),
            is: Domain {
                owner: caller.to_owned(),
                id: id.to_owned(),
                pool: pool.clone(),
                config,
                subscribers: subscriber.into_iter().map(|(name, op)| (name.to_owned(), op.to_owned())).collect(),
                added_at: self.clock.now(),
                shield: None,
                made: template.as_ref().is_some_and(|(_, made)| *made),
            },
        };
        if !self.documents.put_domain(&kept).await? {
            return Err(taken().into());
        }
        let file = PoolFile {
            file: format!("domain {id}"),
            text: wanted.file(&pool, template.as_ref().map(|(template, _)| template)),
        };
        let added = self.ask::<Value>(Self::owner(caller), Request::PoolAdd(file)).await;
        if let Err(failed) = added {
            // When it is not known whether the pool was added the document stays: asking again then finds out.
            if !failed.passing {
                self.documents.forget_domain(&kept.name).await?;
            }
            return Err(failed);
        }
        info!(domain = id, owner = caller, %pool, "a domain was added");
        Ok(Value::Null)
    }

    pub(super) async fn remove_domain(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let domain = self.found(caller, arguments.text("domain_id")).await?.is;
        // The original ended a removed domain's machines at once.
        let remove = PoolRemove {
            pool: domain.pool,
            force: true,
        };
        self.ask::<Value>(Self::owner(caller), Request::PoolRemove(remove)).await?;
        Ok(Value::Null)
    }

    pub(super) async fn reconfigure_domain(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let id = arguments.text("domain_id");
        let over = Sections::of(&arguments.mapping("config")).map_err(value_error)?;
        for _ in 0..TRIES {
            let mut kept = self.found(caller, id).await?;
            let merged = kept.is.config.merged(&over);
            let (old, new) = (
                engines::wanted(&kept.is.config, &self.config)?,
                engines::wanted(&merged, &self.config)?,
            );
            if (&old.template, &old.variables) != (&new.template, &new.variables) {
                let text = format!(
                    "domain {id}: its deployable type and its provisioner_vars stay as they were when it was added; remove it and add it anew to change \
                     them"
                );
                return Err(value_error(text).into());
            }
            if kept.is.made && (old.site(), &old.allocation) != (new.site(), &new.allocation) {
                let text = format!(
                    "domain {id}: its template was made of deployable type {} for its site and allocation, which stay; remove it and add it anew to \
                     change them",
                    old.template
                );
                return Err(value_error(text).into());
            }
            let mut set = changed(&old, &new);
            if set.contains_key("placements") {
                let mut new = new;
                self.place(caller, &mut new).await?;
                set.extend(
                    new.settings
                        .get("placements")
                        .map(|placements| ("placements".to_owned(), placements.clone())),
                );
            }
            if !set.is_empty() {
                if !self.lower(&mut kept).await? {
                    continue;
                }
                if let Some(shield) = self.shield(&kept.is, &merged).await? {
                    kept.is.shield = Some(shield.clone());
                    if !self.documents.put_domain(&kept).await? {
                        continue;
                    }
                    kept.revision += 1;
                    self.raise(&kept.is, &shield).await?;
                }
                let change = PoolChange {
                    pool: kept.is.pool.clone(),
                    set,
                    template: None,
                    if_revision: None,
                };
                self.ask::<Value>(Self::owner(caller), Request::PoolReconfigure(change)).await?;
            }
            kept.is.config = merged;
            if self.documents.put_domain(&kept).await? {
                return Ok(Value::Null);
            }
        }
        Err(write_conflict(format!("Domain {id} is being changed by others")).into())
    }

    pub(super) async fn list_domains(&self, caller: &str) -> Result<Value, Failed> {
        let pools = self.documents.pools().await?;
        let domains = self.documents.domains().await?;
        let own = |kept: &Kept<Domain>| kept.is.owner == caller && pools.contains(&kept.is.pool);
        Ok(domains.into_iter().filter(own).map(|kept| Value::String(kept.is.id)).collect())
    }

    pub(super) async fn describe_domain(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let domain = self.found(caller, arguments.text("domain_id")).await?.is;
        let reader = || Caller::Reader(OURSELVES.to_owned());
        let which = PoolRef { pool: domain.pool.clone() };
        let view: PoolView = self.ask(reader(), Request::PoolShow(which)).await?;
        let filter = InstanceFilter {
            pool: Some(domain.pool.clone()),
            all: true,
        };
        let instances: Vec<InstanceView> = self.ask(reader(), Request::InstanceList(filter)).await?;
        let about = self.about(&domain);
        let instances: Vec<Value> = instances.iter().map(|view| records::instance(view, &about)).collect();
        Ok(json!({
            "name": domain.id,
            "config": domain.config.json(),
            "sensor_data": sensor_data(&view),
            "instances": instances,
        }))
    }

    /// What a domain says of each of its instances.
    pub(super) fn about(&self, domain: &Domain) -> About {
        let wanted = engines::wanted(&domain.config, &self.config).ok();
        About {
            node_id: None,
            launch_id: None,
            creator: Some(domain.owner.clone()),
            allocation: wanted.as_ref().and_then(|wanted| wanted.allocation.clone()),
            deployable_type: wanted.map(|wanted| wanted.template),
        }
    }

    /// A domain whose pool is there.
    pub(super) async fn found(&self, caller: &str, id: &str) -> Result<Kept<Domain>, Failed> {
        let found = self.documents.domain(caller, id).await?;
        if let Some(kept) = found
            && self.documents.pools().await?.contains(&kept.is.pool)
        {
            return Ok(kept);
        }
        Err(not_found(format!("Domain {id} does not exist for user {caller}")).into())
    }

    // ---- subscribers

    pub(super) async fn subscribe(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let (name, op) = (arguments.text("subscriber_name"), arguments.text("subscriber_op"));
        if name.is_empty() || op.is_empty() {
            return Err(value_error("subscriber_name and subscriber_op must not be empty").into());
        }
        let (name, op) = (name.to_owned(), op.to_owned());
        let domain = self.found(caller, arguments.text("domain_id")).await?.is;
        if domain.subscribers.is_empty() {
            // What it had before anybody listened is no news.
            self.begin_telling(&domain).await?;
        }
        self.change_subscribers(caller, arguments, move |all| {
            all.retain(|(other, _)| *other != name);
            all.push((name.clone(), op.clone()));
        })
        .await
    }

    pub(super) async fn unsubscribe(&self, caller: &str, arguments: &Arguments) -> Result<Value, Failed> {
        let name = arguments.text("subscriber_name").to_owned();
        self.change_subscribers(caller, arguments, move |all| all.retain(|(other, _)| *other != name))
            .await
    }

    async fn change_subscribers(
        &self,
        caller: &str,
        arguments: &Arguments,
        change: impl Fn(&mut Vec<(String, String)>) + Send + Sync,
    ) -> Result<Value, Failed> {
        /// Most services that are told of one domain.
        const SUBSCRIBERS_MOST: usize = 100;
        let id = arguments.text("domain_id");
        for _ in 0..TRIES {
            let mut kept = self.found(caller, id).await?;
            change(&mut kept.is.subscribers);
            if kept.is.subscribers.len() > SUBSCRIBERS_MOST {
                return Err(value_error(format!("Domain {id} has {SUBSCRIBERS_MOST} subscribers, which is the most")).into());
            }
            if self.documents.put_domain(&kept).await? {
                return Ok(Value::Null);
            }
        }
        Err(write_conflict(format!("Domain {id} is being changed by others")).into())
    }

    // ---- definitions

    pub(super) async fn add_definition(&self, arguments: &Arguments) -> Result<Value, Failed> {
        let id = arguments.text("definition_id");
        check_id(id).map_err(value_error)?;
        let kept = Kept {
            name: id.to_owned(),
            revision: 0,
            is: Value::Object(arguments.mapping("definition")),
        };
        if self.documents.put_definition(&kept).await? {
            Ok(Value::Null)
        } else {
            Err(write_conflict(format!("Domain definition {id} already exists")).into())
        }
    }

    pub(super) async fn update_definition(&self, arguments: &Arguments) -> Result<Value, Failed> {
        for _ in 0..TRIES {
            let mut kept = self.definition(arguments).await?;
            kept.is = Value::Object(arguments.mapping("definition"));
            if self.documents.put_definition(&kept).await? {
                return Ok(Value::Null);
            }
        }
        Err(write_conflict(format!(
            "Domain definition {} is being changed by others",
            arguments.text("definition_id")
        ))
        .into())
    }

    pub(super) async fn remove_definition(&self, arguments: &Arguments) -> Result<Value, Failed> {
        let kept = self.definition(arguments).await?;
        self.documents.forget_definition(&kept.name).await?;
        Ok(Value::Null)
    }

    pub(super) async fn list_definitions(&self) -> Result<Value, Failed> {
        let all = self.documents.definitions().await?;
        Ok(all.into_iter().map(|kept| Value::String(kept.name)).collect())
    }

    pub(super) async fn describe_definition(&self, arguments: &Arguments) -> Result<Value, Failed> {
        let kept = self.definition(arguments).await?;
        let sections = Sections::of(&kept.is.as_object().cloned().unwrap_or_default());
        let documentation = sections.ok().and_then(|sections| Engine::of(&sections).ok()?.documentation());
        let mut reply = Map::from_iter([("name".to_owned(), json!(kept.name)), ("definition".to_owned(), kept.is)]);
        if let Some(documentation) = documentation {
            reply.insert("documentation".to_owned(), json!(documentation));
        }
        Ok(Value::Object(reply))
    }

    async fn definition(&self, arguments: &Arguments) -> Result<Kept<Value>, Failed> {
        let id = arguments.text("definition_id");
        let found = self.documents.definition(id).await?;
        found.ok_or_else(|| not_found(format!("Domain definition {id} does not exist")).into())
    }
}

/// A type that cannot be used is a setting that cannot.
fn as_value_error(failed: Failed) -> Failed {
    if failed.passing {
        return failed;
    }
    value_error(failed.problem.value).into()
}

/// The settings that differ, so that what an operator changed natively meanwhile stays.
fn changed(old: &Wanted, new: &Wanted) -> std::collections::BTreeMap<String, Value> {
    let (old, mut new) = (old.changes(), new.changes());
    new.retain(|key, value| old.get(key) != Some(value));
    new
}

/// Readings as the original's aggregated series.
fn sensor_data(view: &PoolView) -> Value {
    let fresh = view.readings.iter().filter_map(|(name, reading)| {
        let value = reading.status.fresh()?;
        Some((name.to_string(), json!({ "Series": [value], "Average": value })))
    });
    Value::Object(fresh.collect())
}
