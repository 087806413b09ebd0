//! What a deployable type is at a site, and the cluster document that says so. Pure.
//!
//! The original put variables into the finished document and escaped nothing then, so that a variable may hold a part of a document. A document is
//! kept as that here: it is for clients alone. What is launched is made from the same findings, by [`super::template`].

use epu_bus::amqp::dashi::wire::Problem;
use serde_json::{Map, Value, json};

use super::text::{self, Wrong};

/// A type, site or credentials that a lookup needs and that are not there.
pub(super) const LOOKUP_ERROR: &str = "DeployableTypeLookupError";
/// A type that says nothing that can be used.
pub(super) const VALIDATION_ERROR: &str = "DeployableTypeValidationError";
/// The credentials of a Chef server that are used when no variable names others.
const CHEF_CREDENTIAL: &str = "chef";

/// A `DeployableTypeLookupError`.
pub(super) fn lookup_error(text: impl Into<String>) -> Problem {
    Problem::new(LOOKUP_ERROR, text)
}

/// A `DeployableTypeValidationError`, with the beginning that the original gave it.
pub(super) fn validation_error(dt_name: &str, text: impl std::fmt::Display) -> Problem {
    Problem::new(VALIDATION_ERROR, format!("Deployable Type '{dt_name}': {text}"))
}

/// A type at a site.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// The image, before variables.
    pub image: String,
    /// The size.
    pub allocation: Value,
    /// The key pair whose owner may log in.
    pub key: Option<String>,
    /// Whether the original gave it an address of its own.
    pub needs_elastic_ip: bool,
    /// How a machine becomes what it is to be.
    pub method: Method,
    /// What runs there, which only our own types say.
    pub run: Option<Vec<String>>,
}

/// How a machine becomes what it is to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Method {
    /// By chef-solo, with this config; none where the type says nothing.
    ChefSolo(Option<Value>),
    /// By a Chef server.
    Chef {
        run_list: Value,
        attributes: Value,
        /// The name of its credentials.
        credential: String,
    },
    /// By user data.
    UserData(String),
}

impl Method {
    fn name(&self) -> &'static str {
        match self {
            Self::ChefSolo(_) => "chef-solo",
            Self::Chef { .. } => "chef",
            Self::UserData(_) => "userdata",
        }
    }
}

/// What is known of the caller besides the type.
pub(super) struct Known<'a> {
    /// The key pair of the caller's credentials for the site.
    pub key: &'a dyn Fn() -> Result<Option<String>, Problem>,
    /// Whether the caller has credentials of a Chef server of this name.
    pub chef: &'a dyn Fn(&str) -> bool,
    /// The variable `chef_credential`, if it is given.
    pub chef_credential: Option<String>,
}

/// Looks a type up, in the order in which the original did.
///
/// # Errors
/// The first thing that is missing or wrong.
pub(super) fn find(
    dt_name: &str,
    dt: &Map<String, Value>,
    site: &str,
    allocation: Option<&Value>,
    known: &Known<'_>,
) -> Result<Found, Problem> {
    let mapping = dt
        .get("mappings")
        .and_then(|mappings| mappings.get(site))
        .and_then(Value::as_object);
    let mapping = mapping.ok_or_else(|| lookup_error(format!("Site {site} missing in mappings of DT {dt_name}")))?;
    let of_mapping = |key: &str| {
        let found = mapping.get(key).filter(|value| !value.is_null());
        found.ok_or_else(|| lookup_error(format!("{key} missing in mappings of DT {dt_name} and site {site}")))
    };
    let image = text::variable(of_mapping("iaas_image")?);
    let mapped = of_mapping("iaas_allocation")?;
    let key = (known.key)()?;
    Ok(Found {
        image,
        allocation: allocation.filter(|asked| !asked.is_null()).unwrap_or(mapped).clone(),
        key,
        needs_elastic_ip: mapping.get("needs_elastic_ip").is_some_and(is_true),
        method: method(dt_name, dt, site, known)?,
        run: run(dt_name, dt)?,
    })
}

