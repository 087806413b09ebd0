use std::fs;

use super::*;

fn flaws(text: &str) -> Vec<String> {
    match Config::read(Path::new("/etc/epu/epu.yaml"), text) {
        Ok(_) => Vec::new(),
        Err(flaws) => flaws
            .as_slice()
            .iter()
            .map(|flaw| flaw.to_string().replace("/etc/epu/", ""))
            .collect(),
    }
}

const POOL: &str = "\
templates:
  sleeper:
    run: [sleep, \"60\"]
pools:
  web:
    template: sleeper
    max: 3
    engine:
      keep: {n: 2}
";

#[test]
fn everything_but_pools_has_a_default() {
    let config = Config::read(Path::new("/etc/epu/epu.yaml"), POOL).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/epu/epu-data"));
    assert_eq!((config.listen.to_string().as_str(), config.tick), (DEFAULT_LISTEN, Span::secs(1)));
    assert_eq!(config.sites.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["local"]);
    assert_eq!((config.pools.len(), config.pools[0].line, config.templates.len()), (1, 5, 1));
    assert_eq!(config.log, Log::default());
    assert_eq!(config.known().sites.len(), 1);
}

#[test]
fn what_is_written_is_read() {
    let text = format!(
        "data-dir: /var/lib/epu\nlisten: \"[::1]:9000\"\ntick: 200ms\nretention: 1d\nlog: {{level: \"info,epu_controller=debug\", format: json}}\nsites:\n  here: {{local: {{max-instances: 5}}}}\n{POOL}"
    );
    let config = Config::read(Path::new("/etc/epu/epu.yaml"), &text).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/epu"));
    assert_eq!(config.listen.port(), 9000);
    assert_eq!(config.log.format, LogFormat::Json);
    let site = config.sites.values().next().unwrap();
    assert_eq!(site.local.as_ref().unwrap().max_instances, 5);
    assert_eq!(config.pools[0].spec.placements[0].site.as_str(), "here");
}

#[test]
fn faults_of_every_part_are_shown_at_once() {
    let text = "\
data-dir: 5
listen: 8650
tik: 1s
retention: 1s
log: {level: \"=,=\", format: xml}
sites:
  here: {}
  there: {locl: {}}
templates:
  sleeper: {run: [sleep]}
pools:
  web: {template: sleepr, min: 4, max: 3, engine: {keep: {n: 2}}, placements: [{site: hre}]}
";
    insta::assert_snapshot!(flaws(text).join("\n"));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let cases = [
        "listen: localhost:8650",
        "listen: 0.0.0.0:8650",
        "tick: 1ms",
        "tick: 2m",
        "sites: {}",
        "listen: 127.0.0.1:0",
        "sites: {a: {}, b: {}, a: {}}",
        "pool: {}",
    ]
    .map(|line| flaws(&format!("{line}\n{POOL}")).join("\n"));
    assert!(cases.iter().all(|flaws| !flaws.is_empty()), "{cases:#?}");
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn one_machine_is_one_site() {
    let text =
        format!("{POOL}    placements: [{{site: here}}]\nsites:\n  here: {{local: {{}}}}\n  there: {{local: {{max-instances: 5}}}}\n");
    assert_eq!(
        flaws(&text),
        [
            "epu.yaml:13:3: sites.there: site here has the driver `local` already, and this machine is one site; take there out, and place its pools on here"
        ]
    );
}

#[test]
fn a_file_that_is_not_there_is_one_flaw() {
    let flaws = Config::load(Path::new("/no/such/epu.yaml")).unwrap_err();
    assert_eq!(
        flaws.to_string(),
        "/no/such/epu.yaml: read it: No such file or directory (os error 2)"
    );
}

#[test]
fn an_empty_file_says_so() {
    assert_eq!(flaws(""), ["epu.yaml:1:1: it is empty"]);
}

#[test]
fn the_data_directory_is_found_even_when_the_rest_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("epu.yaml");
    assert_eq!(data_dir_of(&file), None);
    fs::write(&file, "data-dir: here\nwrong: 1\n").unwrap();
    assert_eq!(data_dir_of(&file), Some(directory.path().join("here")));
    fs::write(&file, "pools: {}\n").unwrap();
    assert_eq!(data_dir_of(&file), Some(directory.path().join(DEFAULT_DATA)));
}

#[test]
fn the_schema_is_what_editors_want() {
    let schema = schema(&Registry::standard());
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(jsonschema_is_sound(&schema));
    for key in ["data-dir", "listen", "tick", "retention", "log", "sites", "templates", "pools"] {
        assert!(schema["properties"][key]["description"].is_string(), "{key} has no description");
    }
}

/// A schema that is none makes every file faulty.
fn jsonschema_is_sound(schema: &Value) -> bool {
    check(&Tree::of("", serde_json::json!({})), schema).is_empty()
}

/// `EPU_UPDATE_DOCS=1 cargo test -p epumgmt` writes it anew.
#[test]
fn the_reference_in_docs_is_what_the_schema_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let document = reference::document(&Registry::standard());
    if std::env::var_os("EPU_UPDATE_DOCS").is_some() {
        fs::write(file, &document).unwrap();
    }
    let there = fs::read_to_string(file).unwrap_or_default();
    assert!(
        there == document,
        "docs/configuration.md is stale: run `EPU_UPDATE_DOCS=1 cargo test -p epumgmt`"
    );
}
