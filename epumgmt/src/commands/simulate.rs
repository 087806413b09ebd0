//! What is simulated; needs no service.

mod plot;
mod run;
mod show;
mod storm;
mod variants;
mod work;

use std::path::Path;

use epu_core::time::Clock;

use super::Screen;
use crate::cli::simulate::Simulate;
use crate::exit::{Exit, Failure};

/// Simulates.
///
/// # Errors
/// Every fault of what is to be simulated, or why it came to no end.
pub(crate) fn simulate(screen: &mut Screen, config: &Path, what: &Simulate, clock: &dyn Clock) -> Result<Exit, Failure> {
    match what {
        Simulate::Run(args) => run::run(screen, config, args),
        Simulate::Storm(args) => storm::storm(screen, args, clock),
    }
}

#[cfg(test)]
mod storm_tests;
#[cfg(test)]
mod tests;
