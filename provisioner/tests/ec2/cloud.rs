//! A site of which each answer is written down, over real HTTP on loopback: for what no real cloud does when it is wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    /// The form as sent.
    pub(crate) body: String,
    pub(crate) form: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn get(&self, key: &str) -> &str {
        self.form.get(key).map_or("", String::as_str)
    }

    pub(crate) fn action(&self) -> &str {
        self.get("Action")
    }
}

/// What it does about one.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Xml(String),
    /// Status, code, text.
    No(u16, &'static str, String),
    Text(u16, &'static str),
    /// The connection ends without a word.
    Nothing,
    /// An answer with the time of long ago.
    Late(String),
}

pub(crate) struct Cloud {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cloud {
    pub(crate) async fn that(answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (log, answers) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(answers));
        let written = log.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answers) = (written.clone(), answers.clone());
                tokio::spawn(async move { serve(stream, &log, &*answers).await });
            }
        });
        Self { url, log, task }
    }

    pub(crate) fn asked(&self, action: &str) -> Vec<Asked> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|asked| asked.action() == action).cloned().collect()
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, answers: &(impl Fn(&Asked) -> Reply + Sync)) -> Option<()> {
    let mut read = Vec::new();
    let head = loop {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&some[..n]);
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).into_owned();
    let length = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = read.split_off(head);
    while body.len() < length.unwrap_or(0) {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&some[..n]);
    }
    let body = String::from_utf8(body).ok()?;
    let form = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect();
    let asked = Asked { head: text, body, form };
    let reply = answers(&asked);
    log.lock().unwrap().push(asked);
    let (status, body, date) = match reply {
        Reply::Xml(xml) => (200, xml, None),
        Reply::No(status, code, message) => (status, error(code, &message), None),
        Reply::Text(status, text) => (status, text.to_owned(), None),
        Reply::Late(xml) => (200, xml, Some("Date: Tue, 01 Jan 2019 00:00:00 GMT\r\n")),
        Reply::Nothing => return None,
    };
    let date = date.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{date}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex: String = [rest.next(), rest.next()].into_iter().flatten().map(char::from).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn error(code: &str, message: &str) -> String {
    format!("<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>")
}

/// A machine in an answer.
pub(crate) fn machine(id: &str, index: u32, state: &str, tags: &[(&str, &str)]) -> String {
    let tags: String = tags
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>0</code><name>{state}</name></instanceState>\
         <amiLaunchIndex>{index}</amiLaunchIndex><tagSet>{tags}</tagSet></item>"
    )
}

pub(crate) fn launched(machines: &[String]) -> Reply {
    Reply::Xml(format!(
        "<RunInstancesResponse><reservationId>r-1</reservationId><instancesSet>{}</instancesSet></RunInstancesResponse>",
        machines.concat()
    ))
}

pub(crate) fn listed(machines: &[String], next: Option<&str>) -> Reply {
    let next = next.map(|token| format!("<nextToken>{token}</nextToken>")).unwrap_or_default();
    Reply::Xml(format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet>{}</instancesSet></item></reservationSet>{next}\
         </DescribeInstancesResponse>",
        machines.concat()
    ))
}

pub(crate) fn yes(action: &str) -> Reply {
    Reply::Xml(format!("<{action}Response><return>true</return></{action}Response>"))
}
