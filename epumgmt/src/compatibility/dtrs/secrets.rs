//! Secrets that clients send, in files that only their owner can read: `credentials/CALLER/TYPE/NAME.FIELD.TAG` in the data directory.
//!
//! Records keep where a secret is and never what it is. Each time a secret is sent it gets a file of its own, whole and on the disk before a record
//! names it; so the keys of one pair change together, when the record does, and a process that is killed in between leaves the former pair in
//! use. A file that no record names any more is removed, at once or by [`Drawer::tidy`].
//!
//! A file is on the machine whose process took the call. Where services run on several machines, references are to be sent that mean something on
//! each of them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use epu_bus::token::fresh_secret;
use epu_core::time::Timestamp;
use tracing::{debug, warn};

/// How long a file may be there without a record that names it, which may be on its way.
const GRACE: Duration = Duration::from_secs(3_600);
/// The longest name of a file or directory.
const NAME_MAX: usize = 255;
/// Hexadecimal digits that tell files of one field apart.
const TAG: usize = 16;

/// Where secrets are.
#[derive(Debug, Clone)]
pub(super) struct Drawer {
    home: PathBuf,
}

/// Which secret.
pub(super) struct Label<'a> {
    /// Whose it is.
    pub caller: &'a str,
    /// Of which type of credentials.
    pub kind: &'a str,
    /// Of which credentials.
    pub name: &'a str,
    /// Which of their fields.
    pub field: &'a str,
}

impl Drawer {
    /// The one of a data directory.
    pub(super) fn in_directory(data_dir: &Path) -> Self {
        Self {
            home: data_dir.join("credentials"),
        }
    }

    /// Puts a secret into a file and gives the reference to it.
    ///
    /// # Errors
    /// When it cannot be written, or the names are too long for one.
    pub(super) async fn put(&self, label: &Label<'_>, secret: String) -> io::Result<String> {
        let tag = fresh_secret().map_err(io::Error::other)?;
        let directory = self.home.join(plain(label.caller)).join(plain(label.kind));
        let name = format!("{}.{}.{}", plain_name(label.name), plain(label.field), &tag[..TAG]);
        if name.len() + 4 > NAME_MAX || plain(label.caller).len() > NAME_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the names of caller and credentials are too long",
            ));
        }
        let written = tokio::task::spawn_blocking(move || write(&directory, &name, secret.as_bytes())).await;
        let path = written.map_err(io::Error::other)??;
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::other("the data directory's name is no text"))?;
        Ok(format!("file:{path}"))
    }

    /// Removes the files of these references that are here; others are not ours to remove.
    pub(super) async fn remove(&self, references: Vec<String>) {
        let home = self.home.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for path in references.iter().filter_map(|reference| inside(&home, reference)) {
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    // It is on the machine that took the call.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => debug!(file = %path.display(), "no such secret here"),
                    Err(error) => warn!(file = %path.display(), %error, "a secret that is not needed any more could not be removed"),
                }
            }
        });
        if let Err(error) = removed.await {
            warn!(%error, "secrets that are not needed any more could not be removed");
        }
    }

    /// Removes old files that none of these references names.
    pub(super) async fn tidy(&self, named: BTreeSet<String>, now: Timestamp) {
        let home = self.home.clone();
        let swept = tokio::task::spawn_blocking(move || sweep(&home, &named, now)).await;
        if let Ok(Err(error)) = swept {
            warn!(%error, "old files of secrets could not be looked through");
        }
    }
}

/// The file of a reference, when it is in the drawer.
fn inside(home: &Path, reference: &str) -> Option<PathBuf> {
    let path = PathBuf::from(reference.strip_prefix("file:")?);
    let below = path.strip_prefix(home).ok()?;
    let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    is_plain.then_some(path)
}

fn write(directory: &Path, name: &str, secret: &[u8]) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(name);
    let draft = directory.join(format!("{name}.new"));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(secret)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        });
    if let Err(error) = written {
        fs::remove_file(&draft).ok();
        return Err(error);
    }
    // The names too are to be on the disk before a record has them.
    for directory in directory.ancestors().take(3) {
        File::open(directory)?.sync_all()?;
    }
    Ok(path)
}