fn method(dt_name: &str, dt: &Map<String, Value>, site: &str, known: &Known<'_>) -> Result<Method, Problem> {
    let empty = Map::new();
    let section = dt.get("contextualization").and_then(Value::as_object).unwrap_or(&empty);
    let Some(named) = section.get("method").filter(|method| is_true(method)) else {
        return Ok(Method::ChefSolo(None));
    };
    let missing = |what: &str| validation_error(dt_name, format!("Missing {what} in DT definition"));
    match named.as_str().unwrap_or_default() {
        "chef-solo" => {
            let config = section.get("chef_config").ok_or_else(|| missing("chef_config"))?;
            Ok(Method::ChefSolo(Some(config.clone()).filter(is_true)))
        }
        "chef" => {
            let credential = known.chef_credential.clone().unwrap_or_else(|| CHEF_CREDENTIAL.to_owned());
            if !(known.chef)(&credential) {
                return Err(lookup_error(format!("Chef credentials {credential} missing for the caller")));
            }
            Ok(Method::Chef {
                run_list: section.get("run_list").cloned().unwrap_or_else(|| json!([])),
                attributes: section.get("attributes").cloned().unwrap_or_else(|| json!({})),
                credential,
            })
        }
        "userdata" => match section.get("userdata") {
            Some(Value::Object(by_site)) => by_site.get(site),
            one => one,
        }
        .filter(|userdata| !userdata.is_null())
        .map(|userdata| Method::UserData(text::variable(userdata)))
        .ok_or_else(|| missing("userdata")),
        _ => {
            let shown: String = text::variable(named).chars().take(100).collect();
            Err(validation_error(dt_name, format!("Unknown contextualization method {shown}")))
        }
    }
}

fn run(dt_name: &str, dt: &Map<String, Value>) -> Result<Option<Vec<String>>, Problem> {
    let Some(run) = dt.get("run").filter(|run| !run.is_null()) else {
        return Ok(None);
    };
    let words: Option<Vec<String>> = run
        .as_array()
        .and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect());
    let words = words.filter(|words| words.first().is_some_and(|program| !program.is_empty()));
    words
        .map(Some)
        .ok_or_else(|| validation_error(dt_name, "run must be a list of texts that begins with a program"))
}

/// Whether Python takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

impl Found {
    /// What `lookup` answers.
    ///
    /// # Errors
    /// A variable that is missing, or badly written in the document.
    pub(super) fn answer(&self, dt_name: &str, vars: &Map<String, Value>) -> Result<Value, Problem> {
        let value = |name: &str| vars.get(name).map(text::variable);
        let document = text::substituted(&self.document(), str::to_owned, value).map_err(|wrong| of_wrong(dt_name, &wrong))?;
        let mut node = json!({
            "iaas_image": self.image,
            "iaas_allocation": self.allocation,
            "iaas_sshkeyname": self.key,
            "needs_elastic_ip": self.needs_elastic_ip,
            "ctx_method": self.method.name(),
            "needs_nimbus_ctx": matches!(self.method, Method::ChefSolo(_)),
        });
        match &self.method {
            Method::ChefSolo(_) => {}
            Method::Chef {
                run_list,
                attributes,
                credential,
            } => {
                node["chef_runlist"] = run_list.clone();
                node["chef_attributes"] = attributes.clone();
                node["chef_credential"] = json!(credential);
            }
            Method::UserData(userdata) => node["iaas_userdata"] = json!(userdata),
        }
        Ok(json!({ "document": document, "node": node }))
    }

