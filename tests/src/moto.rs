//! A private moto: an EC2 that nobody here wrote. Real HTTP and real XML; it launches nothing.
//!
//! What it does otherwise than EC2 does, and tests have to know: it takes no notice of client tokens, launches `MinCount` machines and not
//! `MaxCount`, pages by reservation, and machines run and end at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::keeper::{self, Kept};
use crate::{Result, Trouble, ports, tail_of, wait, web};

/// It is a Python program that imports much.
const START: Duration = Duration::from_secs(60);
/// Attempts to start: another program may take the port between finding and using it.
const ATTEMPTS: usize = 3;
/// The region that tests use.
pub const REGION: &str = "us-east-1";
/// The account that it believes everybody to be.
pub const ACCOUNT: &str = "123456789012";

/// A moto. Ended, with all it knows, when dropped.
#[derive(Debug)]
pub struct Moto {
    _server: Kept,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Moto {
    /// A new one; `set` may change its environment.
    ///
    /// # Errors
    /// When it cannot be installed or does not start, with the end of its output.
    pub async fn start(set: impl Fn(&mut Command)) -> Result<Self> {
        let python = python().await?;
        let mut last = Trouble::new("start moto", "never tried");
        for _ in 0..ATTEMPTS {
            match Self::start_once(&python, &set).await {
                Ok(moto) => return Ok(moto),
                Err(trouble) => last = trouble,
            }
            if !last.0.contains("in use") {
                break;
            }
        }
        Err(last)
    }

    async fn start_once(python: &Path, set: &impl Fn(&mut Command)) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Trouble::new("make a directory for moto", e))?;
        let port = ports::free()?;
        let output = dir.path().join("output");
        let file = std::fs::File::create(&output).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = file.map_err(|e| Trouble::new(format!("make {}", output.display()), e))?;
        let mut command = keeper::command(python);
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        set(&mut command);
        let mut server = Kept::start(command)?;
        let answers = wait::until(START, "moto answers", async || match server.ended() {
            Some(status) => Ok(Err(Trouble::new("moto", format!("ended with {status}")))),
            None => {
                let page = web::get(&format!("http://127.0.0.1:{port}/moto-api/"), None).await?;
                if page.status == 200 {
                    Ok(Ok(()))
                } else {
                    Err(Trouble::new("moto", format!("HTTP {}", page.status)))
                }
            }
        });
        match answers.await {
            Ok(Ok(())) => Ok(Self {
                _server: server,
                _dir: dir,
                port,
            }),
            Ok(Err(trouble)) | Err(trouble) => Err(Trouble(format!("{trouble}\n{}", tail_of(&output, 20)))),
        }
    }

    /// Where it answers, for every service.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks it something by the Query protocol, such as `ec2` and `[("Action", "DescribeInstances")]`, and gives back the XML.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn ask(&self, service: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let version = match service {
            "iam" => "2010-05-08",
            _ => "2016-11-15",
        };
        let query: Vec<String> = std::iter::once(&("Version", version))
            .chain(parameters)
            .map(|(key, value)| format!("{}={}", web::escape(key), web::escape(value)))
            .collect();
        let url = format!("{}/?{}", self.url(), query.join("&"));
        // It reads region and service from here, and checks no signature.
        let who = format!("AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=none");
        let page = web::get(&url, Some(&who)).await?;
        if (200..300).contains(&page.status) {
            Ok(page.body)
        } else {
            Err(Trouble::new(format!("ask moto {parameters:?}: HTTP {}", page.status), page.body))
        }
    }

    /// The first value of an element in an answer, such as that of `instanceId`.
    ///
    /// # Errors
    /// As [`Moto::ask`], or when there is no such element.
    pub async fn value(&self, service: &str, parameters: &[(&str, &str)], element: &str) -> Result<String> {
        let xml = self.ask(service, parameters).await?;
        let found = values(&xml, element).first().map(|value| (*value).to_owned());
        found.ok_or_else(|| Trouble::new(format!("find {element} in moto's answer"), xml))
    }
}

/// Every value of an element that holds only text.
#[must_use]
pub fn values<'a>(xml: &'a str, element: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(&close)?.0))
        .collect()
}

/// A Python that has moto, made when it is not there.
async fn python() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("moto").join("environment");
    let doing = format!("run {}", script.display());
    let made = tokio::task::spawn_blocking(move || Command::new(script).stdin(Stdio::null()).output()).await;
    let made = made.map_err(|e| Trouble::new(&doing, e))?.map_err(|e| Trouble::new(&doing, e))?;
    if !made.status.success() {
        return Err(Trouble::new(&doing, String::from_utf8_lossy(&made.stderr)));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&made.stdout).trim()))
}
