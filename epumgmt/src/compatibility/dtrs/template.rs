//! A deployable type at a site as a template of ours. Pure.
//!
//! The image, the size and the key pair go into `machine`. What runs is the type's own `run`, otherwise what the config says for all of them. The keys of
//! chef-solo and chef are variables of the instance: our agent runs neither. User data of the caller's own is put beside ours, as parts of one
//! message, since without ours no machine becomes an instance.
//!
//! **A type's own `run` is never carried out on this machine.** Whoever may publish to the exchange would be whoever the services run as.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use epu_bus::amqp::dashi::wire::Problem;
use epu_core::machine::{AgentSource, MachineSpec};
use epu_core::pool::Template;
use serde_json::json;

use super::lookup::{Found, Method, of_wrong, validation_error};
use super::text;

/// The longest user data before variables, which is what a template takes.
const USER_DATA_MAX: usize = 16_384;
/// The longest line of base64 in a message (<https://www.rfc-editor.org/rfc/rfc2045#section-6.8>).
const LINE: usize = 76;
/// What cloud-init is told of our part: lists of both parts are put together, and what the other part says stays. Without, the later of two
/// `runcmd` would be dropped or take the place of the first (<https://docs.cloud-init.io/en/latest/reference/merging.html>).
const MERGE: &str = "list(append)+dict(no_replace,recurse_list)+str()";
/// What parts the parts of a message. The underscore and the equals sign are not both in base64 or in ours.
const BOUNDARY: &str = "=_epu";

/// What a template is made with besides the type.
pub(super) struct With<'a> {
    /// The variables of the instance, as templates have them: a `$` that is meant is doubled.
    pub variables: &'a BTreeMap<String, String>,
    /// What runs where the type does not say.
    pub run: &'a [String],
    /// Where machines get the agent from.
    pub agent: &'a AgentSource,
    /// Whether the site is the machine of the services.
    pub is_here: bool,
}

/// The template.
///
/// # Errors
/// `DeployableTypeValidationError`.
pub(super) fn template(dt_name: &str, found: &Found, with: &With<'_>) -> Result<Template, Problem> {
    if with.is_here && found.run.is_some() {
        return Err(validation_error(
            dt_name,
            "its own run is not carried out on the machine of the services; there only templates of the config file and `compatibility.run` are",
        ));
    }
    let plain = |name: &str| with.variables.get(name).map(|value| value.replace("$$", "$"));
    let image = text::substituted(&found.image, str::to_owned, plain).map_err(|wrong| of_wrong(dt_name, &wrong))?;
    let within = |what: &str, text: String, most: usize| {
        if text.is_empty() || text.chars().count() > most {
            return Err(validation_error(dt_name, format!("{what} must have 1 to {most} characters")));
        }
        Ok(Some(text))
    };
    let mut machine = MachineSpec {
        image: within("iaas_image", image, 200)?,
        size: within("iaas_allocation", text::variable(&found.allocation), 100)?,
        key: found.key.clone().map_or(Ok(None), |key| within("key_name", key, 255))?,
        ..MachineSpec::default()
    };
    let mut variables = BTreeMap::new();
    let doubled = |text: &str| text.replace('$', "$$");
    match &found.method {
        Method::ChefSolo(None) => {}
        Method::ChefSolo(Some(config)) => {
            let value = |name: &str| with.variables.get(name).cloned();
            let config = text::substituted(&text::json(config), doubled, value).map_err(|wrong| of_wrong(dt_name, &wrong))?;
            variables.insert("chef_config".to_owned(), config);
        }
        Method::Chef {
            run_list,
            attributes,
            credential,
        } => {
            variables.insert("chef_runlist".to_owned(), doubled(&text::json(run_list)));
            variables.insert("chef_attributes".to_owned(), doubled(&text::json(attributes)));
            variables.insert("chef_credential".to_owned(), doubled(credential));
        }
        Method::UserData(theirs) => {
            let message = beside_ours(theirs);
            if message.len() > USER_DATA_MAX {
                return Err(validation_error(
                    dt_name,
                    format!(
                        "its userdata takes {} bytes as a part of ours, and {USER_DATA_MAX} is the most",
                        message.len()
                    ),
                ));
            }
            machine.user_data = Some(message);
        }
    }
    variables.extend(with.variables.clone());
    let run = found.run.as_deref().unwrap_or(with.run);
    let written = json!({ "run": run, "variables": variables, "agent": with.agent, "machine": machine });
    serde_json::from_value(written).map_err(|error| validation_error(dt_name, error))
}

