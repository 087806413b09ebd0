//! Launch templates.

use super::catalogue::LaunchTemplate;
use super::params::Params;
use super::refusal::{Outcome, Refusal};
use super::things::{Asking, thing};
use super::world::{Asked, World};
use super::xml::{self, Xml};

/// When they were made.
const MADE: &str = "2026-01-01T00:00:00.000Z";

/// The one that is named; none when none is.
fn find<'a>(world: &'a World, id: Option<&str>, name: Option<&str>) -> Outcome<Option<&'a LaunchTemplate>> {
    let templates = &world.catalogue.templates;
    let found = match (id, name) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let message = "You must specify either a launch template ID or a launch template name, not both.";
            return Err(Refusal::combination(message));
        }
        (Some(id), None) => templates.iter().find(|template| template.id == id).ok_or_else(|| {
            let message = format!("The specified launch template, with template ID {id}, does not exist.");
            Refusal::new("InvalidLaunchTemplateId.NotFound", message)
        }),
        (None, Some(name)) => templates.iter().find(|template| template.name == name).ok_or_else(|| {
            let message = format!("The specified launch template, with template name {name}, does not exist.");
            Refusal::new("InvalidLaunchTemplateName.NotFoundException", message)
        }),
    };
    found.map(Some)
}

/// The version that is meant: a number, `$Default` or `$Latest`.
fn version(template: &LaunchTemplate, wanted: Option<&str>) -> Outcome<usize> {
    let version = match wanted {
        None | Some("$Default") => template.default,
        Some("$Latest") => template.versions.len(),
        Some(number) => number.parse().unwrap_or(0),
    };
    if (1..=template.versions.len()).contains(&version) {
        return Ok(version);
    }
    let message = format!("Could not find launch template version {}", wanted.unwrap_or("$Default"));
    Err(Refusal::new("InvalidLaunchTemplateId.VersionNotFound", message))
}

/// "When you launch an instance using RunInstances, you can specify the launch template instead of specifying the launch parameters";
/// parameters of the request override those of the template. Source: "Launch EC2 instances using a launch template",
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launch-instances-from-launch-template.html>.
pub(super) fn filled_in(world: &World, params: &Params) -> Outcome<Params> {
    let (id, name) = (
        params.get("LaunchTemplate.LaunchTemplateId"),
        params.get("LaunchTemplate.LaunchTemplateName"),
    );
    let Some(template) = find(world, id, name)? else {
        return Ok(params.clone());
    };
    let version = version(template, params.get("LaunchTemplate.Version"))?;
    Ok(params.over(&template.versions[version - 1]))
}

fn named(xml: &mut Xml, template: &LaunchTemplate, asked: &Asked<'_>) {
    xml.leaf("launchTemplateId", &template.id)
        .leaf("launchTemplateName", &template.name);
    xml.leaf("createTime", MADE)
        .leaf("createdBy", format_args!("arn:aws:iam::{}:root", asked.home.account));
}

/// DescribeLaunchTemplates.
pub(super) fn describe(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let one = |template: &LaunchTemplate| {
        let fields = [
            ("launch-template-id", template.id.as_str()),
            ("launch-template-name", &template.name),
        ];
        thing(&fields, |xml| {
            named(xml, template, asked);
            xml.leaf("defaultVersionNumber", template.default)
                .leaf("latestVersionNumber", template.versions.len());
        })
    };
    let asking = Asking {
        by: &[
            ("LaunchTemplateId", "launch-template-id", "InvalidLaunchTemplateId.NotFound"),
            (
                "LaunchTemplateName",
                "launch-template-name",
                "InvalidLaunchTemplateName.NotFoundException",
            ),
        ],
        set: "launchTemplates",
    };
    asking.answer(
        "DescribeLaunchTemplates",
        asked,
        world.catalogue.templates.iter().map(one).collect(),
    )
}

/// DescribeLaunchTemplateVersions: the versions asked for, or all.
pub(super) fn describe_versions(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let params = asked.params;
    let Some(template) = find(world, params.get("LaunchTemplateId"), params.get("LaunchTemplateName"))? else {
        return Err(Refusal::new(
            "MissingParameter",
            "The request must contain the parameter LaunchTemplateId",
        ));
    };
    let wanted = params.list("LaunchTemplateVersion");
    let versions: Vec<usize> = if wanted.is_empty() {
        (1..=template.versions.len()).collect()
    } else {
        wanted
            .iter()
            .map(|wanted| version(template, Some(wanted)))
            .collect::<Outcome<_>>()?
    };
    Ok(xml::answer("DescribeLaunchTemplateVersions", asked.request, |xml| {
        xml.within("launchTemplateVersionSet", |xml| {
            for version in versions {
                xml.within("item", |xml| {
                    named(xml, template, asked);
                    xml.leaf("versionNumber", version)
                        .leaf("defaultVersion", version == template.default);
                    xml.within("launchTemplateData", |xml| {
                        let set = &template.versions[version - 1];
                        for (parameter, element) in [("ImageId", "imageId"), ("InstanceType", "instanceType"), ("KeyName", "keyName")] {
                            if let Some(value) = set.get(parameter) {
                                xml.leaf(element, value);
                            }
                        }
                    });
                });
            }
        });
    }))
}
