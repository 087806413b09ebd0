//! Tags as they are sent.

use std::collections::BTreeMap;

use super::params::Params;
use super::refusal::{Outcome, Refusal};

/// Source: "Tag your Amazon EC2 resources", <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html>: 50 tags, keys of 128 and
/// values of 256 characters, `aws:` is reserved.
pub(super) fn check<'a>(tags: impl Iterator<Item = (&'a str, &'a str)>) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(Refusal::value(format!("Tag key or value of '{key}' is too long or empty.")));
        }
        if key.starts_with("aws:") {
            return Err(Refusal::value("Tag keys starting with 'aws:' are reserved for internal use"));
        }
        all.insert(key.to_owned(), value.to_owned());
    }
    if all.len() > 50 {
        return Err(Refusal::new("TagLimitExceeded", "More than 50 tags specified"));
    }
    Ok(all)
}

/// The tags that machines of a launch get.
pub(super) fn of_launch(params: &Params) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for specification in params.groups("TagSpecification") {
        let kind = specification.required("ResourceType")?;
        if !["instance", "volume", "network-interface", "spot-instances-request"].contains(&kind) {
            return Err(Refusal::value(format!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
        let tags = specification.groups("Tag");
        let pairs = tags
            .iter()
            .map(|tag| (tag.get("Key").unwrap_or(""), tag.get("Value").unwrap_or("")));
        let checked = check(pairs)?;
        if kind == "instance" {
            all.extend(checked);
        }
    }
    Ok(all)
}
