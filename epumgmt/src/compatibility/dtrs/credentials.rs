//! Credentials as clients give them, as they are recorded, and as they are shown. Pure, but for the files that [`super::secrets`] writes.

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::wire::Problem;
use epu_core::secret::SecretRef;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sites::{Keys, bad_request};

/// Credentials for a site.
pub(super) const SITE: &str = "site";
/// Credentials of a Chef server.
pub(super) const CHEF: &str = "chef";
/// What stands in place of a secret.
pub(super) const HIDDEN: &str = "***";
/// The field whose value is no secret, and goes to a file all the same, since a site takes it as a reference.
const ACCESS_KEY: &str = "access_key";
/// The most fields.
const FIELDS_MOST: usize = 50;
/// The longest secret, in bytes.
const SECRET_MAX: usize = 64 << 10;
/// The longest name of a field that holds a secret.
const FIELD_MAX: usize = 60;
/// The longest name of credentials.
const NAME_MAX: usize = 120;

/// Credentials as they are recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Credentials {
    /// Whose they are.
    pub owner: String,
    /// Of which type.
    pub kind: String,
    /// What they are called; those of type `site`, like their site.
    pub name: String,
    /// What they say.
    pub fields: BTreeMap<String, Field>,
}

/// A field as it is recorded. No secret is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Field {
    /// Anything that is no secret.
    Open(Value),
    /// Where a secret is, as the client named it.
    Reference(String),
    /// A secret that the client sent.
    Kept {
        /// The reference to its file.
        file: String,
        /// What is shown; left out: [`HIDDEN`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<String>,
    },
}

/// A field before its secret is in a file. It has no `Debug`, as it holds one.
pub(super) enum Given {
    /// Nothing has to be written.
    Ready(Field),
    /// This has to be written first.
    Secret {
        /// The secret.
        secret: String,
        /// What of it is shown.
        shown: Option<String>,
    },
}

impl Credentials {
    /// As they are described.
    pub(super) fn described(&self) -> Value {
        let shown = |field: &Field| match field {
            Field::Open(value) => value.clone(),
            Field::Reference(reference) => Value::String(reference.clone()),
            Field::Kept { shown, .. } => Value::String(shown.clone().unwrap_or_else(|| HIDDEN.to_owned())),
        };
        Value::Object(self.fields.iter().map(|(name, field)| (name.clone(), shown(field))).collect())
    }

    /// The key pair that they name.
    pub(super) fn key_name(&self) -> Option<String> {
        match self.fields.get("key_name") {
            Some(Field::Open(Value::String(name))) if !name.is_empty() => Some(name.clone()),
            Some(Field::Open(_) | Field::Reference(_) | Field::Kept { .. }) | None => None,
        }
    }

    /// The files that hold their secrets.
    pub(super) fn files(&self) -> Vec<String> {
        let file = |field: &Field| match field {
            Field::Kept { file, .. } => Some(file.clone()),
            Field::Open(_) | Field::Reference(_) => None,
        };
        self.fields.values().filter_map(file).collect()
    }

    /// What a site needs of them; none when a key is missing.
    pub(super) fn keys(&self) -> Option<Keys> {
        let reference = |name: &str| match self.fields.get(name)? {
            Field::Reference(reference) | Field::Kept { file: reference, .. } => Some(SecretRef::new(reference.clone())),
            Field::Open(_) => None,
        };
        Some(Keys {
            access: reference(ACCESS_KEY)?,
            secret: reference("secret_key")?,
            session: reference("session_token"),
        })
    }
}

/// Whether credentials may have this type and name.
///
/// # Errors
/// `BadRequestError`.
pub(super) fn check(kind: &str, name: &str) -> Result<(), Problem> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    if kind != SITE && kind != CHEF {
        return Err(bad_request(format!("Invalid credentials type '{}'", shown(kind))));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
        return Err(bad_request(format!("Invalid credentials name '{}'", shown(name))));
    }
    Ok(())
}

