//! The program `fake-ec2` as a process of its own, for tests whose subject is killed, restarted and measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::count::Report;
use super::machines;
use super::plan::{Fate, Plan};
use crate::keeper::Kept;
use crate::{Result, Trouble, tail_of, wait, web};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end, its machines included.
const END: Duration = Duration::from_secs(10);

/// A running `fake-ec2`. It and every machine that it booted end when this is dropped, and when the test program ends.
#[derive(Debug)]
pub struct FakeEc2Process {
    program: Kept,
    /// Its plan and what it said.
    directory: TempDir,
    url: String,
}

impl FakeEc2Process {
    /// Starts one with more arguments, such as `["--boot", dir, "--agent", program]`.
    ///
    /// # Errors
    /// When it is not built or does not listen in time; with the end of its output.
    pub async fn start(seed: u64, plan: &Plan, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("epu-fake-ec2-").tempdir();
        let directory = directory.map_err(|e| Trouble::new("make a directory for the fake EC2", e))?;
        let (file, output) = (directory.path().join("plan.json"), directory.path().join("output.log"));
        let text = serde_json::to_vec(plan).map_err(|e| Trouble::new("write the plan", e))?;
        std::fs::write(&file, text).map_err(|e| Trouble::new("write the plan", e))?;
        let files = std::fs::File::create(&output).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = files.map_err(|e| Trouble::new("make the output file", e))?;
        // SIGTERM, not SIGKILL, when the test program dies: it then still ends its machines.
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program()?)
            .args(["--listen", "127.0.0.1:0", "--seed", &seed.to_string(), "--plan"])
            .arg(&file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let mut program = Kept::start(command)?;
        let listening = wait::until(START, "the fake EC2 listens", async || {
            if let Some(status) = program.ended() {
                return Ok(Err(Trouble::new("start fake-ec2", format!("it ended with {status}"))));
            }
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            let url = said.lines().find_map(|line| line.strip_prefix("listening on "));
            url.map(|url| Ok(url.to_owned())).ok_or("it has not said where it listens")
        });
        match listening.await {
            Ok(Ok(url)) => Ok(Self { program, directory, url }),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", tail_of(&output, 20)))),
        }
    }

    /// Its address: the endpoint of EC2 and of STS.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id, for measuring what it costs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// The end of what it said.
    #[must_use]
    pub fn output_tail(&self) -> String {
        tail_of(&self.directory.path().join("output.log"), 40)
    }

    /// Everything that was counted, with every machine that there ever was.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn report(&self) -> Result<Report> {
        self.read("/_fake/state").await
    }

    /// What was counted, without the machines.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn summary(&self) -> Result<Report> {
        self.read("/_fake/state?summary").await
    }

    async fn read(&self, path: &str) -> Result<Report> {
        let page = web::get(&format!("{}{path}", self.url), None).await?;
        serde_json::from_str(&page.body).map_err(|e| Trouble::new("read the state of the fake EC2", e))
    }

    /// Replaces the plan.
    ///
    /// # Errors
    /// When it does not answer, or does not understand the plan.
    pub async fn set_plan(&self, plan: &Plan) -> Result<()> {
        let text = serde_json::to_string(plan).map_err(|e| Trouble::new("write the plan", e))?;
        self.post("/_fake/plan", text).await
    }

    /// Makes something become of a machine, now or as much later as the fate says.
    ///
    /// # Errors
    /// When it does not answer, or there is no such machine.
    pub async fn befall(&self, id: &str, fate: Fate) -> Result<()> {
        let text = serde_json::json!({ "instance": id, "fate": fate }).to_string();
        self.post("/_fake/befall", text).await
    }

    async fn post(&self, path: &str, body: String) -> Result<()> {
        let page = web::ask(hyper::Method::POST, &format!("{}{path}", self.url), None, body).await?;
        if page.status == 200 {
            Ok(())
        } else {
            Err(Trouble::new(format!("POST {path}"), page.body))
        }
    }
}

impl Drop for FakeEc2Process {
    fn drop(&mut self) {
        self.program.signal(Signal::TERM);
        let looks = END.as_millis() / 20;
        for _ in 0..looks {
            if self.program.ended().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.program.kill();
        // It may have been killed by somebody else before it could.
        machines::kill_all(&self.url);
    }
}

/// Where the program is: beside the tests, in the same profile.
fn program() -> Result<PathBuf> {
    let tests = std::env::current_exe().map_err(|e| Trouble::new("find the test program", e))?;
    // target/<profile>/deps/live-0123456789abcdef -> target/<profile>
    let profile = tests.ancestors().find(|dir| dir.join("deps").is_dir());
    let path = profile.unwrap_or_else(|| Path::new("target/debug")).join("fake-ec2");
    if path.is_file() {
        return Ok(path);
    }
    let why = "it has not been built; run `cargo build -p epu-tests --bin fake-ec2`";
    Err(Trouble::new(format!("find {}", path.display()), why))
}
