//! A certificate for the door, and an authority for it, for those who have none: made at the first start, renewed by itself.
//!
//! Agents pin the authority, so it stays: it is good for ten years, and its own certificate is then made anew with the same key, by which
//! those that pinned the former one go on believing. The door's certificate is good for one year, as others are, and is made anew a month
//! before its end, or when the names it is for are others. Certificate and key are one file, which is exchanged whole: nobody ever reads
//! one of them with the other's predecessor. Whoever deletes the directory gets another authority, and agents that live believe the former.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epu_bus::http::tls::{Files, facts_of};
use epu_core::time::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use ring::digest;
use tracing::info;

use super::{Error, files};
use crate::config::tls::{SELF_MADE_DIR, authority_in};

const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority is good.
const AUTHORITY_FOR: Duration = DAY.saturating_mul(3_650);
/// How long before its end it is made anew: longer than what it signs is good, which must not outlive it.
const AUTHORITY_ANEW: Duration = DAY.saturating_mul(400);
/// How long the door's certificate is good. Higher: some programs do not believe certificates that are good for longer than 398 days.
const DOOR_FOR: Duration = DAY.saturating_mul(365);
/// How long before its end it is made anew. Too low: a process that is stopped for so long comes back with one that has expired.
const DOOR_ANEW: Duration = DAY.saturating_mul(30);
/// Certificates are good from a day ago, for machines whose clock is behind.
const SINCE: Duration = DAY;

/// The authority's key.
const AUTHORITY_KEY: &str = "ca.key";
/// The door's certificate and its key.
const DOOR_FILE: &str = "door.pem";

/// Where the door finds its certificate and key.
pub(super) fn files_in(data_dir: &Path) -> Files {
    let door = data_dir.join(SELF_MADE_DIR).join(DOOR_FILE);
    Files {
        certificate: door.clone(),
        key: door,
    }
}

/// Makes what is not there, and what is due to be made anew. `names` are what the door's certificate is for, the most telling first. May be
/// repeated; does nothing while nothing is due.
pub(super) fn make(data_dir: &Path, names: &[String], now: Timestamp) -> Result<(), Error> {
    let directory = data_dir.join(SELF_MADE_DIR);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|source| Error::file(&directory, source))?;

    let key = key_in(&directory.join(AUTHORITY_KEY))?;
    let authority = authority_in(data_dir);
    let certificate = good_until(&authority)?;
    let signs = authority_of(&key, now)?;
    if certificate.is_none_or(|until| until < now + AUTHORITY_ANEW) {
        let text = signs.self_signed(&key)?.pem();
        files::replace(&authority, &text)?;
        info!(file = %authority.display(), "made an authority for the door's certificate: agents and operators know the door by it");
    }

    let door: PathBuf = directory.join(DOOR_FILE);
    let known = text_of(&door)?.and_then(|text| facts_of(&text).ok());
    let due = |known: &epu_bus::http::tls::Facts| known.expires < now + DOOR_ANEW || !same(&known.names, names);
    if known.as_ref().is_none_or(due) {
        let (certificate, its_key) = door_for(names, &Issuer::new(signs, key), now)?;
        files::replace(&door, &format!("{certificate}{its_key}"))?;
        info!(file = %door.display(), names = names.join(", "), until = %(now + DOOR_FOR), "made a certificate for the door");
    }
    Ok(())
}

/// The authority's key, made when there is none.
fn key_in(path: &Path) -> Result<KeyPair, Error> {
    if text_of(path)?.is_none() {
        files::replace(path, &KeyPair::generate()?.serialize_pem())?;
    }
    let text = text_of(path)?.unwrap_or_default();
    KeyPair::from_pem(&text).map_err(|source| Error::SelfMadeFile {
        path: path.to_owned(),
        source,
    })
}

