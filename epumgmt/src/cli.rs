//! What can be written on the command line. Nothing is decided here: [`crate::commands`] does what was asked for.

pub(crate) mod simulate;
pub(crate) mod storm;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use epu_core::input::Tree;
use epu_core::{PlacementName, PoolName, SiteName, Span, TemplateName};
use serde_json::Value;

use crate::config::DEFAULT_FILE;
use crate::exit::CODES_HELP;

/// Pools of workers that stay alive and follow their work: run them, inspect them, tear them down.
#[derive(Debug, Parser)]
#[command(name = "epumgmt", version, after_help = CODES_HELP, max_term_width = 120, propagate_version = true)]
pub(crate) struct Cli {
    /// How to reach the service.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the service, and how to show its answers.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// The config file of the installation: what `serve` runs, and where other commands find its address and token.
    #[arg(long, short, global = true, env = "EPU_CONFIG", default_value = DEFAULT_FILE, value_name = "FILE")]
    pub config: PathBuf,
    /// Where `epumgmt serve` listens. Without it: the config file's `listen`, or else http://127.0.0.1:8650.
    #[arg(long, global = true, env = "EPU_URL", value_name = "URL", help_heading = "Service")]
    pub url: Option<String>,
    /// The authority that signed the certificate of an https:// address, a PEM file; no other is believed. Without it: the config file's
    /// `tls`, then the authorities that this machine trusts.
    #[arg(long, global = true, env = "EPU_CA", value_name = "FILE", help_heading = "Service")]
    pub ca: Option<PathBuf>,
    /// The file with the operators' token. Without it: the variable EPU_TOKEN, then `operator.token` in the config file's data
    /// directory, or else in ./epu-data.
    #[arg(long, global = true, env = "EPU_TOKEN_FILE", value_name = "FILE", help_heading = "Service")]
    pub token_file: Option<PathBuf>,
    /// The broker, to reach the services over AMQP instead of HTTP: `amqp://user:password@host:5672/vhost`, or where it is written,
    /// `env:NAME` or `file:/path`. Wins over --url. Certificates and `sysname` are taken from the config file's `amqp`.
    #[arg(
        long,
        global = true,
        env = "EPU_AMQP_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Service"
    )]
    pub amqp_url: Option<String>,
    /// How long to wait for an answer.
    #[arg(long, global = true, default_value = "30s", value_name = "TIME", help_heading = "Service")]
    pub timeout: Span,
    /// Tables for people, JSON for programs.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs: the service's answer, whole.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pools: what they are to be, and why they are as they are.
    #[command(subcommand)]
    Pool(Pool),
    /// Instances: what runs.
    #[command(subcommand)]
    Instance(Instance),
    /// Placements: where pools launch, in which order, and how that went.
    #[command(subcommand)]
    Placement(Placement),
    /// Sites: where machines come from.
    #[command(subcommand)]
    Site(Site),
    /// Templates: what pools launch, and what runs of each version.
    #[command(subcommand)]
    Template(Template),
    /// What the sweep makes of machines with our tags that no record explains. It ends them by itself; this only looks.
    Sweep(Sweep),
    /// The state of the whole: pools, sites, and what needs an eye.
    Status,
    /// What happened, from the journal.
    Events(Events),
    /// Close the installation, drain and end every instance.
    Teardown(Teardown),
    /// Open an installation that was closed by teardown.
    Open,
    /// Messages on the broker that no service could handle.
    #[command(subcommand)]
    Dead(Dead),
    /// The config file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The store itself, without a service: check it, migrate it, keep it in a file, move it to another database.
    Store(StoreArgs),
    /// Pools in a simulated world: what would happen.
    #[command(subcommand)]
    Simulate(simulate::Simulate),
    /// Run the services until stopped. Workers go on when they stop.
    Serve(Serve),
    /// Show what this does, with real processes on this machine and nothing installed.
    Demo(Demo),
    /// Run as the agent of a local instance, with settings from the environment.
    #[command(hide = true)]
    Agent,
    /// Work as a worker of the demo, with settings from the environment.
    #[command(hide = true)]
    DemoWorker,
    /// Write the generated references into a directory.
    #[command(hide = true)]
    Docs {
        /// Which.
        directory: PathBuf,
    },
    /// Write man pages into a directory, one a command.
    #[command(hide = true)]
    Man {
        /// Which.
        directory: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// What can be done with dead letters. Each goes to the broker itself, as the user in --amqp-url or in the config file's `amqp`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List them, oldest first; they stay where they are.
    List {
        /// How many at the most.
        #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
        most: usize,
    },
    /// Show one: what it says, who sent it, and why it is here.
    Show {
        /// Which.
        id: String,
    },
    /// Send them again to where they came from, under your own name, and take them out.
    Replay(Letters),
    /// Forget them.
    Drop {
        /// Which.
        #[command(flatten)]
        letters: Letters,
        /// Do not ask for confirmation.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Debug, Clone, Args)]
pub(crate) struct Letters {
    /// Their ids, as listed.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    pub ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
}

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// Add the pools of a file with `templates:` and `pools:`.
    Add {
        /// The file; `-` is standard input.
        #[arg(long, short)]
        file: PathBuf,
    },
    /// List pools.
    List,
    /// Show a pool: what it is to be, what it is, and why.
    Show {
        /// Which.
        pool: PoolName,
    },
    /// Change settings of a pool.
    #[command(
        after_help = "Examples:\n  epumgmt pool reconfigure web engine.keep.n=5\n  epumgmt pool reconfigure web sensors.jobs.every=10s limits.step-up=\n\n\
                            A key is a dotted path of the pool's settings. A value is written as in the config file; nothing takes the key out."
    )]
    Reconfigure {
        /// Which.
        pool: PoolName,
        /// What to set.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = setting)]
        set: Vec<(String, Value)>,
        /// Refuse when the pool is no longer at this revision.
        #[arg(long, value_name = "NUMBER")]
        if_revision: Option<u64>,
    },
    /// Change a pool's size or bounds.
    Resize {
        /// Which.
        pool: PoolName,
        /// How many workers, for an engine that keeps a number.
        #[arg(long, value_name = "NUMBER")]
        n: Option<u32>,
        /// Fewest workers.
        #[arg(long, value_name = "NUMBER")]
        min: Option<u32>,
        /// Most workers.
        #[arg(long, value_name = "NUMBER")]
        max: Option<u32>,
    },
    /// Keep a pool from changing by itself: from everything, or only from what is named.
    Pause {
        /// Which.
        pool: PoolName,
        /// It does not grow.
        #[arg(long)]
        grow: bool,
        /// It does not shrink.
        #[arg(long)]
        shrink: bool,
        /// It does not replace failed workers.
        #[arg(long)]
        replace: bool,
        /// Why, for others to read.
        #[arg(long, default_value = "", value_name = "TEXT")]
        why: String,
    },
    /// Let a paused pool do everything again.
    Resume {
        /// Which.
        pool: PoolName,
    },
    /// Replace a pool's instances of older template versions, by drain, within its replacement limit. Without an option: begin.
    Refresh(Refresh),
    /// Drain a pool's instances, then forget it.
    Remove {
        /// Which.
        pool: PoolName,
        /// End its instances at once: what they are working on is lost or done again.
        #[arg(long)]
        force: bool,
    },
}

