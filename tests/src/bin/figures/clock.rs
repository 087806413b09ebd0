//! What was used: processor time of this thread and of processes, memory of processes, and the wall clock.
//!
//! The kernel counts a thread's processor time in nanoseconds but brings the account up to date only now and then; giving up the
//! processor for a moment makes it do so. That costs some microseconds, so what is measured must be long against that.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use epu_tests::{Result, Trouble};

/// Ticks of a second in `/proc/<pid>/stat`: Linux fixes it at 100 for programs, whatever the kernel itself uses.
const TICKS: f64 = 100.0;

/// Now, by the wall clock, for measuring lengths.
#[expect(clippy::disallowed_methods, reason = "a figure is about real time")]
pub(crate) fn wall() -> Instant {
    Instant::now()
}

/// The processor time of the thread that made it.
pub(crate) struct ThreadCpu(File);

impl ThreadCpu {
    pub(crate) fn here() -> Result<Self> {
        File::open("/proc/thread-self/schedstat")
            .map(Self)
            .map_err(|e| Trouble::new("open /proc/thread-self/schedstat", e))
    }

    /// Used so far. To be asked by the thread that made it.
    pub(crate) fn used(&self) -> Result<Duration> {
        std::thread::yield_now();
        let mut text = [0; 128];
        let read = self
            .0
            .read_at(&mut text, 0)
            .map_err(|e| Trouble::new("read /proc/thread-self/schedstat", e))?;
        let text = String::from_utf8_lossy(&text[..read]);
        let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
        nanos
            .map(Duration::from_nanos)
            .ok_or_else(|| Trouble::new("read /proc/thread-self/schedstat", text))
    }
}

/// The smallest of five, or why one could not be had.
pub(crate) fn best_of_five(mut one: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = one()?;
    for _ in 0..4 {
        best = best.min(one()?);
    }
    Ok(best)
}

/// The processor time of a process so far, all its threads together, those that have ended too; to 10 ms.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|e| Trouble::new(format!("read {path}"), e))?;
    // After the name in parentheses, which may hold anything: user time is field 14 and system time field 15 of proc(5).
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_ascii_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u32>().ok()).map(f64::from);
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_secs_f64((user + system) / TICKS)),
        (_, _) => Err(Trouble::new(format!("read {path}"), text)),
    }
}

/// Resident memory of a process, in MB (10^6 bytes). Pages shared with others count whole.
pub(crate) fn rss_of(pid: u32) -> Result<f64> {
    megabytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Resident memory of a process, in MB (10^6 bytes). Of pages that it shares with n others it has the n-th part.
pub(crate) fn pss_of(pid: u32) -> Result<f64> {
    megabytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn megabytes(path: &str, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path).map_err(|e| Trouble::new(format!("read {path}"), e))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<f64>().ok());
    kilobytes
        .map(|kb| kb * 1_024.0 / 1e6)
        .ok_or_else(|| Trouble::new(format!("read {path}"), format!("no {key}")))
}

/// In milliseconds.
pub(crate) fn ms(length: Duration) -> f64 {
    length.as_secs_f64() * 1_000.0
}
