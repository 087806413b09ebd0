//! What a machine is told at its first boot: cloud-init's `write_files` and one `runcmd`.
//!
//! A few small files in [`HOME`] and nothing else: `agent.env` (settings), `launch-token` (0600), `ca.pem` where the services answer over
//! https, and `start.sh`, which is the same for every machine and finds everything else beside itself. So what a machine was told can be
//! read on it, and starting the agent again by hand is `sh start.sh`.
//!
//! An operator's own template (`machine.user-data`) gets the same files ready-made, and these variables; one that is misspelt is an error:
//!
//! | variable | what |
//! |---|---|
//! | `installation`, `pool`, `launch` | whose machine it is |
//! | `url` | where the agent asks: one or more urls with spaces between |
//! | `launch_token` | what it proves with that it is of this launch |
//! | `ca` | the certificates that the services show, as PEM; `none` where they answer over http |
//! | `agent` | `kind` is `baked` or `fetched`; `url` and `sha256` are `none` for a baked one |
//! | `files` | the files: each with `path`, `permissions` and `content` |
//! | `start` | the command that starts the agent once they are there, as a list of words |
//!
//! Filters beside minijinja's: `yaml` writes any value in one line that is YAML, `block(n)` writes a text as a YAML block indented by n
//! where it can be one, `shell` writes a text as one word of a shell.
//!
//! **Nothing that is put in can break out.** Every text goes through one of these filters, and values are never read as templates.
//!
//! **The same launch gives the same bytes**: a repeated RunInstances must be the same call, or its token is refused.

mod quoting;

use std::fmt;
use std::io;

use epu_core::input::Tree;
use epu_core::machine::AgentSource;
use epu_core::pool::Template;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use self::quoting::{block, shell, shell_word, yaml};
use crate::iaas::IaasLaunch;

/// The most bytes of user data, before base64: "User data is limited to 16 KB, in raw form, before it is base64-encoded"
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html>).
pub const USER_DATA_MAX: usize = 16_384;
/// Where everything of the agent lies on a machine.
pub const HOME: &str = "/var/lib/epu";
/// Where a machine reads its metadata
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>).
pub const METADATA: &str = "http://169.254.169.254";

const OURS: &str = include_str!("user_data/user_data.yaml.j2");
const START: &str = include_str!("user_data/start.sh");
/// How far a template that gives too much is followed, so as to say how much that is.
const RENDERED_MAX: usize = 4 * USER_DATA_MAX;
/// Steps that a template may take. Too low: one with loops is refused. Too high: one without end holds up its caller.
const FUEL: u64 = 500_000;
/// What cloud-init knows a kind of user data by, at its very beginning
/// (<https://docs.cloud-init.io/en/latest/explanation/format.html>).
const KINDS: [&str; 8] = [
    "#cloud-config",
    "#!",
    "#include",
    "#cloud-boothook",
    "#part-handler",
    "## template: jinja",
    "Content-Type:",
    "MIME-Version:",
];
/// Every variable of [`Variables`], and those within one.
const KNOWN: [&str; 9] = [
    "installation",
    "pool",
    "launch",
    "url",
    "launch_token",
    "ca",
    "agent",
    "files",
    "start",
];
const KNOWN_OF_AGENT: [&str; 3] = ["kind", "url", "sha256"];

/// Why there is no user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// The template is wrong.
    #[error("the template's `machine.user-data`{}: {why}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// Where, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// It is too long.
    #[error("the user data has {}{bytes} bytes, and a site takes {USER_DATA_MAX}; of it: {}; {}",
        if *.bytes > RENDERED_MAX { "at least " } else { "" }, Parts(.parts),
        if *.own { "shorten `machine.user-data`, or let the machine fetch what is long" } else { "use fewer or shorter certificates" })]
    TooLong {
        /// How long.
        bytes: usize,
        /// How long each part of it is.
        parts: Vec<(String, usize)>,
        /// Whether it comes from an operator's template.
        own: bool,
    },
    /// The certificates hold a key, which would be sent to every machine.
    #[error("the file of certificates holds a private key too, which every machine would be given: put the key into a file of its own")]
    PrivateKey,
}

