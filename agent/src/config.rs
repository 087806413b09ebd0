//! Settings, from the environment: whoever launches the instance puts them there, and they double as the tags by which the
//! instance's processes are found. All faults are named at once.
//!
//! | variable | meaning |
//! |---|---|
//! | `EPU_HOME` | the instance's directory; `launch-token` lies in it |
//! | `EPU_URL` | where the services answer, such as `http://127.0.0.1:7311`; several with spaces between, any of which will do |
//! | `EPU_CA` | the file of the certificates to believe, and no others; its path is within `EPU_HOME`, or from `/` |
//! | `EPU_LAUNCH` | the launch that the instance came from |
//! | `EPU_INDEX` | its place in that launch, from 0; or `metadata`: as the machine's metadata says |
//! | `EPU_METADATA` | where a rented machine's metadata is, such as `http://169.254.169.254` |

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use epu_core::LaunchId;

use crate::error::Error;
use crate::files;

/// The longest launch token that is read; longer is not one.
const TOKEN_MAX: usize = 4_096;
/// The longest file of certificates.
const CA_MAX: usize = 262_144;

/// An agent's settings.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The instance's directory.
    pub home: PathBuf,
    /// Where the services answer: urls with spaces between.
    pub url: String,
    /// The launch that the instance came from.
    pub launch: LaunchId,
    /// The certificates to believe, and no others, as PEM.
    pub ca: Option<String>,
    /// Its place in that launch; none: the machine's metadata says it.
    pub index: Option<u32>,
    /// Where the machine's metadata is, if it has any.
    pub metadata: Option<String>,
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
            .field("metadata", &self.metadata)
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
            let value = given(&variable, name);
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
        let metadata = given(&variable, "EPU_METADATA");
        let index = match index.as_deref() {
            Some("metadata") if metadata.is_none() => {
                faults.push("EPU_METADATA is not set, and EPU_INDEX is `metadata`: where the machine's metadata is".to_owned());
                None
            }
            Some("metadata") => Some(None),
            Some(text) => parsed::<u32>("EPU_INDEX", text, "a number from 0, or `metadata`", &mut faults).map(Some),
            None => None,
        };
        for door in url.iter().flat_map(|url| url.split_whitespace()) {
            if !door.starts_with("http://") && !door.starts_with("https://") {
                faults.push(format!("EPU_URL has {door:?}: it must begin with http:// or https://"));
            }
        }
        for metadata in metadata.iter().filter(|url| !url.starts_with("http://")) {
            faults.push(format!("EPU_METADATA is {metadata:?}: it must begin with http://"));
        }
        let ca = given(&variable, "EPU_CA").zip(home.as_ref()).and_then(|(name, home)| {
            let path = home.join(name);
            match files::read_bounded(&path, CA_MAX) {
                Ok(Some(pem)) => Some(pem),
                Ok(None) => {
                    faults.push(format!("EPU_CA is {}, and there is no such file", path.display()));
                    None
                }
                Err(error) => {
                    faults.push(format!("EPU_CA is {}, and it cannot be read: {error}", path.display()));
                    None
                }
            }
        });
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
                ca,
                launch,
                index,
                metadata,
                launch_token,
            }),
            _ => Err(Error::Config(faults)),
        }
    }
}

fn given(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let value = variable(name)?.trim().to_owned();
    (!value.is_empty()).then_some(value)
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
                "EPU_INDEX" => "2".to_owned(),
                _ => return None,
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
                "EPU_INDEX" => "2".to_owned(),
                _ => return None,
            })
        })
        .unwrap();
        assert_eq!((config.launch_token.as_str(), config.index), ("l.secret", Some(2)));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn a_rented_machine_asks_its_metadata_and_believes_its_certificates() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("ca.pem"), "pem").unwrap();
        let read = |metadata: Option<&str>, ca: &str| {
            Config::read(|name| match name {
                "EPU_HOME" => Some(home.path().to_str().unwrap().to_owned()),
                "EPU_URL" => Some("https://epu:1 http://127.0.0.1:2".to_owned()),
                "EPU_CA" => Some(ca.to_owned()),
                "EPU_LAUNCH" => Some("01890000-0000-7000-8000-000000000001".to_owned()),
                "EPU_INDEX" => Some("metadata".to_owned()),
                "EPU_METADATA" => metadata.map(str::to_owned),
                _ => None,
            })
        };
        let config = read(Some("http://169.254.169.254"), "ca.pem").unwrap();
        assert_eq!((config.index, config.ca.as_deref()), (None, Some("pem")));
        assert_eq!(config.metadata.as_deref(), Some("http://169.254.169.254"));
        assert_eq!(
            read(Some("http://a"), home.path().join("ca.pem").to_str().unwrap()).unwrap().ca,
            config.ca
        );

        let Err(Error::Config(faults)) = read(None, "other.pem") else {
            panic!("it would never know its index");
        };
        assert!(
            faults.len() == 2 && faults[0].contains("EPU_METADATA") && faults[1].contains("other.pem"),
            "{faults:?}"
        );
        assert!(matches!(read(Some("https://a"), "ca.pem"), Err(Error::Config(faults)) if faults.len() == 1));
    }
}
