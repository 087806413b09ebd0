//! What is simulated; needs no service.

mod plot;
mod run;
mod show;
mod variants;
mod work;

use std::path::Path;

use super::Screen;
use crate::cli::simulate::Simulate;
use crate::exit::{Exit, Failure};

/// Simulates.
///
/// # Errors
/// Every fault of what is to be simulated, or why it came to no end.
pub(crate) fn simulate(screen: &mut Screen, config: &Path, what: &Simulate) -> Result<Exit, Failure> {
    match what {
        Simulate::Run(args) => run::run(screen, config, args),
    }
}

#[cfg(test)]
mod tests;
