//! Sites, and what pools want of them: what the schema cannot say.
//!
//! Rules look at the tree and not at the typed form, so that they find their faults beside misspelt keys elsewhere. What depends on the
//! process that will serve (a variable that is set there only, a driver that another build has) is no fault of the file: it is told as a
//! note.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use epu_controller::config::SiteFacts;
use epu_core::input::{Flaw, Tree, pointer};
use epu_core::machine::MachineSpec;
use epu_core::pool::{Placement, Template};
use epu_core::secret::SecretRef;
use epu_core::{SiteName, Span};
use epu_provisioner::iaas::ec2::settings::Credentials;
use epu_provisioner::iaas::ec2::{self, Ec2Settings};
use epu_provisioner::iaas::spec::SiteSpec;
use epu_provisioner::pace;
use serde_json::Value;

pub(crate) mod written;

use super::tls::{self, Written};
use super::{Config, DEFAULT_DATA, File};

/// Less, and a site's limits are used up by looking.
const LOOK_LEAST: Span = Span::secs(1);
/// Most processes of one launch here: what the driver can do.
const LOCAL_LAUNCH_MOST: u32 = 1_000;
/// What EC2 takes of a tag (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html>).
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// The sites of a tree that may have faults, with what is known of each. Without any, pools would be blamed for what is wrong elsewhere.
pub(super) fn named(tree: &Tree) -> BTreeSet<SiteName> {
    match tree.value().get("sites").and_then(Value::as_object) {
        Some(sites) => sites.keys().filter_map(|name| SiteName::new(name).ok()).collect(),
        None => File::default().sites.into_keys().collect(),
    }
}

/// On which line each site of a tree stands.
pub(super) fn lines(tree: &Tree) -> BTreeMap<SiteName, u32> {
    let line = |name: SiteName| {
        let line = tree.place(&pointer(["sites", name.as_str()])).key.map_or(0, |key| key.line);
        (name, line)
    };
    named(tree).into_iter().map(line).collect()
}

/// Credentials by name.
pub(crate) type Named = BTreeMap<String, Credentials>;

/// A site with the credentials in place that it names; one whose name nobody has stays as it is.
#[must_use]
pub(crate) fn with_credentials(mut site: SiteSpec, named: &Named) -> SiteSpec {
    if let Some(who) = site.ec2.as_mut().and_then(|ec2| ec2.credentials.as_mut())
        && let Some(known) = who.name.as_ref().and_then(|name| named.get(name))
    {
        *who = known.clone();
    }
    site
}

/// The same of several.
pub(super) fn all_named(sites: BTreeMap<SiteName, SiteSpec>, named: &Named) -> BTreeMap<SiteName, SiteSpec> {
    let one = |(name, site)| (name, with_credentials(site, named));
    sites.into_iter().map(one).collect()
}

/// Whether every worker runs on this machine, so that programs can be looked for here.
pub(super) fn are_here(tree: &Tree) -> bool {
    let sites = tree.value().get("sites").and_then(Value::as_object);
    sites.into_iter().flatten().all(|(_, site)| !is_ec2(site))
}

/// The same of sites without faults.
pub(crate) fn all_local(sites: &BTreeMap<SiteName, SiteSpec>) -> bool {
    ec2_sites(sites).next().is_none()
}

fn is_ec2(site: &Value) -> bool {
    site.get("ec2").is_some()
}

/// Every fault of sites, and of what pools want to launch there. Relative paths count from `base`.
pub(super) fn rules(tree: &Tree, base: &Path, flaws: &mut Vec<Flaw>) {
    one_local_site(tree, flaws);
    let named = tree.value().get("credentials").and_then(Value::as_object);
    let names: Vec<&str> = named.into_iter().flat_map(|named| named.keys()).map(String::as_str).collect();
    for name in &names {
        let at = pointer(["credentials", name]);
        if let Err(error) = SiteName::new(name) {
            flaws.push(tree.flaw_at_key(&at, error.to_string()));
        }
        credentials(tree, &at, None, flaws);
    }
    let sites = tree.value().get("sites").and_then(Value::as_object);
    for (name, _) in sites.into_iter().flatten().filter(|(_, site)| is_ec2(site)) {
        ec2_site(tree, &pointer(["sites", name, "ec2"]), &names, flaws);
    }
    let templates = tree.value().get("templates").and_then(Value::as_object);
    for (name, _) in templates.into_iter().flatten() {
        machine(tree, &pointer(["templates", name, "machine"]), flaws);
    }
    let used = uses(tree);
    for using in &used {
        machine(tree, &format!("{}/machine", using.at), flaws);
        machine_to_launch(tree, using, flaws);
    }
    let mut seen = BTreeSet::new();
    for using in used.iter().filter(|using| seen.insert(using.template_at.clone())) {
        paths(tree, using, flaws);
    }
    user_data(tree, base, &used, flaws);
}

