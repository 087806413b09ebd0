//! What Prometheus itself thinks of our metrics: `promtool` reads the text, and a real server scrapes it and answers questions.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::keeper::{self, Kept};
use crate::{Result, Trouble, ports, tail_of, wait, web};

/// What a server may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);
/// What `promtool` may take.
const CHECK: &str = "30";
const MISSING: &str = "it cannot be started; install the Debian package prometheus (tests/run does)";

/// Has `promtool` read a metrics page, as strictly as it does: wrong syntax and bad naming are both refused.
///
/// # Errors
/// What promtool says against it; or that promtool is not installed.
pub fn check(text: &str) -> Result<()> {
    let mut promtool = Command::new("timeout")
        .args([CHECK, "promtool", "check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Trouble::new("run promtool", e))?;
    // It reads all before it says anything, so that writing all first cannot block for ever; when it ends early the pipe breaks.
    let written = promtool.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
    let output = promtool.wait_with_output().map_err(|e| Trouble::new("run promtool", e))?;
    verdict("promtool check metrics", output)?;
    written.unwrap_or(Ok(())).map_err(|e| Trouble::new("write to promtool", e))
}

/// Has `promtool` run the tests of alert rules.
///
/// # Errors
/// Which failed and how; or that promtool is not installed.
pub fn test_rules(tests: &Path) -> Result<()> {
    let output = Command::new("timeout")
        .args([CHECK, "promtool", "test", "rules"])
        .arg(tests)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Trouble::new("run promtool", e))?;
    verdict("promtool test rules", output)
}

fn verdict(doing: &str, output: Output) -> Result<()> {
    match output.status.code() {
        Some(0) => Ok(()),
        Some(124) => Err(Trouble::new(doing, format!("no answer in {CHECK} s"))),
        Some(127) => Err(Trouble::new("run promtool", MISSING)),
        Some(_) | None => {
            let said = [output.stdout, output.stderr].concat();
            Err(Trouble::new(doing, String::from_utf8_lossy(&said).trim()))
        }
    }
}

/// A Prometheus server that scrapes one target every second. Ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    server: Kept,
    dir: TempDir,
    port: u16,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The labels, the name among them as `__name__`.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Prometheus {
    /// Starts one for `target`, written `host:port`, whose `/metrics` it reads; with a bearer token when one is given.
    ///
    /// # Errors
    /// When Prometheus is not installed or does not start; then with the end of its output.
    pub async fn scraping(target: &str, bearer: Option<&str>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("epu-prometheus-").tempdir();
        let dir = dir.map_err(|e| Trouble::new("make a directory for Prometheus", e))?;
        let (config, output) = (dir.path().join("prometheus.yml"), dir.path().join("output.log"));
        let bearer = bearer.map_or_else(String::new, |token| format!("    authorization: {{ credentials: '{token}' }}\n"));
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: epu\n{bearer}    \
             static_configs:\n      - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).map_err(|e| Trouble::new("write Prometheus' configuration", e))?;
        let files = std::fs::File::create(&output).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = files.map_err(|e| Trouble::new("make Prometheus' output file", e))?;
        let port = ports::free()?;
        let mut command = keeper::command("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let mut prometheus = Self {
            server: Kept::start(command)?,
            dir,
            port,
        };
        let ready = wait::until(START, "Prometheus is ready", async || prometheus.look().await).await;
        match ready {
            Ok(Ok(())) => Ok(prometheus),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", tail_of(&prometheus.output(), 20)))),
        }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    async fn look(&mut self) -> Result<Result<()>> {
        if let Some(status) = self.server.ended() {
            let why = if status.code() == Some(127) {
                MISSING.to_owned()
            } else {
                format!("it ended with {status}")
            };
            return Ok(Err(Trouble::new("start Prometheus", why)));
        }
        let page = web::get(&format!("{}/-/ready", self.url()), None).await?;
        if page.status == 200 {
            Ok(Ok(()))
        } else {
            Err(Trouble::new("not ready", page.body))
        }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a PromQL expression gives now. No lines when it matches nothing.
    ///
    /// # Errors
    /// When the expression is wrong or the answer is no instant vector.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let url = format!("{}/api/v1/query?query={}", self.url(), web::escape(expression));
        let answer = web::get(&url, None).await?.json()?;
        let unexpected = || Trouble::new(format!("ask Prometheus for {expression}"), &answer);
        let lines = answer
            .pointer("/data/result")
            .and_then(|lines| lines.as_array())
            .ok_or_else(unexpected)?;
        let read = |line: &serde_json::Value| {
            let labels = serde_json::from_value(line.get("metric")?.clone()).ok()?;
            let value = line.pointer("/value/1")?.as_str()?.parse().ok()?;
            Some(Sample { labels, value })
        };
        lines.iter().map(|line| read(line).ok_or_else(unexpected)).collect()
    }

    /// The one value that an expression gives; waits until it gives one, since scrapes happen once a second.
    ///
    /// # Errors
    /// When it gives none, or several, within the time.
    pub async fn value(&self, expression: &str, within: Duration) -> Result<f64> {
        wait::until(within, &format!("Prometheus has {expression}"), async || {
            let found = self.query(expression).await?;
            match found.as_slice() {
                [one] => Ok(one.value),
                other => Err(Trouble::new("lines", other.len())),
            }
        })
        .await
    }
}