/// A refresh, and what to do about it.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("step").args(["pause", "resume", "stop", "rollback", "show"])))]
pub(crate) struct Refresh {
    /// Which.
    pub pool: PoolName,
    /// Hold it: those that drain go on, no others are chosen.
    #[arg(long)]
    pub pause: bool,
    /// Go on with one that is held.
    #[arg(long)]
    pub resume: bool,
    /// End it where it is. Instances of older versions stay.
    #[arg(long)]
    pub stop: bool,
    /// Launch again what was launched before the template last changed, and replace whatever is not of it.
    #[arg(long)]
    pub rollback: bool,
    /// Only say how far it is.
    #[arg(long)]
    pub show: bool,
    /// Why, for others to read.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub why: String,
    /// Wait until it is done and show how it goes, for at most this long. Exit code 7 when it is not done then.
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2h",
        conflicts_with_all = ["pause", "stop", "show"]
    )]
    pub wait: Option<Span>,
}

/// What can be done with placements.
#[derive(Debug, Subcommand)]
pub(crate) enum Placement {
    /// List them, with what each lets through and how launching there went.
    List {
        /// Of this pool only.
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Launch there again: on a placement that is parked, once what it was parked for is mended, or that is paused.
    Reset {
        /// Whose.
        pool: PoolName,
        /// Which, by its name; left out: all of the pool.
        placement: Option<PlacementName>,
    },
}

/// What can be done with sites.
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// List them, with what is happening on each.
    List,
    /// Try what launching there needs, without launching: credentials, clock, permissions, and for each pool's template image, size,
    /// network and quota. Exit code 1 when something is bad.
    Check {
        /// Which.
        site: SiteName,
        /// With this pool's template only; may be given several times. Left out: every pool's that launches there.
        #[arg(long, value_name = "POOL")]
        pool: Vec<PoolName>,
    },
    /// Add one, or change one that was added so: it is used at once, and stays until it is removed. The config file's are changed there.
    Add {
        /// The file with it, or `-` for standard input: `sites:` with one below it, or what stands there below its name. Secrets in it are
        /// references: `env:NAME` or `file:/path`, to be found where the provisioner runs.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Its name, or which of several in the file.
        #[arg(long)]
        name: Option<SiteName>,
    },
    /// Remove one that was added so.
    Remove {
        /// Which.
        site: SiteName,
        /// Although pools place instances on it, or some live there: nothing is launched there any more, and those that live are watched
        /// until they end.
        #[arg(long)]
        force: bool,
    },
}