/// Two sites of this driver would list each other's workers, since a process table is of the whole machine.
fn one_local_site(tree: &Tree, flaws: &mut Vec<Flaw>) {
    let Some(sites) = tree.value().get("sites").and_then(Value::as_object) else {
        return;
    };
    let mut local = sites.iter().filter(|(_, site)| site.get("local").is_some()).map(|(name, _)| name);
    let Some(first) = local.next() else { return };
    for name in local {
        let flaw = tree.flaw_at_key(
            &pointer(["sites", name]),
            format!("site {first} has the driver `local` already, and this machine is one site"),
        );
        flaws.push(flaw.help(format!("take {name} out, and place its pools on {first}")));
    }
}

/// Credentials, of a site that may name one of these, or of those that are named themselves.
fn credentials(tree: &Tree, at: &str, named: Option<&[&str]>, flaws: &mut Vec<Flaw>) {
    let has = |key: &str| tree.value().pointer(&format!("{at}/{key}")).is_some_and(|value| !value.is_null());
    let keys = ["access-key-id", "secret-access-key"];
    let given: Vec<&str> = keys.into_iter().filter(|key| has(key)).collect();
    if has("name") {
        name_of_credentials(tree, at, named, flaws);
        if has("profile") || has("session-token") || !given.is_empty() {
            let flaw = tree.flaw_at_key(at, "a name and something else are given");
            flaws.push(flaw.help("give `name` alone: what it stands for is in `credentials` at the top of the config file"));
        }
        return;
    }
    let either = "give `profile`, or both `access-key-id` and `secret-access-key`";
    let mut wrong = |text: &str, help: &str| flaws.push(tree.flaw_at_key(at, text).help(help));
    match (has("profile"), given.as_slice()) {
        (true, []) if has("session-token") => wrong("a session token belongs to keys, and there is a profile", either),
        (true, []) | (false, [_, _]) => {}
        (true, _) => wrong("a profile and keys are given", either),
        (false, [only]) => {
            let missing = if *only == keys[0] { keys[1] } else { keys[0] };
            wrong(&format!("`{only}` is given without `{missing}`"), either);
        }
        (false, _) if has("session-token") => wrong("a session token is given without its keys", either),
        (false, _) => wrong(
            "it says nothing",
            &format!("{either}; or leave `credentials` out, to be found as the vendor's tools find them"),
        ),
    }
}

fn name_of_credentials(tree: &Tree, at: &str, named: Option<&[&str]>, flaws: &mut Vec<Flaw>) {
    let place = format!("{at}/name");
    let Some(named) = named else {
        let flaw = tree.flaw_at_key(&place, "credentials that have a name cannot name others");
        return flaws.push(flaw.help("give `profile`, or both `access-key-id` and `secret-access-key`"));
    };
    let Some(name) = tree.value().pointer(&place).and_then(Value::as_str) else {
        return;
    };
    if named.contains(&name) {
        return;
    }
    let flaw = tree.flaw(&place, format!("no credentials are named {name:?}"));
    let flaw = flaw.did_you_mean(name, named.iter().copied());
    flaws.push(match flaw.help {
        Some(_) => flaw,
        None if named.is_empty() => flaw.help("write them below `credentials:` at the top of the config file"),
        None => flaw.help(format!("there are: {}", named.join(", "))),
    });
}