    /// The cluster document before variables, letter by letter as Python's `minidom` wrote it.
    fn document(&self) -> String {
        let data = match &self.method {
            Method::ChefSolo(Some(config)) => {
                let config = text::json(config).replace("]]>", "]]]]><![CDATA[>");
                format!(r#"<data name="dt-chef-solo"><![CDATA[{config}]]></data>"#)
            }
            Method::ChefSolo(None) | Method::Chef { .. } | Method::UserData(_) => String::new(),
        };
        format!(
            "<?xml version=\"1.0\" ?><cluster><workspace><name>domain_instance</name><image>{}</image><quantity>1</quantity><nic \
             wantlogin=\"true\">public</nic><ctx><provides><identity/></provides><requires><identity/>{data}</requires></ctx></workspace></cluster>",
            escaped(&self.image)
        )
    }
}

/// What is wrong with a template, in the original's words.
pub(super) fn of_wrong(dt_name: &str, wrong: &Wrong) -> Problem {
    match wrong {
        Wrong::Variable(name) => validation_error(dt_name, format!("DT doc has variable not present in request: '{name}'")),
        Wrong::Placeholder { line, column } => validation_error(
            dt_name,
            format!("Deployable type document has bad variable: Invalid placeholder in string: line {line}, col {column}"),
        ),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("a mapping")
    }

    fn at_here(context: Value, chef_credential: Option<&str>) -> Result<Found, Problem> {
        let dt = json!({
            "mappings": {"here": {"iaas_image": "<${image}>", "iaas_allocation": "small"}, "bare": {"iaas_image": "x"}},
            "contextualization": context,
        });
        let known = Known {
            key: &|| Ok(Some("mykey".to_owned())),
            chef: &|name| name == "chef",
            chef_credential: chef_credential.map(str::to_owned),
        };
        find("web", &map(dt), "here", None, &known)
    }

    #[test]
    fn a_type_without_a_method_has_no_data_and_its_image_is_filled_in() {
        let found = at_here(json!(null), None).expect("found");
        let answer = found.answer("web", &map(json!({"image": "a&b"}))).expect("an answer");
        // Escaped before variables are put in, and not after.
        assert_eq!(
            answer["document"],
            "<?xml version=\"1.0\" ?><cluster><workspace><name>domain_instance</name><image>&lt;a&b&gt;</image><quantity>1</quantity><nic \
             wantlogin=\"true\">public</nic><ctx><provides><identity/></provides><requires><identity/></requires></ctx></workspace></cluster>"
        );
        assert_eq!(
            answer["node"],
            json!({
                "iaas_image": "<${image}>", "iaas_allocation": "small", "iaas_sshkeyname": "mykey", "needs_elastic_ip": false,
                "ctx_method": "chef-solo", "needs_nimbus_ctx": true,
            })
        );
        let missing = found.answer("web", &Map::new()).expect_err("a variable is missing");
        assert_eq!(missing.exc_type, VALIDATION_ERROR);
        assert_eq!(
            missing.value,
            "Deployable Type 'web': DT doc has variable not present in request: 'image'"
        );
    }

    #[test]
    fn chef_solo_has_its_config_in_the_document() {
        let config = json!({"port": "$port", "list": [1, "]]>"]});
        let found = at_here(json!({"method": "chef-solo", "chef_config": config}), None).expect("found");
        let answer = found
            .answer("web", &map(json!({"image": "i", "port": {"a": [1, 2]}})))
            .expect("an answer");
        let document = answer["document"].as_str().expect("text");
        assert!(
            document.contains(
                r#"<requires><identity/><data name="dt-chef-solo"><![CDATA[{"list": [1, "]]]]><![CDATA[>"], "port": "{"a": [1, 2]}"}]]></data></requires>"#
            ),
            "{document}"
        );
        let bad = at_here(json!({"method": "chef-solo", "chef_config": {"a": "$5"}}), None)
            .expect("found")
            .answer("web", &map(json!({"image": "i"})))
            .expect_err("a bad placeholder");
        assert!(
            bad.value.contains("bad variable: Invalid placeholder in string: line 1, col "),
            "{bad}"
        );
    }

    #[test]
    fn the_other_methods_say_what_they_need_in_the_node() {
        let userdata = json!({"method": "userdata", "userdata": {"here": "#!/bin/sh\necho $HOME"}});
        let vars = map(json!({"image": "i"}));
        let node = at_here(userdata, None).expect("found").answer("web", &vars).expect("an answer")["node"].clone();
        assert_eq!(node["iaas_userdata"], "#!/bin/sh\necho $HOME");
        assert_eq!(
            (&node["ctx_method"], &node["needs_nimbus_ctx"]),
            (&json!("userdata"), &json!(false))
        );

        let chef = json!({"method": "chef", "run_list": ["role[web]"]});
        let node = at_here(chef.clone(), None).expect("found").answer("web", &vars).expect("an answer")["node"].clone();
        assert_eq!(
            (&node["chef_runlist"], &node["chef_attributes"], &node["chef_credential"]),
            (&json!(["role[web]"]), &json!({}), &json!("chef"))
        );
        let other = at_here(chef, Some("other")).expect_err("no such credentials");
        assert_eq!(other.exc_type, LOOKUP_ERROR);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (context, says) in [
            (json!({"method": "chef-solo"}), "Missing chef_config in DT definition"),
            (json!({"method": "userdata"}), "Missing userdata in DT definition"),
            (
                json!({"method": "userdata", "userdata": {"there": "x"}}),
                "Missing userdata in DT definition",
            ),
            (json!({"method": "puppet"}), "Unknown contextualization method puppet"),
        ] {
            let problem = at_here(context, None).expect_err("wrong");
            assert_eq!(
                (problem.exc_type.as_ref(), problem.value),
                (VALIDATION_ERROR, format!("Deployable Type 'web': {says}"))
            );
        }
        let dt = map(json!({"mappings": {"bare": {"iaas_image": "x"}, "none": {"iaas_allocation": "x", "iaas_image": null}}}));
        let known = Known {
            key: &|| Err(lookup_error("no credentials")),
            chef: &|_| false,
            chef_credential: None,
        };
        let at = |site: &str| find("web", &dt, site, None, &known).expect_err("wrong").value;
        assert_eq!(at("else"), "Site else missing in mappings of DT web");
        assert_eq!(at("bare"), "iaas_allocation missing in mappings of DT web and site bare");
        assert_eq!(at("none"), "iaas_image missing in mappings of DT web and site none");
        assert!(run("web", &map(json!({"run": "sleep"}))).is_err() && run("web", &map(json!({"run": []}))).is_err());
        assert_eq!(
            run("web", &map(json!({"run": ["a", "b"]}))),
            Ok(Some(vec!["a".to_owned(), "b".to_owned()]))
        );
    }
}