/// What can be done with templates.
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// List every version that a pool launches, or that runs somewhere.
    List,
    /// Show one: its content as the pools have it.
    Show {
        /// Which, by its name.
        template: TemplateName,
    },
    /// Keep one by itself, or change it: pools that are added by command may name it. A pool has a copy of what it launches; name the
    /// template with `pool reconfigure` to take the new content.
    Add {
        /// The file with it below `templates:`, or `-` for standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Which of several in the file.
        #[arg(long)]
        name: Option<TemplateName>,
    },
    /// Keep one no longer that was added so. Pools go on with what they have.
    Remove {
        /// Which.
        template: TemplateName,
    },
}

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Show what it would do, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// On this site only.
    #[arg(long)]
    pub site: Option<SiteName>,
}

/// What can be done with instances. An id may be written whole, or as the end of it that tables show.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// List instances.
    List {
        /// Of this pool only.
        #[arg(long)]
        pool: Option<PoolName>,
        /// Ended ones too.
        #[arg(long)]
        all: bool,
    },
    /// Show one.
    Show {
        /// Which.
        instance: String,
    },
    /// Show the end of its output.
    Logs {
        /// Which.
        instance: String,
        /// How many lines.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
    },
    /// Let it finish its work, then end it. Its pool replaces it if it is still wanted.
    Drain {
        /// Which.
        instance: String,
        /// How long that may take; left out: as the pool says.
        #[arg(long, value_name = "TIME")]
        within: Option<Span>,
    },
    /// Keep it from being chosen when its pool shrinks.
    Protect {
        /// Which.
        instance: String,
        /// No longer.
        #[arg(long)]
        off: bool,
    },
    /// End it at once: what it is working on is lost or done again.
    Kill {
        /// Which.
        instance: String,
    },
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on showing what happens. As JSON: one object a line.
    #[arg(long, short)]
    pub follow: bool,
    /// Of this pool only.
    #[arg(long)]
    pub pool: Option<PoolName>,
    /// After this number; left out: the newest ones.
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<i64>,
    /// How many at the most.
    #[arg(long, default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub limit: u32,
}