fn ec2_site(tree: &Tree, at: &str, named: &[&str], flaws: &mut Vec<Flaw>) {
    let below = |key: &str| format!("{at}/{key}");
    let has = |key: &str| tree.value().pointer(&below(key)).is_some_and(|value| !value.is_null());
    let span = |key: &str, default: Span| {
        let written = tree.value().pointer(&below(key)).and_then(Value::as_str);
        written.map_or(Some(default), |text| text.parse::<Span>().ok())
    };
    if has("credentials") {
        credentials(tree, &below("credentials"), Some(named), flaws);
    }
    if let Some(Ok(buckets)) = tree
        .value()
        .pointer(&below("pace"))
        .map(|pace| serde_json::from_value(pace.clone()))
    {
        for name in pace::unknown_names(&buckets) {
            let at = format!("{}{}", below("pace"), pointer([name]));
            let flaw = tree.flaw_at_key(&at, format!("no bucket is named {name:?}"));
            let flaw = flaw.did_you_mean(name, pace::NAMES);
            flaws.push(match flaw.help {
                None => flaw.help(format!("there are: {}", pace::NAMES.join(", "))),
                Some(_) => flaw,
            });
        }
    }
    // The defaults are those of the type.
    let written = tree.get::<Ec2Settings>(at).ok();
    let default = |of: fn(&Ec2Settings) -> Span| written.as_ref().map_or(Span::secs(60), of);
    let look_fast = span("look-fast", default(|settings| settings.look_fast));
    let look_steady = span("look-steady", default(|settings| settings.look_steady));
    if let Some(fast) = look_fast.filter(|fast| *fast < LOOK_LEAST) {
        flaws.push(tree.flaw(&below("look-fast"), format!("{fast} is less than {LOOK_LEAST}, the least allowed")));
    }
    if let (Some(fast), Some(steady), true) = (look_fast, look_steady, written.is_some())
        && steady < fast
    {
        let key = if has("look-steady") { "look-steady" } else { "look-fast" };
        flaws.push(tree.flaw(&below(key), format!("look-steady {steady} is less than look-fast {fast}")));
    }
    let consistency = span("consistency-grace", default(|settings| settings.consistency_grace));
    let sweep = span("sweep-grace", default(|settings| settings.sweep_grace));
    if let (Some(consistency), Some(sweep), true) = (consistency, sweep, written.is_some())
        && sweep < consistency
    {
        let key = if has("sweep-grace") { "sweep-grace" } else { "consistency-grace" };
        let flaw = tree.flaw(
            &below(key),
            format!("sweep-grace {sweep} is less than consistency-grace {consistency}: a machine could be ended before it is known"),
        );
        flaws.push(flaw);
    }
}

/// A pool's use of a site that rents machines.
struct Use {
    pool: String,
    site: String,
    placement: Placement,
    /// Where the placement stands, or the pool when it has none and there is only one site.
    at: String,
    template: Template,
    template_name: String,
    template_at: String,
}

/// Every use of an EC2 site. What is not of the form that the schema asks for is left out: that has been said.
fn uses(tree: &Tree) -> Vec<Use> {
    let mapping = |key: &str| tree.value().get(key).and_then(Value::as_object);
    let Some(sites) = mapping("sites") else {
        return Vec::new();
    };
    let only = sites.keys().next().filter(|_| sites.len() == 1);
    let mut used = Vec::new();
    for (pool, spec) in mapping("pools").into_iter().flatten() {
        let at = pointer(["pools", pool]);
        let written = spec.get("placements").and_then(Value::as_array).map_or(0, Vec::len);
        let mut placed: Vec<(String, Placement)> = (0..written)
            .map(|n| format!("{at}/placements/{n}"))
            .filter_map(|at| Some((at.clone(), tree.get::<Placement>(&at).ok()?)))
            .collect();
        if let (0, Some(Ok(only))) = (written, only.map(|name| SiteName::new(name))) {
            placed.push((at.clone(), Placement::on(only)));
        }
        let Some(template_name) = spec.get("template").and_then(Value::as_str) else {
            continue;
        };
        let template_at = pointer(["templates", template_name]);
        let Ok(template) = tree.get::<Template>(&template_at) else {
            continue;
        };
        for (at, placement) in placed {
            if sites.get(placement.site.as_str()).is_some_and(is_ec2) {
                used.push(Use {
                    pool: pool.clone(),
                    site: placement.site.to_string(),
                    placement,
                    at,
                    template: template.clone(),
                    template_name: template_name.to_owned(),
                    template_at: template_at.clone(),
                });
            }
        }
    }
    used
}

