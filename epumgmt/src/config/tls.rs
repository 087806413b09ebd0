//! How the door is reached, and by what it is known: `listen`, `advertise`, `tls`, `advertise-ca`. They are judged together, since what
//! is right for one depends on the others, and in one place, since the command line may give some of them too.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use epu_core::input::{Flaw, Tree, pointer};
use epu_core::secret::strike_password;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DEFAULT_LISTEN;

/// Where self-made certificates lie, in the data directory.
pub(crate) const SELF_MADE_DIR: &str = "tls";
/// The self-made authority in that directory: what agents and operators pin.
const AUTHORITY_FILE: &str = "ca.pem";
/// `advertise-ca` with this means the authorities that each machine trusts by itself.
const SYSTEM: &str = "system";
/// The longest file of an authority that is read, in bytes: a bundle of all public ones has some hundred thousand.
const AUTHORITY_MAX: u64 = 1024 * 1024;

/// TLS at the door: `certificate` and `key`, or `self-made`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The door's certificate, a PEM file, followed by those between it and its authority; with `key`. It is read again each minute and
    /// at SIGHUP, so that a new one needs no restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, a PEM file, not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The authority that signed it, a PEM file: agents, and operators with this config file, trust this one and no other. Left out:
    /// those that each machine trusts by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A certificate, and an authority for it, that `serve` makes itself at its first start, renews, and keeps in `tls` in `data-dir`. In
    /// place of `certificate`, `key` and `ca`; for installations of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_made: Option<SelfMade>,
}

/// What a self-made certificate is made out for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct SelfMade {
    /// Under which host names and addresses others reach this machine, such as `epu.example.org` or `10.0.0.5`. Loopback, the address
    /// in `listen` and the host in `advertise` are among them without being named.
    #[schemars(length(max = 50), inner(length(min = 1, max = 253)))]
    pub names: Vec<String>,
}

impl Tls {
    /// With every path counted from `base`.
    #[must_use]
    pub(super) fn based(mut self, base: &Path) -> Self {
        for path in [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten() {
            *path = base.join(&*path);
        }
        self
    }
}

/// The self-made authority's certificate in a data directory.
#[must_use]
pub(crate) fn authority_in(data_dir: &Path) -> PathBuf {
    data_dir.join(SELF_MADE_DIR).join(AUTHORITY_FILE)
}

/// What decides how the door is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<&'a str>,
    pub(crate) tls: Option<&'a Tls>,
    pub(crate) advertise_ca: Option<&'a str>,
}

/// What is wrong with it: where that stands in the file, what it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    place: String,
    pub(super) text: String,
    pub(super) help: String,
}

