//! Whom a client believes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use epu_core::Fault;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tracing::debug;

/// Whose word on a certificate counts.
#[derive(Clone, PartialEq, Eq)]
pub enum Roots {
    /// The authorities that this machine trusts by itself.
    System,
    /// Those of this PEM text, and no other. With them only `https://` is spoken.
    Pinned(String),
}

impl fmt::Debug for Roots {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::System => "System",
            Self::Pinned(_) => "Pinned",
        })
    }
}

impl Roots {
    /// How a client speaks TLS that believes these.
    ///
    /// # Errors
    /// `bad-config` when there is nobody to believe.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, Fault> {
        match self {
            Self::System => system(),
            Self::Pinned(text) => believing(pinned(text)?),
        }
    }

    /// That believes nobody, for a client that does not speak TLS.
    pub(crate) fn nobody() -> Result<Arc<ClientConfig>, Fault> {
        static NOBODY: OnceLock<Result<Arc<ClientConfig>, Fault>> = OnceLock::new();
        NOBODY.get_or_init(|| believing(RootCertStore::empty())).clone()
    }
}

/// Read once: they change with the machine's packages, and a process of ours is restarted more often.
fn system() -> Result<Arc<ClientConfig>, Fault> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, Fault>> = OnceLock::new();
    SYSTEM
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                debug!(%error, "an authority of this machine could not be read");
            }
            let mut roots = RootCertStore::empty();
            let (good, _) = roots.add_parsable_certificates(found.certs);
            if good == 0 {
                return Err(Fault::new(
                    "bad-config",
                    "use https: this machine trusts no authority at all: install the package `ca-certificates`, or name the one that \
                     signed the door's certificate with --ca or EPU_CA",
                ));
            }
            believing(roots)
        })
        .clone()
}

fn pinned(text: &str) -> Result<RootCertStore, Fault> {
    let wrong = |why: String| Fault::new("bad-config", format!("use the authority that was given: {why}; give its PEM file"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no PEM certificate in it".to_owned()));
    }
    Ok(roots)
}

fn believing(roots: RootCertStore) -> Result<Arc<ClientConfig>, Fault> {
    let made = ClientConfig::builder_with_provider(super::provider()).with_protocol_versions(&super::VERSIONS);
    let made = made.map_err(|error| Fault::new("internal", format!("set up TLS: {error}")))?;
    let mut config = made.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_none_says_so() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"] {
            let fault = Roots::Pinned(text.to_owned()).client().unwrap_err();
            assert_eq!(fault.code, "bad-config", "{text}");
            assert!(fault.text.contains("PEM file"), "{fault}");
        }
        assert!(Roots::nobody().is_ok());
    }

    #[test]
    fn a_pinned_authority_is_not_printed() {
        assert_eq!(format!("{:?}", Roots::Pinned("long text".to_owned())), "Pinned");
    }
}
