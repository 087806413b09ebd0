use epu_core::Timestamp;
use epu_core::pool::{Origin, Paused};

use super::*;

fn known() -> Known {
    Known {
        engines: Registry::standard(),
        sites: [SiteName::new("local").unwrap()].into(),
        owned: BTreeSet::new(),
        templates: BTreeMap::new(),
        tick: Span::secs(1),
        search: Some("/bin:/usr/bin".into()),
    }
}

/// A file without faults; tests put one in.
const GOOD: &str = "\
templates:
  sleeper:
    run: [sleep, \"60\"]
    heartbeat: 5s
pools:
  web:
    template: sleeper
    min: 1
    max: 5
    engine:
      queue-length: {sensor: jobs, high-water: 50, low-water: 10}
    sensors:
      jobs:
        rabbitmq:
          url: env:AMQP_URL
          queue: jobs
        every: 5s
";

fn flaws_in(text: &str, known: &Known) -> Vec<String> {
    match read("/etc/epu/epu.yaml", text, known) {
        Ok(_) => Vec::new(),
        Err(flaws) => flaws
            .as_slice()
            .iter()
            .map(|flaw| flaw.to_string().replace("/etc/epu/", ""))
            .collect(),
    }
}

/// The only flaw of the good file with something replaced.
fn the_flaw(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    let flaws = flaws_in(&GOOD.replacen(from, to, 1), &known());
    assert_eq!(flaws.len(), 1, "{flaws:#?}");
    flaws.into_iter().next().unwrap()
}

#[test]
fn a_good_file_is_resolved() {
    let pools = read("/etc/epu/epu.yaml", GOOD, &known()).unwrap();
    let web = &pools[0];
    assert_eq!((pools.len(), web.name.as_str(), web.line, web.spec.max), (1, "web", 6, 5));
    assert_eq!(web.template.run, ["sleep", "60"]);
    // The only site was put in.
    assert_eq!(web.spec.placements[0].site.as_str(), "local");
}

#[test]
fn each_rule_finds_its_fault_at_its_place() {
    let engine = "queue-length: {sensor: jobs, high-water: 50, low-water: 10}";
    let cases = [
        the_flaw("low-water: 10", "low-water: 60"),
        the_flaw("low-water: 10", "low-watr: 10"),
        the_flaw("low-water: 10", "low-water: -1"),
        the_flaw("low-water: 10", "low-water: 10, stp: 2"),
        the_flaw("min: 1", "min: 6"),
        the_flaw("template: sleeper", "template: sleepr"),
        the_flaw("template: sleeper", "template: cruncher"),
        the_flaw("sensor: jobs", "sensor: job"),
        the_flaw("sensor: jobs", "sensor: load"),
        the_flaw(engine, "{}"),
        the_flaw(
            engine,
            "keep: {n: 3}\n      queue-length: {sensor: jobs, high-water: 50, low-water: 10}",
        ),
        the_flaw(engine, "kep: {n: 3}"),
        the_flaw(engine, "keep: {n: 6}"),
        the_flaw(engine, "keep: {n: 0}"),
        the_flaw(engine, "npreserving: {n: 6}"),
        the_flaw(engine, "keep: {n: 1, unique: {a: {}, b: {}}}"),
        the_flaw(engine, "keep: {n: 1, unique: {a: {EPU_X: \"1\"}}}"),
        the_flaw("        every: 5s\n", "        every: 5s\n        directory: {path: /tmp}\n"),
        the_flaw("      jobs:\n", "      none: {}\n      jobs:\n"),
        the_flaw("queue: jobs", "queue: jobs\n          count: ready+unacked"),
        the_flaw("env:AMQP_URL", "amqp://me:secret@host"),
        the_flaw("env:AMQP_URL", "host:5672"),
        the_flaw("queue: jobs", "queue: jobs\n          management-url: http://me:secret@host"),
        the_flaw("every: 5s", "every: 500ms"),
        the_flaw("every: 5s", "every: 0s"),
        the_flaw("every: 5s", "every: 5s\n        stale-after: 4s"),
        the_flaw("every: 5s", "every: 5s\n        missing-after: 10s"),
        the_flaw("every: 5s", "every: 5s\n        stale-after: 30s\n        missing-after: 20s"),
        the_flaw("max: 5", "max: 5\n    limits: {cooldown-up: 100ms}"),
        the_flaw("max: 5", "max: 5\n    limits: {cooldown-down: 100ms}"),
        the_flaw("max: 5", "max: 5\n    health: {missing: 9s}"),
        the_flaw("heartbeat: 5s", "heartbeat: 2m"),
        the_flaw("heartbeat: 5s", "heartbeat: 0s"),
        the_flaw("heartbeat: 5s", "ready-within: 0s"),
        the_flaw("heartbeat: 5s", "variables: {EPU_POOL: x}"),
        the_flaw("max: 5", "max: 5\n    placements: [{site: locl}]"),
        the_flaw("max: 5", "max: 5\n    placements: [{site: mars}]"),
        the_flaw("max: 5", "max: 5\n    placements: [{site: local, max: 3}, {site: local, max: 3}]"),
        the_flaw("max: 5", "max: 5\n    placements:\n      - {site: local, max: 0}"),
        the_flaw(
            "max: 5",
            "max: 5\n    placements: [{site: local, name: a, max: 3}, {site: local, name: a, max: 3}]",
        ),
        the_flaw(
            "max: 5",
            "max: 5\n    placements:\n      - {site: local}\n      - {site: local, name: local}",
        ),
        the_flaw(
            "max: 5",
            "max: 5\n    placements:\n      - {site: local}\n      - {site: local, max: 2}",
        ),
        the_flaw("max: 5", "max: 5\n    placements: [{site: local, machine: {sise: m7i.large}}]"),
        the_flaw("max: 5", "max: 5\n    placements: [{site: local, machine: {tags: {\"aws:x\": y}}}]"),
        the_flaw("heartbeat: 5s", "machine: {tags: {\"epu:pool\": other}}"),
        the_flaw("heartbeat: 5s", "machine: {launch-template: {version: \"3\"}}"),
        the_flaw("heartbeat: 5s", "machine: {launch-template: {id: lt-1, name: web, version: \"3\"}}"),
        the_flaw("heartbeat: 5s", "machine: {launch-template: {id: lt-1, version: $Latest}}"),
        the_flaw(
            "heartbeat: 5s",
            "machine: {volumes: [{device: /dev/sdf, size: 1}, {device: /dev/sdf, size: 2}]}",
        ),
        the_flaw("heartbeat: 5s", "machine: {market: {spot: {max-price: 0}}}"),
        the_flaw("heartbeat: 5s", "machine: {market: cheap}"),
        the_flaw("heartbeat: 5s", "agent: {url: \"https://x/agent\", sha256: \"00\"}"),
        the_flaw("[sleep, \"60\"]", "[slep]"),
        the_flaw("[sleep, \"60\"]", "[/opt/no-such-program]"),
        the_flaw("[sleep, \"60\"]", "[./no-such-program]"),
        the_flaw("[sleep, \"60\"]", "[/etc/passwd]"),
        the_flaw("[sleep, \"60\"]", "[/tmp/]"),
        the_flaw("[sleep, \"60\"]", "[\"\"]"),
        the_flaw("heartbeat: 5s", "set-up: [/opt/no-such-set-up]"),
        the_flaw("heartbeat: 5s", "directory: /no/such/directory"),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn faults_of_form_and_of_meaning_are_found_together() {
    let text = GOOD
        .replace("low-water: 10}", "low-water: 60, stp: 1}")
        .replace("min: 1", "min: 6")
        .replace("every: 5s", "every: 5s\n        evry: 5s")
        .replace("template: sleeper", "template: sleepr");
    let flaws = flaws_in(&text, &known());
    insta::assert_snapshot!(flaws.join("\n"));
    assert_eq!(flaws.len(), 5);
}

#[test]
fn several_sites_ask_for_a_placement() {
    let mut two = known();
    two.sites.insert(SiteName::new("ec2").unwrap());
    assert_eq!(
        flaws_in(GOOD, &two),
        ["epu.yaml:6:3: pools.web: `placements` is missing, and there are 2 sites; name one of: ec2, local"]
    );
    assert_eq!(
        flaws_in(&GOOD.replace("max: 5", "max: 5\n    placements: [{site: ec2}]"), &two),
        [""; 0]
    );
}

#[test]
fn a_site_that_is_somebodys_own_has_to_be_named() {
    let mut two = known();
    let own = SiteName::new("ec2").unwrap();
    two.sites.insert(own.clone());
    two.owned.insert(own);
    assert_eq!(flaws_in(GOOD, &two), [""; 0]);
    assert_eq!(
        flaws_in(&GOOD.replace("max: 5", "max: 5\n    placements: [{site: ec2}]"), &two),
        [""; 0]
    );
    two.sites.remove(&SiteName::new("local").unwrap());
    assert!(flaws_in(GOOD, &two)[0].contains("there is no site to place it on"));
}

#[test]
fn programs_are_not_looked_for_when_workers_run_elsewhere() {
    let elsewhere = Known { search: None, ..known() };
    assert_eq!(flaws_in(&GOOD.replace("[sleep,", "[no-such-program,"), &elsewhere), [""; 0]);
}

#[test]
fn a_program_is_looked_for_on_the_templates_own_path_and_may_be_named_by_a_variable() {
    let here = env!("CARGO_MANIFEST_DIR");
    let own = GOOD.replace("heartbeat: 5s", &format!("variables: {{PATH: {here}}}"));
    assert_eq!(
        flaws_in(&own, &known()),
        ["epu.yaml:3:11: templates.sleeper.run[0]: no program \"sleep\" is found on PATH"]
    );
    assert_eq!(flaws_in(&GOOD.replace("[sleep,", "[\"${PROGRAM}\","), &known()), [""; 0]);
}

#[test]
fn relative_paths_count_from_the_files_directory() {
    let text = GOOD
        .replace("heartbeat: 5s", "directory: bin")
        .replace("[sleep,", "[./sleep,")
        .replace("          url: env:AMQP_URL\n          queue: jobs\n", "")
        .replace("rabbitmq:", "directory: {path: spool/new, in-progress: /spool/work}");
    let pools = read("//epu.yaml", &text, &known()).unwrap();
    assert_eq!(pools[0].template.directory.as_deref(), Some(Path::new("/bin")));
    assert_eq!(pools[0].template.run[0], "/bin/./sleep");
    let directory = pools[0].spec.sensors.values().next().unwrap().directory.clone().unwrap();
    assert_eq!(directory.path, Path::new("/spool/new"));
    assert_eq!(directory.in_progress.as_deref(), Some(Path::new("/spool/work")));

    // Standard input is in no directory.
    let flaws = match read("-", &text, &known()) {
        Ok(_) => panic!("relative paths were taken"),
        Err(flaws) => flaws.to_string(),
    };
    assert_eq!(
        flaws.matches("is relative, and there is no file to be relative to").count(),
        3,
        "{flaws}"
    );
}

#[test]
fn a_template_may_stand_in_the_config_file() {
    let text = GOOD.lines().skip(4).collect::<Vec<_>>().join("\n");
    assert_eq!(flaws_in(&text, &known()).len(), 1);
    let tree = Tree::read("epu.yaml", GOOD).unwrap();
    let mut with = known();
    with.templates = templates(&tree, None).unwrap();
    let pools = read("/etc/epu/epu.yaml", &text, &with).unwrap();
    assert_eq!(pools[0].template.run, ["sleep", "60"]);
}

#[test]
fn another_content_is_another_version_and_the_same_is_the_same_for_ever() {
    let pools = read("/epu.yaml", GOOD, &known()).unwrap();
    let (name, template) = (&pools[0].spec.template, &pools[0].template);
    assert_eq!(version(name, template), pools[0].template_version);
    let (before, digest) = pools[0].template_version.split_once('@').unwrap();
    assert_eq!((before, digest.len()), ("sleeper", 12));
    let mut other = template.clone();
    other.run.push("more".to_owned());
    assert_ne!(version(name, &other), pools[0].template_version);
    insta::assert_snapshot!(pools[0].template_version);
}

#[test]
fn a_pool_is_not_called_what_stands_for_having_none() {
    let flaws = read("/epu.yaml", &GOOD.replace("web:", "unpooled:"), &known())
        .unwrap_err()
        .to_string();
    assert!(flaws.contains("stands for having no pool"), "{flaws}");
}

fn pool() -> Pool {
    let resolved = read("/etc/epu/epu.yaml", GOOD, &known()).unwrap().remove(0);
    Pool {
        name: resolved.name,
        spec: resolved.spec,
        template: resolved.template,
        template_version: resolved.template_version,
        origin: Origin::Operator,
        revision: 1,
        paused: Paused::default(),
        removed: false,
        added_at: Timestamp(0),
        refresh: None,
        previous: None,
        owner: None,
    }
}

fn patch(set: &[(&str, Value)]) -> Result<PoolSpec, String> {
    let set = set.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
    let patched = patched(&pool(), &set, None, &known());
    patched.map(|resolved| resolved.spec).map_err(|flaws| flaws.to_string())
}

#[test]
fn a_template_is_changed_by_its_content_or_by_its_name() {
    let mut known = known();
    let pool = pool();
    let other = Template {
        run: vec!["sleep".to_owned(), "61".to_owned()],
        ..pool.template.clone()
    };
    let nothing = BTreeMap::new();
    let given = patched(&pool, &nothing, Some(&other), &known).unwrap();
    assert_eq!((&given.template, &given.spec), (&other, &pool.spec));
    assert_eq!(given.template_version, version(&pool.spec.template, &other));
    assert_ne!(given.template_version, pool.template_version);

    // What the config file has by that name is taken only when it is asked for.
    known.templates.insert(pool.spec.template.clone(), other.clone());
    let unasked = patched(&pool, &nothing, None, &known).unwrap();
    assert_eq!(unasked.template_version, pool.template_version);
    let set = BTreeMap::from([("template".to_owned(), json!(pool.spec.template))]);
    assert_eq!(patched(&pool, &set, None, &known).unwrap().template, other);

    let broken = Template {
        run: vec![],
        directory: Some("relative".into()),
        ..other
    };
    let flaws = patched(&pool, &nothing, Some(&broken), &known).unwrap_err().to_string();
    assert!(
        flaws.contains("templates.sleeper.run") && flaws.contains("templates.sleeper.directory"),
        "{flaws}"
    );
}

#[test]
fn a_placement_that_changes_the_machine_launches_another_version() {
    let text = GOOD.replace(
        "max: 5",
        "max: 5\n    placements:\n      - {site: local, name: cheap, max: 3, machine: {market: {spot: {max-price: 0.1}}, price: 0.03}}\n      - {site: local, name: sure}",
    );
    let resolved = read("/etc/epu/epu.yaml", &text, &known()).unwrap().remove(0);
    let pool = Pool {
        spec: resolved.spec,
        ..pool()
    };
    let [cheap, sure] = pool.spec.placements.as_slice() else {
        panic!("two placements")
    };
    assert_eq!((cheap.called(), sure.called()), ("cheap", "sure"));
    assert_eq!(version_on(&pool, sure), pool.template_version);
    let other = version_on(&pool, cheap);
    assert!(other.starts_with("sleeper@") && other != pool.template_version, "{other}");
    assert_eq!(other, version(&pool.spec.template, &cheap.template(&pool.template)));
    // What was refused is asked anew after any change that the site would see: its own settings among them.
    let asked = asked_by(&pool, cheap, 1);
    assert_eq!(asked, asked_by(&pool, cheap, 1));
    let mut moved = cheap.clone();
    moved.max = Some(1);
    assert_eq!(asked, asked_by(&pool, &moved, 1), "how many may be there is none of it");
    moved.machine.zone = Some("b".into());
    for another in [asked_by(&pool, &moved, 1), asked_by(&pool, cheap, 2), asked_by(&pool, sure, 1)] {
        assert_ne!(asked, another);
    }
}

#[test]
fn a_pool_has_so_many_placements_at_the_most() {
    let many: Vec<String> = (0..65).map(|n| format!("{{site: local, name: p{n}}}")).collect();
    let text = GOOD.replace("max: 5", &format!("max: 5\n    placements: [{}]", many.join(", ")));
    let flaws = flaws_in(&text, &known());
    assert!(flaws.len() == 1 && flaws[0].contains("65 placements are more than 64"), "{flaws:?}");
}

#[test]
fn settings_are_changed_by_dotted_path() {
    let spec = patch(&[
        ("max", json!(9)),
        ("engine.queue-length.high-water", json!(99)),
        ("limits.step-up", json!(2)),
    ])
    .unwrap();
    assert_eq!((spec.max, spec.limits.step_up), (9, 2));
    assert_eq!(spec.engine["queue-length"]["high-water"], 99);
    assert_eq!(spec.engine["queue-length"]["low-water"], 10);

    let spec = patch(&[("placements.0.max", json!(4)), ("sensors.jobs.stale-after", json!("1m"))]).unwrap();
    assert_eq!(spec.placements[0].max, Some(4));
    assert_eq!(spec.sensors.values().next().unwrap().stale_after, Some(Span::secs(60)));

    // Null takes out; another engine takes the place of the one that was.
    let spec = patch(&[("min", Value::Null), ("engine.keep.n", json!(2))]).unwrap();
    assert_eq!(
        (spec.min, spec.engine.keys().map(String::as_str).collect::<Vec<_>>()),
        (0, vec!["keep"])
    );
}

#[test]
fn a_change_with_faults_is_refused_with_all_of_them() {
    let cases = [
        patch(&[("max", json!(0))]),
        patch(&[("mx", json!(5))]),
        patch(&[("engine.queue-length.low-water", json!(60)), ("min", json!("two"))]),
        patch(&[("engine.queue-length.lowwater", json!(6))]),
        patch(&[("engine.keep.n", json!(9))]),
        patch(&[("max", Value::Null)]),
        patch(&[("max.x", json!(1))]),
        patch(&[("placements.7.max", json!(1))]),
        patch(&[("placements.first.max", json!(1))]),
        patch(&[("", json!(1))]),
        patch(&[("sensors.\"jobs.every", json!(1))]),
        patch(&[("template", json!("other"))]),
    ]
    .map(|refused| refused.unwrap_err());
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn the_schema_holds_every_engine() {
    let schema = schema(&Registry::standard()).to_string();
    for name in Registry::standard().names() {
        assert!(schema.contains(&format!("{name:?}:")), "{name}");
    }
    assert!(!schema.contains("$ref"));
}

#[test]
fn a_budget_needs_a_price_for_every_placement() {
    let budget = "    max: 5\n    limits: {budget: 2.5}\n";
    let with = |placements: &str| GOOD.replacen("    max: 5\n", &format!("{budget}{placements}"), 1);
    let mut known = known();
    known.sites.insert(SiteName::new("other").unwrap());
    let only = |text: &str| {
        let flaws = flaws_in(text, &known);
        assert_eq!(flaws.len(), 1, "{flaws:#?}");
        flaws.into_iter().next().unwrap()
    };
    let flaw = only(&with(
        "    placements: [{site: local}, {site: other, machine: {price: 1}}, {site: local, name: spot}]\n",
    ));
    assert!(flaw.starts_with("epu.yaml:10:22: pools.web.limits.budget: "), "{flaw}");
    assert!(flaw.contains("there is none for local, spot"), "{flaw}");
    assert!(flaw.contains("write what an hour costs as `price`"), "{flaw}");
    assert_eq!(
        flaws_in(&with("    placements: [{site: local, machine: {price: 0.5}}]\n"), &known),
        [""; 0]
    );
    let priced = with("    placements: [{site: local}, {site: other}]\n").replace("    heartbeat: 5s\n", "    machine: {price: 0.25}\n");
    assert_eq!(flaws_in(&priced, &known), [""; 0], "the template has one");
    let local = Known {
        sites: [SiteName::new("local").unwrap()].into(),
        ..known.clone()
    };
    let flaws = flaws_in(&with(""), &local);
    assert!(
        flaws.len() == 1 && flaws[0].contains("the template's machine has none"),
        "{flaws:#?}"
    );
}
