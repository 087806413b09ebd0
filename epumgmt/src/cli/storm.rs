//! What can be written after `simulate storm`.

use std::path::PathBuf;

use clap::Args;
use epu_core::Span;

/// How storms are to be played.
#[derive(Debug, Clone, Args)]
pub(crate) struct Storm {
    /// How many storms to play, each of a seed of its own.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub seeds: u64,
    /// The first seed. The same seed gives the same storm in the same version. Without it: 0.
    #[arg(long, value_name = "S")]
    pub from: Option<u64>,
    /// Begin at a seed that nobody played before; it is shown at the end.
    #[arg(long, conflicts_with = "from")]
    pub fresh: bool,
    /// How many to play at once. Without it: as many as there are processors.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long faults go on in each.
    #[arg(long, default_value = "50m", value_name = "TIME")]
    pub lasts: Span,
    /// Only these kinds of fault; may be given several times, or with commas between.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub only: Vec<String>,
    /// None of these kinds of fault.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub without: Vec<String>,
    /// How often a kind of fault happens in an hour, such as `crash=20`.
    #[arg(long, value_parser = rate, value_name = "KIND=N")]
    pub rate: Vec<(String, f64)>,
    /// How many other storms to try to make the story of a failure shorter.
    #[arg(long, default_value_t = 300, value_name = "N")]
    pub shrink: u32,
    /// Where to put the plan and the whole transcript of what was found, to play it again.
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Play these plans instead, as `--save` left them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "fresh", "only", "without", "rate", "save"])]
    pub replay: Vec<PathBuf>,
    /// Show how often each fault began in which situation.
    #[arg(long)]
    pub coverage: bool,
    /// Only list the kinds of fault.
    #[arg(long)]
    pub kinds: bool,
}

fn rate(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("{text:?} is not a kind of fault with a number, such as crash=20");
    let (kind, number) = text.split_once('=').ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if (0.0..=3_600.0).contains(&number) {
        Ok((kind.trim().to_owned(), number))
    } else {
        Err(format!("{text:?}: how often it happens in an hour is from 0 to 3600"))
    }
}
