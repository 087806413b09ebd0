//! A pool for tests: what is launched runs at once, what is to go is gone at once. It does what the plan does with a decision,
//! in as few lines as possible: slots keep their instances, the rest goes newest first.

use std::collections::BTreeMap;

use epu_core::id::{InstanceId, SensorName, SlotLabel};
use epu_core::reading::Status;
use epu_core::time::Timestamp;
use epu_decision_engines::{Counts, Decision, Engine, Memory, Observation, Registry, Seen};
use serde_json::Value;

/// An instance id with a number in it.
pub(crate) fn id(number: u128) -> InstanceId {
    format!("{number:032x}").parse().expect("an id")
}

pub(crate) fn label(text: &str) -> SlotLabel {
    SlotLabel::new(text).expect("a label")
}

/// An observation of an empty pool without readings.
pub(crate) fn nothing(min: u32, max: u32) -> Observation {
    Observation {
        now: Timestamp(1_763_840_236_000),
        min,
        max,
        target: 0,
        counts: Counts::default(),
        readings: BTreeMap::new(),
        slots: BTreeMap::new(),
        boot: None,
        memory: Memory::default(),
    }
}

pub(crate) fn reading(status: Status, covers_in_progress: bool) -> Seen {
    Seen {
        status,
        covers_in_progress,
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) slot: Option<SlotLabel>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) well: bool,
}

/// A pool and its engine.
#[derive(Debug)]
pub(crate) struct World {
    name: &'static str,
    engine: Box<dyn Engine>,
    seen: Observation,
    pub(crate) members: BTreeMap<InstanceId, Member>,
    pub(crate) launched: u32,
    pub(crate) ended: u32,
}

impl World {
    pub(crate) fn new(name: &'static str, settings: &Value, min: u32) -> Self {
        Self {
            name,
            engine: Registry::standard().make(name, settings).expect("good settings"),
            seen: nothing(min, 100),
            members: BTreeMap::new(),
            launched: 0,
            ended: 0,
        }
    }

    /// Other settings: refused ones change nothing.
    pub(crate) fn reconfigure(&mut self, settings: &Value) -> bool {
        match Registry::standard().make(self.name, settings) {
            Ok(engine) => {
                self.engine = engine;
                true
            }
            Err(_) => false,
        }
    }

    /// One decision on this reading, carried out.
    pub(crate) fn reads(&mut self, value: f64) -> usize {
        let jobs = SensorName::new("jobs").expect("a name");
        self.seen.readings.insert(jobs, reading(Status::Fresh { value }, false));
        self.decide()
    }

    /// One decision, carried out; how many there are then.
    pub(crate) fn decide(&mut self) -> usize {
        let well = self.members.values().filter(|member| member.well).count();
        self.seen.counts = Counts {
            capacity: u32::try_from(well).expect("few"),
            idle: u32::try_from(well).expect("few"),
            unhealthy: u32::try_from(self.members.len() - well).expect("few"),
            ..Counts::default()
        };
        let filled = self.members.iter().filter(|(_, member)| member.well);
        let filled = filled.filter_map(|(id, member)| Some((member.slot.clone()?, *id)));
        self.seen.slots = filled.collect();
        let decision = self.engine.decide(&self.seen);
        assert_eq!(decision, self.engine.decide(&self.seen), "deciding is pure");
        self.carry_out(&decision);
        self.seen.target = decision.desired;
        assert_eq!(self.members.len(), usize::try_from(decision.desired).expect("few"));
        self.members.len()
    }

    fn carry_out(&mut self, decision: &Decision) {
        let asked = |member: &Member| member.slot.as_ref().is_none_or(|slot| decision.slots.contains_key(slot));
        let before = self.members.len();
        self.members.retain(|_, member| member.well && asked(member));
        self.ended += u32::try_from(before - self.members.len()).expect("few");
        for (slot, variables) in &decision.slots {
            if self.holder(slot).is_none() {
                self.launch(Some(slot.clone()), variables.clone());
            }
        }
        let desired = usize::try_from(decision.desired).expect("few");
        while self.members.len() < desired {
            self.launch(None, BTreeMap::new());
        }
        while self.members.len() > desired {
            let newest = self.generic().last().copied().expect("one that fills no slot");
            self.members.remove(&newest);
            self.ended += 1;
        }
    }

    fn launch(&mut self, slot: Option<SlotLabel>, variables: BTreeMap<String, String>) {
        self.launched += 1;
        let well = true;
        self.members.insert(id(self.launched.into()), Member { slot, variables, well });
    }

    /// Those that fill no slot, oldest first.
    pub(crate) fn generic(&self) -> Vec<InstanceId> {
        let generic = self.members.iter().filter(|(_, member)| member.slot.is_none());
        generic.map(|(id, _)| *id).collect()
    }

    /// Who fills a slot.
    pub(crate) fn holder(&self, slot: &SlotLabel) -> Option<InstanceId> {
        let holder = self.members.iter().find(|(_, member)| member.slot.as_ref() == Some(slot));
        holder.map(|(id, _)| *id)
    }

    pub(crate) fn sicken(&mut self, id: InstanceId) {
        self.members.get_mut(&id).expect("a member").well = false;
    }

    /// A new controller process: the engine is made anew, memory and target come from the store.
    pub(crate) fn restart(&mut self, settings: &Value) {
        assert!(self.reconfigure(settings));
    }
}