impl Way<'_> {
    /// Where agents reach the door.
    #[must_use]
    pub(crate) fn url(&self) -> String {
        if let Some(url) = self.advertise {
            return url.trim_end_matches('/').to_owned();
        }
        let Some(tls) = self.tls else {
            return format!("http://{}", self.listen);
        };
        let named = tls.self_made.iter().flat_map(|made| &made.names).find(|name| !name.contains('*'));
        match named.filter(|_| self.listen.ip().is_unspecified()) {
            Some(name) if name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => {
                format!("https://[{name}]:{}", self.listen.port())
            }
            Some(name) => format!("https://{name}:{}", self.listen.port()),
            None => format!("https://{}", self.listen),
        }
    }

    /// Where this machine itself reaches the door, and what it is known by there.
    #[must_use]
    pub(crate) fn here(&self) -> String {
        match self.tls {
            // Made out for loopback too.
            Some(tls) if tls.self_made.is_some() => format!("https://{}", nearest(self.listen)),
            Some(_) => self.url(),
            None => format!("http://{}", nearest(self.listen)),
        }
    }

    /// Every name that a self-made certificate is made out for, the most telling one first.
    #[must_use]
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let advertised = self.advertise.and_then(host_of).map(str::to_owned);
        let listen = Some(self.listen.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let made = self.tls.and_then(|tls| tls.self_made.as_ref());
        let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for name in made
            .iter()
            .flat_map(|made| made.names.clone())
            .chain(advertised)
            .chain(listen)
            .chain(always)
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Everything that cannot work, or would send tokens in the clear. `far` are the sites whose machines are not this one.
    fn wrong(&self, far: &[&str]) -> Vec<Wrong> {
        let mut found = Vec::new();
        let mut say = |place: &str, text: String, help: String| {
            found.push(Wrong {
                place: place.to_owned(),
                text,
                help,
            });
        };
        let listen = self.listen;
        let beyond = !listen.ip().is_loopback();
        if beyond && self.tls.is_none() {
            say(
                "/listen",
                format!("{listen} is beyond loopback, where tokens would travel in the clear"),
                "write `tls: {self-made: {names: [HOST]}}`, or listen on loopback and put a proxy with TLS, or an ssh tunnel, in front"
                    .to_owned(),
            );
        }
        if listen.port() == 0 {
            say(
                "/listen",
                "port 0 stands for any free one, and agents must know which".to_owned(),
                format!("name one, such as {DEFAULT_LISTEN}"),
            );
        }
        let unnamed = self
            .tls
            .is_some_and(|tls| tls.self_made.as_ref().is_none_or(|made| made.names.is_empty()));
        if listen.ip().is_unspecified() && self.tls.is_some() && self.advertise.is_none() && unnamed {
            say(
                "/listen",
                format!("{listen} stands for every address of this machine, and agents must know one"),
                format!("write `advertise: https://HOST:{}`", listen.port()),
            );
        }
        let by_tls = self.url().starts_with("https://");
        match self.advertise {
            Some(url) if !is_door(url) => say(
                "/advertise",
                format!("{:?} is no address that agents can use", strike_password(url)),
                "write it as https://host:port, or http://host:port on loopback".to_owned(),
            ),
            Some(url) if !by_tls && self.tls.is_some() => say(
                "/advertise",
                format!("{} is no way to a door that speaks TLS", strike_password(url)),
                "write https:// instead of http://".to_owned(),
            ),
            Some(url) if !by_tls && !host_of(url).is_some_and(is_loopback) => say(
                "/advertise",
                format!(
                    "{} is beyond loopback, where tokens would travel in the clear",
                    strike_password(url)
                ),
                "write https:// and `tls`, or `advertise-ca` when a proxy in front of the door speaks TLS".to_owned(),
            ),
            Some(url) if by_tls && self.tls.is_none() && self.advertise_ca.is_none() => say(
                "/advertise",
                format!(
                    "{} has a certificate, and nothing says by which authority agents know it",
                    strike_password(url)
                ),
                "write `tls` when this program speaks TLS; `advertise-ca: FILE` or `advertise-ca: system` when a proxy in front of it does"
                    .to_owned(),
            ),
            Some(_) | None => {}
        }
        if self.advertise_ca.is_some() && !(by_tls && self.advertise.is_some()) {
            say(
                "/advertise-ca",
                "it says by what a certificate at `advertise` is known, and `advertise` names none".to_owned(),
                "write `advertise: https://HOST:PORT`, or take `advertise-ca` out".to_owned(),
            );
        }
        let reached = by_tls && (self.advertise.is_some() || !host_of(&self.url()).is_some_and(is_loopback));
        for site in far.iter().filter(|_| !reached) {
            let here = self.url();
            let here = strike_password(&here);
            let (_, here) = here.split_once("://").unwrap_or(("", &here));
            say(
                &pointer(["sites", *site]),
                format!("site {site}: its machines cannot reach this one at {here} without sending tokens in the clear"),
                "write `advertise: https://HOST:PORT` and `tls: {self-made: {names: [HOST]}}`, or `advertise-ca` when a proxy speaks TLS"
                    .to_owned(),
            );
        }
        found
    }

    /// The first of [`Way::wrong`], for what the command line gives.
    pub(super) fn first_wrong(&self, far: &[&str]) -> Option<Wrong> {
        self.wrong(far).into_iter().next()
    }
}

/// An address of this machine itself that leads to what listens there.
fn nearest(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether agents can use it as an address.
fn is_door(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.map(|rest| rest.trim_end_matches('/'))
        .is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ' ', '@']) && host_of(url).is_some())
}

/// The host in an address, without port and brackets.
fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a certificate can be made out for it.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let dns = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || dns.split('.').all(label)
}

/// An authority's certificate: a bounded PEM text.
pub(crate) fn authority_of(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(AUTHORITY_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("read {}: {error}", path.display())),
        Ok(read) if u64::try_from(read).is_ok_and(|read| read > AUTHORITY_MAX) => {
            Err(format!("{} is longer than {AUTHORITY_MAX} bytes", path.display()))
        }
        Ok(_) => match epu_bus::http::tls::facts_of(&text) {
            Ok(_) => Ok(text),
            Err(why) => Err(format!("{}: {why}", path.display())),
        },
    }
}

/// The PEM text that agents pin; none when they believe whom their machine believes, or speak no TLS. A self-made one is there once it was made.
pub(super) fn agents_ca(
    tls: Option<&Tls>,
    advertise_ca: Option<&str>,
    base: &Path,
    data_dir: &Path,
) -> Result<Option<String>, (String, String)> {
    if let Some(file) = advertise_ca {
        if file == SYSTEM {
            return Ok(None);
        }
        return authority_of(&base.join(file))
            .map(Some)
            .map_err(|why| ("/advertise-ca".to_owned(), why));
    }
    let Some(tls) = tls else { return Ok(None) };
    if tls.self_made.is_some() {
        return Ok(std::fs::read_to_string(authority_in(data_dir)).ok());
    }
    match &tls.ca {
        Some(file) => authority_of(file).map(Some).map_err(|why| ("/tls/ca".to_owned(), why)),
        None => Ok(None),
    }
}

/// What a file says of it, whatever else may be wrong in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) advertise_ca: Option<String>,
}

