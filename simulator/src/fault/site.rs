//! What goes wrong with a site and with what it says.

use std::fmt;
use std::time::Duration;

use epu_core::request::Service;
use epu_core::time::Span;
use epu_provisioner::iaas::Class;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::cloud::{Call, Trouble};
use crate::process::Process;
use crate::world::{INSTALLATION, World};

/// What goes wrong with a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It answers nothing.
    Away(String),
    /// It answers one process nothing.
    Cut(String, Process),
    /// This share of such calls is refused.
    CallsFail {
        /// The site.
        site: String,
        /// Which calls.
        call: Call,
        /// With which words.
        how: Refusal,
        /// How many of them, from 0 to 1.
        share: f64,
    },
    /// This share of such calls has its effect, and the answer is lost.
    AnswersLost {
        /// The site.
        site: String,
        /// Which calls.
        call: Call,
        /// How many of them, from 0 to 1.
        share: f64,
    },
    /// Such calls are never answered.
    CallsHang(String, Call),
    /// Machines take so many times longer to boot.
    BootsSlow(String, f64),
    /// So many of the machines that are launched never start their agents.
    BootsStuck(String, u32),
    /// So many of the machines that are launched are gone before they are up.
    BootsFail(String, u32),
    /// This share of the machines is missing from each list, others each time.
    ListShort(String, f64),
    /// Lists are old, up to this.
    ListStale(String, Span),
    /// Lists are in no order.
    ListReordered(String),
    /// This share of the machines is listed without launch and index.
    TagsMissing(String, f64),
    /// This share of the machines is not listed as ours.
    NotOurs(String, f64),
    /// There is room for so many machines.
    Room(String, u32),
    /// A launch gives this share of what it asks for.
    LaunchPartial(String, f64),
    /// A machine is there that carries our tags and that nobody asked for.
    Stray(String),
    /// A machine is there that is none of ours.
    StrayOfAnother(String),
}

/// How a site refuses a call: the classes of errors by which drivers tell what is to be done about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It may pass.
    Passing,
    /// There were too many calls.
    Throttled,
    /// There is no room.
    Capacity,
    /// The account may not have more.
    Quota,
    /// It does not accept who we are.
    Credentials,
    /// It will never work.
    Permanent,
    /// It was asked for something else before.
    Changed,
}

/// All ways to refuse.
const REFUSALS: [Refusal; 7] = [
    Refusal::Passing,
    Refusal::Throttled,
    Refusal::Capacity,
    Refusal::Quota,
    Refusal::Credentials,
    Refusal::Permanent,
    Refusal::Changed,
];
/// All calls.
const CALLS: [Call; 4] = [Call::Launch, Call::Terminate, Call::List, Call::Describe];
/// The oldest list that a site still gives out.
const STALE_MOST: Duration = Duration::from_secs(120);
/// The tag of somebody else.
const ANOTHER: &str = "another";

