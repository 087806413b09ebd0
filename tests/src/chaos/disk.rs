//! A data directory that can run out of room.
//!
//! Where this user may mount: a small file system of its own under the data directory, which only the services, what they start, and who
//! knows the way in see. It belongs to a process that we hold, so that nothing stays mounted whatever ends us. Elsewhere: a limit on the
//! size of files, which the system answers with an error just so.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::keeper::{self, Kept};
use crate::processes::Proc;
use crate::{Result, Trouble, wait};

/// Room of the small file system. Too low: instances' own files fill it. Too high: filling it takes long.
const MEGABYTES: usize = 24;
/// Longest that a mount may take.
const SOON: Duration = Duration::from_secs(20);
/// How large files may be where room is a limit on files: a full disk takes nothing.
const TINY: &str = "0";

/// Where the data is.
#[derive(Debug)]
pub struct Disk {
    /// Whoever holds the small file system, where there is one.
    holder: Option<Kept>,
    data: PathBuf,
}

impl Disk {
    /// For this data directory, which must not be there yet; and what could not be done, if something could not.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub async fn under(data: &Path) -> Result<(Self, Option<Trouble>)> {
        fs::create_dir_all(data).map_err(|error| Trouble::new(format!("make {}", data.display()), error))?;
        let unlimited = |why| {
            let disk = Self {
                holder: None,
                data: data.to_owned(),
            };
            (disk, Some(why))
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(unlimited(Trouble::new("mount a small file system", "only root may")));
        }
        Ok(match Self::mounted(data).await {
            Ok(disk) => (disk, None),
            Err(trouble) => unlimited(trouble),
        })
    }

    async fn mounted(data: &Path) -> Result<Self> {
        let script = "mount -t tmpfs -o \"size=${2}m,mode=700\" tmpfs \"$1\" && exec sleep infinity";
        let mut command = keeper::command("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"]);
        command.arg(data).arg(MEGABYTES.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut holder = Kept::start(command)?;
        let mounts = format!("/proc/{}/mounts", holder.pid());
        let wanted = format!(" {} tmpfs ", data.display());
        let mounted = wait::until(SOON, "a small file system is mounted", async || {
            if fs::read_to_string(&mounts).is_ok_and(|mounts| mounts.contains(&wanted)) {
                return Ok(Ok(()));
            }
            match holder.ended() {
                Some(status) => Ok(Err(Trouble::new("mount a small file system", status))),
                None => Err("it is not"),
            }
        });
        mounted.await??;
        let data = PathBuf::from(format!("/proc/{}/root{}", holder.pid(), data.display()));
        Ok(Self {
            holder: Some(holder),
            data,
        })
    }

    /// The data directory as this process sees it.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The words before a program that is to live with this disk, in this directory.
    #[must_use]
    pub fn words(&self, directory: &Path) -> Vec<String> {
        let directory = directory.display().to_string();
        let words: Vec<String> = match &self.holder {
            Some(holder) => {
                // Entering another file system forgets the directory.
                let into = format!("--mount=/proc/{}/ns/mnt", holder.pid());
                ["nsenter", &into, "--", "sh", "-c", "cd \"$0\" && exec \"$@\"", &directory]
                    .map(str::to_owned)
                    .into()
            }
            // Too large a file is an error to the program rather than its end.
            None => ["sh", "-c", "trap '' XFSZ; cd \"$0\" && exec \"$@\"", &directory]
                .map(str::to_owned)
                .into(),
        };
        words
    }

    /// Leaves no room; `limited` are those whose files are limited where there is no file system to fill.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn fill(&self, limited: &[Proc]) -> Result<()> {
        if self.holder.is_none() {
            return limit(limited, TINY);
        }
        let path = self.filler();
        let doing = |error| Trouble::new(format!("fill {}", path.display()), error);
        let mut file = fs::File::create(&path).map_err(doing)?;
        let block = vec![0; 4_096];
        for _ in 0..MEGABYTES << 8 {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(doing(error)),
            }
        }
        Ok(())
    }

    /// There is room again.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn empty(&self, limited: &[Proc]) -> Result<()> {
        if self.holder.is_none() {
            return limit(limited, "unlimited");
        }
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Trouble::new(format!("empty {}", self.data.display()), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.data.join("filler")
    }
}

fn limit(procs: &[Proc], bytes: &str) -> Result<()> {
    for proc in procs.iter().filter(|proc| proc.is_alive()) {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &proc.pid.to_string(), &format!("--fsize={bytes}:unlimited")]);
        let status = command.status().map_err(|error| Trouble::new("run prlimit", error))?;
        if !status.success() && proc.is_alive() {
            return Err(Trouble::new("limit files", status));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_takes_nothing_until_it_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (disk, trouble) = Disk::under(&data).await.unwrap();
        assert_eq!(disk.holder.is_none(), trouble.is_some());
        let words = disk.words(dir.path());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["sh", "-c"]);
        command.arg("while read -r name; do echo x >data/$name 2>/dev/null && echo kept || echo refused; done");
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(program.stdout.take().unwrap());
        let mut told = program.stdin.take().unwrap();
        let mut ask = |name: &str| {
            use std::io::BufRead as _;
            told.write_all(format!("{name}\n").as_bytes()).unwrap();
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line
        };
        assert_eq!(ask("first"), "kept\n");
        let proc = [Proc::of(program.id()).unwrap()];
        disk.fill(&proc).unwrap();
        assert_eq!(ask("second"), "refused\n");
        disk.empty(&proc).unwrap();
        assert_eq!(ask("third"), "kept\n");
        assert_eq!(fs::read_to_string(disk.data().join("third")).unwrap(), "x\n");
        drop(told);
        program.wait().unwrap();
    }
}
