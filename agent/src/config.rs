//! Settings, from the environment: whoever launches the instance puts them there, and they double as the tags by which the
//! instance's processes are found. All faults are named at once.
//!
//! | variable | meaning |
//! |---|---|
//! | `EPU_HOME` | the instance's directory; `launch-token` lies in it |
//! | `EPU_URL` | where the services answer, such as `http://127.0.0.1:7311`; several with spaces between, any of which will do |
//! | `EPU_LAUNCH` | the launch that the instance came from |
//! | `EPU_INDEX` | its place in that launch, from 0 |

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use epu_core::LaunchId;

use crate::error::Error;
use crate::files;

/// The longest launch token that is read; longer is not one.
const TOKEN_MAX: usize = 4_096;

/// An agent's settings.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The instance's directory.
    pub home: PathBuf,
    /// Where the services answer: urls with spaces between.
    pub url: String,
    /// The launch that the instance came from.
    pub launch: LaunchId,
    /// Its place in that launch.
    pub index: u32,
    /// What it proves to be of that launch with. Empty when the file is gone, which only a restarted agent can do without.
    pub launch_token: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Config")
            .field("home", &self.home)
            .field("url", &self.url)
            .field("launch", &self.launch)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Settings from the environment.
    ///
    /// # Errors
    /// [`Error::Config`] with everything that is missing or wrong.
    pub fn from_env() -> Result<Self, Error> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Settings from any source of variables.
    ///
    /// # Errors
    /// [`Error::Config`] with everything that is missing or wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let mut faults = Vec::new();
        let mut need = |name: &str, what: &str| {
            let value = variable(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty());
            if value.is_none() {
                faults.push(format!("{name} is not set: {what}"));
            }
            value
        };
        let home = need("EPU_HOME", "the instance's directory").map(PathBuf::from);
        let url = need("EPU_URL", "where the services answer, such as http://127.0.0.1:7311");
        let launch = need("EPU_LAUNCH", "the launch that the instance came from");
        let index = need("EPU_INDEX", "the instance's place in its launch, from 0");

        let launch = launch.and_then(|text| parsed::<LaunchId>("EPU_LAUNCH", &text, "a UUID", &mut faults));
        let index = index.and_then(|text| parsed::<u32>("EPU_INDEX", &text, "a number from 0", &mut faults));
        for door in url.iter().flat_map(|url| url.split_whitespace()) {
            if !door.starts_with("http://") {
                faults.push(format!("EPU_URL has {door:?}: it must begin with http://"));
            }
        }
        let launch_token = home.as_ref().and_then(|home| {
            let path = home.join("launch-token");
            match files::read_bounded(&path, TOKEN_MAX) {
                Ok(token) => Some(token.unwrap_or_default().trim().to_owned()),
                Err(error) => {
                    faults.push(format!("{} cannot be read: {error}", path.display()));
                    None
                }
            }
        });
        match (home, url, launch, index, launch_token) {
            (Some(home), Some(url), Some(launch), Some(index), Some(launch_token)) if faults.is_empty() => Ok(Self {
                home,
                url,
                launch,
                index,
                launch_token,
            }),
            _ => Err(Error::Config(faults)),
        }
    }
}

fn parsed<T: FromStr>(name: &str, text: &str, what: &str, faults: &mut Vec<String>) -> Option<T> {
    let value = text.parse().ok();
    if value.is_none() {
        let shown: String = text.chars().take(80).collect();
        faults.push(format!("{name} is {shown:?}: it must be {what}"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_named_at_once() {
        let Err(Error::Config(faults)) = Config::read(|_| None) else {
            panic!("nothing is not enough");
        };
        assert_eq!(faults.len(), 4, "{faults:?}");
        let Err(Error::Config(faults)) = Config::read(|name| match name {
            "EPU_HOME" => Some("/nowhere".to_owned()),
            "EPU_URL" => Some("http://127.0.0.1:1 ftp://x".to_owned()),
            "EPU_LAUNCH" | "EPU_INDEX" => Some("-1".to_owned()),
            _ => None,
        }) else {
            panic!("wrong values were taken");
        };
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(
            faults.iter().any(|fault| fault.contains("EPU_INDEX") && fault.contains("-1")),
            "{faults:?}"
        );
    }

    #[test]
    fn there_may_be_several_doors() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::read(|name| {
            Some(match name {
                "EPU_HOME" => home.path().to_str().unwrap().to_owned(),
                "EPU_URL" => "http://127.0.0.1:1 http://127.0.0.1:2".to_owned(),
                "EPU_LAUNCH" => "01890000-0000-7000-8000-000000000001".to_owned(),
                _ => "2".to_owned(),
            })
        });
        assert_eq!(config.unwrap().url, "http://127.0.0.1:1 http://127.0.0.1:2");
    }

    #[test]
    fn the_token_is_read_from_its_file_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("launch-token"), "l.secret\n").unwrap();
        let config = Config::read(|name| {
            Some(match name {
                "EPU_HOME" => home.path().to_str().unwrap().to_owned(),
                "EPU_URL" => "http://127.0.0.1:1".to_owned(),
                "EPU_LAUNCH" => "01890000-0000-7000-8000-000000000001".to_owned(),
                _ => "2".to_owned(),
            })
        })
        .unwrap();
        assert_eq!((config.launch_token.as_str(), config.index), ("l.secret", 2));
        assert!(!format!("{config:?}").contains("secret"));
    }
}
