//! A work queue that needs no server: a directory. A job is a file in `new`; a worker claims it by renaming it into its own
//! folder under `claimed`, which the file system lets only one of them do, and renames it into `done` when it is done. The claims of a worker
//! that is confirmed gone are renamed back into `new`, never those of one that may come back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The queue's directory.
#[derive(Debug, Clone)]
pub(crate) struct Spool(PathBuf);

/// A job that was claimed.
#[derive(Debug)]
pub(crate) struct Claim {
    job: String,
    path: PathBuf,
    /// How long it takes.
    pub(crate) takes: Duration,
}

impl Spool {
    /// The queue in `root`, made if it is not there.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for part in ["new", "claimed", "done", "draft"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        Ok(Self(root.to_owned()))
    }

    /// Where jobs wait.
    pub(crate) fn waiting(&self) -> PathBuf {
        self.0.join("new")
    }

    /// Where jobs are that are being done, a folder a worker.
    pub(crate) fn claimed(&self) -> PathBuf {
        self.0.join("claimed")
    }

    /// Adds a job, whole or not at all.
    pub(crate) fn submit(&self, job: &str, takes: Duration) -> io::Result<()> {
        let draft = self.0.join("draft").join(job);
        std::fs::write(&draft, takes.as_millis().to_string())?;
        std::fs::rename(draft, self.waiting().join(job))
    }

    /// Takes the oldest job that nobody else took first.
    pub(crate) fn claim(&self, worker: &str) -> io::Result<Option<Claim>> {
        let own = self.claimed().join(worker);
        std::fs::create_dir_all(&own)?;
        for job in names(&self.waiting())? {
            let path = own.join(&job);
            match std::fs::rename(self.waiting().join(&job), &path) {
                Ok(()) => {
                    let takes = std::fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)?;
                    return Ok(Some(Claim {
                        job,
                        path,
                        takes: Duration::from_millis(takes),
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Notes that a claimed job is done, and by whom.
    pub(crate) fn done(&self, claim: &Claim, worker: &str) -> io::Result<()> {
        std::fs::rename(&claim.path, self.0.join("done").join(format!("{}~{worker}", claim.job)))
    }

    /// Gives back what a worker that is confirmed gone had claimed, and says how many jobs that were.
    pub(crate) fn give_back(&self, worker: &str) -> io::Result<usize> {
        let own = self.claimed().join(worker);
        let jobs = match names(&own) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        for job in &jobs {
            std::fs::rename(own.join(job), self.waiting().join(job))?;
        }
        Ok(jobs.len())
    }

    /// How many jobs wait, and how many are being done.
    pub(crate) fn depth(&self) -> io::Result<(usize, usize)> {
        let mut claimed = 0;
        for worker in names(&self.claimed())? {
            claimed += names(&self.claimed().join(worker)).map_or(0, |jobs| jobs.len());
        }
        Ok((names(&self.waiting())?.len(), claimed))
    }

    /// Workers that hold a claim.
    pub(crate) fn claimants(&self) -> io::Result<Vec<String>> {
        let workers = names(&self.claimed())?;
        Ok(workers
            .into_iter()
            .filter(|w| names(&self.claimed().join(w)).is_ok_and(|jobs| !jobs.is_empty()))
            .collect())
    }

    /// How often each job was done.
    pub(crate) fn finished(&self) -> io::Result<BTreeMap<String, u32>> {
        let mut times = BTreeMap::new();
        for name in names(&self.0.join("done"))? {
            let job = name.split('~').next().unwrap_or_default().to_owned();
            *times.entry(job).or_default() += 1;
        }
        Ok(times)
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_claimed_once_done_once_and_given_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        spool.submit("job-1", Duration::from_millis(5)).unwrap();
        let claim = spool.claim("a").unwrap().unwrap();
        assert!(spool.claim("b").unwrap().is_none());
        assert_eq!(spool.depth().unwrap(), (0, 1));
        assert_eq!(
            (spool.claimants().unwrap(), spool.give_back("a").unwrap()),
            (vec!["a".to_owned()], 1)
        );
        assert!(spool.done(&claim, "a").is_err(), "what was given back is no longer a's to finish");
        let claim = spool.claim("b").unwrap().unwrap();
        spool.done(&claim, "b").unwrap();
        assert_eq!(spool.finished().unwrap(), BTreeMap::from([("job-1".to_owned(), 1)]));
    }
}
