//! The memory of this whole process, as the kernel sees it: coarser than counting what is allocated, and free.

use std::cell::Cell;

use super::Meter;

/// Watches the process's resident memory: what it grew by at the most, in bytes.
#[derive(Debug, Default)]
pub struct Resident(Cell<usize>);

impl Meter for Resident {
    /// Tells the kernel to forget the highest so far (proc(5), `clear_refs`, 5). Where it may not, growth is counted from the highest.
    fn begin(&self) {
        std::fs::write("/proc/self/clear_refs", "5").ok();
        self.0.set(highest());
    }

    fn most(&self) -> usize {
        highest().saturating_sub(self.0.get())
    }
}

/// The highest resident memory, from `VmHWM: <kB> kB`.
fn highest() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}
