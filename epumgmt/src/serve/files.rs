//! What a process keeps in the data directory beside records: secrets that only their owner can read, and the address that agents
//! were given.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use epu_bus::token::fresh_secret;
use tracing::warn;

use super::Error;

/// The installation's key: every agent's token is made from it.
pub(super) const KEY_FILE: &str = "installation.key";
/// The address that agents were last given.
const ADDRESS_FILE: &str = "address";

/// Makes the data directory, for its owner only, when it is not there.
pub(super) fn directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::file(path, source))
}

/// The address that agents were last given, when it is another one: those that live would not find us any more.
pub(super) fn other_address(data_dir: &Path, address: &str) -> Result<Option<String>, Error> {
    let path = data_dir.join(ADDRESS_FILE);
    match std::fs::read_to_string(&path) {
        Ok(known) => Ok(Some(known.trim().to_owned()).filter(|known| !known.is_empty() && known != address)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file(&path, source)),
    }
}

/// Remembers the address that agents are given from now on.
pub(super) fn keep_address(data_dir: &Path, address: &str) -> Result<(), Error> {
    replace(&data_dir.join(ADDRESS_FILE), address)
}

/// Writes a file that only its owner can read, in place of what is there: others see the former one or this one, whole.
pub(super) fn replace(path: &Path, content: &str) -> Result<(), Error> {
    let draft = draft(path, content).map_err(|source| Error::file(path, source))?;
    std::fs::rename(draft, path).map_err(|source| Error::file(path, source))
}

/// The secret in a file that only its owner can read, made when there is none. Of several processes that make it at once, one
/// does, and the others take that one's.
pub(super) fn secret_in(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::file(path, source);
    if !path.try_exists().map_err(failed)? {
        let draft = draft(path, &fresh_secret()?).map_err(failed)?;
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft).map_err(failed)?;
        if let Err(error) = linked
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(failed(error));
        }
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        warn!(file = %path.display(), "others can read this secret; chmod 600 it");
    }
    Ok(text.trim().to_owned())
}

/// Writes beside `path`, whole and on the disk, what is to be there.
fn draft(path: &Path, content: &str) -> std::io::Result<std::path::PathBuf> {
    // A name of its own: others may write theirs at the same time.
    let name = fresh_secret().map_err(std::io::Error::other)?;
    let draft = path.with_extension(format!("{}.new", &name[..16]));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.key");
        let made: Vec<String> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| secret_in(&path).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(made.iter().all(|secret| *secret == made[0] && secret.len() >= 32), "{made:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "drafts are left");
    }

    #[test]
    fn the_address_that_agents_have_is_remembered() {
        let home = tempfile::tempdir().unwrap();
        let (old, new) = ("127.0.0.1:8650", "127.0.0.1:9000");
        assert_eq!(other_address(home.path(), old).unwrap(), None, "a directory of before");
        keep_address(home.path(), old).unwrap();
        assert_eq!(other_address(home.path(), old).unwrap(), None);
        assert_eq!(other_address(home.path(), new).unwrap().as_deref(), Some(old));
        keep_address(home.path(), new).unwrap();
        assert_eq!(
            other_address(home.path(), old).unwrap().as_deref(),
            Some(new),
            "the new one is kept"
        );
    }
}