/// Everything about the authority follows from its key, so that what it signs is signed by the same one after any restart.
fn authority_of(key: &KeyPair, now: Timestamp) -> Result<CertificateParams, Error> {
    let digest = digest::digest(&digest::SHA256, key.public_key_raw());
    let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("EPU authority {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - SINCE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + AUTHORITY_FOR);
    Ok(params)
}

fn door_for(names: &[String], issuer: &Issuer<'_, KeyPair>, now: Timestamp) -> Result<(String, String), Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "EPU door");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - SINCE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + DOOR_FOR);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// Dates in certificates are whole seconds.
fn since_1970(time: Timestamp) -> Duration {
    Duration::from_secs(time.since(Timestamp::START).as_secs())
}

fn good_until(path: &Path) -> Result<Option<Timestamp>, Error> {
    Ok(text_of(path)?.and_then(|text| facts_of(&text).ok()).map(|facts| facts.expires))
}

fn same(these: &[String], those: &[String]) -> bool {
    let sorted = |names: &[String]| {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names
    };
    sorted(these) == sorted(those)
}

fn text_of(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file(path, source)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp(1_763_840_236_000);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn read(home: &Path, file: &str) -> String {
        std::fs::read_to_string(home.join(SELF_MADE_DIR).join(file)).unwrap()
    }

    #[test]
    fn it_is_made_once_and_nobody_else_reads_the_keys() {
        let home = tempfile::tempdir().unwrap();
        let names = names(&["epu.example.org", "10.0.0.5", "::1"]);
        make(home.path(), &names, NOW).unwrap();
        let first = (read(home.path(), "ca.pem"), read(home.path(), DOOR_FILE));
        let facts = facts_of(&first.1).unwrap();
        assert_eq!((facts.names, facts.expires), (names.clone(), NOW + DOOR_FOR));
        assert_eq!(facts_of(&first.0).unwrap().expires, NOW + AUTHORITY_FOR);
        for file in [AUTHORITY_KEY, DOOR_FILE] {
            let mode = std::fs::metadata(home.path().join(SELF_MADE_DIR).join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        make(home.path(), &names, NOW + DAY).unwrap();
        assert_eq!((read(home.path(), "ca.pem"), read(home.path(), DOOR_FILE)), first);
        assert_eq!(
            std::fs::read_dir(home.path().join(SELF_MADE_DIR)).unwrap().count(),
            3,
            "drafts are left"
        );
    }

    #[test]
    fn the_door_gets_another_a_month_before_its_end_and_for_other_names_and_the_authority_stays() {
        let home = tempfile::tempdir().unwrap();
        let here = names(&["localhost"]);
        make(home.path(), &here, NOW).unwrap();
        let (authority, first) = (read(home.path(), "ca.pem"), read(home.path(), DOOR_FILE));
        make(home.path(), &here, NOW + DAY * 334).unwrap();
        assert_eq!(read(home.path(), DOOR_FILE), first, "there is more than a month left");
        let later = NOW + DAY * 336;
        make(home.path(), &here, later).unwrap();
        let second = read(home.path(), DOOR_FILE);
        assert_eq!(facts_of(&second).unwrap().expires, later + DOOR_FOR);
        make(home.path(), &names(&["localhost", "other.example.org"]), later).unwrap();
        assert_eq!(facts_of(&read(home.path(), DOOR_FILE)).unwrap().names.len(), 2);
        assert_eq!(read(home.path(), "ca.pem"), authority);
    }

    #[test]
    fn the_authority_is_renewed_with_its_key() {
        let home = tempfile::tempdir().unwrap();
        let here = names(&["localhost"]);
        make(home.path(), &here, NOW).unwrap();
        let (authority, key) = (read(home.path(), "ca.pem"), read(home.path(), AUTHORITY_KEY));
        let later = NOW + (AUTHORITY_FOR - DAY * 399);
        make(home.path(), &here, later).unwrap();
        assert_ne!(read(home.path(), "ca.pem"), authority);
        assert_eq!(read(home.path(), AUTHORITY_KEY), key);
        let [authority, door] = ["ca.pem", DOOR_FILE].map(|file| facts_of(&read(home.path(), file)).unwrap().expires);
        assert!(door < authority, "the door's certificate outlives its authority");
    }

    #[test]
    fn a_broken_key_is_named_and_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        make(home.path(), &names(&["localhost"]), NOW).unwrap();
        let key = home.path().join(SELF_MADE_DIR).join(AUTHORITY_KEY);
        std::fs::write(&key, "no key").unwrap();
        let error = make(home.path(), &names(&["localhost"]), NOW).unwrap_err();
        assert!(error.to_string().contains("ca.key"), "{error}");
        assert_eq!(std::fs::read_to_string(key).unwrap(), "no key");
    }
}
