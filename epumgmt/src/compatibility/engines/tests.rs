use serde_json::json;

use super::*;

fn sections(value: Value) -> Sections {
    Sections::of(value.as_object().expect("a mapping")).expect("sections")
}

fn config() -> Compatibility {
    serde_json::from_value(json!({ "queue-url": "env:EPU_AMQP_URL", "most": 50 })).expect("a config")
}

fn made(value: Value) -> Wanted {
    wanted(&sections(value), &config()).expect("a pool")
}

fn refused(value: Value) -> Problem {
    wanted(&sections(value), &config()).expect_err("refused")
}

fn class(name: &str) -> Value {
    json!({ "engine_class": name })
}

#[test]
fn the_default_engine_keeps_a_number() {
    let pool =
        made(json!({"engine_conf": {"preserve_n": 3, "epuworker_type": "worker", "force_site": "local", "epuworker_allocation": "small"}}));
    assert_eq!(pool.settings["engine"], json!({"keep": {"n": 3}}));
    assert_eq!(pool.settings["placements"], json!([{"site": "local"}]));
    assert_eq!((pool.template.as_str(), pool.allocation.as_deref()), ("worker", Some("small")));
    assert_eq!(pool.variables["node_id"], "${EPU_INSTANCE}");
    assert_eq!(pool.variables["heartbeat_dest"], "epu_management_service");
    assert_eq!(made(json!({"engine_conf": {"preserve_n": 0}})).template, "epu_work_consumer");
}

#[test]
fn the_default_engine_is_as_strict_as_it_was() {
    for (conf, says) in [
        (json!({}), "preserve_n is required"),
        (json!({"preserve_n": -1}), "preserve_n must be a whole number"),
        (json!({"preserve_n": "asd"}), "preserve_n must be a whole number"),
        (json!({"preserve_n": 1.5}), "preserve_n must be a whole number"),
        (
            json!({"preserve_n": 1, "provisioner_vars": {}}),
            "provisioner_vars is not a setting",
        ),
        (json!({"preserve_n": 51}), "more than 50"),
        (json!({"preserve_n": 1, "force_site": 5}), "force_site must be text"),
    ] {
        let problem = refused(json!({ "engine_conf": conf }));
        assert_eq!(problem.exc_type, "ValueError");
        assert!(problem.value.contains(says), "{problem}");
    }
}

#[test]
fn unique_instances_are_slots() {
    let conf = json!({
        "preserve_n": "3",
        "unique_instances": {"left": {"PORT": 1, "S": "a$b"}, "no name!": {}},
        "provisioner_vars": {"list": [1, 2], "dollar": "$x"},
    });
    let pool = made(json!({"general": class("ion.agents.npreserving.NpreservingEngine"), "engine_conf": conf}));
    let unique = &pool.settings["engine"]["keep"]["unique"];
    assert_eq!(unique["left"], json!({"PORT": "1", "S": "a$b"}));
    assert_eq!(unique.as_object().map(Map::len), Some(2));
    assert_eq!(
        (pool.variables["list"].as_str(), pool.variables["dollar"].as_str()),
        ("[1,2]", "$$x")
    );
    let many = json!({"preserve_n": 1, "unique_instances": {"a": {}, "b": {}}});
    let problem = refused(json!({"general": class("x.npreserving.NpreservingEngine"), "engine_conf": many}));
    assert!(problem.value.contains("2 unique_instances are more than preserve_n"), "{problem}");
}

#[test]
fn a_needy_pool_gives_each_instance_a_value_and_stops_where_they_end() {
    let conf = |n: u32, values: Value| {
        json!({
            "preserve_n": n, "deployable_type": "worker", "iaas_site": "local", "iaas_allocation": "small",
            "unique_key": "host", "unique_values": values,
        })
    };
    let of = |conf| made(json!({"general": class("epu.decisionengine.impls.needy.NeedyEngine"), "engine_conf": conf}));
    let pool = of(conf(2, json!("a, b, c")));
    assert_eq!(
        pool.settings["engine"]["keep"],
        json!({"n": 2, "unique": {"a": {"host": "a"}, "b": {"host": "b"}}})
    );
    assert_eq!((pool.template.as_str(), pool.allocation.as_deref()), ("worker", Some("small")));
    assert_eq!(of(conf(5, json!(["a", "b"]))).settings["engine"]["keep"]["n"], json!(2));
    assert_eq!(of(conf(5, json!(" "))).settings["engine"]["keep"], json!({"n": 5}));
}

