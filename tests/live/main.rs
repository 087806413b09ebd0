//! Live tests: a real broker, a real monitor, real processes. `tests/run` installs what they need. One that cannot run fails and says
//! what is missing.

mod harness;
mod queue_probe;
mod systemd;
