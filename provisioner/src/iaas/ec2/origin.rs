//! How a machine says which launch it is of, and which of its machines.
//!
//! By its tags, which it has from its first moment where the cloud can do that. Elsewhere it says so in another way until the tags are
//! added: by the client token of the call that made it, or, on a cloud without those too, by a line at the end of its user data.

use std::str::FromStr;

use aws_sdk_ec2::types::{Instance, InstanceStateName};
use epu_core::id::{InstanceId, LaunchId};

use super::settings::Ec2Settings;
use crate::iaas::{Machine, MachineState};

/// Tags of ours. The first makes a machine ours; nothing here touches one without it.
pub(super) const INSTALLATION: &str = "epu:installation";
pub(super) const LAUNCH: &str = "epu:launch";
pub(super) const POOL: &str = "epu:pool";
pub(super) const SITE: &str = "epu:site";
/// Where machines of one launch do not get numbers from the site.
pub(super) const INDEX: &str = "epu:index";
/// For people; added after the launch, and nothing depends on it.
pub(super) const INSTANCE: &str = "epu:instance";
pub(super) const NAME: &str = "Name";

/// How machines are launched at a cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// Repeating a call with its token gives the same machines.
    pub(super) tokens: bool,
    /// Tags are given in the call.
    pub(super) tags: bool,
    /// One call launches all machines of a launch, numbered by the site.
    pub(super) batch: bool,
}

impl Manner {
    pub(super) fn of(settings: &Ec2Settings) -> Self {
        Self {
            tokens: settings.client_tokens,
            tags: settings.tags_on_create,
            batch: settings.client_tokens && settings.launch_index,
        }
    }
}

/// Which launch, and which of its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) launch: LaunchId,
    /// Where machines are launched one by one.
    pub(super) index: Option<u32>,
}

impl Origin {
    /// The client token of the call: the launch id, and where a token has to say whose it is, an abbreviation of the installation. At most
    /// 62 characters; EC2 takes 64.
    pub(super) fn token(self, manner: Manner, installation: &str) -> String {
        let mut token = if manner.tags { String::new() } else { prefix(installation) };
        token.push_str(&self.launch.to_string());
        if let Some(index) = self.index {
            token.push_str(&format!("-{index}"));
        }
        token
    }

    /// Read back from a token that says whose it is.
    pub(super) fn of_token(token: &str, installation: &str) -> Option<Self> {
        let rest = token.strip_prefix(&prefix(installation))?;
        let (launch, index) = rest.split_at_checked(UUID)?;
        let index = match index.strip_prefix('-') {
            Some(index) => Some(index.parse().ok()?),
            None if index.is_empty() => None,
            None => return None,
        };
        Some(Self {
            launch: LaunchId::from_str(launch).ok()?,
            index,
        })
    }

    /// The last line of user data that has to say whose it is; a comment to whatever reads it.
    pub(super) fn line(self, installation: &str) -> String {
        let index = self.index.map(|index| format!(" {INDEX}={index}")).unwrap_or_default();
        format!("\n# {INSTALLATION}={installation} {LAUNCH}={}{index}\n", self.launch)
    }

    /// Read back from user data.
    pub(super) fn of_user_data(text: &str, installation: &str) -> Option<Self> {
        let line = text.trim_end().lines().next_back()?.strip_prefix("# ")?;
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        if value(INSTALLATION)? != installation {
            return None;
        }
        Some(Self {
            launch: value(LAUNCH)?.parse().ok()?,
            index: value(INDEX).and_then(|index| index.parse().ok()),
        })
    }
}

/// The length of a UUID as text.
const UUID: usize = 36;

fn prefix(installation: &str) -> String {
    format!("epu-{:016x}-", epu_core::hash::hash(installation.bytes()))
}

/// A machine of ours, with what only this driver knows of it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) machine: Machine,
    /// For which site, where a tag says so.
    pub(super) site: Option<String>,
    /// Whether it has our tags yet.
    pub(super) is_tagged: bool,
}

