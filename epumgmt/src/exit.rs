//! How a command ends: its exit code, and what it says when it failed.

use std::process::ExitCode;

use epu_core::code::CODES;
use epu_core::input::Flaws;
use epu_core::{Fault, PoolName};

/// The exit codes, for scripts. They never change their meaning.
pub(crate) const CODES_HELP: &str = "\
Exit codes:
  0  done
  1  it failed, the service reported a fault, or a check found something bad
  2  wrong usage, bad input, or faults in the config
  3  nobody answers, or not in time
  4  no token, a wrong one, a certificate that is not trusted, or not allowed
  5  there is no such pool, instance, placement, template or site
  6  refused: it conflicts with how things are
  7  something was left over: teardown or a refresh did not finish, or the demo broke a promise";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// It failed, the service reported a fault, or a check found something bad.
    Failed,
    /// Wrong usage, bad input, or faults in the config.
    Bad,
    /// Nobody answers, or not in time.
    NoContact,
    /// No token, a wrong one, a certificate that is not trusted, or not allowed.
    Denied,
    /// There is no such thing.
    NotFound,
    /// It conflicts with how things are.
    Refused,
    /// Something was left over.
    LeftOver,
}

impl Exit {
    /// The number.
    #[must_use]
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Bad => 2,
            Self::NoContact => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::Refused => 6,
            Self::LeftOver => 7,
        }
    }

    /// The one that goes with a fault's code.
    #[must_use]
    pub(crate) fn of(fault: &Fault) -> Self {
        match fault.code.as_ref() {
            "bad-config" | "bad-request" | "bad-url" | "driver-missing" | "too-large" => Self::Bad,
            "no-contact" | "timeout" => Self::NoContact,
            "unauthorized" | "forbidden" | "not-trusted" => Self::Denied,
            "unknown-instance" => Self::NotFound,
            "left-over" => Self::LeftOver,
            "conflict" | "in-use" | "above-max" | "closed" | "from-file" | "stale-epoch" | "claim-refused" => Self::Refused,
            code if code.starts_with("no-such-") => Self::NotFound,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A fault's text without what was being done, where the text says that too.
fn once<'a>(doing: &str, text: &'a str) -> &'a str {
    let same = text.strip_prefix(doing).and_then(|rest| rest.strip_prefix(": "));
    let asked = || {
        text.strip_prefix("ask ")
            .and_then(|rest| rest.split_once(": "))
            .map(|(_, rest)| rest)
    };
    same.or_else(asked).unwrap_or(text)
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The service, or the way to it, reported a fault.
    Fault {
        /// What was being done, such as `show pool web`.
        doing: String,
        /// The fault.
        fault: Fault,
    },
    /// A file has faults.
    Flaws {
        /// All of them.
        flaws: Flaws,
        /// The file's text, to show the lines.
        text: String,
    },
    /// It was asked for wrongly.
    Usage(String),
    /// It came to an end that is not the one asked for.
    LeftOver(String),
    /// The answer could not be written out.
    Output(std::io::Error),
}

impl Failure {
    /// A fault met while doing something.
    #[must_use]
    pub(crate) fn while_doing(doing: impl Into<String>, fault: Fault) -> Self {
        Self::Fault {
            doing: doing.into(),
            fault,
        }
    }

    /// What is said of a pool that does not exist.
    #[must_use]
    pub(crate) fn no_such_instance(written: &str) -> Self {
        let text = format!("no instance's id is or ends with {written:?}");
        Self::while_doing(format!("find instance {written}"), Fault::new("no-such-instance", text))
    }

    /// What is said of a pool whose size cannot be set by a number.
    #[must_use]
    pub(crate) fn size_is_computed(pool: &PoolName, engine: &str) -> Self {
        Self::Usage(format!(
            "pool {pool} has the engine {engine}, which computes the size; set its bounds with --min and --max"
        ))
    }

    /// The exit code.
    #[must_use]
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Fault { fault, .. } => Exit::of(fault),
            Self::Flaws { .. } | Self::Usage(_) => Exit::Bad,
            Self::LeftOver(_) => Exit::LeftOver,
            // Whoever read the output has seen enough.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::Failed,
        }
    }

    /// What was being done, what went wrong, and what to do, for people.
    #[must_use]
    pub(crate) fn shown(&self, colour: bool) -> String {
        let (red, plain) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let error = format!("{red}error:{plain}");
        match self {
            Self::Fault { doing, fault } => {
                let text = once(doing, &fault.text);
                // Several lines (all faults of a file) stand below what was being done.
                let text = if text.contains('\n') {
                    format!("\n  {}", text.replace('\n', "\n  "))
                } else {
                    format!(" {text}")
                };
                let mut shown = format!("{error} {doing}:{text}\n  code: {}\n", fault.code);
                if let Some(advice) = advice(&fault.code).filter(|advice| !fault.text.contains(advice)) {
                    shown.push_str(&format!("  what to do: {advice}\n"));
                }
                shown
            }
            Self::Flaws { flaws, text } => {
                let count = flaws.as_slice().len();
                let faults = if count == 1 {
                    "1 fault".to_owned()
                } else {
                    format!("{count} faults")
                };
                format!("{}{error} {faults}\n", flaws.with_lines(text, colour))
            }
            Self::Usage(text) | Self::LeftOver(text) => format!("{error} {text}\n"),
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => String::new(),
            Self::Output(cause) => format!("{error} write the answer: {cause}\n"),
        }
    }

    /// The same for programs.
    #[must_use]
    pub(crate) fn as_fault(&self) -> Fault {
        match self {
            Self::Fault { doing, fault } => Fault {
                code: fault.code.clone(),
                text: format!("{doing}: {}", once(doing, &fault.text)),
            },
            Self::Flaws { flaws, .. } => flaws.clone().into(),
            Self::Usage(text) => Fault::new("bad-request", text.clone()),
            Self::LeftOver(text) => Fault::new("left-over", text.clone()),
            Self::Output(cause) => Fault::new("internal", format!("write the answer: {cause}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// What to do about a code.
fn advice(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(known, _, _)| *known == code).map(|(_, _, todo)| *todo)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, so that a code that is added is looked at here.
    #[test]
    fn every_code_has_an_exit() {
        let table: Vec<String> = CODES
            .iter()
            .map(|(code, _, _)| format!("{} {code}", Exit::of(&Fault::new(code, "")).number()))
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn a_failure_says_what_was_done_what_went_wrong_and_what_to_do() {
        let failures = [
            Failure::while_doing("show pool web", Fault::new("no-such-pool", "there is no pool web")),
            Failure::while_doing(
                "add pools of web.yaml",
                Fault::new("bad-config", "web.yaml:1:1: one\nweb.yaml:2:1: two"),
            ),
            Failure::Usage("give --n, --min or --max".to_owned()),
            Failure::LeftOver("3 instances are still live".to_owned()),
        ];
        let shown: String = failures
            .iter()
            .map(|failure| format!("{}{}", failure.shown(false), failure.exit().number()))
            .collect();
        insta::assert_snapshot!(shown);
        assert!(failures[0].shown(true).starts_with("\x1b[1;31merror:\x1b[0m show pool web"));
    }

    #[test]
    fn a_reader_who_went_away_is_no_failure() {
        let gone = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit(), gone.shown(false).as_str()), (Exit::Done, ""));
    }
}
