//! Live tests: a real broker, a real monitor, real processes. `tests/run` installs what they need. One that cannot run fails and says
//! what is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one state among all there are or will be"
)]

mod broker_rights;
mod bus_amqp;
mod chaos;
mod closing;
mod compatibility;
mod dead_letters;
mod demo;
mod draining;
#[cfg(feature = "ec2")]
mod ec2_fake;
#[cfg(feature = "ec2")]
mod ec2_losing;
#[cfg(feature = "ec2")]
mod ec2_moto;
#[cfg(feature = "ec2")]
mod ec2_sites;
mod failing;
mod fake_ec2;
mod following;
mod harness;
mod hearing;
mod launching;
mod losing;
mod monitoring;
mod operating;
mod operating_sites;
mod packages;
mod pools;
mod postgres;
mod queue_probe;
mod refusing;
mod several;
mod sites_change;
mod slots;
mod staying;
mod storing;
mod systemd;
mod tls_door;
