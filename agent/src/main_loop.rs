//! The process around an agent: settings, log, signals, exit code. `epu-agent` and `epumgmt agent` are nothing but this.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use epu_core::Clock;
use epu_core::code::Chain;
use epu_core::random::Random;
use epu_core::time::SystemClock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing::{error, info};

use crate::config::Config;
use crate::error::Error;
use crate::life::Ended;
use crate::link::HttpLink;
use crate::metadata::Metadata;
use crate::process::ProcessHost;
use crate::run::{Parts, run};

/// How long the process waits, at its end, for a name look-up that is still under way.
const SHUTDOWN: Duration = Duration::from_millis(100);

/// Runs an agent as this process: log to stderr (`EPU_LOG` is `error`, `warn`, `info` or `debug`), one thread. Not to be called
/// from within a runtime; [`serve`] is for that.
#[must_use]
pub fn start() -> ExitCode {
    let level = std::env::var("EPU_LOG").ok().and_then(|level| level.parse::<LevelFilter>().ok());
    // A program that has set up its log already keeps it.
    drop(
        tracing_subscriber::fmt()
            .with_max_level(level.unwrap_or(LevelFilter::INFO))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_target(false)
            .try_init(),
    );
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "start the agent's runtime");
            return ExitCode::from(1);
        }
    };
    let ended = runtime.block_on(serve());
    runtime.shutdown_timeout(SHUTDOWN);
    match ended {
        Ok(Ended::Stopped) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(Ended::Drained) => {
            info!("drained");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{}", Chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs an agent with the settings in the environment until its life is over. SIGTERM and SIGINT do what a `stop` order does;
/// SIGHUP, which a closing terminal sends, does nothing.
///
/// # Errors
/// See [`Error::exit_code`].
pub async fn serve() -> Result<Ended, Error> {
    let config = Config::from_env()?;
    let link = HttpLink::new(&config.url, config.ca).map_err(Error::Config)?;
    let host = ProcessHost::open(&config.home)?;
    let stop = CancellationToken::new();
    let signals = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?];
    let hangup = listen(SignalKind::hangup())?;
    let stopping = stop.clone();
    let listener = tokio::spawn(async move {
        let [mut terminate, mut interrupt] = signals;
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let random = Arc::new(Random::from_system());
    info!(home = %config.home.display(), launch = %config.launch, index = config.index, at = %clock.now(), "agent");
    let metadata = config.metadata.as_deref().map(Metadata::new);
    let kept = host.of_launch(config.launch)?;
    let index = match (config.index.or(kept), &metadata) {
        (Some(index), _) => index,
        (None, Some(metadata)) => tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Ended::Stopped),
            index = metadata.launch_index(&*clock, &random) => index?,
        },
        // The settings were checked.
        (None, None) => return Err(Error::Config(vec!["EPU_METADATA is not set".to_owned()])),
    };
    let mut host = host.with_index(index);
    let watcher = metadata.map(|metadata| {
        let (told, taken_away) = watch::channel(None);
        host.hear(taken_away);
        let clock = clock.clone();
        tokio::spawn(async move { metadata.watch(clock, told).await })
    });
    let ended = run(
        Parts {
            url: config.url,
            launch: config.launch,
            index,
            launch_token: config.launch_token,
            link,
            host,
            clock,
            random,
        },
        stop,
    )
    .await;
    listener.abort();
    if let Some(watcher) = watcher {
        watcher.abort();
    }
    drop(hangup);
    ended
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|source| Error::System {
        doing: "listen for signals",
        source,
    })
}
