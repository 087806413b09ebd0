//! Trying what launching will need, without launching anything: who we are, the clock, then for each template its image and whatever it
//! names, its user data, and RunInstances itself as a dry run, which tells whether the rights suffice.
//!
//! What several templates name is tried once. What cannot be found out says so: EC2 tells nobody his quotas through this API, and a
//! cloud may not know dry runs.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::types::ImageState;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::launch::Purpose;
use epu_core::machine::MachineSpec;
use epu_core::request::{Finding, FindingVerdict as Verdict, NamedTemplate};
use epu_core::time::Span;

use super::account::Account;
use super::classes;
use super::driver::Ec2;
use super::failure::Failure;
use super::origin;
use super::request::{Wanted, tagged};
use super::user_data::{self, USER_DATA_MAX};
use crate::iaas::{Class, IaasLaunch, LaunchToken};
use crate::pace::Action;

/// How far clocks may differ before it is worth telling. EC2 refuses requests at 5 minutes.
const CLOCK_GOOD: Duration = Duration::from_secs(30);
const CLOCK_BAD: Duration = Duration::from_secs(240);
/// Templates of one check. Too high: it takes longer than whoever asked waits.
const TEMPLATES_MOST: usize = 100;
/// An id that no machine has, for dry runs on nothing.
const NO_MACHINE: &str = "i-0123456789abcdef0";
/// What stands for the services' address where none is known here.
const SOME_URL: &str = "https://epu.invalid:8443";

fn finding(what: impl Into<String>, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        verdict,
        text: text.into(),
    }
}

/// What a failed question means for whoever checks.
fn failed(what: impl Into<String>, failure: &Failure) -> Finding {
    let verdict = match failure.error.class {
        Class::Retryable | Class::Throttled => Verdict::Unknown,
        Class::Capacity | Class::Quota | Class::Changed => Verdict::Doubtful,
        Class::Credentials | Class::Permanent => Verdict::Bad,
    };
    finding(what, verdict, failure.error.text.clone())
}

/// A question that only helps to check: without the right to ask it, launching works all the same.
fn unasked(what: impl Into<String>, failure: &Failure) -> Finding {
    let mut finding = failed(what, failure);
    if failure.is("UnauthorizedOperation") {
        finding.verdict = Verdict::Unknown;
    }
    finding
}

pub(super) async fn check(site: &Ec2, templates: &[NamedTemplate]) -> Vec<Finding> {
    let account = &site.account;
    let mut findings = vec![who(account).await];
    // An answer to anything says what time it is there.
    let listing = machines(account).await;
    findings.push(clock(account));
    findings.extend(listing);
    if findings.iter().any(|found| found.verdict == Verdict::Bad && found.what != "clock") {
        findings.push(finding(
            "templates",
            Verdict::Unknown,
            "not tried, because nothing can be asked of the site: mend what is above first",
        ));
        return findings;
    }
    findings.extend(things(account, templates).await);
    for template in templates.iter().take(TEMPLATES_MOST) {
        findings.extend(launching(site, template).await);
    }
    if templates.len() > TEMPLATES_MOST {
        let text = format!("only the first {TEMPLATES_MOST} of {} were tried", templates.len());
        findings.push(finding("templates", Verdict::Unknown, text));
    }
    findings.extend(rights(account).await);
    findings.push(finding(
        "quota",
        Verdict::Unknown,
        format!(
            "EC2 tells quotas only elsewhere: see that those of region {} for what the templates launch (vCPUs, spot vCPUs, volumes, \
             addresses of each subnet) suffice for the pools' maxima; an exceeded one shows as `site-quota-exceeded`",
            account.region
        ),
    ));
    findings
}

async fn who(account: &Account) -> Finding {
    if account.client.sts.is_none() {
        let text = "not asked: the site has an `endpoint` and no `identity-endpoint`; calls are paced by key instead of by account";
        return finding("credentials", Verdict::Unknown, text);
    }
    match account.ask().await {
        Ok((number, name)) => finding("credentials", Verdict::Good, format!("account {number}, {name}")),
        Err(failure) => failed("credentials", &failure),
    }
}

