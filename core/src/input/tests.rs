use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::*;
use crate::pool::{PoolSpec, Template};
use crate::{PoolName, TemplateName};

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
#[schemars(deny_unknown_fields)]
struct File {
    templates: BTreeMap<TemplateName, Template>,
    #[schemars(default)]
    pools: BTreeMap<PoolName, PoolSpec>,
}

fn flaws_of(text: &str) -> Vec<String> {
    let tree = match Tree::read("epu.yaml", text) {
        Ok(tree) => tree,
        Err(flaws) => return flaws.as_slice().iter().map(ToString::to_string).collect(),
    };
    check(&tree, &schema_of::<File>()).iter().map(ToString::to_string).collect()
}

fn the_flaw_of(text: &str) -> String {
    let flaws = flaws_of(text);
    assert_eq!(flaws.len(), 1, "{flaws:#?}");
    flaws.into_iter().next().unwrap()
}

/// A good file with a line put in the place of the one that begins like it, or at the end.
const GOOD: &str = "\
templates:
  sleeper:
    run: [sleep, \"60\"]
pools:
  web:
    template: sleeper
    max: 5
    engine:
      keep: {n: 3}
    sensors:
      jobs:
        rabbitmq:
          url: env:AMQP_URL
          queue: jobs
";

#[test]
fn a_good_file_has_no_flaw_and_can_be_read() {
    assert_eq!(flaws_of(GOOD), [""; 0]);
    let tree = Tree::read("epu.yaml", GOOD).unwrap();
    let web: PoolSpec = tree.get("/pools/web").unwrap();
    assert_eq!((web.min, web.max), (0, 5));
    assert_eq!(tree.place("/pools/web/max").value, Mark { line: 7, column: 10 });
    assert_eq!(tree.place("/pools/web/max").key, Some(Mark { line: 7, column: 5 }));
    // What is not there is where it would be.
    assert_eq!(tree.place("/pools/web/limits/drain"), tree.place("/pools/web"));
}

#[test]
fn every_kind_of_flaw_is_shown_at_its_place() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from:?} is not in the file");
        the_flaw_of(&GOOD.replacen(from, to, 1))
    };
    let cases = [
        with("max: 5", "maxx: 5\n    max: 5"),
        with("max: 5", "max: 5\n    higher: 2"),
        with("max: 5", "min: 1"),
        with("max: 5", "max: five"),
        with("max: 5", "max: \"5\""),
        with("max: 5", "max: 2.5"),
        with("max: 5", "max: -1"),
        with("max: 5", "max: 5000000000"),
        with("max: 5", "max:"),
        with("\"60\"", "60"),
        with("run: [sleep, \"60\"]", "run: sleep 60"),
        with("run: [sleep, \"60\"]", "run: []"),
        with("    run: [sleep, \"60\"]\n", "    run: [x]\n    drain-signal: KILL\n"),
        with("    run: [sleep, \"60\"]\n", "    run: [x]\n    drain-signal: trem\n"),
        with("          queue: jobs", "          queue: jobs\n          count: unacked"),
        with("          queue: jobs", "          queue: jobs\n          count: ready+unackd"),
        with("          queue: jobs", "          queue: jobs\n        every: 5"),
        with("          queue: jobs", "          queue: jobs\n        every: 5 parsecs"),
        with("          queue: jobs", "          queue: jobs\n        every: 400d"),
        with("  web:", "  web pool:"),
        with("template: sleeper", "template: ../sleeper"),
        with("max: 5", "max: 5\n    limits: {step-up: 0}"),
        with("max: 5", "max: 5\n    limits: {storm-share: 1.5}"),
        with("max: 5", "max: 5\n    limits:\n      - step-up"),
        with("max: 5", "max: 5\n    max: 6"),
        with("max: 5", "max: 5\n    placements: [{site: local, mx: 2}]"),
        with("templates:", "template:"),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn text_that_is_no_yaml_gives_one_flaw_with_its_place() {
    let cases = [
        "a: [1\n",
        "a: 1\n\tb: 2\n",
        "a: b: c\n",
        "a: !code x\n",
        "? [1, 2]\n: 3\n",
        "a: *nowhere\n",
        "---\na: 1\n---\nb: 2\n",
        "a: \"\\q\"\n",
        "a: .nan\n",
        "",
    ]
    .map(the_flaw_of);
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn a_carriage_return_that_ends_no_line_is_shown_where_it_stands() {
    assert_eq!(
        the_flaw_of("a: 1\r\n# f\r0irst\nb:"),
        "epu.yaml:2:4: a carriage return that no line feed follows; end lines with a line feed"
    );
    assert_eq!(
        Tree::read("f", "a: \"x\\ry\"\r\n").unwrap().value(),
        &serde_json::json!({"a": "x\ry"})
    );
}

#[test]
fn many_faults_in_one_file_are_all_shown_in_order_with_their_lines() {
    let text = "\
templates:
  sleeper:
    run: [sleep, 60]
    run: [sleep, \"61\"]
    stop-grace: 10
pools:
  web:
    template: sleeper
    min: -1
    higher_water: 5
    sensors:
      jobs:
        rabbitmq: {url: \"amqp://me:secret@host\", queue: \"\", count: al}
\t
  \"bad name\":
    max: 1
sights: {}
";
    let text = text.replace("\t\n", "");
    let tree = Tree::read("epu.yaml", &text).unwrap();
    let flaws = Flaws::found(check(&tree, &schema_of::<File>())).unwrap();
    let shown = flaws.with_lines(&text, false);
    assert!(!shown.contains("secret"), "a password is shown: {shown}");
    insta::assert_snapshot!(format!("{shown}---\n{flaws}"));
}

#[test]
fn bombs_are_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let below = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{below}]\n"));
    }
    assert!(
        the_flaw_of(&laughs).contains("aliases unfold to too much"),
        "{}",
        the_flaw_of(&laughs)
    );

    let deep = format!("a: {}1{}\n", "[".repeat(100), "]".repeat(100));
    assert!(
        the_flaw_of(&deep).contains("nested deeper than 64 levels"),
        "{}",
        the_flaw_of(&deep)
    );
    let deep: String = (0..5_000).map(|i| format!("{}a:\n", " ".repeat(i % 900))).collect();
    assert_eq!(flaws_of(&deep).len(), 1);

    let long = "#".repeat(TEXT_MAX + 1);
    assert!(the_flaw_of(&long).contains("bytes is more than"), "{}", the_flaw_of(&long));

    let wide = format!("a: [{}]\n", "1,".repeat(600_000));
    assert!(the_flaw_of(&wide).contains("too large"), "{}", the_flaw_of(&wide));
}

#[test]
fn aliases_and_merges_are_read_and_point_to_where_they_are_used() {
    let text = "x: &x {b: 1, c: 2}\ny:\n  <<: *x\n  c: no\nz: *x\nmode: 0755\nf: 3.0\n";
    let tree = Tree::read("f", text).unwrap();
    let wanted = serde_json::json!({"x": {"b": 1, "c": 2}, "y": {"b": 1, "c": "no"}, "z": {"b": 1, "c": 2}, "mode": "0755", "f": 3});
    assert_eq!(tree.value(), &wanted);
    assert_eq!(tree.place("/z").value, Mark { line: 5, column: 4 });
    assert_eq!(tree.place("/y/c").value.line, 4);
}

#[test]
fn a_tree_that_was_not_read_from_text_has_paths_and_no_lines() {
    let tree = Tree::of(
        "web",
        serde_json::json!({"templates": {}, "pools": {"web": {"max": "x", "template": "t", "engine": {}}}}),
    );
    let flaws: Vec<String> = check(&tree, &schema_of::<File>()).iter().map(ToString::to_string).collect();
    assert_eq!(flaws, ["web: pools.web.max: found the text \"x\"; wanted a whole number"]);
}

#[test]
fn very_many_flaws_are_counted_and_not_all_shown() {
    let text: String = (0..300).map(|i| format!("key{i}: 1\n")).collect();
    let tree = Tree::read("f", &format!("templates: {{}}\n{text}")).unwrap();
    let flaws = Flaws::found(check(&tree, &schema_of::<File>())).unwrap();
    assert_eq!(flaws.as_slice().len(), 300);
    assert_eq!(flaws.to_string().lines().count(), 101);
    assert!(flaws.to_string().ends_with("and 200 more"));
}

#[test]
fn a_long_line_is_shown_around_its_fault() {
    let text = format!("templates: {{}}\n\"{}\": 1\n", "k".repeat(400));
    let tree = Tree::read("f", &text).unwrap();
    let mut flaw = check(&tree, &schema_of::<File>()).remove(0);
    flaw.column = 350;
    let shown = Flaws::from(flaw).with_lines(&text, true);
    assert!(shown.lines().last().unwrap().ends_with("\x1b[1;31m^\x1b[0m"));
    assert!(shown.lines().skip(1).all(|line| line.chars().count() < 200), "{shown}");
}

#[test]
fn near_words_are_found_and_far_ones_are_not() {
    let known = ["high-water", "low-water", "step", "max"];
    for (word, near) in [
        ("higher-water", Some("high-water")),
        ("high_water", Some("high-water")),
        ("HighWater", Some("high-water")),
        ("steps", Some("step")),
        ("maxx", Some("max")),
        ("colour", None),
        ("", None),
    ] {
        assert_eq!(nearest(word, known), near, "{word}");
    }
}

#[test]
fn schemas_are_whole_and_strict() {
    let schema = schema_of::<File>();
    let text = schema.to_string();
    assert!(!text.contains("$ref") && !text.contains("\"null\""), "{text}");
    let (_, pool) = schema["properties"]["pools"]["patternProperties"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    assert_eq!(pool["properties"]["max"]["maximum"], 1_000_000);
    assert_eq!(pool["properties"]["limits"]["properties"]["step-up"]["maximum"], u32::MAX);
    assert_eq!(pool["properties"]["limits"]["properties"]["drain"]["format"], SPAN_FORMAT);
}
