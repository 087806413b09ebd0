//! Work for the workers: a directory of jobs. A worker takes a job by renaming it into its own directory, and is done with it when it has
//! renamed it into `done`; a job whose worker died is put back, as a broker gives out again what nobody acknowledged.
//!
//! Renaming is atomic and a job is one file, so every job is in exactly one place at any time, and whose hands it was in is known whatever
//! services believe.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use epu_core::id::InstanceId;
use epu_core::time::Timestamp;

use super::seen::Table;
use crate::{Result, Trouble};

/// The worker. It takes no job that it cannot say it is busy with, so that a full disk makes it wait rather than lie, and writes down
/// when it had work and when not in a place that is never full.
const WORKER: &str = r#"
spool=$1
mine=$spool/taken/$EPU_INSTANCE
mark() { echo "$(date +%s%3N) $1" >>"$spool/marks/$EPU_INSTANCE"; }
say() { echo "$1" >"$EPU_DIR/status"; }
mkdir -p "$mine"
say idle
while [ ! -e "$EPU_DIR/drain" ]; do
    set -- "$spool"/queue/*
    if [ -e "$1" ] && say busy; then
        for job in "$@"; do
            if mv "$job" "$mine/" 2>/dev/null; then
                mark busy
                job=${job##*/}
                sleep "$(cat "$mine/$job")"
                mv "$mine/$job" "$spool/done/"
                mark idle
                break
            fi
        done
        say idle
    else
        sleep 0.4
    fi
done
"#;

/// When a worker took work, or was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Timestamp,
    /// Whether it had work from then on.
    pub busy: bool,
}

/// Where jobs are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Jobs {
    /// Waiting.
    pub queued: BTreeSet<String>,
    /// In somebody's hands.
    pub taken: BTreeSet<String>,
    /// Done.
    pub done: BTreeSet<String>,
}

/// The directory, and what was ever put into it.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    given: BTreeSet<String>,
    interrupted: BTreeMap<InstanceId, BTreeSet<String>>,
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let doing = || format!("read {}", dir.display());
    let entries = fs::read_dir(dir).map_err(|error| Trouble::new(doing(), error))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let names: io::Result<BTreeSet<String>> = names.collect();
    let mut names = names.map_err(|error| Trouble::new(doing(), error))?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        let make = || {
            for below in ["queue", "taken", "done", "marks"] {
                fs::create_dir_all(dir.join(below))?;
            }
            fs::write(dir.join("worker.sh"), WORKER)
        };
        make().map_err(|error| Trouble::new(format!("make {}", dir.display()), error))?;
        Ok(Self {
            dir: dir.to_owned(),
            given: BTreeSet::new(),
            interrupted: BTreeMap::new(),
        })
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// Puts in a job that takes so many milliseconds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn give(&mut self, takes_ms: u64) -> Result<()> {
        let name = format!("job-{:04}", self.given.len());
        let (draft, place) = (self.dir.join(".draft"), self.dir.join("queue").join(&name));
        let seconds = format!("{}.{:03}\n", takes_ms / 1_000, takes_ms % 1_000);
        fs::write(&draft, seconds)
            .and_then(|()| fs::rename(&draft, &place))
            .map_err(|error| Trouble::new(format!("write {}", place.display()), error))?;
        self.given.insert(name);
        Ok(())
    }

    /// How many jobs there ever were.
    #[must_use]
    pub fn given(&self) -> &BTreeSet<String> {
        &self.given
    }

    /// Where they are. A job that is on its way between two looks is not seen; look again.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn jobs(&self) -> Result<Jobs> {
        let mut taken = BTreeSet::new();
        for owner in names(&self.dir.join("taken"))? {
            taken.extend(names(&self.dir.join("taken").join(owner))?);
        }
        Ok(Jobs {
            queued: names(&self.dir.join("queue"))?,
            taken,
            done: names(&self.dir.join("done"))?,
        })
    }

    /// Puts back what is in the hands of instances of which nothing runs.
    ///
    /// # Errors
    /// When something cannot be read or put back.
    pub fn put_back(&mut self, installation: &str) -> Result<()> {
        let mut held = BTreeMap::new();
        for owner in names(&self.dir.join("taken"))? {
            let jobs = names(&self.dir.join("taken").join(&owner))?;
            if let (Ok(id), false) = (owner.parse::<InstanceId>(), jobs.is_empty()) {
                held.insert(id, jobs);
            }
        }
        // After that look: whoever is not there now is not at it any more.
        let alive = Table::of(installation).instances();
        held.retain(|id, _| !alive.contains(id));
        for (id, jobs) in held {
            for job in jobs {
                let from = self.dir.join("taken").join(id.to_string()).join(&job);
                match fs::rename(&from, self.dir.join("queue").join(&job)) {
                    Ok(()) => drop(self.interrupted.entry(id).or_default().insert(job)),
                    // Done in the very moment.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Trouble::new(format!("put {} back", from.display()), error)),
                }
            }
        }
        Ok(())
    }

    /// What was put back, by whose hands it had been in.
    #[must_use]
    pub fn interrupted(&self) -> BTreeMap<InstanceId, BTreeSet<String>> {
        self.interrupted.clone()
    }

    /// What workers wrote down.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn marks(&self) -> Result<BTreeMap<InstanceId, Vec<Mark>>> {
        let mut all = BTreeMap::new();
        for owner in names(&self.dir.join("marks"))? {
            let path = self.dir.join("marks").join(&owner);
            let text = fs::read_to_string(&path).map_err(|error| Trouble::new(format!("read {}", path.display()), error))?;
            if let Ok(id) = owner.parse() {
                all.insert(id, text.lines().filter_map(mark).collect());
            }
        }
        Ok(all)
    }
}

/// A line that a worker wrote whole; one that it died over is none.
fn mark(line: &str) -> Option<Mark> {
    let (at, word) = line.split_once(' ')?;
    let busy = match word {
        "busy" => true,
        "idle" => false,
        _ => return None,
    };
    let at = Timestamp(at.parse().ok()?);
    Some(Mark { at, busy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_somebody_who_is_gone_is_put_back_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path()).unwrap();
        spool.give(1_050).unwrap();
        spool.give(20).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("queue/job-0000")).unwrap(), "1.050\n");
        let id: InstanceId = "0198f000-0000-7000-8000-000000000001".parse().unwrap();
        let mine = dir.path().join("taken").join(id.to_string());
        fs::create_dir(&mine).unwrap();
        fs::rename(dir.path().join("queue/job-0001"), mine.join("job-0001")).unwrap();
        let jobs = spool.jobs().unwrap();
        assert_eq!((jobs.queued.len(), jobs.taken.len(), jobs.done.len()), (1, 1, 0));

        spool.put_back("an installation of which nothing runs").unwrap();
        assert_eq!(spool.jobs().unwrap().queued.len(), 2);
        assert_eq!(spool.interrupted()[&id], BTreeSet::from(["job-0001".to_owned()]));
        assert_eq!(spool.given().len(), 2);
    }

    #[test]
    fn marks_are_read_and_half_a_line_is_none() {
        let busy = |at, busy| Mark { at: Timestamp(at), busy };
        let read: Vec<Mark> = "5 busy\n7 idle\n9 bu".lines().filter_map(mark).collect();
        assert_eq!(read, [busy(5, true), busy(7, false)]);
    }
}
