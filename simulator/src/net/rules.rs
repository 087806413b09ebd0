//! What happens to messages on their way, as rules: each says of whose messages it speaks, what becomes of them, and of how many.
//!
//! Rules stand beside each other: a message meets each of them, what they do adds up, and taking one away leaves the others. While
//! there is none, no chance is drawn.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use epu_core::fact::{Fact, Kind};
use epu_core::id::InstanceId;
use epu_core::request::Service;

use crate::fault::Luck;
use crate::process::Process;

/// The longest that one of two copies of a message is behind the other.
const BEHIND_MOST: Duration = Duration::from_secs(10);
/// The longest that a message is held while others overtake it.
const HELD_MOST: Duration = Duration::from_secs(5);
/// Facts of one kind that one process keeps while the broker is away; the oldest make room, as on the real bus.
const KEPT_MOST: usize = 4_096;

/// Who sends or receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// A process of a service.
    Process(Process),
    /// The agent of an instance, if the machine is one's.
    Agent(Option<InstanceId>),
    /// An operator.
    Operator,
}

impl Party {
    /// Agents come over HTTP, everybody else over the broker.
    pub(super) fn uses_broker(self) -> bool {
        !matches!(self, Self::Agent(_))
    }
}

/// Whose messages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Everybody's.
    Anywhere,
    /// Those of one process.
    Process(Process),
    /// Those of all processes of a service.
    Service(Service),
    /// Those of all agents.
    Agents,
    /// Those of the agent of an instance.
    Agent(InstanceId),
    /// Those of operators.
    Operators,
}

impl Place {
    fn has(self, party: Party) -> bool {
        match (self, party) {
            (Self::Anywhere, _) | (Self::Agents, Party::Agent(_)) | (Self::Operators, Party::Operator) => true,
            (Self::Process(process), Party::Process(other)) => process == other,
            (Self::Service(service), Party::Process(other)) => service == other.service,
            (Self::Agent(instance), Party::Agent(other)) => other == Some(instance),
            (
                Self::Process(_) | Self::Service(_) | Self::Agents | Self::Agent(_) | Self::Operators,
                Party::Process(_) | Party::Agent(_) | Party::Operator,
            ) => false,
        }
    }
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A fact of this kind.
    Fact(Kind),
    /// A request, by the name of what is asked.
    Request(&'static str),
    /// The answer to such a request.
    Answer(&'static str),
}

/// Which messages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All.
    Anything,
    /// Every request.
    Requests,
    /// Only such.
    Only(Message),
}

impl What {
    fn has(self, message: Message) -> bool {
        match self {
            Self::Anything => true,
            Self::Requests => matches!(message, Message::Request(_)),
            Self::Only(only) => only == message,
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does not arrive.
    Lost,
    /// It arrives later: after a time between these, short ones more often than long ones.
    Late(Duration, Duration),
    /// It arrives twice; a request is carried out twice.
    Doubled,
    /// It is held for some seconds, so that later ones overtake it.
    Overtaken,
    /// Some of its bytes arrive as others, or not at all.
    Corrupted,
    /// Whoever asks is told at once that nobody is there.
    Refused,
}

/// What happens to some messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What.
    pub effect: Effect,
    /// To which share of those it is about: 1 is all of them.
    pub share: f64,
    /// To which messages.
    pub what: What,
    /// From whom.
    pub from: Place,
    /// To whom.
    pub to: Place,
}

impl Rule {
    /// This happens to every message of anybody.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            share: 1.0,
            what: What::Anything,
            from: Place::Anywhere,
            to: Place::Anywhere,
        }
    }

    /// It happens to this share of them.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// It happens to these only.
    #[must_use]
    pub fn only(self, message: Message) -> Self {
        let what = What::Only(message);
        Self { what, ..self }
    }

    /// It happens to what goes from here to there; the other direction is another rule.
    #[must_use]
    pub fn between(self, from: Place, to: Place) -> Self {
        Self { from, to, ..self }
    }

    fn is_certain(&self) -> bool {
        self.share >= 1.0
    }
}

/// In a few words, as a story tells it.
impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Anything => write!(out, "any")?,
            What::Requests => write!(out, "requests")?,
            What::Only(Message::Fact(kind)) => write!(out, "facts of {kind:?}")?,
            What::Only(Message::Request(op)) => write!(out, "{op}")?,
            What::Only(Message::Answer(op)) => write!(out, "answers to {op}")?,
        }
        write!(out, " from {} to {}: {:?}", self.from, self.to, self.effect)?;
        if self.is_certain() {
            Ok(())
        } else {
            write!(out, ", {} of them", self.share)
        }
    }
}

/// In a few words.
impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere => write!(out, "anybody"),
            Self::Process(process) => process.fmt(out),
            Self::Service(service) => write!(out, "any {service:?}"),
            Self::Agents => write!(out, "agents"),
            Self::Agent(instance) => write!(out, "the agent of {instance}"),
            Self::Operators => write!(out, "operators"),
        }
    }
}