struct Parts<'a>(&'a [(String, usize)]);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, bytes)) in self.0.iter().enumerate() {
            write!(out, "{}{name} {bytes}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What goes in, whoever it comes from.
struct What<'a> {
    installation: &'a str,
    pool: &'a str,
    launch: &'a str,
    /// Whether there may be a machine besides the first.
    several: bool,
    url: &'a str,
    launch_token: &'a str,
    ca: Option<&'a str>,
    template: &'a Template,
}

#[derive(Serialize)]
struct Variables<'a> {
    installation: &'a str,
    pool: &'a str,
    launch: &'a str,
    url: &'a str,
    launch_token: &'a str,
    ca: Option<&'a str>,
    agent: Agent<'a>,
    files: &'a [File],
    start: [String; 2],
}

#[derive(Serialize)]
struct Agent<'a> {
    kind: &'static str,
    url: Option<&'a str>,
    sha256: Option<&'a str>,
}

#[derive(Serialize)]
struct File {
    path: String,
    permissions: &'static str,
    content: String,
}

/// The user data of a launch. `ca` holds the certificates, as PEM, that its agents are to believe, and no others.
///
/// # Errors
/// When an operator's template is wrong, it is longer than [`USER_DATA_MAX`], or `ca` holds a private key.
pub fn render(launch: &IaasLaunch, ca: Option<&str>) -> Result<String, UserDataError> {
    render_what(&What {
        installation: &launch.installation,
        pool: launch.pool.as_str(),
        launch: &launch.launch.to_string(),
        several: launch.instances.len() > 1,
        url: &launch.url,
        launch_token: &launch.launch_token.0,
        ca,
        template: &launch.template,
    })
}

/// What is wrong with the user data that this template would give, tried with made-up values as long as they can be; `url` and `ca` are
/// those of the installation. Empty when all is well.
#[must_use]
pub fn check(template: &Template, url: &str, ca: Option<&str>) -> Vec<String> {
    let launch = "00000000-0000-7000-8000-00000000abcd";
    let token = format!("l.{launch}.1763840236000.{}", "5a".repeat(32));
    let what = What {
        installation: &"i".repeat(64),
        pool: &"p".repeat(64),
        launch,
        several: true,
        url,
        launch_token: &token,
        ca,
        template,
    };
    let text = match render_what(&what) {
        Ok(text) => text,
        Err(error) => return vec![error.to_string()],
    };
    if template.machine.user_data.is_none() {
        return Vec::new();
    }
    let mut flaws = Vec::new();
    if !KINDS.iter().any(|kind| text.starts_with(kind)) {
        let first: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
        flaws.push(format!(
            "the template's `machine.user-data` begins with {first:?}, from which cloud-init cannot tell what it is: begin it with `{}` or `{}`, \
             without white space before",
            KINDS[0], KINDS[1]
        ));
    }
    if text.starts_with(KINDS[0])
        && let Err(faults) = Tree::read("machine.user-data, rendered", &text)
    {
        for fault in faults.as_slice().iter().take(3) {
            flaws.push(format!("the template's `machine.user-data` gives no YAML: {fault}"));
        }
    }
    for (value, name, what) in [
        (token.as_str(), "launch_token", "the launch token"),
        (launch, "launch", "the launch"),
        (
            url.split_whitespace().next().unwrap_or_default(),
            "url",
            "where the services answer",
        ),
    ] {
        if !text.contains(value) {
            flaws.push(format!(
                "the template's `machine.user-data` does not say {what}, and no agent can begin without: put in `files`, or `{name}`"
            ));
        }
    }
    flaws
}

fn render_what(what: &What<'_>) -> Result<String, UserDataError> {
    if what.ca.is_some_and(|pem| pem.contains("PRIVATE KEY-----")) {
        return Err(UserDataError::PrivateKey);
    }
    let files = files(what);
    let (kind, url, sha256) = match &what.template.agent {
        AgentSource::Baked => ("baked", None, None),
        AgentSource::Fetched(fetched) => ("fetched", Some(fetched.url.as_str()), Some(fetched.sha256.as_str())),
    };
    let variables = Variables {
        installation: what.installation,
        pool: what.pool,
        launch: what.launch,
        url: what.url,
        launch_token: what.launch_token,
        ca: what.ca,
        agent: Agent { kind, url, sha256 },
        files: &files,
        start: ["sh".to_owned(), format!("{HOME}/start.sh")],
    };
    let own = what.template.machine.user_data.as_deref();
    let source = own.unwrap_or(OURS);
    let mut out = Bounded::default();
    fill_in(source, &variables, &mut out)?;
    if out.wanted > USER_DATA_MAX {
        let mut parts = vec![("the template's own text".to_owned(), source.len())];
        if source.contains("files") {
            let sizes = files.iter().map(|file| {
                let name = file.path.rsplit('/').next().unwrap_or_default();
                (name.to_owned(), file.content.len())
            });
            parts.extend(sizes);
        }
        return Err(UserDataError::TooLong {
            bytes: out.wanted,
            parts,
            own: own.is_some(),
        });
    }
    String::from_utf8(out.bytes).map_err(|error| UserDataError::Template {
        line: None,
        why: error.to_string(),
    })
}

