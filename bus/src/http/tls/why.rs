//! Why TLS did not come about, in words that say what to do. rustls names what it found; what that means for somebody who wrote an
//! address and a file is said here.

use std::error::Error;
use std::io;

use epu_core::time::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError};

/// What is wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Why {
    /// Whether somebody answered and could not prove who it is; otherwise no TLS came about at all.
    pub(crate) untrusted: bool,
    /// What to tell a person.
    pub(crate) text: String,
}

/// The word of rustls that is somewhere among the causes.
pub(crate) fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error gives its inner error's source as its own, and so skips the inner one.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What a client says of it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library adds kinds; those that nobody can do anything special about are told in its words"
)]
pub(crate) fn explained(error: &rustls::Error) -> Why {
    let untrusted = |text: String| Why { untrusted: true, text };
    let no_tls = |text: String| Why { untrusted: false, text };
    match error {
        rustls::Error::InvalidCertificate(wrong) => untrusted(certificate(wrong)),
        rustls::Error::InvalidMessage(_) => {
            no_tls("what answers there does not speak TLS; does its address begin with http://?".to_owned())
        }
        rustls::Error::PeerIncompatible(what) => no_tls(format!("there is no version or cipher of TLS that both know ({what:?})")),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
            no_tls("there is no version or cipher of TLS that both know; 1.2 or 1.3 is wanted".to_owned())
        }
        other => no_tls(format!("TLS did not come about: {other}")),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library adds kinds; those that nobody can do anything special about are told in its words"
)]
fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by an authority that is not trusted here; name the file of the right one with --ca or EPU_CA"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let host = host(expected);
            let names = presented.iter().take(10).map(|name| plain(name)).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "no name at all".to_owned() } else { names };
            format!(
                "its certificate is for {names}, and not for {host}; use an address with a name that it has, or add {host} to it (with a \
                 self-made one: to `tls.self-made.names` where `epumgmt serve` runs)"
            )
        }
        CertificateError::NotValidForName => "its certificate is for another host; use an address with a name that it has".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate expired on {}, and here it is {}; renew it where `epumgmt serve` runs, or set this machine's clock",
            date(*not_after),
            date(*time)
        ),
        CertificateError::Expired => {
            "its certificate has expired; renew it where `epumgmt serve` runs, or set this machine's clock".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is good from {} on, and here it is {}; set the clock of this machine or of the one that made it",
            date(*not_before),
            date(*time)
        ),
        CertificateError::NotValidYet => "its certificate is not good yet; set this machine's clock".to_owned(),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own, which signs others and is shown by nobody; let it sign one for the door".to_owned()
        }
        other => format!("its certificate cannot be trusted: {other}"),
    }
}

fn host(name: &ServerName<'_>) -> String {
    if let ServerName::DnsName(name) = name {
        name.as_ref().to_owned()
    } else if let ServerName::IpAddress(address) = name {
        std::net::IpAddr::from(*address).to_string()
    } else {
        "that host".to_owned()
    }
}

/// A name as the library writes it, such as `DnsName("localhost")`, as people do.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    let name = inner.unwrap_or(name).trim_matches('"');
    crate::http::text::shortened(name, 80)
}

fn date(time: UnixTime) -> Timestamp {
    Timestamp(i64::try_from(time.as_secs().saturating_mul(1_000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_rustls_is_found_however_deep_it_is_wrapped() {
        let word = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, word.clone())));
        assert_eq!(rustls_error(&wrapped), Some(&word));
        assert_eq!(rustls_error(&io::Error::other("nothing of the kind")), None);
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        assert_eq!(plain(r#"DnsName("localhost")"#), "localhost");
        assert_eq!(plain("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(plain("something else"), "something else");
    }
}
