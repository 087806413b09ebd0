//! Where a broker is: an address read from where it is kept, and how messages name it.

use epu_core::secret::SecretUrl;
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::http::text::percent_decode;

/// The address, read from where it is kept, and understood. What is wrong with it never repeats it: it may hold a password.
pub(super) fn resolved(url: &SecretUrl, heartbeat_s: u16) -> Result<AMQPUri, String> {
    let bad = |why: &str| format!("broker {url}: {why}; write amqp://USER:PASSWORD@HOST:PORT/VHOST");
    let text = url.resolve().map_err(|e| bad(&epu_core::code::Chain(&e).to_string()))?;
    let mut uri: AMQPUri = text.trim().parse().map_err(|_| bad("the address cannot be read"))?;
    // The parser takes an address in brackets for no host at all, and would connect to localhost.
    let authority = text
        .split("://")
        .nth(1)
        .unwrap_or_default()
        .split(['/', '?'])
        .next()
        .unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    } else if percent_decode(host).is_none_or(|host| host.is_empty()) {
        return Err(bad("it names no host"));
    }
    uri.query.heartbeat = uri.query.heartbeat.or(Some(heartbeat_s));
    Ok(uri)
}

/// The broker as messages name it: everything but the password.
pub(super) fn shown(uri: &AMQPUri) -> String {
    let host = &uri.authority.host;
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!(
        "amqp{}://{}@{bracketed}:{} vhost {:?}",
        if uri.scheme == AMQPScheme::AMQPS { "s" } else { "" },
        uri.authority.userinfo.username,
        uri.authority.port,
        uri.vhost,
    )
}
