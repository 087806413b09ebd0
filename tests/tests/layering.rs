//! The shape of the workspace, as cargo sees it, is the one that is meant: who may depend on whom, and who may name which library.
//!
//! `core` <- {`decision-engines`, `bus`, `store`} <- {`sensor-aggregator`, `epu-controller`, `provisioner`, `agent`} <- `simulator`
//! <- `epumgmt` <- `tests`. Crates on one step never depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

/// The steps from the bottom up.
const STEPS: &[&[&str]] = &[
    &["epu-core"],
    &["epu-decision-engines", "epu-bus", "epu-store"],
    &["epu-sensor-aggregator", "epu-controller", "epu-provisioner", "epu-agent"],
    &["epu-simulator"],
    &["epumgmt"],
    &["epu-tests"],
];

/// Libraries that only one crate (and the tests) may name, so that another can take their place.
const ONLY: &[(&str, &str)] = &[
    ("lapin", "epu-bus"),
    ("sqlx", "epu-store"),
    ("aws-config", "epu-provisioner"),
    ("aws-sdk-ec2", "epu-provisioner"),
    ("aws-sdk-sts", "epu-provisioner"),
];

/// What deciding must not be able to do: wait, talk, store.
const PURE: &[&str] = &["epu-core", "epu-decision-engines"];
const IMPURE: &[&str] = &["tokio", "axum", "hyper", "lapin", "sqlx", "reqwest"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None: for the program itself; otherwise `dev` or `build`.
    kind: Option<String>,
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Each crate of the workspace with the names it depends on; those of its tests only when asked for.
fn graph(with_tests: bool) -> Graph {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let names = |package: &Package| {
        let wanted = package
            .dependencies
            .iter()
            .filter(|dependency| with_tests || dependency.kind.is_none());
        wanted.map(|dependency| dependency.name.clone()).collect()
    };
    metadata
        .packages
        .iter()
        .map(|package| (package.name.clone(), names(package)))
        .collect()
}

fn step(name: &str) -> Option<usize> {
    STEPS.iter().position(|crates| crates.contains(&name))
}

/// Every dependency within the workspace that does not lead downwards.
fn wrong_directions(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, dependencies) in graph {
        for to in dependencies {
            if let (Some(above), Some(below)) = (step(from), step(to))
                && above <= below
            {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    wrong
}

/// Every crate that names a library which is another's.
fn wrong_names(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in graph {
        for (library, owner) in ONLY {
            if dependencies.contains(*library) && name != owner && name != "epu-tests" {
                wrong.push(format!("{name} names {library}, which only {owner} may"));
            }
        }
    }
    wrong
}

#[test]
fn every_crate_of_the_workspace_has_its_step() {
    let known: BTreeSet<&str> = STEPS.iter().flat_map(|crates| crates.iter().copied()).collect();
    let graph = graph(true);
    let found: BTreeSet<&str> = graph.keys().map(String::as_str).collect();
    assert_eq!(found, known);
}

#[test]
fn dependencies_lead_downwards_and_siblings_do_not_know_each_other() {
    assert_eq!(wrong_directions(&graph(true)), Vec::<String>::new());
}

#[test]
fn only_its_owner_names_a_library_that_is_to_be_replaceable() {
    assert_eq!(wrong_names(&graph(true)), Vec::<String>::new());
}

#[test]
fn deciding_can_neither_wait_nor_talk_nor_store() {
    let graph = graph(false);
    for name in PURE {
        let named: Vec<&str> = IMPURE.iter().copied().filter(|library| graph[*name].contains(*library)).collect();
        assert!(named.is_empty(), "{name} names {named:?}");
    }
}

/// The rules above find what they are for.
#[test]
fn a_wrong_direction_and_a_wrong_name_are_found() {
    let with = |from: &str, to: &str| Graph::from([(from.to_owned(), BTreeSet::from([to.to_owned()]))]);
    assert_eq!(wrong_directions(&with("epu-core", "epu-bus")), ["epu-core -> epu-bus"]);
    assert_eq!(wrong_directions(&with("epu-bus", "epu-store")), ["epu-bus -> epu-store"]);
    assert_eq!(
        wrong_directions(&with("epu-agent", "epu-provisioner")),
        ["epu-agent -> epu-provisioner"]
    );
    assert!(wrong_directions(&with("epu-controller", "epu-decision-engines")).is_empty());
    assert_eq!(
        wrong_names(&with("epumgmt", "sqlx")),
        ["epumgmt names sqlx, which only epu-store may"]
    );
    assert!(wrong_names(&with("epu-bus", "lapin")).is_empty() && wrong_names(&with("epu-tests", "lapin")).is_empty());
}