fn clock(account: &Account) -> Finding {
    let Some(millis) = account.client.skew.millis() else {
        return finding("clock", Verdict::Unknown, "the site's answers say no time");
    };
    let off = Duration::from_millis(millis.unsigned_abs());
    let direction = if millis > 0 { "behind" } else { "ahead of" };
    let text = format!("ours is {} {direction} the site's", Span(Duration::from_secs(off.as_secs())));
    let mend = "set it (chrony or ntpd keeps it right): at five minutes the site refuses every call";
    if off < CLOCK_GOOD {
        finding("clock", Verdict::Good, "ours and the site's agree")
    } else if off < CLOCK_BAD {
        finding("clock", Verdict::Doubtful, format!("{text}; {mend}"))
    } else {
        finding("clock", Verdict::Bad, format!("{text}; {mend}"))
    }
}

/// Whether machines can be listed at all.
async fn machines(account: &Account) -> Vec<Finding> {
    let asked = account.client.ec2.describe_instances().max_results(5).send();
    let answer = account.asked(Action::DescribeInstances, "list machines", asked).await;
    vec![match answer {
        Ok(_) => finding("list machines", Verdict::Good, format!("region {} answers", account.region)),
        Err(failure) => failed("list machines", &failure),
    }]
}

/// Names of templates by what they name.
fn by<'a, T: Ord>(templates: &'a [NamedTemplate], of: impl Fn(&'a MachineSpec) -> Vec<T>) -> impl Iterator<Item = (T, String)> {
    let mut found: BTreeMap<T, Vec<&str>> = BTreeMap::new();
    for template in templates.iter().take(TEMPLATES_MOST) {
        for thing in of(&template.template.machine) {
            let names = found.entry(thing).or_default();
            if names.last() != Some(&template.name.as_str()) {
                names.push(&template.name);
            }
        }
    }
    found.into_iter().map(|(thing, mut names)| {
        let more = names.len().saturating_sub(3);
        names.truncate(3);
        let mut text = names.join("; ");
        if more > 0 {
            text.push_str(&format!("; {more} more"));
        }
        (thing, text)
    })
}

