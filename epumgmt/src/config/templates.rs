//! A template by itself, as an operator adds it: by the same schema and rules as those of the config file.

use std::path::Path;

use epu_controller::spec::{self, Known};
use epu_core::TemplateName;
use epu_core::input::{Flaws, Tree, check, pointer};
use epu_core::pool::Template;
use epu_core::request::TemplateFile;
use serde_json::{Map, Value};

use super::sites;

/// The one template that is meant by a text.
///
/// # Errors
/// Every fault.
pub(crate) fn read(file: &TemplateFile, known: &Known) -> Result<(TemplateName, Template), Flaws> {
    let tree = Tree::read(&file.file, &file.text)?;
    let mut flaws = check(&tree, &spec::schema(&known.engines));
    let base = Path::new(&file.file).parent().filter(|base| base.is_absolute());
    let mapping = |key: &str| tree.value().get(key).and_then(Value::as_object);
    if mapping("pools").is_some_and(|pools| !pools.is_empty()) {
        let flaw = tree.flaw_at_key("/pools", "pools are no part of a template");
        flaws.push(flaw.help("take them out, and add them with `epumgmt pool add`"));
    } else {
        spec::resolve(&tree, base, known, &mut flaws);
    }
    let names: Vec<&str> = mapping("templates").into_iter().flat_map(Map::keys).map(String::as_str).collect();
    for name in &names {
        sites::machine(&tree, &pointer(["templates", name, "machine"]), &mut flaws);
    }
    let meant = match (&file.name, names.as_slice()) {
        (Some(name), names) if names.contains(&name.as_str()) => Some(name.to_string()),
        (Some(name), names) => {
            let flaw = tree.flaw_at_key("/templates", format!("there is no template {name} in it"));
            flaws.push(flaw.did_you_mean(name.as_str(), names.iter().copied()));
            None
        }
        (None, [only]) => Some((*only).to_owned()),
        (None, []) => {
            let flaw = tree.flaw("", "there is no template in it");
            flaws.push(flaw.help("write it below `templates:`"));
            None
        }
        (None, several) => {
            let text = format!("there are {} templates in it, and one is added at a time", several.len());
            flaws.push(tree.flaw_at_key("/templates", text).help("say which with --name"));
            None
        }
    };
    Flaws::none_in(flaws)?;
    let mut all = spec::templates(&tree, base)?;
    let found = meant
        .and_then(|name| TemplateName::new(&name).ok())
        .and_then(|name| all.remove_entry(&name));
    found.ok_or_else(|| tree.flaw("", "there is no template in it").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn one(text: &str, name: Option<&str>) -> Result<(String, Template), Vec<String>> {
        let file = TemplateFile {
            file: "/srv/worker.yaml".to_owned(),
            text: text.to_owned(),
            name: name.map(|name| TemplateName::new(name).unwrap()),
        };
        let known = Config::read(Path::new("/etc/epu/epu.yaml"), "sites: {}\n").unwrap().known();
        let read = read(&file, &known);
        read.map(|(name, template)| (name.to_string(), template))
            .map_err(|flaws| flaws.as_slice().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_template_by_itself_is_held_to_the_rules_of_the_file() {
        let (name, template) = one("templates: {worker: {run: [sh, -c, 'true'], directory: .}}\n", None).unwrap();
        assert_eq!((name.as_str(), template.directory.unwrap().to_str()), ("worker", Some("/srv/.")));
        let two = "templates: {a: {run: [sleep]}, b: {run: [sh]}}\n";
        assert_eq!(one(two, Some("b")).unwrap().1.run, ["sh"]);
        let refused = [
            one(two, None),
            one(two, Some("c")),
            one("{}\n", None),
            one(
                "templates: {a: {run: [], rn: [sh], heartbeat: 1ms, machine: {subnet: s, zone: z}}}\n",
                None,
            ),
            one(
                "templates: {a: {run: [sh]}}\npools: {web: {template: a, max: 1, engine: {keep: {n: 1}}}}\n",
                None,
            ),
        ];
        let flaws: Vec<String> = refused.into_iter().flat_map(Result::unwrap_err).collect();
        insta::assert_snapshot!(flaws.join("\n"));
    }
}
