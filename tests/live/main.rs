//! Live tests: a real broker, a real monitor, real processes. `tests/run` installs what they need. One that cannot run fails and says
//! what is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one state among all there are or will be"
)]

mod broker_rights;
mod bus_amqp;
mod closing;
mod compatibility;
mod dead_letters;
mod demo;
mod draining;
mod failing;
mod following;
mod harness;
mod hearing;
mod launching;
mod losing;
mod monitoring;
mod operating;
mod pools;
mod postgres;
mod queue_probe;
mod refusing;
mod several;
mod slots;
mod staying;
mod storing;
mod systemd;