pub(super) fn tag<'a>(instance: &'a Instance, key: &str) -> Option<&'a str> {
    instance
        .tags()
        .iter()
        .find(|tag| tag.key() == Some(key))
        .and_then(|tag| tag.value())
}

/// How a machine is. A state that nobody knew when this was written counts as running: it condemns nothing.
pub(super) fn state(instance: &Instance) -> MachineState {
    match instance.state().and_then(|state| state.name()) {
        Some(InstanceStateName::Pending) => MachineState::Pending,
        Some(InstanceStateName::ShuttingDown) => MachineState::Stopping,
        Some(InstanceStateName::Stopping | InstanceStateName::Stopped) => MachineState::Stopped,
        Some(InstanceStateName::Terminated) => MachineState::Gone,
        Some(InstanceStateName::Running | _) | None => MachineState::Running,
    }
}

/// A machine whose origin is known.
pub(super) fn seen(instance: &Instance, origin: Option<Origin>, manner: Manner, is_tagged: bool) -> Option<Seen> {
    let by_site = || {
        instance
            .ami_launch_index()
            .and_then(|index| u32::try_from(index).ok())
            .filter(|_| manner.batch)
    };
    let by_tag = tag(instance, INDEX).and_then(|index| index.parse().ok());
    let launch = tag(instance, LAUNCH).and_then(|launch| launch.parse().ok());
    Some(Seen {
        machine: Machine {
            id: instance.instance_id()?.to_owned(),
            launch: launch.or(origin.map(|origin| origin.launch)),
            index: by_tag.or(origin.and_then(|origin| origin.index)).or_else(by_site),
            instance: tag(instance, INSTANCE).and_then(|id| InstanceId::from_str(id).ok()),
            state: state(instance),
            address: [
                instance.private_ip_address(),
                instance.public_ip_address(),
                instance.private_dns_name(),
            ]
            .into_iter()
            .flatten()
            .find(|address| !address.is_empty())
            .map(str::to_owned),
        },
        site: tag(instance, SITE).map(str::to_owned),
        is_tagged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Manner = Manner {
        tokens: true,
        tags: false,
        batch: false,
    };

    fn origin(index: Option<u32>) -> Origin {
        Origin {
            launch: "0199c5b2-7d4e-7000-8000-0123456789ab".parse().unwrap(),
            index,
        }
    }

    #[test]
    fn a_token_says_whose_it_is_where_tags_cannot() {
        for index in [None, Some(0), Some(999)] {
            let token = origin(index).token(BARE, "here");
            assert!(token.len() <= 64, "{token}");
            assert_eq!(Origin::of_token(&token, "here"), Some(origin(index)));
            assert_eq!(Origin::of_token(&token, "there"), None, "it is another installation's");
        }
        let tagged = Manner { tags: true, ..BARE };
        assert_eq!(origin(None).token(tagged, "here"), "0199c5b2-7d4e-7000-8000-0123456789ab");
        for strange in ["", "epu-", "0199c5b2-7d4e-7000-8000-0123456789ab", "terraform-2024"] {
            assert_eq!(Origin::of_token(strange, "here"), None);
        }
        let cut = origin(None).token(BARE, "here");
        assert_eq!(Origin::of_token(&cut[..cut.len() - 1], "here"), None);
        assert_eq!(Origin::of_token(&format!("{cut}x"), "here"), None);
    }

    #[test]
    fn user_data_says_whose_it_is_where_nothing_else_can() {
        for index in [None, Some(7)] {
            let text = format!("#cloud-config\nruncmd: []{}", origin(index).line("here"));
            assert_eq!(Origin::of_user_data(&text, "here"), Some(origin(index)));
            assert_eq!(Origin::of_user_data(&text, "her"), None);
        }
        assert_eq!(Origin::of_user_data("#!/bin/sh\ntrue\n", "here"), None);
        assert_eq!(Origin::of_user_data("", "here"), None);
    }
}
