//! Completions for shells.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};

/// Writes completions for a shell.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn completions(shell: Shell, to: &mut dyn Write) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "epumgmt", &mut text);
    to.write_all(&text)?;
    Ok(Exit::Done)
}