fn files(what: &What<'_>) -> Vec<File> {
    let mut settings = vec![
        ("EPU_INSTALLATION", what.installation),
        ("EPU_POOL", what.pool),
        ("EPU_URL", what.url),
        ("EPU_LAUNCH", what.launch),
        // Of one machine it is known; a site that does not number its machines launches one at a time.
        ("EPU_INDEX", if what.several { "metadata" } else { "0" }),
        ("EPU_METADATA", METADATA),
    ];
    if what.ca.is_some() {
        settings.push(("EPU_CA", "ca.pem"));
    }
    if let AgentSource::Fetched(fetched) = &what.template.agent {
        settings.push(("EPU_AGENT_URL", &fetched.url));
        settings.push(("EPU_AGENT_SHA256", &fetched.sha256));
    }
    let settings: String = settings
        .into_iter()
        .map(|(name, value)| format!("{name}={}\n", shell_word(value)))
        .collect();
    let file = |name: &str, permissions, content: String| File {
        path: format!("{HOME}/{name}"),
        permissions,
        content,
    };
    let mut files = vec![
        file("agent.env", "0600", settings),
        file("launch-token", "0600", format!("{}\n", what.launch_token)),
    ];
    if let Some(pem) = what.ca {
        files.push(file("ca.pem", "0644", format!("{}\n", pem.trim())));
    }
    files.push(file("start.sh", "0755", START.to_owned()));
    files
}

fn fill_in(source: &str, variables: &Variables<'_>, out: &mut Bounded) -> Result<(), UserDataError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(
        SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .map_err(|error| wrong(&error, source))?,
    );
    environment.add_filter("yaml", yaml);
    environment.add_filter("block", block);
    environment.add_filter("shell", shell);
    let template = environment
        .template_from_named_str("user-data", source)
        .map_err(|error| wrong(&error, source))?;

    let mut unknown: Vec<String> = template
        .undeclared_variables(true)
        .into_iter()
        .filter(|name| {
            let mut words = name.split('.');
            let (first, second) = (words.next().unwrap_or_default(), words.next());
            let is_known = KNOWN.contains(&first) || environment.globals().any(|(global, _)| global == first);
            !is_known || first == "agent" && second.is_some_and(|name| !KNOWN_OF_AGENT.contains(&name))
        })
        .collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        let last = name.rsplit('.').next().unwrap_or(name);
        return Err(UserDataError::Template {
            line: source.lines().position(|line| has_word(line, last)).map(|at| at + 1),
            why: format!(
                "nothing is named {}; there are {}, and of agent {}",
                unknown.join(", "),
                KNOWN.join(", "),
                KNOWN_OF_AGENT.join(", ")
            ),
        });
    }
    match template.render_captured_to(Value::from(Serde(variables)), &mut *out) {
        Ok(_) => Ok(()),
        // Its length says what is wrong.
        Err(_) if out.wanted > RENDERED_MAX => Ok(()),
        Err(error) => Err(wrong(&error, source)),
    }
}

fn wrong(error: &minijinja::Error, source: &str) -> UserDataError {
    let mut why = if error.kind() == ErrorKind::OutOfFuel {
        format!("it takes more than {FUEL} steps; has it a loop that is too long?")
    } else {
        error
            .detail()
            .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
    };
    let text = error.line().and_then(|line| source.lines().nth(line.checked_sub(1)?));
    if let Some(text) = text {
        let text: String = text.trim().chars().take(120).collect();
        why.push_str(&format!(", in: {text}"));
    }
    UserDataError::Template { line: error.line(), why }
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// Keeps what a template gives as far as that can be used, and counts on for a while.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    wanted: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wanted = self.wanted.saturating_add(bytes.len());
        if self.wanted > RENDERED_MAX {
            return Err(io::Error::other("too long"));
        }
        if self.wanted <= USER_DATA_MAX {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
