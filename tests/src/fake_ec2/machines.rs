//! Machines booted for real: what cloud-init would do with the user data, done with processes of this machine.
//!
//! Of `#cloud-config` these parts are understood: `write_files` (`path`, `content`, `permissions`, `encoding`), where `/var/lib/epu` becomes
//! the machine's own directory and any other place is refused; and `runcmd`, of which only `sh /var/lib/epu/start.sh` is run, whatever
//! else it says. Source: "Module reference" of cloud-init, <https://cloudinit.readthedocs.io/en/latest/reference/modules.html>.
//!
//! **What is a machine's.** Every process whose environment has `EPU_FAKE_INSTANCE=<id>` and, since two fakes may give the same ids,
//! `EPU_FAKE_EC2=<address>`, which they inherit. They are ended by process id,
//! each only after another look at who it is. One thread looks at the process table for all machines that are ending.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde::Deserialize;

use super::things::console_of;
use crate::processes::Proc;
use crate::{Result, Trouble};

/// The variable that a machine's processes carry.
pub const TAG: &str = "EPU_FAKE_INSTANCE";
/// The variable that says of which fake EC2 they are.
const OWNER: &str = "EPU_FAKE_EC2";
/// Where user data puts its files.
const HOME: &str = "/var/lib/epu";

/// How machines are booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The directory under which each machine has its own.
    pub directory: PathBuf,
    /// The program that is the agent when started as `<program> agent`.
    pub agent: PathBuf,
    /// How long a machine may take to end before it is killed.
    pub grace: Duration,
}

impl Boot {
    /// With 5 s to end.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, agent: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            agent: agent.into(),
            grace: Duration::from_secs(5),
        }
    }
}

/// What is understood of `#cloud-config`; the rest is passed over, as cloud-init passes over modules that it does not have.
#[derive(Debug, Deserialize)]
struct CloudConfig {
    #[serde(default)]
    write_files: Vec<WriteFile>,
    #[serde(default)]
    runcmd: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct WriteFile {
    path: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    permissions: Option<String>,
    #[serde(default)]
    encoding: Option<String>,
}

/// A file to be written, and with which permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name under the machine's directory.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Who may do what with it.
    pub mode: u32,
}

/// Reads user data.
///
/// # Errors
/// When it is no `#cloud-config`, puts a file elsewhere, or does not run `start.sh`.
pub fn read(user_data: &str) -> Result<Vec<File>> {
    let trouble = |why: &dyn std::fmt::Display| Trouble::new("read user data", why);
    let bytes = STANDARD.decode(user_data).map_err(|e| trouble(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| trouble(&e))?;
    if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
        return Err(trouble(&"its first line is not #cloud-config"));
    }
    let config: CloudConfig = serde_yaml::from_str(&text).map_err(|e| trouble(&e))?;
    let start = serde_json::json!(["sh", format!("{HOME}/start.sh")]);
    if !config.runcmd.contains(&start) {
        return Err(trouble(&format!("runcmd does not have {start}")));
    }
    config
        .write_files
        .iter()
        .map(|file| read_file(file).map_err(|why| trouble(&why)))
        .collect()
}

fn read_file(file: &WriteFile) -> std::result::Result<File, String> {
    let name = file.path.strip_prefix(HOME).and_then(|rest| rest.strip_prefix('/'));
    let name = name.filter(|name| !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | "..")));
    let name = name.ok_or_else(|| format!("{} is not a file under {HOME}", file.path))?;
    let content = match file.encoding.as_deref() {
        None | Some("text/plain") => file.content.clone().into_bytes(),
        Some("b64" | "base64") => {
            let text: String = file.content.split_ascii_whitespace().collect();
            STANDARD.decode(text).map_err(|e| format!("{}: {e}", file.path))?
        }
        Some(other) => return Err(format!("{}: unknown encoding {other}", file.path)),
    };
    let mode = file.permissions.as_deref().map_or(Ok(0o644), |text| u32::from_str_radix(text, 8));
    Ok(File {
        name: name.to_owned(),
        content,
        mode: mode.map_err(|e| format!("{}: permissions: {e}", file.path))?,
    })
}

/// Makes what machines share: the directory with `epu-agent`.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(boot: &Boot) -> Result<()> {
    let programs = boot.directory.join("bin");
    let doing = || format!("make {}", programs.display());
    std::fs::create_dir_all(&programs).map_err(|e| Trouble::new(doing(), e))?;
    let agent = boot.agent.display().to_string().replace('\'', "'\\''");
    let text = format!("#!/bin/sh\nexec '{agent}' agent \"$@\"\n");
    write(&programs.join("epu-agent"), text.as_bytes(), 0o755)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let writing = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content)?;
        // The mode above is cut by the umask.
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    };
    writing().map_err(|e| Trouble::new(format!("write {}", path.display()), e))
}

