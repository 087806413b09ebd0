//! One site by itself, as an operator adds it or as it is kept: by the same schema and rules as those of the config file.

use std::collections::BTreeMap;

use epu_core::SiteName;
use epu_core::input::{Flaw, Flaws, Tree, check, pointer, schema_of, strict};
use epu_core::request::SiteFile;
use epu_provisioner::iaas::spec::SiteSpec;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{Named, ec2_site, is_ec2, tls, with_credentials};
use crate::config::Config;

/// Only what its schema is made from.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
#[schemars(deny_unknown_fields)]
struct Sites {
    #[schemars(extend("minProperties" = 1, "x-count" = "at least one site is wanted"))]
    sites: BTreeMap<SiteName, SiteSpec>,
}

/// The one site that is meant by a text: `sites:` with it below, or what stands below its name, which is then given.
///
/// # Errors
/// Every fault.
pub(crate) fn read(file: &SiteFile, config: &Config, named: &Named) -> Result<(SiteName, SiteSpec), Flaws> {
    let tree = Tree::read(&file.file, &file.text)?;
    if tree.value().get("sites").is_none() {
        let spec = read_at(&tree, file.name.as_ref().map_or("?", SiteName::as_str), config, named)?;
        return match &file.name {
            Some(name) => Ok((name.clone(), spec)),
            None => {
                let flaw = tree.flaw("", "there is no `sites:` in it, and no name is given");
                Err(flaw.help("write `sites: {NAME: ...}`, or pass --name").into())
            }
        };
    }
    let mut flaws = check(&tree, &strict(schema_of::<Sites>()));
    let all: Vec<&String> = tree
        .value()
        .get("sites")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|sites| sites.keys())
        .collect();
    for name in &all {
        settings(&tree, &pointer(["sites", name.as_str()]), name.as_str(), config, named, &mut flaws);
    }
    let meant = match (&file.name, all.as_slice()) {
        (Some(name), all) if all.iter().any(|known| known.as_str() == name.as_str()) => name.to_string(),
        (Some(name), all) => {
            let flaw = tree.flaw_at_key("/sites", format!("there is no site {name} in it"));
            let known: Vec<&str> = all.iter().map(|known| known.as_str()).collect();
            flaws.push(flaw.did_you_mean(name.as_str(), known.iter().copied()));
            String::new()
        }
        (None, [only]) => (*only).clone(),
        (None, several) => {
            if several.len() > 1 {
                let flaw = tree.flaw_at_key(
                    "/sites",
                    format!("there are {} sites in it, and one is added at a time", several.len()),
                );
                flaws.push(flaw.help("say which with --name"));
            }
            String::new()
        }
    };
    Flaws::none_in(flaws)?;
    let at = pointer(["sites", meant.as_str()]);
    let name = SiteName::new(&meant).map_err(|error| tree.flaw_at_key(&at, error.to_string()))?;
    Ok((name, tree.get(&at)?))
}

/// A site as it is kept, with the credentials in place that it names.
///
/// # Errors
/// Every fault.
pub(crate) fn kept(name: &SiteName, spec: &Value, config: &Config, named: &Named) -> Result<SiteSpec, Flaws> {
    let spec = read_at(&Tree::of(&format!("site {name}"), json!(spec)), name.as_str(), config, named)?;
    Ok(with_credentials(spec, named))
}

fn read_at(tree: &Tree, name: &str, config: &Config, named: &Named) -> Result<SiteSpec, Flaws> {
    let mut flaws = check(tree, &strict(schema_of::<SiteSpec>()));
    settings(tree, "", name, config, named, &mut flaws);
    Flaws::none_in(flaws)?;
    Ok(tree.get("")?)
}

/// What the schema cannot say of one site, and what this process has to have for it.
fn settings(tree: &Tree, at: &str, name: &str, config: &Config, named: &Named, flaws: &mut Vec<Flaw>) {
    let Some(site) = tree.value().pointer(at).filter(|site| is_ec2(site)) else {
        return;
    };
    let names: Vec<&str> = named.keys().map(String::as_str).collect();
    ec2_site(tree, &format!("{at}/ec2"), &names, flaws);
    let endpoint = site.pointer("/ec2/endpoint").and_then(Value::as_str);
    if tls::is_far(endpoint)
        && let Some(wrong) = config.way().first_wrong(&[name])
    {
        flaws.push(tree.flaw(&format!("{at}/ec2"), wrong.text).help(wrong.help));
    }
}