/// What templates name, each asked for once.
async fn things(account: &Account, templates: &[NamedTemplate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ec2 = &account.client.ec2;
    for (image, names) in by(templates, |machine| machine.image.iter().cloned().collect()) {
        let what = format!("image {image} ({names})");
        let asked = ec2.describe_images().image_ids(&image).send();
        let answer = account.asked(Action::Question, &format!("look at image {image}"), asked).await;
        findings.push(match answer {
            Err(failure) => unasked(what, &failure),
            Ok(answer) => match answer.images().first() {
                None => finding(
                    what,
                    Verdict::Bad,
                    "there is no such image: correct `machine.image`; an image belongs to one region",
                ),
                Some(found) => match found.state() {
                    Some(ImageState::Available) => {
                        let name = found.name().unwrap_or("without a name");
                        let kind = found
                            .architecture()
                            .map_or("unknown", aws_sdk_ec2::types::ArchitectureValues::as_str);
                        finding(what, Verdict::Good, format!("{name}, architecture {kind}"))
                    }
                    state => {
                        let state = state.map_or("unknown", ImageState::as_str);
                        finding(
                            what,
                            Verdict::Bad,
                            format!("it is {state}: wait until it is available, or name another"),
                        )
                    }
                },
            },
        });
    }
    for (key, names) in by(templates, |machine| machine.key.iter().cloned().collect()) {
        let what = format!("key {key} ({names})");
        let asked = ec2.describe_key_pairs().key_names(&key).send();
        let answer = account.asked(Action::Question, &format!("look at key {key}"), asked).await;
        findings.push(match answer {
            Ok(_) => finding(what, Verdict::Good, "it is there"),
            Err(failure) => unasked(what, &failure),
        });
    }
    for (group, names) in by(templates, |machine| machine.security_groups.clone()) {
        let what = format!("security group {group} ({names})");
        let asked = ec2.describe_security_groups();
        let asked = if group.starts_with("sg-") {
            asked.group_ids(&group)
        } else {
            asked.group_names(&group)
        };
        let answer = account
            .asked(Action::Question, &format!("look at security group {group}"), asked.send())
            .await;
        findings.push(match answer {
            Ok(_) => finding(what, Verdict::Good, "it is there"),
            Err(failure) => unasked(what, &failure),
        });
    }
    for (subnet, names) in by(templates, |machine| machine.subnet.iter().cloned().collect()) {
        findings.push(subnet_finding(account, &subnet, format!("subnet {subnet} ({names})")).await);
    }
    for (template, names) in by(templates, launch_template) {
        let (id, name, version) = template;
        let what = format!(
            "launch template {} ({names})",
            id.as_ref().or(name.as_ref()).map_or("", String::as_str)
        );
        let asked = ec2.describe_launch_template_versions();
        let asked = asked
            .set_launch_template_id(id.clone())
            .set_launch_template_name(name.filter(|_| id.is_none()));
        let answer = account
            .asked(Action::Question, "look at a launch template", asked.versions(&version).send())
            .await;
        findings.push(match answer {
            Ok(answer) if answer.launch_template_versions().is_empty() => finding(
                what,
                Verdict::Bad,
                format!("it has no version {version}: correct `machine.launch-template.version`"),
            ),
            Ok(_) => finding(what, Verdict::Good, format!("version {version} is there")),
            Err(failure) => unasked(what, &failure),
        });
    }
    findings
}

type TemplateId = (Option<String>, Option<String>, String);

fn launch_template(machine: &MachineSpec) -> Vec<TemplateId> {
    let template = machine.launch_template.as_ref();
    template
        .map(|it| (it.id.clone(), it.name.clone(), it.version.clone()))
        .into_iter()
        .collect()
}

async fn subnet_finding(account: &Account, subnet: &str, what: String) -> Finding {
    let asked = account.client.ec2.describe_subnets().subnet_ids(subnet).send();
    let answer = account.asked(Action::Question, &format!("look at subnet {subnet}"), asked).await;
    match answer {
        Err(failure) => unasked(what, &failure),
        Ok(answer) => match answer.subnets().first() {
            None => finding(what, Verdict::Bad, "there is no such subnet: correct `machine.subnet`"),
            Some(found) => {
                let free = found.available_ip_address_count().unwrap_or_default();
                let zone = found.availability_zone().unwrap_or("an unknown zone");
                if free > 0 {
                    finding(
                        what,
                        Verdict::Good,
                        format!("in {zone}, with {free} free addresses, which is the most machines that fit"),
                    )
                } else {
                    finding(
                        what,
                        Verdict::Doubtful,
                        format!("in {zone}, without a free address: nothing can be launched there now"),
                    )
                }
            }
        },
    }
}

/// User data of a template, and RunInstances as a dry run.
async fn launching(site: &Ec2, template: &NamedTemplate) -> Vec<Finding> {
    let mut findings = Vec::new();
    let flaws = user_data::check(&template.template, SOME_URL, site.ca_pem.as_deref());
    let what = format!("user data ({})", template.name);
    let now = site.clock.now();
    let sample = IaasLaunch {
        installation: site.account.installation.clone(),
        launch: LaunchId(site.random.uuid(now)),
        pool: sample_pool(),
        instances: vec![InstanceId(site.random.uuid(now))],
        min: 1,
        launch_token: LaunchToken("l.checking".to_owned()),
        url: SOME_URL.to_owned(),
        template: template.template.clone(),
        doubtful: false,
    };
    let wanted = Wanted {
        site: &site.name,
        launch: &sample,
        manner: site.account.manner,
        ca_pem: site.ca_pem.as_deref(),
        index: (!site.account.manner.batch).then_some(0),
    };
    match (wanted.user_data(), flaws.is_empty()) {
        (Ok(text), true) => {
            let text = format!("{} of {USER_DATA_MAX} bytes", text.len());
            findings.push(finding(what, Verdict::Good, text));
        }
        (Ok(_), false) => findings.push(finding(what, Verdict::Bad, flaws.join("; "))),
        (Err(error), _) => findings.push(finding(what, Verdict::Bad, error.text)),
    }
    let what = format!("launch, dry run ({})", template.name);
    let Ok(request) = wanted.request() else {
        findings.push(finding(
            what,
            Verdict::Unknown,
            "not tried, because there is no user data to launch with",
        ));
        return findings;
    };
    site.account.turn(Action::RunInstances, 0, Purpose::Grow).await;
    let sent = request.dry_run(true).send_with(&site.account.client.ec2);
    let answer = site
        .account
        .call(Action::RunInstances, "launch, dry run", super::account::ASKING, sent)
        .await;
    findings.push(match answer {
        Err(failure) if failure.is(classes::DRY_RUN) => finding(what, Verdict::Good, "the site would launch it"),
        Err(failure) => failed(what, &failure),
        Ok(answer) => launched_all_the_same(site, what, &answer).await,
    });
    findings
}

/// A cloud that does not know dry runs launches: that is ended at once.
async fn launched_all_the_same(site: &Ec2, what: String, answer: &aws_sdk_ec2::operation::run_instances::RunInstancesOutput) -> Finding {
    let ids: Vec<String> = answer
        .instances()
        .iter()
        .filter_map(|one| one.instance_id().map(str::to_owned))
        .collect();
    if ids.is_empty() {
        return finding(what, Verdict::Unknown, "the site does not know dry runs, and launched nothing");
    }
    site.account.turn(Action::TerminateInstances, 1, Purpose::Replace).await;
    let text = match site.account.terminate(&ids, usize::MAX, "end what a dry run launched").await {
        Ok(_) => format!(
            "the site does not know dry runs: it launched {}, which was ended at once",
            ids.join(", ")
        ),
        Err(error) => format!(
            "the site does not know dry runs: it launched {}, which the sweep will end, since ending it failed: {error}",
            ids.join(", ")
        ),
    };
    finding(what, Verdict::Doubtful, text)
}

/// The name of the pool in a request that is only tried.
fn sample_pool() -> PoolName {
    PoolName::new("site-check").expect("a name")
}

/// The rights that launching does not show, as dry runs on a machine of ours where there is one.
async fn rights(account: &Account) -> Vec<Finding> {
    let ec2 = &account.client.ec2;
    let machine = some_machine(account).await;
    let (id, is_real) = machine.as_deref().map_or((NO_MACHINE, false), |id| (id, true));
    let mut findings = Vec::new();
    account.turn(Action::CreateTags, 0, Purpose::Grow).await;
    let sent = ec2
        .create_tags()
        .resources(id)
        .tags(tagged(origin::INSTALLATION, &account.installation))
        .dry_run(true)
        .send();
    let answer = account
        .call(Action::CreateTags, "tag a machine, dry run", super::account::ASKING, sent)
        .await;
    // Where tags come with the launch, only names for people need it.
    let without = if account.manner.tags { Verdict::Doubtful } else { Verdict::Bad };
    let tagging = answer.err();
    // A site that does not know dry runs would end a real machine. A tag that it has anyway harms none, so that is tried first.
    let knows_dry_runs = tagging.as_ref().is_some_and(|failure| failure.is(classes::DRY_RUN));
    findings.push(right("tag, dry run", tagging, is_real, without));
    let (ended, is_ended_real) = if knows_dry_runs { (id, is_real) } else { (NO_MACHINE, false) };
    account.turn(Action::TerminateInstances, 0, Purpose::Grow).await;
    let sent = ec2.terminate_instances().instance_ids(ended).dry_run(true).send();
    let answer = account
        .call(Action::TerminateInstances, "end a machine, dry run", super::account::ASKING, sent)
        .await;
    findings.push(right("terminate, dry run", answer.err(), is_ended_real, Verdict::Bad));
    let sent = ec2.get_console_output().instance_id(id).dry_run(true).send();
    let answer = account.asked(Action::Question, "read a console, dry run", sent).await;
    findings.push(right("read a console, dry run", answer.err(), is_real, Verdict::Doubtful));
    findings
}

fn right(what: &str, failure: Option<Failure>, is_real: bool, without: Verdict) -> Finding {
    match failure {
        None => finding(what, Verdict::Unknown, "the site does not know dry runs"),
        Some(failure) if failure.is(classes::DRY_RUN) => finding(what, Verdict::Good, "the site would do it"),
        // A policy may well be bound to our tag, which nothing has yet.
        Some(failure) if failure.is("UnauthorizedOperation") && !is_real => finding(
            what,
            Verdict::Unknown,
            "refused for a machine that does not exist, which a policy that is bound to our tag does too: check again once a machine runs",
        ),
        Some(failure) if failure.error.class == Class::Credentials => finding(what, without, failure.error.text),
        Some(failure) if failure.is_about_ids() && !is_real => finding(
            what,
            Verdict::Unknown,
            "the site looks for the machine before it looks at rights, and there is none yet: check again once a machine runs",
        ),
        Some(failure) => finding(what, Verdict::Unknown, failure.error.text),
    }
}

/// Some machine of this installation, for dry runs.
async fn some_machine(account: &Account) -> Option<String> {
    let ours = aws_sdk_ec2::types::Filter::builder()
        .name(format!("tag:{}", origin::INSTALLATION))
        .values(&account.installation)
        .build();
    let asked = account.client.ec2.describe_instances().filters(ours).max_results(5).send();
    let answer = account.asked(Action::DescribeInstances, "look for a machine", asked).await.ok()?;
    let mut instances = answer.reservations().iter().flat_map(|reservation| reservation.instances());
    instances.find_map(|instance| instance.instance_id().map(str::to_owned))
}