/// The fields of a mapping that a client sent. `permitted` are the references that it may name, `former` what there was.
///
/// # Errors
/// `BadRequestError`, which repeats no value.
pub(super) fn given(values: &Value, permitted: &[String], former: Option<&Credentials>) -> Result<BTreeMap<String, Given>, Problem> {
    let values = values.as_object().filter(|values| !values.is_empty());
    let values = values.ok_or_else(|| bad_request("Invalid credentials block"))?;
    if values.len() > FIELDS_MOST {
        return Err(bad_request(format!("Invalid credentials block: more than {FIELDS_MOST} fields")));
    }
    let mut fields = BTreeMap::new();
    for (name, value) in values {
        let field = if is_secret(name) || name == ACCESS_KEY {
            secret(name, value, permitted, former)?
        } else {
            if let Some(inner) = secret_within(value) {
                let shown: String = name.chars().take(FIELD_MAX).collect();
                return Err(bad_request(format!(
                    "Invalid credentials block: a secret ({inner}) must not stand within {shown}"
                )));
            }
            Given::Ready(Field::Open(value.clone()))
        };
        // The original kept its own version in there.
        if name != "__version" {
            fields.insert(name.clone(), field);
        }
    }
    Ok(fields)
}

fn secret(name: &str, value: &Value, permitted: &[String], former: Option<&Credentials>) -> Result<Given, Problem> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.len() > FIELD_MAX || !name.chars().all(good) {
        return Err(bad_request(
            "Invalid credentials block: a field that holds a secret has letters, digits and _ in its name",
        ));
    }
    let wrong = |why: &str| bad_request(format!("Invalid credentials block: {name} {why}"));
    let text = value.as_str().filter(|text| !text.is_empty() && text.len() <= SECRET_MAX);
    let text = text.ok_or_else(|| wrong("must be text, not empty, and at most 64 KiB"))?;
    if text == HIDDEN {
        let before = former.and_then(|former| former.fields.get(name));
        let before = before.filter(|field| matches!(field, Field::Kept { .. } | Field::Reference(_)));
        return before
            .map(|field| Given::Ready(field.clone()))
            .ok_or_else(|| wrong("is ***, which stands for a secret that is there already, and there is none"));
    }
    if text.starts_with("env:") || text.starts_with("file:") {
        let is_former = former.and_then(|former| former.fields.get(name)) == Some(&Field::Reference(text.to_owned()));
        if !is_former && !may_name(text, permitted) {
            return Err(wrong(
                "is a reference that is not permitted here; whoever runs the service can permit it (`compatibility.references`)",
            ));
        }
        return Ok(Given::Ready(Field::Reference(text.to_owned())));
    }
    let shown = (name == ACCESS_KEY).then(|| text.to_owned());
    Ok(Given::Secret {
        secret: text.to_owned(),
        shown,
    })
}

/// Whether a field is taken for a secret, by its name.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_key = name.ends_with("_key") && name != ACCESS_KEY && name != "public_key";
    is_key || ["secret", "passw", "token", "private"].iter().any(|word| name.contains(word))
}

/// The name of a secret somewhere within a value.
fn secret_within(value: &Value) -> Option<&str> {
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            if is_secret(name) {
                Some(name.as_str())
            } else {
                secret_within(value)
            }
        }),
        Value::Array(list) => list.iter().find_map(secret_within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Whether a reference is one of those that callers may name, and well written.
fn may_name(reference: &str, permitted: &[String]) -> bool {
    let is_written_well = match reference.strip_prefix("env:") {
        Some(name) => {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        }
        // A way up could lead out of the directory that is permitted.
        None => {
            let path = reference.strip_prefix("file:").unwrap_or_default();
            path.starts_with('/') && path.split('/').all(|part| part != ".." && part != ".")
        }
    };
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(beginning) => reference.starts_with(beginning),
        None => reference == pattern,
    };
    is_written_well && permitted.iter().any(fits)
}

/// Credentials for a site, for tests.
#[cfg(test)]
pub(super) fn of(owner: &str, name: &str, fields: BTreeMap<String, Field>) -> Credentials {
    Credentials {
        owner: owner.to_owned(),
        kind: SITE.to_owned(),
        name: name.to_owned(),
        fields,
    }
}

