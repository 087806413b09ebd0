//! What was said to be written is there after SIGKILL, nothing is there by half, and the directory is free at once.
//!
//! The writer is this test program itself, started again with an environment variable that makes the test write instead of kill.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use epu_core::life::State;
use epu_store::contract::samples::{done, entry, events, instance, instance_id, launch, launch_id, memory, moved, name, outgoing, uuid};
use epu_store::{DecisionCommit, Error, ProvisionCommit, SqliteStore, Store};

const DIRECTORY: &str = "EPU_STORE_KILL_TEST_DIRECTORY";
const FIRST: &str = "EPU_STORE_KILL_TEST_FIRST";
const TEST: &str = "what_was_acknowledged_survives_kill_9_and_the_directory_is_free_at_once";
/// Instances a launch.
const EACH: u64 = 3;

/// The three writes of round `n`; each leaves a journal entry of its own, by which all parts of it can be told to belong together.
fn steps(n: u64) -> [i64; 3] {
    let first = i64::try_from(n).unwrap() * 3;
    [first, first + 1, first + 2]
}

fn members(n: u64) -> Vec<u64> {
    (0..EACH).map(|i| n * EACH + i).collect()
}

/// Writes until it is killed, and says after each write that it is done.
async fn write(dir: &Path, first: u64) {
    let store = SqliteStore::open(dir).await.unwrap();
    let acknowledge = |step: i64| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "done:{step}").unwrap();
        out.flush().unwrap();
    };
    for n in first.. {
        let [recorded, ended, decided] = steps(n);
        let asked = launch(n, &members(n), recorded);
        let requested: Vec<_> = members(n).into_iter().map(|member| instance(member, n, recorded)).collect();
        store.record_launch(&asked, &requested, vec![entry(recorded)], &[]).await.unwrap();
        acknowledge(recorded);
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances: requested.iter().map(|one| moved(one, State::Running, ended)).collect(),
            launches: vec![done(asked)],
            journal: vec![entry(ended)],
        };
        store.commit_provision(commit).await.unwrap();
        acknowledge(ended);
        let commit = DecisionCommit {
            term: None,
            memory: Some(memory(n)),
            outbox: vec![outgoing(n, "web", decided)],
            journal: vec![entry(decided)],
        };
        store.commit_decision(&name("web"), commit).await.unwrap();
        acknowledge(decided);
    }
}

fn start_writer(dir: &Path, first: u64) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

/// The next write that was acknowledged; the test program's own words are passed over.
fn next(said: &mut impl BufRead) -> Option<i64> {
    let mut line = String::new();
    loop {
        line.clear();
        if said.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some((_, step)) = line.trim_end().split_once("done:") {
            return Some(step.parse().unwrap());
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_and_the_directory_is_free_at_once() {
    if let Ok(dir) = env::var(DIRECTORY) {
        let first = env::var(FIRST).unwrap().parse().unwrap();
        write(Path::new(&dir), first).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut first = 1;
    for writes_before in [1, 20, 45, 100, 211] {
        let (mut child, mut said) = start_writer(dir.path(), first);
        let mut heard = 0;
        while heard < writes_before {
            let step = next(&mut said).expect("the writer ended by itself");
            assert!(acknowledged.insert(step), "{step} was acknowledged twice");
            heard += 1;
        }
        let second = SqliteStore::open(dir.path()).await.expect_err("two at once");
        assert!(
            matches!(&second, Error::InUse { holder, .. } if holder.starts_with(&format!("process {} (since 20", child.id()))),
            "{second}"
        );
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended otherwise");
        let store = SqliteStore::open(dir.path()).await.expect("the directory is free");
        // What it said until its very end counts too.
        acknowledged.extend(std::iter::from_fn(|| next(&mut said)));

        let there = what_is_there(&store).await;
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let more = there.len() - acknowledged.len();
        assert!(more <= 1, "{more} writes are there that nobody heard of");
        acknowledged = there;
        first = u64::try_from(acknowledged.last().unwrap() / 3).unwrap() + 1;
        store.close().await;
    }
}

/// The writes that are there, each of them whole.
async fn what_is_there(store: &SqliteStore) -> BTreeSet<i64> {
    let there: BTreeSet<i64> = events(store).await.into_iter().collect();
    let outbox: BTreeSet<_> = store.outbox().await.unwrap().into_iter().map(|outgoing| outgoing.id).collect();
    let rounds = u64::try_from(there.last().unwrap() / 3).unwrap() + 1;
    for n in 1..=rounds {
        let [recorded, ended, decided] = steps(n).map(|step| there.contains(&step));
        let launch = store.launch(launch_id(n)).await.unwrap();
        assert_eq!(launch.is_some(), recorded, "launch {n}");
        assert_eq!(launch.is_some_and(|launch| launch.outcome.is_some()), ended, "outcome {n}");
        for member in members(n) {
            let version = store.instance(instance_id(member)).await.unwrap().map(|one| one.version);
            let expected = if ended { Some(2) } else { recorded.then_some(1) };
            assert_eq!(version, expected, "instance {member} of launch {n}");
        }
        assert_eq!(outbox.contains(&uuid(n)), decided, "command {n}");
    }
    let memories = store.memories().await.unwrap();
    let last = there
        .iter()
        .rev()
        .find(|step| *step % 3 == 2)
        .map(|step| u64::try_from(step / 3).unwrap());
    assert_eq!(memories.first().map(|(_, memory)| memory.clone()), last.map(memory));
    there
}

#[tokio::test]
async fn a_program_that_was_started_does_not_keep_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let mut worker = Command::new("sleep").arg("60").spawn().unwrap();
    store.close().await;
    let again = SqliteStore::open(dir.path()).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    again.expect("a worker outlives the control process and must not hold its data directory");
}
