use std::path::Path;

use clap::Parser as _;
use serde_json::Value;

use super::super::tests::Paper;
use super::*;
use crate::cli::{Cli, Command};

const CONFIG: &str = "
templates:
  worker: {run: [/bin/sh, -c, 'true']}
pools:
  jobs:
    template: worker
    max: 8
    engine: {queue-length: {sensor: waiting, low-water: 1, high-water: 3}}
    sensors: {waiting: {rabbitmq: {url: 'env:AMQP_URL', queue: work}}}
  mail: {template: worker, max: 2, engine: {keep: {n: 1}}}
";

/// What comes of a command as it is typed after `epumgmt simulate`, and what it shows.
pub(super) fn typed(command: &str, line: &[&str], config: &Path) -> (Result<Exit, Failure>, String) {
    let cli = Cli::try_parse_from(["epumgmt", "simulate", command].iter().chain(line)).unwrap();
    let Command::Simulate(what) = cli.command else { panic!() };
    let paper = Paper::default();
    let mut screen = paper.screen(cli.reach.output);
    let ended = simulate(&mut screen, config, &what, &epu_core::time::SystemClock::start());
    (ended, paper.text())
}

struct Ran {
    ended: Result<Exit, Failure>,
    text: String,
}

impl Ran {
    fn refused(&self) -> String {
        self.ended.as_ref().unwrap_err().shown(false)
    }
}

fn ran(directory: &Path, line: &[&str]) -> Ran {
    let file = directory.join("epu.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    std::fs::write(
        directory.join("jobs.csv"),
        "arrival,service\n0,20\n5,20\n10,20\n60,20\n61,20\n62,20\n63,20\n64,20\n",
    )
    .unwrap();
    let (ended, text) = typed("run", line, &file);
    Ran { ended, text }
}

#[test]
fn a_pool_is_played_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = format!("jobs={}", directory.path().join("jobs.csv").display());
    let plot = directory.path().join("plot.svg");
    let line = [
        "-w",
        &jobs,
        "--compare",
        "eager: engine.queue-length.high-water=1,limits.cooldown-down=10s",
        "--after",
        "5m",
        "--price",
        "0.1",
        "--plot",
        plot.to_str().unwrap(),
    ];
    let found = ran(directory.path(), &line);
    assert!(matches!(found.ended, Ok(Exit::Done)), "{:?}", found.ended);
    insta::assert_snapshot!(found.text.replace(plot.to_str().unwrap(), "plot.svg"));
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.matches("<path").count() == 6 && svg.contains("jobs - eager"),
        "{svg}"
    );
    let mut line = line.to_vec();
    line.extend(["-o", "json"]);
    let json = ran(directory.path(), &line).text;
    let answer: Value = serde_json::from_str(&json).unwrap();
    let variants = answer["variants"].as_array().unwrap();
    assert_eq!((variants.len(), variants[1]["name"].as_str()), (2, Some("eager")));
    assert_eq!(variants[1]["settings"]["limits.cooldown-down"], "10s");
    let pool = &variants[0]["pools"][0];
    assert_eq!((pool["pool"].as_str(), pool["jobs"]["done"].as_u64()), (Some("jobs"), Some(8)));
    assert!(pool["machines"]["cost"].as_f64().unwrap() > 0.0 && variants[1]["pools"][0]["elasticity"]["speedup"].is_number());
    assert_eq!(pool["series"].as_array().unwrap().len(), 288);
    assert_eq!(ran(directory.path(), &line).text, json);
}

#[test]
fn what_cannot_be_played_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let generator = "poisson:rate=1/m,service=5s,for=5m";
    let both = format!("jobs={generator}");
    let lines: [&[&str]; 11] = [
        &["-w", generator],
        &["-w", "job=trace.csv"],
        &["-w", "nowhere.csv", "--pool", "jobs"],
        &["-w", "poison:rate=1/m", "--pool", "jobs"],
        &["-w", "jobs=poisson:rate=1/m,srvice=5s,for=5m"],
        &["-w", &both, "-w", &both],
        &["-w", &both, "--pool", "mail"],
        &["-w", &both, "--sensor", "load=1"],
        &["-w", &both, "--compare", "limits.stabilisation=0s,max=x"],
        &["-w", &both, "--compare", "max"],
        &["-w", generator, "--pool", "jbs"],
    ];
    let said: String = lines.into_iter().map(|line| ran(directory.path(), line).refused()).collect();
    insta::assert_snapshot!(said);
}
