//! The budget: what a pool's instances may cost an hour.
//!
//! It limits launching and ends nobody. What counts is every live instance that is not being ended, at the price that its placement has
//! now: a draining worker is paid for until it is done, and what is ended gives its share back at once, though its machine may cost
//! something for a minute more. What brings the pool to its minimum is launched whatever it costs, and paid for first.
//!
//! Placements are still used in their order. One whose price the rest of the budget does not pay is passed over for a cheaper one behind it.

use epu_core::Reason;
use epu_core::invariant::{self, Violation};
use epu_core::pool::{Placement, Pool};

use super::{Plan, Wish};
use crate::view::View;

/// Sums of prices differ in their last digits by the order in which they are added.
const ROUNDING: f64 = 1e-9;

/// What may be spent still.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purse {
    budget: Option<f64>,
    spent: f64,
    /// So many are launched whatever they cost.
    for_min: u32,
}

impl Purse {
    /// What a plan leaves, so many staying once it is carried out.
    pub(super) fn of(wish: &Wish<'_>, plan: &Plan, staying: u32) -> Self {
        let pool = &wish.view.pool;
        let spec = &pool.spec;
        Self {
            budget: spec.limits.budget,
            spent: spec.limits.budget.map_or(0.0, |_| spent(wish.view, plan)),
            for_min: spec.min.min(spec.max).saturating_sub(staying),
        }
    }

    /// Pays for as many of `wanted` as can be, at so much each.
    pub(super) fn buy(&mut self, price: f64, wanted: u32) -> u32 {
        let Some(budget) = self.budget else { return wanted };
        let mut bought = wanted.min(self.for_min);
        self.for_min -= bought;
        self.spent += price * f64::from(bought);
        let spare = ROUNDING * (1.0 + budget);
        let more = if price > 0.0 {
            whole((budget + spare - self.spent) / price).min(wanted - bought)
        } else {
            wanted - bought
        };
        self.spent += price * f64::from(more);
        bought += more;
        bought
    }

    /// Why so many are not launched by a placement; none where none are missing.
    pub(super) fn why_not(&self, placement: &Placement, missing: u32) -> Option<Reason> {
        let budget = self.budget.filter(|_| missing > 0)?;
        let (spent, called) = (self.spent, placement.called());
        let text = format!("{missing} more on {called} would cost more than the budget: {spent:.2} an hour of {budget:.2} are spent");
        let reason = Reason::new("budget", text).with("missing", missing);
        Some(reason.with("spent", spent).with("budget", budget))
    }
}

/// What is paid for once those that a plan ends are.
fn spent(view: &View, plan: &Plan) -> f64 {
    let pool = &view.pool;
    let ended = plan.terminate.iter().flat_map(|(_, ids)| ids);
    let given_back = ended
        .filter_map(|(id, _)| view.member(*id))
        .map(|member| pool.price_of(member.placed_by()));
    invariant::spend(pool, view.paid()) - given_back.sum::<f64>()
}

/// The whole part, as far as there is one.
fn whole(amount: f64) -> u32 {
    if amount < 1.0 {
        return 0;
    }
    let most = amount.floor().min(f64::from(u32::MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 1 and the largest there is"
    )]
    let whole = most as u32;
    whole
}

/// I10: a plan launches no more than the budget of its pool pays for.
pub(crate) fn check(view: &View, plan: &Plan) -> Option<Violation> {
    let pool: &Pool = &view.pool;
    let budget = pool.spec.limits.budget.filter(|_| !plan.launches.is_empty())?;
    let prices = plan
        .launches
        .iter()
        .flat_map(|batch| std::iter::repeat_n(pool.price_of(&batch.placement), batch.wanted.len()));
    let prices: Vec<f64> = prices.collect();
    let staying = super::places::Staying::after(view, plan).total();
    let needed = pool.spec.min.min(pool.spec.max).saturating_sub(staying);
    let for_min: f64 = prices.iter().take(usize::try_from(needed).unwrap_or(usize::MAX)).sum();
    invariant::within_budget(spent(view, plan), prices.iter().sum(), for_min, budget)
}
