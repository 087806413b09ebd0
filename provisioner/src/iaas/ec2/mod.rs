//! The EC2 driver: Amazon EC2, and clouds that speak its API.
//!
//! What needs no connection is here in any build, so that a config with an EC2 site is checked by every program: its [`settings`],
//! and what each error means ([`classes`]). What calls the site, and user data, are behind the cargo feature `ec2`, because the vendor's
//! library takes minutes to compile; without it [`build`] says what to install.
//!
//! | file | what |
//! |---|---|
//! | `client` | a connection: credentials, TLS, time limits, no retries |
//! | `failure` | what came of a call that failed, classified |
//! | `account` | what sites of one account share: the connection, the pace, one list |
//! | `origin` | how a machine says which launch it is of |
//! | `request` | a launch as one RunInstances |
//! | `run` | launching, with and without client tokens |
//! | `list` | all our machines, in pages |
//! | `named` | calls that name machines: terminate, describe, tags, output |
//! | `check` | trying what launching will need |
//! | `driver` | the driver itself |
//!
//! **One launch is one call** where the cloud has client tokens and numbers the machines of a call (EC2 has both): the launch id is the
//! token, so that a repeated call gives the same machines. Elsewhere a launch asks for one machine at a time, each with its index in a
//! tag; without tokens it looks before each (`run`).
//!
//! **Retries are off** in the vendor's library, and every call waits for its turn ([`crate::pace`]): how often the site is called is
//! decided in one place.

#[cfg(feature = "ec2")]
mod account;
#[cfg(feature = "ec2")]
mod check;
pub mod classes;
#[cfg(feature = "ec2")]
mod client;
#[cfg(feature = "ec2")]
mod driver;
#[cfg(feature = "ec2")]
mod failure;
#[cfg(feature = "ec2")]
mod list;
#[cfg(feature = "ec2")]
mod named;
#[cfg(feature = "ec2")]
mod origin;
#[cfg(feature = "ec2")]
mod request;
#[cfg(feature = "ec2")]
mod run;
pub mod settings;
#[cfg(feature = "ec2")]
pub mod user_data;

use std::sync::Arc;

use epu_core::Fault;
use epu_core::id::SiteName;
use epu_core::random::Random;
use epu_core::time::Clock;

pub use settings::Ec2Settings;

use super::Iaas;
use crate::pace::Pacers;

/// What EC2 drivers need besides their settings; the same for all of a process.
#[derive(Debug, Clone)]
pub struct Ec2Parts {
    /// The installation's id: the tag that makes machines ours.
    pub installation: String,
    /// The certificates that agents are to believe, as PEM, where services answer over https.
    pub ca_pem: Option<String>,
    /// The pace of calls, for each account and region.
    pub pacers: Arc<Pacers>,
    /// What sites of one account share.
    pub accounts: Accounts,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// For names of what is tried only.
    pub random: Arc<Random>,
}

/// The accounts of a process. Sites of one account and region find each other here, and share a connection and their lists.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    #[cfg(feature = "ec2")]
    known: Arc<std::sync::Mutex<account::Known>>,
}

/// A driver for a site.
///
/// # Errors
/// `driver-missing` when this program was built without EC2; `bad-config` when the settings cannot be used.
#[cfg(feature = "ec2")]
pub fn build(name: &SiteName, settings: &Ec2Settings, parts: &Ec2Parts) -> Result<Arc<dyn Iaas>, Fault> {
    Ok(Arc::new(driver::Ec2::new(name, settings, parts)?))
}

/// A driver for a site; this program has none.
///
/// # Errors
/// `driver-missing`, with what to do about it.
#[cfg(not(feature = "ec2"))]
pub fn build(name: &SiteName, _: &Ec2Settings, _: &Ec2Parts) -> Result<Arc<dyn Iaas>, Fault> {
    Err(missing(name))
}

/// What a program without this driver says of a site that wants it.
#[must_use]
pub fn missing(name: &SiteName) -> Fault {
    Fault::new(
        "driver-missing",
        format!(
            "site {name}: this program was built without EC2: install the release package, or build with \
             `cargo build --release --features ec2`"
        ),
    )
}