/// Without the version that the original left in definitions.
pub(super) fn without_version(mut definition: Map<String, Value>) -> Map<String, Value> {
    definition.remove("__version");
    definition
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(file: &str, shown: Option<&str>) -> Field {
        Field::Kept {
            file: file.to_owned(),
            shown: shown.map(str::to_owned),
        }
    }

    fn refused(values: Value) -> String {
        let Err(problem) = given(&values, &["env:EPU_*".to_owned(), "file:/run/epu/a".to_owned()], None) else {
            panic!("{values} was taken");
        };
        assert!(!problem.value.contains("s3cret"), "{problem}");
        problem.value
    }

    #[test]
    fn a_secret_is_written_elsewhere_and_a_permitted_reference_is_kept() {
        let values = json!({
            "access_key": "AKIA", "secret_key": "env:EPU_SECRET", "client_key": "s3cret", "key_name": "mykey", "__version": 3, "note": {"a": [1]},
        });
        let given = given(&values, &["env:EPU_*".to_owned()], None).unwrap_or_else(|problem| panic!("{problem}"));
        let names: Vec<&str> = given.keys().map(String::as_str).collect();
        assert_eq!(names, ["access_key", "client_key", "key_name", "note", "secret_key"]);
        assert!(matches!(&given["access_key"], Given::Secret { shown: Some(shown), .. } if shown == "AKIA"));
        assert!(matches!(&given["client_key"], Given::Secret { secret, shown: None } if secret == "s3cret"));
        assert!(matches!(&given["secret_key"], Given::Ready(Field::Reference(at)) if at == "env:EPU_SECRET"));
        assert!(matches!(&given["key_name"], Given::Ready(Field::Open(_))));
    }

    #[test]
    fn nothing_secret_is_shown_and_what_is_described_can_be_sent_back() {
        let credentials = of(
            "alice",
            "ec2",
            BTreeMap::from([
                ("access_key".to_owned(), kept("file:/a", Some("AKIA"))),
                ("secret_key".to_owned(), kept("file:/s", None)),
                ("key_name".to_owned(), Field::Open(json!("mykey"))),
            ]),
        );
        let described = credentials.described();
        assert_eq!(described, json!({"access_key": "AKIA", "secret_key": "***", "key_name": "mykey"}));
        assert_eq!(credentials.key_name().as_deref(), Some("mykey"));
        assert_eq!(credentials.files(), ["file:/a", "file:/s"]);
        let keys = credentials.keys().expect("both keys");
        assert_eq!((keys.access, keys.secret), (SecretRef::new("file:/a"), SecretRef::new("file:/s")));
        let again = given(&described, &[], Some(&credentials)).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(matches!(&again["secret_key"], Given::Ready(Field::Kept { file, .. }) if file == "file:/s"));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_not_repeated() {
        for bad in [json!(null), json!({}), json!([]), json!("s3cret")] {
            assert_eq!(refused(bad), "Invalid credentials block");
        }
        assert!(refused(json!({"secret_key": "***"})).contains("there is none"));
        assert!(refused(json!({"secret_key": ["s3cret"]})).contains("secret_key must be text"));
        assert!(refused(json!({"password.1": "s3cret"})).contains("in its name"));
        assert!(refused(json!({"extra": {"deep": [{"api_token": "s3cret"}]}})).contains("(api_token) must not stand within extra"));
        for reference in [
            "env:HOME",
            "env:EPU_ A",
            "file:/etc/shadow",
            "file:/run/epu/a/../b",
            "file:run/epu/a",
            "env:",
        ] {
            assert!(refused(json!({"access_key": reference})).contains("not permitted"), "{reference}");
        }
        let permitted = ["file:/run/epu/*".to_owned()];
        assert!(may_name("file:/run/epu/x", &permitted) && !may_name("file:/run/epu/../x", &permitted));
    }

    #[test]
    fn types_and_names_are_as_narrow_as_they_were() {
        assert!(check("site", "a.B_c-1").is_ok() && check("chef", "..").is_ok());
        assert_eq!(check("ssh", "a").expect_err("a type").value, "Invalid credentials type 'ssh'");
        for bad in ["", "a b", "a/b", "é"] {
            assert_eq!(
                check("site", bad).expect_err("a name").value,
                format!("Invalid credentials name '{bad}'")
            );
        }
    }
}
