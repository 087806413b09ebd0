//! The data directory: made private, and used by one process at a time.
//!
//! The lock is the operating system's, on an open file, so that it ends with the process however that ends; a file that merely
//! exists would outlive `kill -9` and need a person. The file's content only says who holds it, for the message to the second one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use epu_core::time::{Clock, SystemClock};

use crate::Error;
use crate::trouble::Trouble;

/// Nobody else may look in.
const DIRECTORY_MODE: u32 = 0o700;
/// Nobody else may read it: it holds the installation's keys.
pub(crate) const FILE_MODE: u32 = 0o600;
/// The most that is read of what a lock file says; the text is about half as long.
const HOLDER_MAX: u64 = 200;

/// Makes the directory if it is not there. One that is there and empty becomes private too; one with content is left as it is,
/// since somebody may have named a directory that is not ours alone.
pub(crate) fn prepare(dir: &Path) -> Result<(), Error> {
    let failed = |error| Trouble::of_disk(dir, error).while_doing(format!("make the data directory {}", dir.display()));
    if !dir.exists() {
        let known = dir.ancestors().find(|above| above.exists()).map(Path::to_owned);
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir).map_err(failed)?;
        // Or a power cut could take the directory away together with records that were said to be safe. One that may not be
        // read cannot be synchronised and is left to the operating system.
        for above in dir.ancestors().skip(1) {
            if let Ok(above) = File::open(above) {
                above.sync_all().map_err(failed)?;
            }
            if known.as_deref() == Some(above) {
                break;
            }
        }
        return Ok(());
    }
    let found = fs::metadata(dir).map_err(failed)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.mode() & 0o077 != 0 {
        if ours && fs::read_dir(dir).map_err(failed)?.next().is_none() {
            fs::set_permissions(dir, fs::Permissions::from_mode(DIRECTORY_MODE)).map_err(failed)?;
        } else {
            tracing::warn!(dir = %dir.display(), "others may look into the data directory; `chmod 700` closes it");
        }
    }
    Ok(())
}

/// Makes the file if it is not there, and private if it is not.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// Held for as long as it exists.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// Closing the file is not enough: a process that another thread is just starting has it open, too, until it becomes its own program.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the data directory stays locked until this process ends");
        }
    }
}

impl Lock {
    /// Takes the lock of the directory, or says who has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let failed = |error| Trouble::of_disk(dir, error).while_doing(format!("lock the data directory {}", dir.display()));
        let mut file = private_file(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    what: format!("the data directory {}", dir.display()),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let since = SystemClock::start().now();
        let said = format!("process {} (since {since})\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(said.as_bytes()))
            .map_err(failed)?;
        Ok(Self(file))
    }
}

#[cfg(test)]
impl Lock {
    /// The same open file once more, as a process has it that was forked.
    pub(crate) fn shared(&self) -> File {
        self.0.try_clone().expect("one more file")
    }
}

/// What the lock file says; when it says nothing, its holder is just starting or cannot write.
fn holder(file: &mut File) -> String {
    let mut said = String::new();
    match file.take(HOLDER_MAX).read_to_string(&mut said) {
        Ok(_) if !said.trim().is_empty() => said.trim().to_owned(),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}
