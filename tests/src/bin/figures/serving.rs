//! The real program, `epumgmt serve all`, on a directory of its own.

use std::path::PathBuf;
use std::time::Duration;

use epu_bus::http::Client;
use epu_core::request::{Nothing, PoolBrief, Request, StatusView, Teardown};
use epu_tests::process::Running;
use epu_tests::processes::EndsTagged;
use epu_tests::{Result, Trouble, ports, wait};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A running control process with its workers. Everything is ended when it is dropped.
pub(crate) struct Serving {
    pub(crate) running: Running,
    pub(crate) client: Client,
    // In this order: who runs in the directory is ended before it is removed.
    leftovers: EndsTagged,
    directory: TempDir,
}

impl Serving {
    /// Starts it with a config that goes on after `listen` and `data-dir`, and waits until it answers.
    pub(crate) async fn start(config: impl FnOnce(&std::path::Path) -> String) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("epu-figures-")
            .tempdir()
            .map_err(|e| Trouble::new("make a directory", e))?;
        let home = directory.path().canonicalize().map_err(|e| Trouble::new("find the directory", e))?;
        let url = format!("127.0.0.1:{}", ports::free()?);
        let file = home.join("epu.yaml");
        let text = format!("data-dir: data\nlisten: {url}\nlog: {{level: warn}}\n{}", config(&home));
        std::fs::write(&file, text).map_err(|e| Trouble::new("write the config", e))?;
        let leftovers = EndsTagged::new("EPU_HOME", home.display().to_string());
        let shown = file.display().to_string();
        let mut running = Running::start(&["serve", "all", "--config", &shown], &home.join("serve.log"), |_| {})?;
        let token = home.join("data").join("operator.token");
        let client = running_client(&mut running, &url, &token).await?;
        Ok(Self {
            running,
            client,
            leftovers,
            directory,
        })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.process.pid()
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let op = request.op();
        let answer = self
            .client
            .ask(&request, WITHIN)
            .await
            .map_err(|e| Trouble::new(format!("ask {op}"), e))?;
        serde_json::from_value(answer).map_err(|e| Trouble::new(format!("read the answer to {op}"), e))
    }

    pub(crate) async fn pools(&self) -> Result<Vec<PoolBrief>> {
        self.ask::<StatusView>(Request::Status(Nothing {})).await.map(|status| status.pools)
    }

    /// The processes of its workers and their agents.
    pub(crate) fn workers(&self) -> std::collections::BTreeSet<epu_tests::processes::Proc> {
        self.leftovers.alive()
    }

    /// Waits until every pool is as `is_so` wants it.
    pub(crate) async fn until(&self, within: Duration, what: &str, is_so: impl Fn(&PoolBrief) -> bool) -> Result<()> {
        wait::until(within, what, async || match self.pools().await {
            Ok(pools) if !pools.is_empty() && pools.iter().all(&is_so) => Ok(()),
            Ok(pools) => Err(format!("{:?}", pools.iter().find(|p| !is_so(p)))),
            Err(trouble) => Err(trouble.0),
        })
        .await
        .map_err(|trouble| Trouble(format!("{trouble}\n{}", self.running.output_tail())))
    }

    /// Ends workers and control process in the orderly way.
    pub(crate) async fn tear_down(mut self) -> Result<()> {
        let _ending: serde_json::Value = self.ask(Request::Teardown(Teardown { force: true, within: None })).await?;
        self.until(Duration::from_secs(60), "everything has ended", |pool| pool.counts.live == 0)
            .await?;
        self.running.stop(Duration::from_secs(20)).await.map(drop)
    }
}

async fn running_client(running: &mut Running, url: &str, token: &std::path::Path) -> Result<Client> {
    let mut client = None;
    running
        .until_ready(Duration::from_secs(30), async || {
            let text = std::fs::read_to_string(token).map_err(|e| Trouble::new("read the operator's token", e))?;
            let asking = Client::new(format!("http://{url}"), text);
            asking
                .ask(&Request::Status(Nothing {}), WITHIN)
                .await
                .map_err(|e| Trouble::new("ask for the status", e))?;
            client = Some(asking);
            Ok(())
        })
        .await?;
    client.ok_or_else(|| Trouble::new("start the control process", "no client"))
}

/// A runtime with two threads, like that of `serve`.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| Trouble::new("start a runtime", e))
}