/// User data with the caller's and ours as parts, as a template of which the caller's part is left alone.
///
/// Ours is the last one: what a part says of merging counts for that part, so that nothing in the caller's can put ours away.
fn beside_ours(theirs: &str) -> String {
    let is_message = ["content-type:", "mime-version:"]
        .iter()
        .any(|start| theirs.get(..start.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(start)));
    let is_plain = |c: char| c == '\n' || c == '\t' || (' '..='~').contains(&c);
    let part = if is_message {
        // A message within: its own headers say what it is.
        literal(theirs)
    } else if theirs.chars().all(is_plain) && !theirs.contains(BOUNDARY) {
        // cloud-init tells plain text by its beginning (<https://docs.cloud-init.io/en/latest/explanation/format.html>).
        format!("Content-Type: text/plain; charset=\"us-ascii\"\n\n{}", literal(theirs))
    } else {
        format!(
            "Content-Type: text/plain; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\n{}",
            in_lines(&BASE64.encode(theirs))
        )
    };
    format!(
        "Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n--{BOUNDARY}\n{part}\n--{BOUNDARY}\nContent-Type: \
         text/cloud-config; charset=\"us-ascii\"\nMerge-Type: {MERGE}\n\n#cloud-config\nwrite_files: {{{{ files|yaml }}}}\nruncmd:\n- {{{{ start|yaml \
         }}}}\n\n--{BOUNDARY}--\n"
    )
}

/// A text as an expression of a template that gives it back, whatever is in it.
fn literal(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // A string of JSON is one of minijinja's too.
    format!("{{{{ {} }}}}", json!(text))
}