/// What a site that rents machines would refuse of one `machine:` by itself.
pub(super) fn machine(tree: &Tree, at: &str, flaws: &mut Vec<Flaw>) {
    let Ok(machine) = tree.get::<MachineSpec>(at) else {
        return;
    };
    if machine.subnet.is_some() && machine.zone.is_some() {
        let flaw = tree.flaw_at_key(&format!("{at}/zone"), "a subnet lies in a zone, and both are given");
        flaws.push(flaw.help("give one of `subnet` and `zone`"));
    }
    for (key, value) in &machine.tags {
        let at = format!("{at}/tags{}", pointer([key.as_str()]));
        if key.is_empty() || key.chars().count() > TAG_KEY_MAX {
            flaws.push(tree.flaw_at_key(&at, format!("a tag's key has 1 to {TAG_KEY_MAX} characters")));
        }
        if value.chars().count() > TAG_VALUE_MAX {
            flaws.push(tree.flaw(&at, format!("a tag's value has at most {TAG_VALUE_MAX} characters")));
        }
    }
}

/// What a launch needs at the least, once a placement's machine lies over its template's.
fn machine_to_launch(tree: &Tree, using: &Use, flaws: &mut Vec<Flaw>) {
    let machine = using.placement.machine.over(&using.template.machine);
    if machine.launch_template.is_some() {
        return;
    }
    let missing: Vec<&str> = [("image", machine.image.is_none()), ("size", machine.size.is_none())]
        .into_iter()
        .filter_map(|(what, is_missing)| is_missing.then_some(what))
        .collect();
    if missing.is_empty() {
        return;
    }
    let text = format!(
        "a machine on site {} needs {}, which neither this placement nor template {} names",
        using.site,
        missing.iter().map(|what| format!("`{what}`")).collect::<Vec<_>>().join(" and "),
        using.template_name
    );
    let example: Vec<&str> = missing
        .iter()
        .map(|what| if *what == "image" { "image: ami-..." } else { "size: m7i.large" })
        .collect();
    let flaw = tree.flaw_at_key(&using.at, text);
    flaws.push(flaw.help(format!(
        "write `machine: {{{}}}` in the template or here, or name a `launch-template` of the site",
        example.join(", ")
    )));
}

/// A path that counts from this file means nothing on another machine.
fn paths(tree: &Tree, using: &Use, flaws: &mut Vec<Flaw>) {
    let directory = using.template.directory.as_ref();
    let help = "write it as an absolute path, as it is on the machine";
    if let Some(directory) = directory.filter(|directory| directory.is_relative()) {
        let text = format!(
            "{} is relative to this file, and workers on site {} are on other machines",
            directory.display(),
            using.site
        );
        flaws.push(tree.flaw(&format!("{}/directory", using.template_at), text).help(help));
    }
    if directory.is_some() {
        return;
    }
    for (key, program) in [("run", &using.template.run), ("set-up", &using.template.set_up)] {
        let Some(program) = program.first().filter(|program| program.contains('/') && !program.contains("${")) else {
            continue;
        };
        if !program.starts_with('/') {
            let text = format!(
                "{program:?} is relative to this file, and workers on site {} are on other machines",
                using.site
            );
            flaws.push(tree.flaw(&format!("{}/{key}/0", using.template_at), text).help(help));
        }
    }
}

/// What a machine is given at its start can be made, and is not longer than a site takes. A program without the driver cannot try it.
fn user_data(tree: &Tree, base: &Path, used: &[Use], flaws: &mut Vec<Flaw>) {
    let written = Written::of(tree);
    let Some(url) = written.way().map(|way| way.url()) else {
        return;
    };
    // One that cannot be read is a flaw of `tls`; a self-made one that is not made yet is not counted.
    let files = written.tls.clone().map(|tls| tls.based(base));
    let data_dir = tree.value().get("data-dir").and_then(Value::as_str).unwrap_or(DEFAULT_DATA);
    let ca = tls::agents_ca(files.as_ref(), written.advertise_ca.as_deref(), base, &base.join(data_dir));
    let ca = ca.ok().flatten();
    for using in used {
        let launched = using.placement.template(&using.template);
        for wrong in user_data_faults(&launched, &url, ca.as_deref()) {
            // Said where it is written: at the placement when that has its own, otherwise at the template.
            let own = format!("{}/machine/user-data", using.at);
            let at = match tree.value().pointer(&own) {
                Some(_) => own,
                None => format!("{}/machine/user-data", using.template_at),
            };
            flaws.push(tree.flaw(&at, format!("user data for pool {}: {wrong}", using.pool)));
        }
    }
}