#[test]
fn a_bounded_queue_is_followed() {
    let engine = class("epu.decisionengine.impls.queuelen_bounded.QueueLengthBoundedEngine");
    let conf = json!({"queuelen_high_water": "50", "queuelen_low_water": 10, "min_instances": 1, "queue_name_work": "work"});
    let pool = made(json!({"general": engine, "engine_conf": conf}));
    assert_eq!(
        pool.settings["engine"]["queue-length"],
        json!({"sensor": "queue-length", "high-water": 50, "low-water": 10})
    );
    assert_eq!((&pool.settings["min"], &pool.settings["max"]), (&json!(1), &json!(50)));
    assert_eq!(pool.settings["sensors"]["queue-length"]["rabbitmq"]["queue"], json!("work"));
    for missing in ["queuelen_high_water", "queuelen_low_water", "queue_name_work"] {
        let mut conf = json!({"queuelen_high_water": 5, "queuelen_low_water": 1, "queue_name_work": "work"});
        conf.as_object_mut().expect("a mapping").remove(missing);
        let problem = refused(json!({"general": engine, "engine_conf": conf}));
        assert!(problem.value.contains(missing), "{problem}");
    }
}

#[test]
fn another_class_is_refused_and_the_supported_ones_are_named() {
    for name in ["epu.decisionengine.impls.sensor.SensorEngine", "os.system", "", "SimplestEngine"] {
        let problem = refused(json!({"general": class(name), "engine_conf": {"preserve_n": 1}}));
        assert_eq!(problem.exc_type, "ImportError");
        assert!(problem.value.contains("simplest.SimplestEngine"), "{problem}");
    }
}

#[test]
fn health_is_watched_only_where_it_was_asked_for() {
    let health = |section: Value| made(json!({"health": section, "engine_conf": {"preserve_n": 1}})).settings["health"].clone();
    assert_eq!(health(json!({})), json!({"boot": "30d", "missing": "30d"}));
    assert_eq!(health(json!({"monitor_health": true})), json!({}));
    let all = json!({"monitor_health": true, "boot_timeout": 1.5, "missing_timeout": 10, "really_missing_timeout": 3, "zombie_seconds": 4});
    assert_eq!(
        health(all),
        json!({"boot": "1500ms", "missing": "10000ms", "really-missing": "3000ms", "zombie": "4000ms"})
    );
    let problem = refused(json!({"health": {"monitor_health": true, "boot_timeout": "x"}, "engine_conf": {"preserve_n": 1}}));
    assert!(problem.value.contains("health.boot_timeout"), "{problem}");
}

#[test]
fn a_pool_made_from_a_domain_is_one_the_controller_takes() {
    let file = made(json!({"engine_conf": {"preserve_n": 2, "epuworker_type": "worker", "force_site": "local"}}));
    let template: Template = serde_json::from_value(json!({"run": ["/bin/sleep", "1h"]})).expect("a template");
    let known = epu_controller::spec::Known {
        engines: epu_decision_engines::Registry::standard(),
        sites: std::collections::BTreeSet::from([epu_core::SiteName::new("local").expect("a name")]),
        owned: std::collections::BTreeSet::new(),
        templates: BTreeMap::new(),
        tick: epu_core::Span::secs(1),
        search: None,
    };
    let pool = PoolName::new("web").expect("a name");
    let read = epu_controller::spec::read("domain web", &file.file(&pool, Some(&template)), &known).expect("a pool");
    assert_eq!(read[0].name, pool);
    assert_eq!(read[0].template.variables["node_id"], "${EPU_INSTANCE}");
    // And every kind of change is one that it takes.
    let changes = file.changes();
    assert_eq!(changes["sensors"], json!({}));
    let faulty = epu_controller::spec::read("domain web", &file.file(&pool, None), &known).expect_err("no such template");
    assert!(faulty.to_string().contains("worker"), "{faulty}");
}
