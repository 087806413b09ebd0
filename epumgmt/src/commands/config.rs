//! The config file: checked, and described.

use epu_decision_engines::Registry;
use serde_json::json;

use super::Screen;
use crate::cli::ConfigCommand;
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};

/// Checks or describes; needs no service.
///
/// # Errors
/// Every fault of the file.
pub(crate) fn config(screen: &mut Screen, command: &ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check { file } => {
            let text = config::text_of(file).map_err(|flaws| Failure::Flaws {
                flaws,
                text: String::new(),
            })?;
            let config = Config::read(file, &text).map_err(|flaws| Failure::Flaws { flaws, text })?;
            let notes = config::sites::notes(&config);
            let counts = json!({
                "notes": notes,
                "file": config.file,
                "sites": config.sites.len(),
                "templates": config.templates.len(),
                "pools": config.pools.len(),
            });
            screen.answer(&counts, |_| {
                let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
                let (sites, templates) = (count(config.sites.len(), "site"), count(config.templates.len(), "template"));
                let pools = count(config.pools.len(), "pool");
                let mut text = format!("{}: no faults; {sites}, {templates}, {pools}\n", file.display());
                text.extend(notes.iter().map(|note| format!("note: {note}\n")));
                text
            })?;
        }
        ConfigCommand::Schema => {
            let text = serde_json::to_string_pretty(&config::schema(&Registry::standard())).map_err(std::io::Error::from)?;
            screen.line(&text)?;
        }
        ConfigCommand::Reference => screen.line(config::reference::document(&Registry::standard()).trim_end())?,
    }
    Ok(Exit::Done)
}