fn in_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / LINE + 1);
    for (at, c) in text.chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "ec2")]
    use epu_provisioner::iaas::{IaasLaunch, LaunchToken, ec2::user_data};

    use super::*;

    fn found(method: Method) -> Found {
        Found {
            image: "ami-${flavour}".to_owned(),
            allocation: json!("m1.small"),
            key: Some("mykey".to_owned()),
            needs_elastic_ip: false,
            method,
            run: None,
        }
    }

    fn made(found: &Found, is_here: bool) -> Result<Template, Problem> {
        let variables = [("flavour", "a$$b"), ("node_id", "${EPU_INSTANCE}")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let with = With {
            variables: &BTreeMap::from(variables),
            run: &["/bin/sleep".to_owned(), "infinity".to_owned()],
            agent: &AgentSource::Baked,
            is_here,
        };
        template("web", found, &with)
    }

    #[test]
    fn a_type_is_a_machine_and_what_the_config_runs() {
        let template = made(&found(Method::ChefSolo(None)), true).expect("a template");
        assert_eq!(template.run, ["/bin/sleep", "infinity"]);
        assert_eq!(
            (
                template.machine.image.as_deref(),
                template.machine.size.as_deref(),
                template.machine.key.as_deref()
            ),
            (Some("ami-a$b"), Some("m1.small"), Some("mykey"))
        );
        assert_eq!(template.machine.user_data, None);
        let mut own = found(Method::ChefSolo(None));
        own.run = Some(vec!["/opt/worker".to_owned()]);
        assert_eq!(made(&own, false).expect("a template").run, ["/opt/worker"]);
        let refused = made(&own, true).expect_err("it would run here");
        assert!(
            refused.value.contains("not carried out on the machine of the services"),
            "{refused}"
        );
        own.image = "${none}".to_owned();
        assert!(made(&own, false).expect_err("no such variable").value.contains("'none'"));
    }

    #[test]
    fn what_chef_would_be_told_is_in_variables() {
        let config = json!({"id": "$node_id", "price": "$$5"});
        let template = made(&found(Method::ChefSolo(Some(config))), true).expect("a template");
        assert_eq!(template.variables["chef_config"], r#"{"id": "${EPU_INSTANCE}", "price": "$$5"}"#);
        let chef = Method::Chef {
            run_list: json!(["role[$x]"]),
            attributes: json!({}),
            credential: "chef".to_owned(),
        };
        let template = made(&found(chef), true).expect("a template");
        assert_eq!(template.variables["chef_runlist"], r#"["role[$$x]"]"#);
        assert_eq!(template.variables["chef_credential"], "chef");
    }

    /// The template of user data that a type gives.
    fn user_data_of(theirs: &str) -> String {
        let template = made(&found(Method::UserData(theirs.to_owned())), false).expect("a template");
        template.machine.user_data.expect("user data")
    }

    #[test]
    fn user_data_of_the_callers_own_stands_before_ours() {
        let text = user_data_of("#!/bin/sh\necho \"{{ x }}\"\n");
        assert_eq!(
            text,
            "Content-Type: multipart/mixed; boundary=\"=_epu\"\nMIME-Version: 1.0\n\n--=_epu\nContent-Type: text/plain; \
             charset=\"us-ascii\"\n\n{{ \"#!/bin/sh\\necho \\\"{{ x }}\\\"\\n\" }}\n--=_epu\nContent-Type: text/cloud-config; \
             charset=\"us-ascii\"\nMerge-Type: list(append)+dict(no_replace,recurse_list)+str()\n\n#cloud-config\nwrite_files: {{ files|yaml \
             }}\nruncmd:\n- {{ start|yaml }}\n\n--=_epu--\n"
        );
        assert!(user_data_of("é").contains("Content-Transfer-Encoding: base64\n\nw6k=\n--=_epu\n"));
        assert!(user_data_of("--=_epu--").contains("base64"));
        assert!(user_data_of("MIME-Version: 1.0\n").contains("\n--=_epu\n{{ \"MIME-Version: 1.0\\n\" }}\n--=_epu\n"));
        assert_eq!(in_lines(&"a".repeat(77)), format!("{}\na", "a".repeat(76)));
    }

    /// What a machine would be told, but for values of ours.
    #[cfg(feature = "ec2")]
    fn told(theirs: &str) -> String {
        let template = made(&found(Method::UserData(theirs.to_owned())), false).expect("a template");
        let flaws = user_data::check(&template, "http://127.0.0.1:8650", None);
        assert_eq!(flaws, Vec::<String>::new());
        let launch = IaasLaunch {
            installation: "test".to_owned(),
            launch: "018f3c5e-0000-7000-8000-0000000000aa".parse().expect("an id"),
            pool: epu_core::PoolName::new("web").expect("a name"),
            instances: Vec::new(),
            min: 1,
            launch_token: LaunchToken("l.token".to_owned()),
            url: "http://127.0.0.1:8650".to_owned(),
            template,
            doubtful: false,
        };
        user_data::render(&launch, None).expect("user data")
    }

    #[cfg(feature = "ec2")]
    #[test]
    fn user_data_of_the_callers_own_is_left_alone_beside_ours() {
        let script = "#!/bin/sh\necho \"{{ x }} {% raw %}\" $HOME \\n {# no #}\n";
        let text = told(script);
        assert!(
            text.starts_with("Content-Type: multipart/mixed; boundary=\"=_epu\"\nMIME-Version: 1.0\n\n--=_epu\n"),
            "{text}"
        );
        assert!(text.contains(&format!("charset=\"us-ascii\"\n\n{script}\n--=_epu\n")), "{text}");
        assert!(text.ends_with("- [\"sh\", \"/var/lib/epu/start.sh\"]\n\n--=_epu--\n"), "{text}");
        assert!(text.contains("\n#cloud-config\nwrite_files: [{"), "{text}");

        let text = told("#cloud-config\nhostname: é\r\n");
        assert!(
            text.contains("\nContent-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogw6kNCg==\n--=_epu\n"),
            "{text}"
        );
        let nested = "Content-Type: multipart/mixed; boundary=\"x\"\n\n--x\n\n#!/bin/sh\n--x--\n";
        assert!(told(nested).contains(&format!("\n--=_epu\n{nested}\n--=_epu\n")));
    }

    #[test]
    fn user_data_that_is_too_long_is_refused() {
        let long = made(&found(Method::UserData("x".repeat(17_000))), false).expect_err("too long");
        assert!(long.value.contains("16384 is the most"), "{long}");
        assert_eq!(literal(""), "");
    }
}
