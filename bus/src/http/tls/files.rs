//! The files of a certificate: read, checked, and what they say.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use epu_core::time::Timestamp;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The longest file, in bytes: a chain of certificates has some thousand.
const FILE_MAX: u64 = 1024 * 1024;

/// Where a certificate and its key lie. Both may be in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, followed by those between it and its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, not encrypted.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("read the door's {what} {}", path.display())]
    Read {
        /// What it holds.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is far too long.
    #[error("read the door's {what} {}: it is longer than {FILE_MAX} bytes; is that the right file?", path.display())]
    TooLong {
        /// What it should hold.
        what: &'static str,
        /// Which.
        path: PathBuf,
    },
    /// There is no certificate in it.
    #[error("read the door's certificate {}: there is no PEM certificate in it; it begins with -----BEGIN CERTIFICATE-----", .0.display())]
    NoCertificate(PathBuf),
    /// There is no key in it.
    #[error(
        "read the door's key {}: there is no PEM private key in it; it begins with -----BEGIN PRIVATE KEY-----, and is not encrypted \
         (`openssl pkey -in ENCRYPTED -out PLAIN` takes the password away)", .0.display()
    )]
    NoKey(PathBuf),
    /// One is not the other's.
    #[error("the key {} is not that of the certificate {}: one of them is another pair's", key.display(), certificate.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// TLS does not take it.
    #[error("use the door's certificate {}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// It is no certificate inside.
    #[error("use the door's certificate {}: {why}", path.display())]
    Unreadable {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It has expired, and the one before has not.
    #[error("use the door's certificate {}: it expired on {on}", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// When.
        on: Timestamp,
    },
}

/// The bytes of both files, to be compared and understood.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    pub(super) fn texts(&self) -> Result<Texts, Error> {
        Ok(Texts {
            certificate: read("certificate", &self.certificate)?,
            key: read("key", &self.key)?,
        })
    }

    /// How the door speaks TLS with these, and when they expire.
    pub(super) fn understood(&self, texts: &Texts) -> Result<(Arc<ServerConfig>, Timestamp), Error> {
        let unusable = |source: rustls::Error| {
            if source == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                return Error::Mismatch {
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                };
            }
            Error::Unusable {
                path: self.certificate.clone(),
                source,
            }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&texts.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| Error::NoCertificate(self.certificate.clone()))?;
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| Error::NoKey(self.key.clone()))?;
        let expires = earliest(&chain).map_err(|why| Error::Unreadable {
            path: self.certificate.clone(),
            why,
        })?;
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&super::VERSIONS)
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(config), expires))
    }
}

/// A file's bytes, at most so many.
fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    let read = read.map_err(|source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    })?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_MAX) {
        Ok(bytes)
    } else {
        Err(Error::TooLong {
            what,
            path: path.to_owned(),
        })
    }
}

fn earliest(chain: &[CertificateDer<'_>]) -> Result<Timestamp, String> {
    let mut earliest = Timestamp::NEVER;
    for certificate in chain {
        earliest = earliest.min(understood(certificate)?.expires);
    }
    Ok(earliest)
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Until when it is good.
    pub expires: Timestamp,
    /// The host names and addresses it is made out for, as written in it.
    pub names: Vec<String>,
}

/// What the first certificate in a PEM text says of itself.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn facts_of(text: &str) -> Result<Facts, String> {
    match CertificateDer::from_pem_slice(text.as_bytes()) {
        Ok(certificate) => understood(&certificate),
        Err(pem::Error::NoItemsFound) => Err("there is no PEM certificate in it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn understood(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| format!("it cannot be read: {error}"))?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(Facts {
        expires: Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1_000)),
        names: names.filter_map(name).collect(),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let four = <[u8; 4]>::try_from(*bytes).ok().map(std::net::IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(*bytes).ok().map(std::net::IpAddr::from);
    four.or_else(sixteen).map(|address| address.to_string())
}
