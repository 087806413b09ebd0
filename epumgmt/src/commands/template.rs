//! Templates, as pools have them. A template is kept with each pool that launches it, so that what is shown here is what is launched,
//! and not what a file says that nobody has read yet.

use std::collections::{BTreeMap, BTreeSet};

use epu_core::request::{Nothing, PoolView, Request};
use epu_core::{Fault, PoolName};
use serde::Serialize;

use super::Session;
use crate::cli::Template;
use crate::exit::{Exit, Failure};
use crate::show;

/// A version of a template.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Version {
    /// The template's name.
    pub template: String,
    /// Its name and a digest of its content.
    pub version: String,
    /// The pools that launch it.
    pub pools: BTreeSet<PoolName>,
    /// The pools that launched it before, and can go back to it.
    pub before: BTreeSet<PoolName>,
    /// Live instances that run it.
    pub live: u32,
    /// Its content, where a pool still has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<epu_core::pool::Template>,
}

pub(super) async fn run(session: &mut Session, command: Template) -> Result<Exit, Failure> {
    let doing = match &command {
        Template::List => "list templates".to_owned(),
        Template::Show { template } => format!("show template {template}"),
    };
    let pools: Vec<PoolView> = session.ask(&doing, Request::PoolList(Nothing {})).await?;
    match command {
        Template::List => {
            let mut versions = versions(&pools);
            // What a template says is for `show`.
            versions.iter_mut().for_each(|version| version.content = None);
            session.screen.answer(&versions, |style| show::templates(&versions, style))?;
        }
        Template::Show { template } => {
            let mut versions = versions(&pools);
            versions.retain(|version| version.template == template.as_str());
            if versions.is_empty() {
                let text = format!("no pool launches a template {template}");
                return Err(Failure::while_doing(doing, Fault::new("no-such-template", text)));
            }
            session.screen.answer(&versions, |_| show::template(&versions))?;
        }
    }
    Ok(Exit::Done)
}

/// Every version that a pool launches, launched before, or has running; by name, then by version.
fn versions(pools: &[PoolView]) -> Vec<Version> {
    let mut all: BTreeMap<String, Version> = BTreeMap::new();
    let mut entry = |version: &str, change: &dyn Fn(&mut Version)| {
        let found = all.entry(version.to_owned()).or_insert_with(|| Version {
            template: name_in(version).to_owned(),
            version: version.to_owned(),
            ..Version::default()
        });
        change(found);
    };
    for view in pools {
        let pool = &view.pool;
        entry(&pool.template_version, &|version| {
            version.pools.insert(pool.name.clone());
            version.content = Some(pool.template.clone());
        });
        if let Some(previous) = &pool.previous {
            entry(&previous.template_version, &|version| {
                version.before.insert(pool.name.clone());
                version.content.get_or_insert_with(|| previous.template.clone());
            });
        }
        for (running, live) in &view.versions {
            entry(running, &|version| version.live = version.live.saturating_add(*live));
        }
    }
    all.into_values().collect()
}

/// The name in `name@digest`.
fn name_in(version: &str) -> &str {
    version.split('@').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use epu_core::pool::Previous;

    use super::*;
    use crate::show::tests::a_pool;

    #[test]
    fn versions_are_those_that_are_launched_were_launched_or_run() {
        let mut web = a_pool();
        let old = web.pool.template_version.clone();
        web.pool.previous = Some(Box::new(Previous {
            template: web.pool.template.clone(),
            template_version: old.clone(),
            held_back: false,
        }));
        web.pool.template_version = "sleeper@new".to_owned();
        web.versions = BTreeMap::from([(old.clone(), 3), ("sleeper@new".to_owned(), 1), ("other@1".to_owned(), 2)]);
        let mut mail = a_pool();
        mail.pool.name = PoolName::new("mail").unwrap();
        mail.versions = BTreeMap::from([(old.clone(), 1)]);
        let found = versions(&[web, mail]);
        let brief: Vec<(&str, &str, usize, usize, u32)> = found
            .iter()
            .map(|one| {
                (
                    one.template.as_str(),
                    one.version.as_str(),
                    one.pools.len(),
                    one.before.len(),
                    one.live,
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("other", "other@1", 0, 0, 2),
                ("sleeper", old.as_str(), 1, 1, 4),
                ("sleeper", "sleeper@new", 1, 0, 1)
            ]
        );
        assert!(found[0].content.is_none() && found[1].content.is_some());
    }
}
