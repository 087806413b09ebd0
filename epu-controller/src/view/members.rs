//! Where members are kept: found by id, or at once by their place.
//!
//! A deadline remembers a place instead of an id, so that the hundreds that pass in a second in a large pool need no search. A place
//! is given again once its member is gone.

use std::collections::BTreeMap;
use std::ops::Bound;

use epu_core::id::InstanceId;

use super::Member;

/// Where a member is kept for as long as it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place(u32);

#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<InstanceId, Place>,
    kept: Vec<Option<Member>>,
    free: Vec<Place>,
}

impl Members {
    pub(super) fn get(&self, id: InstanceId) -> Option<&Member> {
        self.kept.get(self.by_id.get(&id)?.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Member> {
        self.at_mut(*self.by_id.get(&id)?)
    }

    pub(super) fn at_mut(&mut self, place: Place) -> Option<&mut Member> {
        self.kept.get_mut(place.0 as usize)?.as_mut()
    }

    pub(super) fn place(&self, id: InstanceId) -> Option<Place> {
        self.by_id.get(&id).copied()
    }

    /// By id.
    pub(super) fn places(&self) -> Vec<Place> {
        self.by_id.values().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// By id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values().filter_map(|place| self.kept.get(place.0 as usize)?.as_ref())
    }

    /// Those in a range of ids, by id.
    pub(super) fn range(&self, range: (Bound<InstanceId>, Bound<InstanceId>)) -> impl Iterator<Item = &Member> {
        let places = self.by_id.range(range).map(|(_, place)| place);
        places.filter_map(|place| self.kept.get(place.0 as usize)?.as_ref())
    }

    /// Adds one whose id is new.
    pub(super) fn add(&mut self, mut member: Member) {
        let place = self.free.pop().unwrap_or_else(|| self.beyond());
        member.place = place;
        self.by_id.insert(member.instance.id, place);
        match self.kept.get_mut(place.0 as usize) {
            Some(free) => *free = Some(member),
            None => self.kept.push(Some(member)),
        }
    }

    /// Adds many to none, their ids in order.
    pub(super) fn fill(&mut self, members: impl ExactSizeIterator<Item = Member>) {
        self.kept.clear();
        self.free.clear();
        self.kept.reserve(members.len());
        for mut member in members {
            member.place = self.beyond();
            self.kept.push(Some(member));
        }
        // From an ordered sequence the tree is laid out in one go.
        self.by_id = self
            .kept
            .iter()
            .flatten()
            .map(|member| (member.instance.id, member.place))
            .collect();
    }

    pub(super) fn remove(&mut self, id: InstanceId) -> Option<Member> {
        let place = self.by_id.remove(&id)?;
        self.free.push(place);
        self.kept.get_mut(place.0 as usize)?.take()
    }

    fn beyond(&self) -> Place {
        // A pool's `max` is a `u32` too, and memory ends long before.
        Place(u32::try_from(self.kept.len()).unwrap_or(u32::MAX))
    }
}
