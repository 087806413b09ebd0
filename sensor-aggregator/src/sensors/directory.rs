//! How many files wait in a directory, and are being worked on.
//!
//! Files that wait are counted before those in progress: a file that a worker claims in between is then counted twice rather
//! than not at all, and a pool is not shrunk for work that was merely being moved.
//!
//! Counting runs on a thread of its own, since a network file system can hang for minutes. A count that hangs is waited for by
//! the next reading too instead of being started again, so a sensor never holds more than one thread.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::pool::DirectorySensor;
use tokio::task::JoinHandle;

use super::{Source, Value};

/// The most entries that are looked at in one reading; beyond that there are "at least so many". Too high: a reading takes long.
pub const ENTRIES_MAX: u32 = 1_000_000;

/// Counts the files of a directory.
#[derive(Debug)]
pub struct Directory {
    sensor: DirectorySensor,
    source: String,
    counting: Option<JoinHandle<Result<u32, Fault>>>,
}

impl Directory {
    /// Counts as `sensor` says, and says `source` of where the amount came from.
    #[must_use]
    pub fn new(sensor: DirectorySensor, source: String) -> Self {
        Self {
            sensor,
            source,
            counting: None,
        }
    }
}

#[async_trait]
impl Source for Directory {
    async fn read(&mut self) -> Result<Value, Fault> {
        // One that ended after its reader had given up counted too long ago.
        let hanging = self.counting.take().filter(|counting| !counting.is_finished());
        let sensor = &self.sensor;
        let counting = self.counting.insert(hanging.unwrap_or_else(|| {
            let sensor = sensor.clone();
            tokio::task::spawn_blocking(move || count(&sensor, ENTRIES_MAX))
        }));
        let counted = counting.await;
        self.counting = None;
        let files = counted.map_err(|error| Fault::new("internal", format!("count files: {error}")))??;
        Ok(Value {
            amount: f64::from(files),
            covers_in_progress: self.sensor.in_progress.is_some(),
            source: self.source.clone(),
        })
    }
}

/// Files that wait and, if asked for, those in the folders of workers.
fn count(sensor: &DirectorySensor, most: u32) -> Result<u32, Fault> {
    let mut counting = Counting { looked: 0, files: 0, most };
    counting.folder(&sensor.path, None).map_err(|error| fault(&sensor.path, &error))?;
    if let Some(in_progress) = &sensor.in_progress {
        let mut workers = Vec::new();
        counting
            .folder(in_progress, Some(&mut workers))
            .map_err(|error| fault(in_progress, &error))?;
        for worker in workers {
            match counting.folder(&worker, None) {
                Ok(()) => {}
                // Taken away since it was listed: nothing is being worked on there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fault(&worker, &error)),
            }
        }
    }
    Ok(counting.files)
}

struct Counting {
    looked: u32,
    files: u32,
    most: u32,
}

impl Counting {
    /// Counts the files of a folder, or lists the folders in it.
    fn folder(&mut self, path: &Path, mut folders: Option<&mut Vec<PathBuf>>) -> io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            if self.looked >= self.most {
                break;
            }
            let entry = entry?;
            self.looked += 1;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match (entry.file_type()?.is_dir(), &mut folders) {
                (true, Some(folders)) => folders.push(entry.path()),
                (false, None) => self.files += 1,
                (true, None) | (false, Some(_)) => {}
            }
        }
        Ok(())
    }
}

fn fault(path: &Path, error: &io::Error) -> Fault {
    let code = if error.kind() == io::ErrorKind::NotFound {
        "directory-missing"
    } else {
        "directory-unreadable"
    };
    Fault::new(code, format!("count files in {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name), "").unwrap();
        }
    }

    fn over(path: PathBuf, in_progress: Option<PathBuf>) -> Directory {
        Directory::new(DirectorySensor { path, in_progress }, "directory".to_owned())
    }

    #[tokio::test]
    async fn files_that_wait_are_counted_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a", "b", ".hidden", "c.tmp"]);
        touch(&dir.path().join("folder"), &["inside"]);
        let read = over(dir.path().to_owned(), None).read().await.unwrap();
        assert_eq!((read.amount, read.covers_in_progress), (3.0, false));
    }

    #[tokio::test]
    async fn files_of_workers_count_too_when_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (waiting, claimed) = (dir.path().join("waiting"), dir.path().join("claimed"));
        touch(&waiting, &["a"]);
        touch(&claimed.join("worker-1"), &["b", "c", ".hidden"]);
        touch(&claimed.join("worker-2"), &["d"]);
        touch(&claimed.join(".old"), &["e"]);
        touch(&claimed, &["stray"]);
        let mut directory = over(waiting.clone(), Some(claimed.clone()));
        let read = directory.read().await.unwrap();
        assert_eq!((read.amount, read.covers_in_progress), (4.0, true));
        // An empty one is zero, which is an amount, unlike a missing one.
        for folder in [&waiting, &claimed] {
            std::fs::remove_dir_all(folder).unwrap();
            std::fs::create_dir(folder).unwrap();
        }
        assert_eq!(directory.read().await.unwrap().amount, 0.0);
    }

    #[tokio::test]
    async fn a_missing_directory_is_a_fault_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let (waiting, claimed) = (dir.path().join("waiting"), dir.path().join("claimed"));
        let mut directory = over(waiting.clone(), Some(claimed.clone()));
        assert_eq!(directory.read().await.unwrap_err().code, "directory-missing");
        touch(&waiting, &["a"]);
        assert_eq!(directory.read().await.unwrap_err().code, "directory-missing");
        touch(&claimed, &[]);
        assert_eq!(directory.read().await.unwrap().amount, 1.0);
    }

    #[tokio::test]
    async fn what_is_no_directory_is_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["file"]);
        let fault = over(dir.path().join("file"), None).read().await.unwrap_err();
        assert_eq!(fault.code, "directory-unreadable");
        assert!(fault.text.contains("file"), "{}", fault.text);
    }

    #[test]
    fn counting_ends_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a", "b", "c", "d"]);
        let sensor = DirectorySensor {
            path: dir.path().to_owned(),
            in_progress: None,
        };
        assert_eq!(count(&sensor, 3), Ok(3));
    }
}