/// How to tear down.
#[derive(Debug, Args)]
pub(crate) struct Teardown {
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// End every instance at once instead of draining: what they are working on is lost or done again.
    #[arg(long)]
    pub force: bool,
    /// How long draining may take, whatever the pools say; left out: one hour.
    #[arg(long, value_name = "TIME")]
    pub within: Option<Span>,
    /// Return as soon as it is accepted.
    #[arg(long)]
    pub no_wait: bool,
    /// Stop waiting after this long; what is live then goes on ending. Exit code 7.
    #[arg(long, value_name = "TIME", default_value = "2h", conflicts_with = "no_wait")]
    pub wait: Span,
}

/// What can be done with the config file.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a file, and show every fault with its place.
    Check {
        /// The file; `-` is standard input.
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print the JSON schema, for editors.
    Schema,
    /// Print the reference of every key, as Markdown.
    Reference,
}

/// Which store, and what to do with it.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The store of this data directory. Without it and --postgres: the store that the config file names.
    #[arg(long, global = true, value_name = "DIRECTORY", conflicts_with = "postgres", help_heading = "Store")]
    pub sqlite: Option<PathBuf>,
    /// The store in this PostgreSQL database: `env:NAME` or `file:/path` with its address, or the address itself when no password is in
    /// it: `postgres://user@host:5432/database`.
    #[arg(long, global = true, value_name = "URL", help_heading = "Store")]
    pub postgres: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What can be done with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Whether it can be reached and written to, and every record in it can be read. It may be in use. Exit code 1 when something is
    /// wrong.
    Check,
    /// Bring it to the form that this release uses, or make it; `serve` does that by itself.
    Migrate,
    /// Write everything in it, as of one moment, into a file. It may be in use.
    ///
    /// The form of the file is the same whatever the database, so that `export` is the same as `backup`: what was written from SQLite can
    /// be put into PostgreSQL. It holds nothing in the clear that lets others in, and is readable for its owner only. The file
    /// `installation.key` of the data directory is not part of the store: keep it, too.
    #[command(visible_alias = "export")]
    Backup {
        /// The file. It is there whole or not at all.
        file: PathBuf,
        /// Replace a file that is there.
        #[arg(long)]
        replace: bool,
    },
    /// Put everything that is in such a file into an empty store, or nothing; `import` is the same.
    ///
    /// A file that was cut or changed is refused before anything is written, and so is a store that is not empty. Stop every service
    /// of the installation first: after a restore, only the new store may be served.
    #[command(visible_alias = "import")]
    Restore {
        /// The file.
        file: PathBuf,
    },
}

/// What to serve.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Which services.
    #[arg(value_enum)]
    pub role: Role,
    /// Where to listen, as `address:port`, instead of at the config file's `listen`: several processes can share a file.
    #[arg(long, env = "EPU_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
    /// Where agents reach this process, as `https://host:port`, instead of the config file's `advertise`.
    #[arg(long, env = "EPU_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
}

/// Which services one process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Every service, in one process.
    All,
    /// The provisioner: launches, watches and ends instances. One acts at a time, others stand by.
    Provisioner,
    /// A controller: decides for its share of the pools.
    Controller,
    /// An aggregator: hears heartbeats and reads sensors.
    Aggregator,
}

/// How to show the demo.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where its files go; left out: a new temporary directory, removed at the end when every promise held.
    #[arg(long, value_name = "DIRECTORY")]
    pub dir: Option<PathBuf>,
    /// How many jobs to submit.
    #[arg(long, default_value_t = 80, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(20..=500))]
    pub jobs: u32,
    /// Most workers.
    #[arg(long, default_value_t = 6, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(3..=50))]
    pub max: u32,
}

/// A setting as `key=value`, its value as in the config file. `key=` takes the key out.
pub(crate) fn setting(written: &str) -> Result<(String, Value), String> {
    let (key, value) = written.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.trim().is_empty() {
        return Err("the key is missing".to_owned());
    }
    let tree = Tree::read("value", value).map_err(|flaws| flaws.to_string())?;
    Ok((key.trim().to_owned(), tree.value().clone()))
}

