//! The whole system in a simulated world, as sentences: arrange, let time pass, look. After every simulated second the invariants
//! hold, or the world says which does not, with its seed and the end of what happened.
#![expect(clippy::unwrap_used, reason = "tests")]

mod chaos;
mod crashes;
mod draining;
mod following;
mod health;
mod installation;
mod keeping;
mod launching;
mod messages;
mod placements;
mod rollout;
mod sharing;
mod sites;
mod slots;
mod storm;
mod worlds;