impl Refusal {
    fn class(self) -> Class {
        match self {
            Self::Passing => Class::Retryable,
            Self::Throttled => Class::Throttled,
            Self::Capacity => Class::Capacity,
            Self::Quota => Class::Quota,
            Self::Credentials => Class::Credentials,
            Self::Permanent => Class::Permanent,
            Self::Changed => Class::Changed,
        }
    }
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "site-away",
        "site-cut",
        "calls-fail",
        "answers-lost",
        "calls-hang",
        "boots-slow",
        "boots-stuck",
        "boots-fail",
        "list-short",
        "list-stale",
        "list-reordered",
        "tags-missing",
        "not-listed-as-ours",
        "room",
        "launch-partial",
        "stray-machine",
        "stray-of-another-installation",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let site = luck.of(&scene.sites)?.clone();
        let call = *luck.of(&CALLS)?;
        match kind {
            "site-away" => Some(Self::Away(site)),
            "site-cut" => {
                let callers: Vec<Process> = scene
                    .processes
                    .iter()
                    .filter(|process| process.service == Service::Provisioner)
                    .copied()
                    .collect();
                Some(Self::Cut(site, *luck.of(&callers)?))
            }
            "calls-fail" => Some(Self::CallsFail {
                site,
                call,
                how: *luck.of(&REFUSALS)?,
                share: luck.share(0.2, 1.0),
            }),
            "answers-lost" => Some(Self::AnswersLost {
                site,
                call,
                share: luck.share(0.2, 1.0),
            }),
            "calls-hang" => Some(Self::CallsHang(site, call)),
            "boots-slow" => Some(Self::BootsSlow(site, luck.share(2.0, 20.0))),
            "boots-stuck" => Some(Self::BootsStuck(site, 1 + luck.small(scene.most.max(1)))),
            "boots-fail" => Some(Self::BootsFail(site, 1 + luck.small(scene.most.max(1)))),
            "list-short" => Some(Self::ListShort(site, luck.share(0.1, 1.0))),
            "list-stale" => Some(Self::ListStale(site, Span(luck.time(STALE_MOST)))),
            "list-reordered" => Some(Self::ListReordered(site)),
            "tags-missing" => Some(Self::TagsMissing(site, luck.share(0.1, 1.0))),
            "not-listed-as-ours" => Some(Self::NotOurs(site, luck.share(0.1, 1.0))),
            "room" => Some(Self::Room(site, luck.small(scene.most.saturating_mul(2).max(1)))),
            "launch-partial" => Some(Self::LaunchPartial(site, luck.share(0.1, 0.9))),
            "stray-machine" => Some(Self::Stray(site)),
            "stray-of-another-installation" => Some(Self::StrayOfAnother(site)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "site-away",
            Self::Cut(..) => "site-cut",
            Self::CallsFail { .. } => "calls-fail",
            Self::AnswersLost { .. } => "answers-lost",
            Self::CallsHang(..) => "calls-hang",
            Self::BootsSlow(..) => "boots-slow",
            Self::BootsStuck(..) => "boots-stuck",
            Self::BootsFail(..) => "boots-fail",
            Self::ListShort(..) => "list-short",
            Self::ListStale(..) => "list-stale",
            Self::ListReordered(_) => "list-reordered",
            Self::TagsMissing(..) => "tags-missing",
            Self::NotOurs(..) => "not-listed-as-ours",
            Self::Room(..) => "room",
            Self::LaunchPartial(..) => "launch-partial",
            Self::Stray(_) => "stray-machine",
            Self::StrayOfAnother(_) => "stray-of-another-installation",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match self {
            Self::Away(site) => world.trouble(site, Trouble::Away),
            Self::Cut(site, process) => world.trouble(site, Trouble::Cut(*process)),
            Self::CallsFail { site, call, how, share } => {
                let begun = world.trouble(site, Trouble::Refuses(*call, how.class(), *share));
                // What never works by itself again is put right by a person, who then says so.
                match (call, how) {
                    (Call::Launch, Refusal::Credentials | Refusal::Permanent) => begun.and_then(World::reset_placements),
                    (Call::Launch | Call::Terminate | Call::List | Call::Describe, _) => begun,
                }
            }
            Self::AnswersLost { site, call, share } => world.trouble(site, Trouble::LosesAnswers(*call, *share)),
            Self::CallsHang(site, call) => world.trouble(site, Trouble::Hangs(*call)),
            Self::BootsSlow(site, factor) => world.trouble(site, Trouble::BootsSlowly(*factor)),
            Self::BootsStuck(site, machines) => world.trouble(site, Trouble::Stuck(*machines)),
            Self::BootsFail(site, machines) => world.trouble(site, Trouble::Stillborn(*machines)),
            Self::ListShort(site, share) => world.trouble(site, Trouble::ListsShort(*share)),
            Self::ListStale(site, by) => world.trouble(site, Trouble::ListsLate(by.0)),
            Self::ListReordered(site) => world.trouble(site, Trouble::ListsShuffled),
            Self::TagsMissing(site, share) => world.trouble(site, Trouble::Untagged(*share)),
            Self::NotOurs(site, share) => world.trouble(site, Trouble::Unlisted(*share)),
            Self::Room(site, machines) => world.trouble(site, Trouble::Room(*machines)),
            Self::LaunchPartial(site, share) => world.trouble(site, Trouble::Partial(*share)),
            Self::Stray(site) => world.stray_at(site, INSTALLATION),
            Self::StrayOfAnother(site) => world.stray_at(site, ANOTHER),
        }
    }
}

/// A share in whole hundredths.
fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(site) => write!(out, "site {site} answers nothing"),
            Self::Cut(site, process) => write!(out, "site {site} cannot be reached by {process}"),
            Self::CallsFail { site, call, how, share } => {
                write!(out, "{} of {call:?} at {site} is refused: {}", percent(*share), how.class().word())
            }
            Self::AnswersLost { site, call, share } => write!(out, "{} of the answers to {call:?} at {site} is lost", percent(*share)),
            Self::CallsHang(site, call) => write!(out, "{call:?} at {site} is never answered"),
            Self::BootsSlow(site, factor) => write!(out, "machines at {site} take {factor} times as long to boot"),
            Self::BootsStuck(site, machines) => write!(out, "{machines} machines launched at {site} never start their agents"),
            Self::BootsFail(site, machines) => write!(out, "{machines} machines launched at {site} are gone before they are up"),
            Self::ListShort(site, share) => write!(out, "{} of the machines is missing from each list of {site}", percent(*share)),
            Self::ListStale(site, by) => write!(out, "lists of {site} are up to {by} old"),
            Self::ListReordered(site) => write!(out, "lists of {site} are in no order"),
            Self::TagsMissing(site, share) => write!(out, "{} of the machines at {site} is listed without tags", percent(*share)),
            Self::NotOurs(site, share) => write!(out, "{} of the machines at {site} is not listed as ours", percent(*share)),
            Self::Room(site, machines) => write!(out, "there is room for {machines} machines at {site}"),
            Self::LaunchPartial(site, share) => write!(out, "a launch at {site} gives {} of its machines", percent(*share)),
            Self::Stray(site) => write!(out, "a machine that nobody asked for runs at {site}"),
            Self::StrayOfAnother(site) => write!(out, "a machine of another installation runs at {site}"),
        }
    }
}