/// Settings as a request wants them.
///
/// # Errors
/// When one stands there twice.
pub(crate) fn settings(set: &[(String, Value)]) -> Result<BTreeMap<String, Value>, String> {
    let mut all = BTreeMap::new();
    for (key, value) in set {
        if all.insert(key.clone(), value.clone()).is_some() {
            return Err(format!("{key} is set twice"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use serde_json::json;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("epumgmt").chain(line.split(' ')))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_is_understood() {
        for line in [
            "pool add -f web.yaml",
            "pool add --file -",
            "pool list",
            "pool list --output json",
            "-o json pool show web",
            "pool reconfigure web engine.keep.n=5 min=",
            "pool resize web --n 3 --min 1 --max 5",
            "pool pause web --grow --why storm",
            "pool resume web",
            "pool remove web --force",
            "pool refresh web",
            "pool refresh web --pause --why release",
            "pool refresh web --resume --wait",
            "pool refresh web --rollback --wait=5m -o json",
            "pool refresh web --stop",
            "pool refresh web --show",
            "placement list --pool web",
            "placement reset web",
            "placement reset web spot",
            "site list",
            "site check aws --pool web --pool mail",
            "template list",
            "template show worker",
            "sweep --dry-run --site aws",
            "sweep",
            "man directory",
            "instance list --pool web --all",
            "instance show 0123456789ab",
            "instance logs 0123 --lines 5",
            "instance drain 0123 --within 5m",
            "instance protect 0123 --off",
            "instance kill 0123",
            "status",
            "events --follow --pool web --after 7 --limit 10",
            "teardown --yes --force --no-wait",
            "open",
            "config check epu.yaml",
            "config check",
            "config schema",
            "config reference",
            "store check",
            "store check --sqlite epu-data -o json",
            "store migrate --postgres env:EPU_POSTGRES_URL",
            "store backup kept --replace",
            "store --sqlite epu-data export kept",
            "store restore kept",
            "store import --postgres file:/run/url kept",
            "simulate run --config epu.yaml --workload trace.csv",
            "simulate storm --seeds 100 --rate crash=20 --without teardown,remove-pool",
            "serve all --config epu.yaml",
            "demo",
            "agent",
            "demo-worker",
            "completions bash",
            "status --url http://127.0.0.1:1 --token-file t --timeout 5s",
        ] {
            if let Err(error) = parsed(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_exit_code_2() {
        for line in [
            "pool",
            "pool show",
            "pool show a/b",
            "pool add",
            "pool reconfigure web",
            "pool reconfigure web n",
            "pool reconfigure web =5",
            "pool reconfigure web n=[1",
            "pool resize web --n -1",
            "pool refresh",
            "pool refresh web --pause --resume",
            "pool refresh web --show --wait",
            "pool refresh web --wait=5",
            "placement",
            "placement reset",
            "placement reset web a/b",
            "site check",
            "template show",
            "man",
            "instance logs 0123 --lines 0",
            "events --limit 1001",
            "teardown --no-wait --wait 1m",
            "status --timeout 5",
            "status --output xml",
            "serve everything",
            "simulate",
            "simulate run",
            "simulate storm --seeds many",
            "store",
            "store backup",
            "store check --sqlite a --postgres b",
            "completions dos",
        ] {
            match parsed(line) {
                Ok(cli) => panic!("{line} was taken: {cli:?}"),
                Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
            }
        }
    }

    #[test]
    fn a_setting_is_written_as_in_the_config_file() {
        for (written, key, value) in [
            ("n=5", "n", json!(5)),
            ("sensors.jobs.every=10s", "sensors.jobs.every", json!("10s")),
            (
                "placements=[{site: local, max: 2}]",
                "placements",
                json!([{"site": "local", "max": 2}]),
            ),
            ("x=a=b", "x", json!("a=b")),
            ("x=", "x", Value::Null),
            ("x=null", "x", Value::Null),
            ("x=\"5\"", "x", json!("5")),
        ] {
            assert_eq!(setting(written), Ok((key.to_owned(), value)), "{written}");
        }
        let twice = [("n".to_owned(), json!(1)), ("n".to_owned(), json!(2))];
        assert_eq!(settings(&twice), Err("n is set twice".to_owned()));
    }
}
