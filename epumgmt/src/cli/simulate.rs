//! What can be written after `epumgmt simulate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use epu_core::{PoolName, SensorName, Span};
use epu_simulator::play::boot::Takes;
use epu_simulator::play::workload::service::Service;

use super::storm::Storm;

/// What can be simulated.
#[derive(Debug, Subcommand)]
pub(crate) enum Simulate {
    /// Play the config file's own pools against a workload, and show what would happen: waits, workers, cost, and how well supply follows
    /// demand. It needs no service, launches nothing and reads no sensor.
    #[command(after_help = "Examples:\n  epumgmt simulate run --config epu.yaml --workload trace.csv\n  \
                      epumgmt simulate run --workload diurnal:low=2/m,high=60/m,service=30s,for=24h --boot p50=40s,p99=3m --plot day.svg\n  \
                      epumgmt simulate run --workload jobs=trace.csv --compare limits.stabilization=0s \\\n    \
                      --compare 'eager: engine.queue-length.high-water=5,limits.cooldown-down=10s'\n\n\
                      Generators: constant, poisson, diurnal, burst, ramp, on-off, heavy-tail. docs/simulation.md describes them, the files that are \
                      read, and every number that is shown.")]
    Run(Box<RunArgs>),
    /// Play hours in which everything goes wrong, by the thousand, and check after every second what must always be true. What breaks is told as
    /// short as it can be. It needs no config and no service.
    #[command(after_help = "Examples:\n  epumgmt simulate storm --seeds 1000\n  \
                      epumgmt simulate storm --fresh --seeds 200 --save found\n  \
                      epumgmt simulate storm --only crash,store-replies-lost --rate crash=20\n  \
                      epumgmt simulate storm --replay found/storm-7.json\n\n\
                      `--kinds` lists the faults. docs/simulation.md tells how a storm goes, and what each invariant is.")]
    Storm(Storm),
}

/// How to play pools.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What arrives: a file (CSV of jobs or of counts, YAML, Standard Workload Format; `-` is standard input) or a generator in one line. With
    /// several pools: `POOL=` before it, once for each.
    #[arg(long, short, required = true, value_name = "[POOL=]FILE|GENERATOR")]
    pub workload: Vec<String>,
    /// How the files are written; left out: found out.
    #[arg(long, value_enum, help_heading = "Workload")]
    pub format: Option<Form>,
    /// How long jobs take that do not say it: 30s, exponential(30s), uniform(10s,1m), lognormal(p50=20s,p99=3m), pareto(least=5s,shape=1.5).
    #[arg(long, value_name = "TIME", help_heading = "Workload")]
    pub service_time: Option<Service>,
    /// How many processors of a job of the Standard Workload Format one worker stands for.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", help_heading = "Workload", value_parser = clap::value_parser!(u32).range(1..))]
    pub processors_per_worker: u32,
    /// Play this pool only; may be given several times. Left out: those for which there is work.
    #[arg(long, value_name = "POOL", help_heading = "World")]
    pub pool: Vec<PoolName>,
    /// Also those for which there is none.
    #[arg(long, conflicts_with = "pool", help_heading = "World")]
    pub all_pools: bool,
    /// Have a sensor say this all the time, such as one that workers report; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = held, help_heading = "World")]
    pub sensor: Vec<(SensorName, f64)>,
    /// How long machines take to come up: 40s, 40s±20%, or lognormally p50=40s,p99=3m.
    #[arg(long, default_value = "40s±20%", value_name = "TIME", help_heading = "World")]
    pub boot: Takes,
    /// The share of machines that never come up.
    #[arg(long, default_value = "0%", value_name = "SHARE", value_parser = share, help_heading = "World")]
    pub boot_failures: f64,
    /// How long a worker's set-up takes once its machine is up.
    #[arg(long, default_value = "3s", value_name = "TIME", help_heading = "World")]
    pub set_up: Span,
    /// What an hour of a machine costs where no `price` of placement or template says so.
    #[arg(long, value_name = "NUMBER", value_parser = price, help_heading = "World")]
    pub price: Option<f64>,
    /// How time is billed: each that has begun is paid whole.
    #[arg(long, value_enum, default_value_t = Unit::Second, help_heading = "World")]
    pub billing: Unit,
    /// What goes wrong meanwhile: with messages, services, store, sites, machines and sensors.
    #[arg(long, value_enum, default_value_t = Trouble::None, help_heading = "World")]
    pub faults: Trouble,
    /// What chance goes by: the same seed gives the same answer.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", help_heading = "World")]
    pub seed: u64,
    /// How long the pools are there before the first job; not measured.
    #[arg(long, default_value = "5m", value_name = "TIME", help_heading = "World")]
    pub before: Span,
    /// How long it goes on after the workload's end.
    #[arg(long, default_value = "15m", value_name = "TIME", help_heading = "World")]
    pub after: Span,
    /// Other settings of the pools, to be put beside those of the file: `KEY=VALUE,KEY=VALUE` with dotted keys as in `pool reconfigure`, and
    /// `NAME:` before them if wanted; may be given several times.
    #[arg(long, value_name = "[NAME:]KEY=VALUE,...", help_heading = "Answer")]
    pub compare: Vec<String>,
    /// How long a job may wait in the ideal that supply is compared with.
    #[arg(long, default_value = "0s", value_name = "TIME", help_heading = "Answer")]
    pub target_wait: Span,
    /// Write demand, workers and queue over time into this file, as SVG.
    #[arg(long, value_name = "FILE", help_heading = "Answer")]
    pub plot: Option<PathBuf>,
    /// How many points the series over time have.
    #[arg(long, default_value_t = 288, value_name = "NUMBER", help_heading = "Answer", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub points: u16,
}

