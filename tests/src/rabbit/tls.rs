//! Certificates for a node that speaks TLS: an authority of its own, and what it signed.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::{Result, Trouble};

/// Files with PEM texts.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority that signed the others.
    pub ca: PathBuf,
    /// An authority that signed nothing.
    pub stranger: PathBuf,
    /// A client's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
}

impl Certificates {
    /// New ones, as files in `dir`. The server's is made out for `localhost` only.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let broken = |e: rcgen::Error| Trouble::new("make certificates", e);
        let path = |name: &str| dir.join(format!("{name}.pem"));
        let write = |name: &str, text: String| {
            fs::write(path(name), text).map_err(|e| Trouble::new(format!("write {name}.pem"), e))?;
            Ok::<PathBuf, Trouble>(path(name))
        };
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).map_err(broken)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().map_err(broken)?;
            let text = params.self_signed(&key).map_err(broken)?.pem();
            Ok::<_, Trouble>((Issuer::new(params, key), text))
        };
        let (issuer, ca) = authority("EPU tests")?;
        let (_, stranger) = authority("Somebody else")?;
        let signed = |names: &[&str], name: &str, usage| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let mut params = CertificateParams::new(names).map_err(broken)?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().map_err(broken)?;
            let text = params.signed_by(&key, &issuer).map_err(broken)?.pem();
            Ok::<_, Trouble>((text, key.serialize_pem()))
        };
        let (server, server_key) = signed(&["localhost"], "broker", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (certificate, key) = signed(&[], "epu", ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self {
            ca: write("ca", ca)?,
            stranger: write("stranger", stranger)?,
            certificate: write("client", certificate)?,
            key: write("client-key", key)?,
            server: write("server", server)?,
            server_key: write("server-key", server_key)?,
        })
    }

    /// The node's settings for a listener that wants a certificate of its clients.
    pub(super) fn listener(&self, port: u16) -> String {
        format!(
            "listeners.ssl.only = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = true\n",
            self.ca.display(),
            self.server.display(),
            self.server_key.display(),
        )
    }
}
