//! TLS at the door, and for those who come to it.
//!
//! The door shows a certificate ([`Tls`]); who a client is, its token says, so that clients need none. A client checks it against the
//! authorities that its machine trusts, or against one and no other ([`Roots`]): agents pin the installation's, since a token must not
//! go to whoever some public authority believes. TLS 1.2 and 1.3 only, by ring, which is named here and not left to whatever else in the
//! process set a default.
//!
//! The certificate's files are read again now and then and when told to ([`Tls::look`]): a new one counts for new connections, and those
//! that are open stay. New files that cannot be used change nothing but a counter and a line in the log.

mod files;
mod listening;
mod roots;
pub(crate) mod why;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use files::{Error, Facts, Files, facts_of};
pub use listening::{Look, Tls};
pub(super) use listening::{Unmet, refuse_plain};
pub use roots::Roots;

/// The versions that are spoken: what is older is broken.
static VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// What does the arithmetic.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}
