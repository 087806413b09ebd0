//! What instances leave behind: their output, and when that goes.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use epu_core::id::InstanceId;
use epu_core::time::Timestamp;

use super::super::IaasError;
use super::failed;

/// How much of the end of a file is read at the most.
const TAIL_MAX: u64 = 256 * 1024;

/// The last lines of the worker's output; of the agent's where the worker wrote nothing.
pub(super) fn tail(directory: &Path, lines: u32) -> Result<Option<String>, IaasError> {
    let mut found = None;
    for name in ["worker.log", "agent.log"] {
        let path = directory.join(name);
        match tail_of(&path, lines) {
            Ok(text) if !text.is_empty() => return Ok(Some(text)),
            Ok(text) => found = Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&format!("read {}", path.display()), &error)),
        }
    }
    Ok(found)
}

fn tail_of(path: &Path, lines: u32) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut kept: Vec<&str> = text.lines().rev().take(usize::try_from(lines).unwrap_or(usize::MAX)).collect();
    kept.reverse();
    // The first line of a cut file is a part of one.
    if from > 0 && kept.len() > 1 && text.starts_with(kept[0]) {
        kept.remove(0);
    }
    let mut out = kept.join("\n");
    if !out.is_empty() {
        out.push('\n');
    }
    Ok(out)
}

/// Removes directories of instances that do not run and were last changed before `before`.
pub(super) fn tidy(home: &Path, before: Timestamp, most: u32, runs: impl Fn(InstanceId) -> bool) -> Result<u32, IaasError> {
    let doing = |error: &std::io::Error| failed(&format!("tidy {}", home.display()), error);
    let entries = match std::fs::read_dir(home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(doing(&error)),
    };
    let limit = UNIX_EPOCH + Duration::from_millis(u64::try_from(before.0).unwrap_or(0));
    let mut removed = 0;
    let mut fault = None;
    for entry in entries {
        if removed >= most {
            break;
        }
        let entry = entry.map_err(|error| doing(&error))?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<InstanceId>().ok()) else {
            continue;
        };
        let old = entry
            .metadata()
            .and_then(|about| about.modified())
            .is_ok_and(|changed| changed < limit);
        if old && !runs(id) {
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) => fault = Some(doing(&error)),
            }
        }
    }
    fault.map_or(Ok(removed), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_in_whole_lines() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(tail(home.path(), 5).unwrap(), None);
        std::fs::write(home.path().join("agent.log"), "agent\n").unwrap();
        assert_eq!(tail(home.path(), 5).unwrap().unwrap(), "agent\n");
        std::fs::write(home.path().join("worker.log"), "a\nb\nc").unwrap();
        assert_eq!(tail(home.path(), 2).unwrap().unwrap(), "b\nc\n");
        let long = format!("{}\nlast\n", "x".repeat(300 * 1024));
        std::fs::write(home.path().join("worker.log"), long).unwrap();
        assert_eq!(tail(home.path(), 100).unwrap().unwrap(), "last\n");
    }
}