/// Boots a machine: writes its files and starts `start.sh` in a session of its own.
///
/// # Errors
/// When its user data is not understood, or something could not be written or started; the machine then never contextualizes, and the
/// reason is the last line of its console.
pub fn boot(boot: &Boot, id: &str, user_data: &str, fake: &str) -> Result<tokio::process::Child> {
    let home = boot.directory.join(id);
    let console = console_of(&boot.directory, id);
    let booted = start(boot, &home, &console, id, user_data, fake);
    if let Err(trouble) = &booted {
        write(&console, format!("{trouble}\n").as_bytes(), 0o644)?;
    }
    booted
}

fn start(boot: &Boot, home: &Path, console: &Path, id: &str, user_data: &str, fake: &str) -> Result<tokio::process::Child> {
    for file in read(user_data)? {
        write(&home.join(&file.name), &file.content, file.mode)?;
    }
    write(console, b"", 0o644)?;
    let open = std::fs::File::options().append(true).open(console);
    let files = open.and_then(|out| Ok((out.try_clone()?, out)));
    let (out, err) = files.map_err(|e| Trouble::new(format!("open {}", console.display()), e))?;
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    let mut command = tokio::process::Command::new("setsid");
    command
        .arg("sh")
        .arg(home.join("start.sh"))
        // A real machine knows nothing of whoever launched it.
        .env_clear()
        .env("PATH", format!("{}:{path}", boot.directory.join("bin").display()))
        .env("HOME", home)
        .env("EPU_METADATA", format!("{fake}/_imds/{id}"))
        .env(OWNER, fake)
        .env(TAG, id)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    command.spawn().map_err(|e| Trouble::new(format!("boot {id}"), e))
}

/// The living processes of the machines of the fake EC2 at this address, by machine.
#[must_use]
pub fn processes(fake: &str) -> BTreeMap<String, Vec<Proc>> {
    let mut all: BTreeMap<String, Vec<Proc>> = BTreeMap::new();
    for proc in Proc::carrying(OWNER, fake) {
        if let Some(id) = proc.variable(TAG) {
            all.entry(id).or_default().push(proc);
        }
    }
    all
}

/// Kills every process of every machine of the fake EC2 at this address, until there is none.
pub fn kill_all(fake: &str) {
    // What they start while they are being killed is found in the next round.
    for _ in 0..20 {
        let all = processes(fake);
        if all.is_empty() {
            return;
        }
        for proc in all.into_values().flatten() {
            proc.signal(Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn files_of_cloud_config_go_into_the_machines_directory() {
        let text = "#cloud-config\nwrite_files:\n- path: /var/lib/epu/start.sh\n  permissions: '0700'\n  content: |\n    echo hi\n\
                    - path: /var/lib/epu/launch-token\n  permissions: \"0600\"\n  encoding: b64\n  content: dG9r\n    ZW4=\n\
                    runcmd:\n- [sh, /var/lib/epu/start.sh]\n";
        let files = read(&encoded(text)).unwrap();
        let names: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.mode)).collect();
        assert_eq!(names, [("start.sh", 0o700), ("launch-token", 0o600)]);
        assert_eq!((&files[0].content[..], &files[1].content[..]), (&b"echo hi\n"[..], &b"token"[..]));
    }

    #[test]
    fn what_cloud_init_would_not_run_is_not_run() {
        let run = "runcmd: [[sh, /var/lib/epu/start.sh]]\n";
        for (wrong, why) in [
            ("#!/bin/sh\necho".to_owned(), "#cloud-config"),
            ("#cloud-config\nwrite_files: []\n".to_owned(), "runcmd"),
            (format!("#cloud-config\n{run}write_files: [{{path: /etc/passwd}}]\n"), "/etc/passwd"),
            (
                format!("#cloud-config\n{run}write_files: [{{path: /var/lib/epu/../x}}]\n"),
                "not a file under",
            ),
            (
                format!("#cloud-config\n{run}write_files: [{{path: /var/lib/epu/x, encoding: gz}}]\n"),
                "gz",
            ),
            ("#cloud-config\nruncmd: [".to_owned(), "read user data"),
        ] {
            let trouble = read(&encoded(&wrong)).unwrap_err();
            assert!(trouble.0.contains(why), "{trouble}");
        }
    }
}
