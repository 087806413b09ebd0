//! The README's first command in a fresh clone: nothing built, nothing running, until the demo has ended well.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use epu_tests::{Result, Trouble, tail_of};

use crate::clock::wall;
use crate::{Goal, Report};

/// Given up after this, in seconds.
const GIVEN_UP: &str = "1500";

pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let directory = tempfile::Builder::new()
        .prefix("epu-figures-")
        .tempdir()
        .map_err(|e| Trouble::new("make a directory", e))?;
    let clone = directory.path().join("epu");
    let cloned = Command::new("git")
        .args(["clone", "--quiet", "--no-hardlinks"])
        .arg(repository()?)
        .arg(&clone)
        .status();
    if !cloned.map_err(|e| Trouble::new("run git", e))?.success() {
        return Err(Trouble::new("clone the repository", "git failed"));
    }
    let log = directory.path().join("output");
    let file = || {
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| Trouble::new("open a log", e))
    };
    let mut command = Command::new("timeout");
    command
        .args(["-k", "10", GIVEN_UP, "cargo", "run", "--release", "--", "demo"])
        .current_dir(&clone);
    command
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_JOBS")
        .stdin(Stdio::null())
        .stdout(file()?)
        .stderr(file()?);
    let began = wall();
    let ended = command.status().map_err(|e| Trouble::new("run cargo", e))?;
    let took = began.elapsed();
    if !ended.success() {
        return Err(Trouble::new(
            "run the demo",
            format!("{ended} after {took:?}\n{}", tail_of(&log, 40)),
        ));
    }
    report.figure("first-command", took.as_secs_f64(), "s", Goal::Below(360.0));
    report.note(format!(
        "on {} cores; what is not committed is not in it",
        std::thread::available_parallelism().map_or(0, usize::from)
    ));
    let built = std::fs::read_to_string(&log).unwrap_or_default();
    report.notes.extend(
        built
            .lines()
            .filter(|line| line.contains("Finished `release`") || line.contains("time in all"))
            .map(|l| l.trim().to_owned()),
    );
    Ok(report)
}

/// Where this was built from.
fn repository() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned);
    here.filter(|dir| dir.join(".git").exists())
        .ok_or_else(|| Trouble::new("find the repository", "it is not where this was built"))
}