impl Written {
    pub(super) fn of(tree: &Tree) -> Self {
        let text = |key: &str| tree.value().get(key).and_then(Value::as_str).map(str::to_owned);
        let tls = tree.value().get("tls").filter(|tls| tls.is_object());
        Self {
            listen: text("listen").unwrap_or_else(|| DEFAULT_LISTEN.to_owned()).parse().ok(),
            advertise: text("advertise"),
            tls: tls.and_then(|tls| serde_json::from_value(tls.clone()).ok()),
            advertise_ca: text("advertise-ca"),
        }
    }

    pub(super) fn way(&self) -> Option<Way<'_>> {
        Some(Way {
            listen: self.listen?,
            advertise: self.advertise.as_deref(),
            tls: self.tls.as_ref(),
            advertise_ca: self.advertise_ca.as_deref(),
        })
    }

    /// The address that operators of this machine use, if it can be told.
    #[must_use]
    pub(crate) fn here(&self) -> Option<String> {
        Some(self.way()?.here())
    }

    /// The file by which the door's certificate is known; counted from `base`.
    #[must_use]
    pub(crate) fn authority(&self, base: &Path, data_dir: &Path) -> Option<PathBuf> {
        match &self.tls {
            Some(tls) if tls.self_made.is_some() => Some(authority_in(data_dir)),
            Some(Tls { ca: Some(ca), .. }) => Some(base.join(ca)),
            Some(_) | None => {
                let file = self.advertise_ca.as_deref().filter(|file| *file != SYSTEM);
                file.map(|file| base.join(file))
            }
        }
    }
}

/// Whether the machines of an EC2 site with this endpoint are not this one. A cloud that answers on this machine is one to try things with.
pub(super) fn is_far(endpoint: Option<&str>) -> bool {
    !endpoint.and_then(host_of).is_some_and(is_loopback)
}

/// The sites of a tree whose machines are not this one.
fn far_sites(tree: &Tree) -> BTreeSet<&str> {
    let sites = tree.value().get("sites").and_then(Value::as_object);
    // A driver that nobody knows has been said already.
    let is_far = |site: &Value| {
        let ec2 = site.get("ec2");
        ec2.is_some_and(|ec2| is_far(ec2.get("endpoint").and_then(Value::as_str)))
    };
    sites
        .into_iter()
        .flatten()
        .filter(|(_, site)| is_far(site))
        .map(|(name, _)| name.as_str())
        .collect()
}

/// What the schema cannot say of these settings.
pub(super) fn rules(tree: &Tree, base: &Path, flaws: &mut Vec<Flaw>) {
    let text = |key: &str| tree.value().get(key).and_then(Value::as_str);
    if let Some(listen) = text("listen").filter(|listen| listen.parse::<SocketAddr>().is_err()) {
        let flaw = tree.flaw("/listen", format!("{listen:?} is no address with a port"));
        flaws.push(flaw.help(format!("write it like {DEFAULT_LISTEN}")));
    }
    let written = Written::of(tree);
    if let Some(tls) = &written.tls {
        shape(tree, tls, flaws);
    }
    let far: Vec<&str> = far_sites(tree).into_iter().collect();
    for Wrong { place, text, help } in written.way().iter().flat_map(|way| way.wrong(&far)) {
        let flaw = if place.starts_with("/sites/") {
            tree.flaw_at_key(&place, text)
        } else {
            tree.flaw(&place, text)
        };
        flaws.push(flaw.help(help));
    }
    let files = written.tls.clone().map(|tls| tls.based(base));
    if let Err((place, why)) = agents_ca(files.as_ref(), written.advertise_ca.as_deref(), base, base) {
        flaws.push(tree.flaw(&place, why).help("name a PEM file with the certificate of the authority"));
    }
}

fn shape(tree: &Tree, tls: &Tls, flaws: &mut Vec<Flaw>) {
    let files = [("certificate", &tls.certificate), ("key", &tls.key), ("ca", &tls.ca)];
    let given: Vec<&str> = files.iter().filter(|(_, file)| file.is_some()).map(|(key, _)| *key).collect();
    match &tls.self_made {
        Some(made) => {
            for key in given {
                let flaw = tree.flaw(&format!("/tls/{key}"), "a self-made certificate has its own");
                flaws.push(flaw.help(format!("take `{key}` out, or `self-made`")));
            }
            for (at, name) in made.names.iter().enumerate().filter(|(_, name)| !is_name(name)) {
                let flaw = tree.flaw(
                    &format!("/tls/self-made/names/{at}"),
                    format!("{name:?} is no host name or address"),
                );
                flaws.push(flaw.help("write it without scheme and port, such as epu.example.org or 10.0.0.5"));
            }
            if tree.value().pointer("/store/postgres").is_some_and(|postgres| !postgres.is_null()) {
                let flaw = tree.flaw_at_key(
                    "/tls/self-made",
                    "each process would make an authority of its own, and agents believe one",
                );
                flaws.push(flaw.help("with PostgreSQL as store write `certificate`, `key` and `ca`, with the same `ca` for every process"));
            }
        }
        None if tls.certificate.is_none() || tls.key.is_none() => {
            let flaw = tree.flaw_at_key("/tls", "a certificate and its key are wanted together");
            flaws.push(flaw.help("give both `certificate` and `key`, or `self-made: {names: [HOST]}` for one that is made here"));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests;
