//! The simulator's chaos with real processes: a real broker and database, services as processes of their own, agents and workers, all
//! of them killed, frozen, cut off and left without room, in an order that a seed draws. `endure` is one run; the live test makes a
//! short one, `tests/figures chaos-runs-broken --long` several long ones.
//!
//! What must always be true is judged **from outside**: by the process table, by the rows of the database, by what the site itself has on
//! disk, and by what workers wrote down. What services say of themselves is not asked. Three kinds of judging:
//!
//! - while faults go on, [`watch`] samples the process table and the rows several times a second, and nothing it looks for may be seen
//!   even once: two machines of one instance, a machine that nobody recorded, a process of an instance that is recorded as ended;
//! - once faults have stopped, everything settles within [`CONVERGES`]: every pool has exactly as many workers as it is to have;
//! - then the whole history is read and judged: maximum, choice of victims, replacements, intentions, decisions shown again, states.
//!
//! The judges are functions of what was seen ([`judge`]), each shown able to fail by made-up sights, and by a live test that breaks
//! things behind the services' backs.
//!
//! A seed fixes what is done and in which order. When exactly it hits, the machine decides: a run is not repeated to the byte.

pub mod disk;
mod faults;
pub mod judge;
pub mod net;
mod operators;
mod run;
pub mod seen;
pub mod spool;
pub mod watch;
pub mod wire;

pub use faults::Kind;
pub use run::{CONVERGES, Outcome, endure, endure_alone};
