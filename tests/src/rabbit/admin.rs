//! What an administrator does to a node: users, rights, alarms, connections.

use std::process::Stdio;
use std::time::Duration;

use super::Rabbit;
use crate::{Result, Trouble, keeper, wait};

/// Where the package has the control script, beside the server's.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// The control program starts an Erlang machine of its own, which takes seconds on a busy machine.
const CONTROL_WITHIN: Duration = Duration::from_secs(60);
/// How long an alarm may take to be raised or cleared.
const ALARM_WITHIN: Duration = Duration::from_secs(30);

impl Rabbit {
    /// Runs `rabbitmqctl` against this node and gives what it says.
    ///
    /// # Errors
    /// When it is not installed, fails, or takes too long; with what it said.
    pub async fn control(&self, arguments: &[&str]) -> Result<String> {
        let doing = format!("rabbitmqctl {}", arguments.join(" "));
        let mut command = keeper::command(CONTROL);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        let dir = self.dir.path();
        command
            .current_dir(dir)
            .env("HOME", dir)
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf"))
            .args(["--node", &format!("epu-{}@localhost", self.ports.amqp), "--quiet"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let running = tokio::process::Command::from(command).kill_on_drop(true).output();
        let output = match tokio::time::timeout(CONTROL_WITHIN, running).await {
            Ok(output) => output.map_err(|e| Trouble::new(&doing, e))?,
            Err(_) => return Err(Trouble::new(&doing, "it takes too long")),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let why = format!("{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
        Err(Trouble::new(&doing, why))
    }

    /// Makes a user with these rights on the node's one virtual host: regular expressions for what it may configure, write and read.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn add_user(&self, name: &str, password: &str, [configure, write, read]: [&str; 3]) -> Result<()> {
        let user = serde_json::json!({"password": password, "tags": ""}).to_string();
        let rights = serde_json::json!({"configure": configure, "write": write, "read": read}).to_string();
        for (path, body) in [
            (format!("/api/users/{name}"), user),
            (format!("/api/permissions/%2F/{name}"), rights),
        ] {
            let page = self.management("PUT", &path, &body).await?;
            if ![201, 204].contains(&page.status) {
                return Err(Trouble::new(format!("make user {name}"), format!("{page:?}")));
            }
        }
        Ok(())
    }

    /// Raises the memory alarm, or clears it: a node that has one takes no messages.
    ///
    /// # Errors
    /// When the broker does not take part.
    pub async fn memory_alarm(&self, on: bool) -> Result<()> {
        self.control(&["set_vm_memory_high_watermark", if on { "0" } else { "0.4" }])
            .await?;
        let what = if on {
            "the memory alarm is raised"
        } else {
            "the memory alarm is cleared"
        };
        wait::until(ALARM_WITHIN, what, async || {
            let alarms = self.control(&["eval", "rabbit_alarm:get_alarms()."]).await?;
            if alarms.contains("memory") == on {
                Ok(())
            } else {
                Err(Trouble::new("look for alarms", alarms))
            }
        })
        .await
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete_exchange(&self, name: &str) -> Result<()> {
        let page = self.management("DELETE", &format!("/api/exchanges/%2F/{name}"), "").await?;
        if page.status == 204 {
            Ok(())
        } else {
            Err(Trouble::new(format!("delete exchange {name}"), format!("{page:?}")))
        }
    }
}
