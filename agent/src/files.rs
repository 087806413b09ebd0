//! Small files: read with a bound, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest piece of output that travels, in characters.
pub const OUTPUT_MAX: usize = 4_000;
/// The longest a log of set-up and worker grows before it is put aside. Too low: the cause of a fault is gone before anybody looks.
/// Too high: a talkative worker fills the disk. At most twice as much lies on disk.
pub const LOG_MAX: u64 = 64 * 1_024 * 1_024;

/// Reads a text of at most `most` bytes; none when the file does not exist. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read_bounded(path: &Path, most: usize) -> io::Result<Option<String>> {
    // Opening a pipe would wait for its writer.
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => return Err(io::Error::other("not a file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("longer than {most} bytes")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a file so that a reader sees the old content or the new, never a part. `durable` also waits for the disk, so that it
/// outlives a crash of the machine.
///
/// # Errors
/// When it cannot be written; then the old content stands.
pub fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&beside, path)?;
    if durable && let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The end of a log from byte `from` on, at most [`OUTPUT_MAX`] characters. Empty when there is none or it cannot be read.
#[must_use]
pub fn tail(path: &Path, from: u64) -> String {
    read_tail(path, from).unwrap_or_default()
}

fn read_tail(path: &Path, from: u64) -> io::Result<String> {
    // A character has at most four bytes.
    let most = u64::try_from(OUTPUT_MAX * 4).unwrap_or(u64::MAX);
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A log shorter than where we began was put aside meanwhile: all of it is ours.
    let from = if from > length { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(most))))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(last_chars(String::from_utf8_lossy(&bytes).trim_end(), OUTPUT_MAX).to_owned())
}

/// The last `most` characters.
#[must_use]
pub fn last_chars(text: &str, most: usize) -> &str {
    let skip = text.chars().count().saturating_sub(most);
    text.char_indices().nth(skip).map_or("", |(at, _)| &text[at..])
}

/// Puts a log aside when it is longer than `most`: copied to `.1`, then emptied in place, since the writer holds it open (for
/// appending, so it goes on at the start). What is written between the two steps is lost. When the copy fails, as on a full disk,
/// the log is emptied all the same: the bound matters more.
///
/// # Errors
/// When it cannot be emptied.
pub fn put_aside(log: &Path, most: u64) -> io::Result<bool> {
    let length = match fs::metadata(log) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if length <= most {
        return Ok(false);
    }
    let aside = log.with_extension("log.1");
    if fs::copy(log, &aside).is_err() {
        match fs::remove_file(&aside) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a partial copy of the worker's log stays"),
        }
    }
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_characters_since_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("worker.log");
        assert_eq!(tail(&log, 0), "");
        fs::write(&log, "before\nafter\n").unwrap();
        assert_eq!(tail(&log, 7), "after");
        assert_eq!(tail(&log, 700), "before\nafter");
        fs::write(&log, "é".repeat(30_000)).unwrap();
        assert_eq!(tail(&log, 0), "é".repeat(OUTPUT_MAX));
        fs::write(&log, [0xff; 3]).unwrap();
        assert_eq!(tail(&log, 0), "\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_long_log_is_put_aside_under_its_writer() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("worker.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        writer.write_all(b"0123456789").unwrap();
        assert!(!put_aside(&log, 10).unwrap());
        assert!(put_aside(&log, 9).unwrap());
        writer.write_all(b"next").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "next");
        assert_eq!(fs::read_to_string(directory.path().join("worker.log.1")).unwrap(), "0123456789");
    }

    #[test]
    fn reading_is_bounded_and_absence_is_not_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert_eq!(read_bounded(&path, 4).unwrap(), None);
        replace(&path, b"1234", 0o600, true).unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap().as_deref(), Some("1234"));
        assert!(read_bounded(&path, 3).is_err());
    }
}