#[cfg(feature = "ec2")]
fn user_data_faults(template: &Template, url: &str, ca: Option<&str>) -> Vec<String> {
    ec2::user_data::check(template, url, ca)
}

#[cfg(not(feature = "ec2"))]
fn user_data_faults(_template: &Template, _url: &str, _ca: Option<&str>) -> Vec<String> {
    Vec::new()
}

/// What is no fault of the file and may still keep its sites from working: told by `config check`, and once more by `serve`.
#[must_use]
pub(crate) fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, settings) in ec2_sites(&config.sites) {
        notes.extend(missing_for(name));
        let credentials = settings.credentials.iter();
        let secrets = credentials.flat_map(|who| [&who.access_key_id, &who.secret_access_key, &who.session_token]);
        for secret in secrets.flatten() {
            notes.extend(unresolved(name, secret));
        }
        let endpoints = [&settings.endpoint, &settings.identity_endpoint];
        for endpoint in endpoints.into_iter().flatten().filter(|endpoint| is_open(endpoint)) {
            notes.push(format!(
                "site {name}: {endpoint} is not https, so that whoever is on the way reads the launch tokens of its machines"
            ));
        }
    }
    notes
}

fn unresolved(site: &SiteName, secret: &SecretRef) -> Option<String> {
    let error = secret.resolve().err()?;
    Some(format!(
        "site {site}: {} cannot be read here ({}); it has to be readable where the provisioner runs",
        secret.shown(),
        epu_core::code::Chain(&error)
    ))
}

/// Whether an address is neither https nor of this machine.
fn is_open(url: &str) -> bool {
    let host = url
        .strip_prefix("http://")
        .map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    host.is_some_and(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) {
                name
            } else {
                host
            }
        });
        let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
    })
}

fn ec2_sites(sites: &BTreeMap<SiteName, SiteSpec>) -> impl Iterator<Item = (&SiteName, &Ec2Settings)> {
    sites.iter().filter_map(|(name, site)| Some((name, site.ec2.as_ref()?)))
}

/// What this program lacks to launch on these sites, in words; none: nothing.
#[must_use]
pub(super) fn missing_driver(sites: &BTreeMap<SiteName, SiteSpec>) -> Option<String> {
    ec2_sites(sites).find_map(|(name, _)| missing_for(name))
}

fn missing_for(site: &SiteName) -> Option<String> {
    (!cfg!(feature = "ec2")).then(|| ec2::missing(site).text)
}

/// What the controller is to know of sites.
#[must_use]
pub(crate) fn facts(sites: &BTreeMap<SiteName, SiteSpec>) -> epu_controller::config::Sites {
    let fact = |(name, site): (&SiteName, &SiteSpec)| {
        let most = match &site.ec2 {
            // One machine a call: then every machine has a launch and a token to itself.
            Some(ec2) if !(ec2.client_tokens && ec2.launch_index) => 1,
            Some(ec2) => ec2.launch_most,
            None => LOCAL_LAUNCH_MOST,
        };
        (name.clone(), SiteFacts::of(most, site))
    };
    std::sync::Arc::new(sites.iter().map(fact).collect())
}

/// How the sites of two readings of the file differ, in words; none: they do not.
#[must_use]
pub(crate) fn difference(old: &BTreeMap<SiteName, SiteSpec>, new: &BTreeMap<SiteName, SiteSpec>) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for (name, site) in new {
        match old.get(name) {
            None => parts.push(format!("{name} is new")),
            Some(before) if before != site => parts.push(format!("{name} is changed")),
            Some(_) => {}
        }
    }
    parts.extend(
        old.keys()
            .filter(|name| !new.contains_key(*name))
            .map(|name| format!("{name} is gone")),
    );
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests;