fn sweep(home: &Path, named: &BTreeSet<String>, now: Timestamp) -> io::Result<()> {
    let below = |directory: &Path| -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(directory) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    };
    for caller in below(home)? {
        for kind in below(&caller)? {
            for path in below(&kind)? {
                let is_named = path.to_str().is_some_and(|path| named.contains(&format!("file:{path}")));
                let written = fs::metadata(&path)?.modified()?;
                let age = written.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| {
                    let now = Duration::from_millis(u64::try_from(now.0).ok()?);
                    now.checked_sub(since)
                });
                if !is_named && age.is_some_and(|age| age > GRACE) {
                    debug!(file = %path.display(), "a secret that no record names is removed");
                    fs::remove_file(&path)?;
                }
            }
        }
    }
    Ok(())
}

/// A text as a name: letters, digits, `_` and `-` as they are, everything else by its bytes, so that no two texts have one name.
fn plain(text: &str) -> String {
    escaped(text, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The same of a name that something follows: dots stay.
fn plain_name(text: &str) -> String {
    escaped(text, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn escaped(text: &str, stays: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if stays(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn label<'a>(caller: &'a str, field: &'a str) -> Label<'a> {
        Label {
            caller,
            kind: "site",
            name: "ec2.east",
            field,
        }
    }

    #[tokio::test]
    async fn a_secret_is_in_a_file_of_its_owner_and_is_removed() {
        let home = tempfile::tempdir().expect("a directory");
        let drawer = Drawer::in_directory(home.path());
        let reference = drawer
            .put(&label("../a b", "secret_key"), "s3cret".to_owned())
            .await
            .expect("written");
        let path = PathBuf::from(reference.strip_prefix("file:").expect("a reference"));
        let parent = home.path().join("credentials/%2E%2E%2Fa%20b/site");
        assert_eq!(path.parent(), Some(parent.as_path()));
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(name.starts_with("ec2.east.secret_key."), "{name}");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&parent)), (0o600, 0o700));
        assert_eq!(mode(&home.path().join("credentials")), 0o700);
        assert_eq!(fs::read_to_string(&path).expect("read"), "s3cret");
        assert_eq!(fs::read_dir(&parent).expect("listed").count(), 1, "a draft is left");

        let again = drawer
            .put(&label("../a b", "secret_key"), "other".to_owned())
            .await
            .expect("written");
        assert_ne!(again, reference, "what a record names never changes");
        let outside = home.path().join("outside");
        fs::write(&outside, "x").expect("written");
        let sneaky = format!("file:{}/credentials/../outside", home.path().display());
        drawer
            .remove(vec![
                reference.clone(),
                reference,
                sneaky,
                format!("file:{}", outside.display()),
                "env:HOME".to_owned(),
            ])
            .await;
        assert!(!path.exists() && outside.exists());
        let long = "é".repeat(60);
        assert!(drawer.put(&label(&long, "secret_key"), "x".to_owned()).await.is_err());
    }

    #[tokio::test]
    async fn what_no_record_names_is_removed_after_a_while() {
        let home = tempfile::tempdir().expect("a directory");
        let drawer = Drawer::in_directory(home.path());
        let now = || {
            let file = home.path().join("now");
            fs::write(&file, "").expect("written");
            let at = fs::metadata(&file).and_then(|meta| meta.modified()).expect("a time");
            let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            Timestamp(i64::try_from(since.as_millis()).expect("a time"))
        };
        drawer.tidy(BTreeSet::new(), now()).await;
        let mut references = Vec::new();
        for field in ["secret_key", "client_key"] {
            references.push(drawer.put(&label("alice", field), "x".to_owned()).await.expect("written"));
        }
        let there = |reference: &String| Path::new(&reference["file:".len()..]).exists();
        let named = BTreeSet::from([references[0].clone()]);
        drawer.tidy(named.clone(), now()).await;
        assert!(references.iter().all(there), "its record may be on its way");
        let later = Timestamp(now().0 + 3_700_000);
        drawer.tidy(named, later).await;
        assert_eq!(references.iter().map(there).collect::<Vec<_>>(), [true, false]);
    }
}