/// A rule that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// What becomes of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fate {
    /// How long after it was sent each copy arrives; none: it is lost.
    pub(super) arrivals: Vec<Duration>,
    pub(super) corrupted: bool,
    pub(super) refused: bool,
}

impl Fate {
    pub(super) fn is_lost(&self) -> bool {
        self.arrivals.is_empty()
    }
}

/// All rules that stand, and the chance they go by.
#[derive(Debug)]
pub(super) struct Rules {
    standing: Vec<(RuleId, Rule)>,
    begun: u64,
    /// Answers to launches that are to be lost.
    answers_lost: u32,
    /// How many times over the broker is away.
    away: u32,
    /// What was told meanwhile.
    kept: VecDeque<(Party, Fact)>,
    pub(super) luck: Luck,
}

impl Rules {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            standing: Vec::new(),
            begun: 0,
            answers_lost: 0,
            away: 0,
            kept: VecDeque::new(),
            luck: Luck::seeded(seed ^ 0x6e65_7477_6f72_6b73),
        }
    }

    /// Whether everything gets through as it is.
    pub(super) fn is_calm(&self) -> bool {
        self.standing.is_empty() && self.answers_lost == 0 && self.away == 0
    }

    pub(super) fn begin(&mut self, rule: Rule) -> RuleId {
        self.begun += 1;
        let id = RuleId(self.begun);
        self.standing.push((id, rule));
        id
    }

    pub(super) fn end(&mut self, id: RuleId) {
        self.standing.retain(|(other, _)| *other != id);
    }

    /// Ends one rule that is just so, if there is one.
    pub(super) fn end_one(&mut self, rule: &Rule) {
        if let Some(at) = self.standing.iter().position(|(_, other)| other == rule) {
            self.standing.remove(at);
        }
    }

    pub(super) fn lose_answers(&mut self, launches: u32) {
        self.answers_lost = launches;
    }

    /// Whether the answer to this is one of those that are to be lost.
    pub(super) fn loses_answer(&mut self, op: &str) -> bool {
        let loses = op == "launch" && self.answers_lost > 0;
        self.answers_lost -= u32::from(loses);
        loses
    }

    pub(super) fn is_away(&self) -> bool {
        self.away > 0
    }

    pub(super) fn goes_away(&mut self) {
        self.away += 1;
    }

    /// The broker is back, if nothing else keeps it away: gives what was told meanwhile, and whether it is.
    pub(super) fn comes_back(&mut self) -> Option<VecDeque<(Party, Fact)>> {
        let was = self.away;
        self.away = was.saturating_sub(1);
        (was == 1).then(|| std::mem::take(&mut self.kept))
    }

    /// A fact waits in its teller until the broker is back.
    pub(super) fn keep(&mut self, from: Party, fact: Fact) {
        let like = |(other, kept): &(Party, Fact)| *other == from && kept.kind() == fact.kind();
        if self.kept.iter().filter(|kept| like(kept)).count() >= KEPT_MOST
            && let Some(oldest) = self.kept.iter().position(like)
        {
            self.kept.remove(oldest);
        }
        self.kept.push_back((from, fact));
    }

    /// A process began anew: what it had in its memory is gone.
    pub(super) fn forget(&mut self, process: Process) {
        self.kept.retain(|(from, _)| *from != Party::Process(process));
    }

    /// Whether nothing of these gets from here to a service, whichever of its processes it is for.
    pub(super) fn cuts(&self, from: Party, service: Service, message: Message) -> bool {
        self.standing.iter().any(|(_, rule)| {
            let to_all = match rule.to {
                Place::Anywhere => true,
                Place::Service(other) => other == service,
                Place::Process(_) | Place::Agents | Place::Agent(_) | Place::Operators => false,
            };
            rule.effect == Effect::Lost && rule.is_certain() && to_all && rule.from.has(from) && rule.what.has(message)
        })
    }

    /// What becomes of a message.
    pub(super) fn fate(&self, from: Party, to: Party, message: Message) -> Fate {
        let mut fate = Fate::default();
        let (mut lost, mut delay, mut copies) = (false, Duration::ZERO, Vec::new());
        for (_, rule) in &self.standing {
            let applies = rule.from.has(from) && rule.to.has(to) && rule.what.has(message);
            if !applies || !(rule.is_certain() || f64::from(self.luck.small(10_000)) < rule.share * 10_000.0) {
                continue;
            }
            match rule.effect {
                Effect::Lost => lost = true,
                Effect::Late(least, most) if least < most => delay += least + self.luck.time(most - least),
                Effect::Late(least, _) => delay += least,
                Effect::Doubled => copies.push(self.luck.time(BEHIND_MOST)),
                Effect::Overtaken => delay += self.luck.time(HELD_MOST),
                Effect::Corrupted => fate.corrupted = true,
                Effect::Refused => fate.refused = true,
            }
        }
        if !lost {
            fate.arrivals.push(delay);
            fate.arrivals.extend(copies.into_iter().map(|behind| delay + behind));
        }
        fate
    }
}
