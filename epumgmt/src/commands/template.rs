//! Templates, as pools have them. A template is kept with each pool that launches it, so that what is shown here is what is launched,
//! and not what a file says that nobody has read yet.

use std::collections::{BTreeMap, BTreeSet};

use std::path::Path;

use epu_controller::spec;
use epu_core::request::{KeptTemplate, Nothing, PoolView, Request, TemplateFile, TemplateRef};
use epu_core::{Fault, PoolName, TemplateName};
use serde::Serialize;

use super::{Session, to_send};
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
    /// Who added it, where it is kept by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Its content, where a pool still has it, or it is kept by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<epu_core::pool::Template>,
}

pub(super) async fn run(session: &mut Session, command: Template) -> Result<Exit, Failure> {
    match command {
        Template::List => {
            let mut versions = all(session, "list templates").await?;
            // What a template says is for `show`.
            versions.iter_mut().for_each(|version| version.content = None);
            session.screen.answer(&versions, |style| show::templates(&versions, style))?;
        }
        Template::Show { template } => {
            let doing = format!("show template {template}");
            let mut versions = all(session, &doing).await?;
            versions.retain(|version| version.template == template.as_str());
            if versions.is_empty() {
                let text = format!("no pool launches a template {template}, and none is kept by that name");
                return Err(Failure::while_doing(doing, Fault::new("no-such-template", text)));
            }
            session.screen.answer(&versions, |_| show::template(&versions))?;
        }
        Template::Add { file, name } => add(session, &file, name).await?,
        Template::Remove { template } => {
            let doing = format!("remove template {template}");
            let which = TemplateRef {
                template: template.clone(),
            };
            let () = session.ask(&doing, Request::TemplateRemove(which)).await?;
            let answer = serde_json::json!({ "template": template });
            session.screen.answer(&answer, |_| format!("template {template} removed\n"))?;
        }
    }
    Ok(Exit::Done)
}

async fn all(session: &Session, doing: &str) -> Result<Vec<Version>, Failure> {
    let pools: Vec<PoolView> = session.ask(doing, Request::PoolList(Nothing {})).await?;
    let kept: Vec<KeptTemplate> = session.ask(doing, Request::Templates(Nothing {})).await?;
    Ok(versions(&pools, &kept))
}

async fn add(session: &mut Session, file: &Path, name: Option<TemplateName>) -> Result<(), Failure> {
    let (whole, text) = to_send(file)?;
    let doing = format!("add the template of {}", file.display());
    let request = Request::TemplateAdd(TemplateFile { file: whole, text, name });
    let name: TemplateName = session.ask(&doing, request).await?;
    let answer = serde_json::json!({ "template": name });
    session.screen.answer(&answer, |_| format!("template {name} is there\n"))?;
    Ok(())
}

/// Every version that a pool launches, launched before, or has running, and those that are kept by themselves; by name, then by version.
fn versions(pools: &[PoolView], kept: &[KeptTemplate]) -> Vec<Version> {
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
    for one in kept {
        entry(&spec::version(&one.name, &one.template), &|version| {
            version.kept = Some(one.by.clone());
            version.content.get_or_insert_with(|| one.template.clone());
        });
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
            machines: BTreeMap::new(),
            held_back: false,
        }));
        web.pool.template_version = "sleeper@new".to_owned();
        web.versions = BTreeMap::from([(old.clone(), 3), ("sleeper@new".to_owned(), 1), ("other@1".to_owned(), 2)]);
        let mut mail = a_pool();
        mail.pool.name = PoolName::new("mail").unwrap();
        mail.versions = BTreeMap::from([(old.clone(), 1)]);
        let kept: KeptTemplate =
            serde_json::from_value(serde_json::json!({"name": "apart", "template": {"run": ["true"]}, "by": "eve"})).unwrap();
        let mut found = versions(&[web, mail], &[kept]);
        let apart = found.remove(0);
        assert_eq!((apart.template.as_str(), apart.kept.as_deref()), ("apart", Some("eve")));
        assert!(apart.content.is_some() && apart.pools.is_empty());
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