/// How a workload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// CSV: `arrival,service`, a job a line.
    Jobs,
    /// CSV: `time,count`, an interval a line.
    Counts,
    /// YAML or JSON: jobs, or generators.
    Yaml,
    /// The Standard Workload Format.
    Swf,
}

/// How time is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unit {
    /// By the second.
    Second,
    /// By the minute.
    Minute,
    /// By the hour.
    Hour,
}

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// Something about every half hour.
    Light,
    /// Something about every three minutes.
    Heavy,
}

fn held(written: &str) -> Result<(SensorName, f64), String> {
    let (name, value) = written.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name = SensorName::new(name.trim()).map_err(|error| error.to_string())?;
    let value: f64 = value.trim().parse().map_err(|_| format!("{value:?} is not a number"))?;
    if value.is_finite() && value >= 0.0 {
        Ok((name, value))
    } else {
        Err(format!("{value} is not what a sensor says: a number, not negative"))
    }
}

fn share(written: &str) -> Result<f64, String> {
    let wrong = || format!("{written:?} is no share: write 5% or 0.05");
    let share: f64 = match written.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => written.trim().parse().map_err(|_| wrong())?,
    };
    if (0.0..=0.95).contains(&share) {
        Ok(share)
    } else {
        Err(format!("{written:?} is not between 0% and 95%"))
    }
}

fn price(written: &str) -> Result<f64, String> {
    let price: f64 = written.parse().map_err(|_| format!("{written:?} is not a number"))?;
    if (0.0..=1_000_000.0).contains(&price) {
        Ok(price)
    } else {
        Err(format!("{written} is no price of an hour"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(line: &[&str]) -> Result<RunArgs, clap::Error> {
        let cli = Cli::try_parse_from(["epumgmt", "simulate", "run"].iter().chain(line))?;
        let Command::Simulate(Simulate::Run(args)) = cli.command else {
            panic!("{line:?}")
        };
        Ok(*args)
    }

    #[test]
    fn what_is_documented_is_understood() {
        let args = parsed(&["--workload", "trace.csv"]).unwrap();
        assert_eq!(
            (args.boot.to_string().as_str(), args.seed, args.faults),
            ("40s±20%", 1, Trouble::None)
        );
        let line = [
            "-w",
            "jobs=poisson:rate=60/m,for=1h",
            "--service-time",
            "exponential(30s)",
            "--format",
            "counts",
            "--sensor",
            "load=0.5",
            "--boot",
            "p50=40s,p99=3m",
            "--boot-failures",
            "5%",
            "--price",
            "0.05",
            "--billing",
            "hour",
            "--faults",
            "heavy",
            "--seed",
            "7",
            "--compare",
            "a: limits.stabilization=0s",
            "--compare",
            "max=3",
            "--plot",
            "a.svg",
            "--target-wait",
            "30s",
            "--pool",
            "jobs",
        ];
        let args = parsed(&line).unwrap();
        assert_eq!((args.boot_failures, args.price, args.compare.len()), (0.05, Some(0.05), 2));
    }

    #[test]
    fn what_is_not_is_refused() {
        for line in [
            &[][..],
            &["-w", "a", "--boot", "40"],
            &["-w", "a", "--boot-failures", "96%"],
            &["-w", "a", "--sensor", "load"],
            &["-w", "a", "--sensor", "load=NaN"],
            &["-w", "a", "--price", "-1"],
            &["-w", "a", "--points", "0"],
            &["-w", "a", "--service-time", "30"],
            &["-w", "a", "--pool", "web", "--all-pools"],
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
