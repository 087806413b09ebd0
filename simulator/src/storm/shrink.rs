//! Finds a short plan in which the same goes wrong: events are left out, then made short, then processes, for as long as it still does.

use super::plan::Plan;
use super::play::{Found, play};
use epu_core::time::Span;

/// A plan and what it led to.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The shortest plan that was found.
    pub plan: Plan,
    /// What goes wrong in it.
    pub found: Found,
    /// How many plans were played to find it.
    pub tries: u32,
}

/// Shrinks a plan in which something goes wrong, playing at most so many others.
pub fn shrink(plan: &Plan, found: Found, tries_most: u32, mut told: impl FnMut(&Shrunk)) -> Shrunk {
    let mut best = Shrunk {
        plan: plan.clone(),
        found,
        tries: 0,
    };
    // What comes after the trouble has nothing to do with it.
    let until = best.found.at;
    let mut cut = best.plan.clone();
    cut.events.retain(|event| event.at <= until);
    best.take(cut, tries_most);
    let mut size = best.plan.events.len() / 2;
    while size >= 1 && best.tries < tries_most {
        let mut from = 0;
        let mut removed = false;
        while from < best.plan.events.len() && best.tries < tries_most {
            let mut fewer = best.plan.clone();
            fewer.events.drain(from..(from + size).min(fewer.events.len()));
            if best.take(fewer, tries_most) {
                removed = true;
                told(&best);
            } else {
                from += size;
            }
        }
        if !removed || size > 1 {
            size /= 2;
        }
    }
    best.simplify(tries_most, &mut told);
    best
}

impl Shrunk {
    /// Takes another plan when the same goes wrong in it.
    fn take(&mut self, plan: Plan, tries_most: u32) -> bool {
        if self.tries >= tries_most || plan == self.plan {
            return false;
        }
        self.tries += 1;
        match play(&plan).found {
            Some(found) if found.trouble.name() == self.found.trouble.name() => {
                (self.plan, self.found) = (plan, found);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Fewer processes, one pool less, shorter faults.
    fn simplify(&mut self, tries_most: u32, told: &mut impl FnMut(&Self)) {
        let changes: [fn(&mut Plan); 4] = [
            |plan| plan.controllers = 1,
            |plan| plan.provisioners = 1,
            |plan| plan.aggregators = 1,
            |plan| {
                let last = plan.events.iter().map(|event| *event.at + *event.lasts).max().unwrap_or_default();
                plan.calm_at = plan.calm_at.min(Span(last));
            },
        ];
        for change in changes {
            let mut simpler = self.plan.clone();
            change(&mut simpler);
            if self.take(simpler, tries_most) {
                told(self);
            }
        }
        for n in 0..self.plan.events.len() {
            loop {
                let mut shorter = self.plan.clone();
                let event = &mut shorter.events[n];
                event.lasts = Span(std::time::Duration::from_secs(event.lasts.as_secs() / 2));
                if event.lasts.is_zero() || !self.take(shorter, tries_most) {
                    break;
                }
                told(self);
            }
        }
    }
}
