//! From a queue that crosses its high water to a launch on record, through the real program with a directory as the queue.
//!
//! Several pools run the same cycle beside each other: the queue stands within the band; at a random moment one more job appears,
//! which crosses the high water; the launch is seen in the database by another process that looks every other millisecond; the queue is
//! emptied, the pool shrinks back, and the next cycle begins. What is measured includes the wait for the sensor's next reading.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use epu_tests::{Result, Trouble, wait};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use crate::clock::wall;
use crate::serving::{self, Serving};
use crate::{Goal, Report};

const POOLS: usize = 4;
const CYCLES: usize = 26;
/// How often the sensor reads.
const EVERY: Duration = Duration::from_millis(200);
const HIGH: usize = 5;
/// Time between two looks at the database.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub(crate) fn measure() -> Result<Report> {
    tokio::task::LocalSet::new().block_on(&serving::runtime()?, cross())
}

async fn cross() -> Result<Report> {
    let mut report = Report::default();
    let mut home = PathBuf::new();
    let serving = Serving::start(|directory| {
        home = directory.to_owned();
        config(directory)
    })
    .await?;
    let data = serving.data();
    let serving = Rc::new(serving);
    let mut cycles = tokio::task::JoinSet::new();
    for n in 0..POOLS {
        let (serving, queue, database) = (serving.clone(), queue(&home, n), data.join("epu.db"));
        cycles.spawn_local(async move { pool(&serving, &format!("pool-{n}"), &queue, &database).await });
    }
    let mut took: Vec<f64> = Vec::new();
    while let Some(done) = cycles.join_next().await {
        took.extend(done.map_err(|e| Trouble::new("run a cycle", e))??);
    }
    took.sort_by(f64::total_cmp);
    let at = |share: usize| took[(took.len() * share).div_ceil(100).clamp(1, took.len()) - 1];
    let interval = EVERY.as_secs_f64() * 1_000.0;
    report.figure("queue-to-launch", at(99) - interval, "ms-beyond-interval", Goal::Below(20.0));
    report.note(format!(
        "{} crossings, read every {interval:.0} ms: half within {:.0} ms, 90 % within {:.0}, 99 % within {:.0}, all within {:.0}",
        took.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    ));
    Rc::into_inner(serving)
        .ok_or_else(|| Trouble::new("end", "somebody still asks"))?
        .tear_down()
        .await?;
    Ok(report)
}

fn queue(home: &Path, n: usize) -> PathBuf {
    home.join(format!("queue-{n}"))
}

fn config(home: &Path) -> String {
    let mut text = String::from(
        r#"
tick: 200ms
templates:
  idler:
    run: [/bin/sh, -c, "echo idle > $EPU_DIR/status; exec sleep infinity"]
    drain-signal: TERM
    heartbeat: 500ms
pools:
"#,
    );
    for n in 0..POOLS {
        let queue = queue(home, n);
        text.push_str(&format!(
            "  pool-{n}: {{template: idler, min: 1, max: 2, engine: {{queue-length: {{sensor: jobs, high-water: {HIGH}, low-water: 1}}}},\n    \
             sensors: {{jobs: {{directory: {{path: {queue:?}}}, every: {}ms}}}},\n    \
             limits: {{cooldown-down: 0s, stabilization: 0s, drain: 30s}}}}\n",
            EVERY.as_millis(),
        ));
        // Before the program starts, so that the first reading finds it.
        drop(std::fs::create_dir_all(&queue));
    }
    text
}

/// Goes through the cycles of one pool and gives what each crossing took, in milliseconds.
async fn pool(serving: &Serving, name: &str, queue: &Path, database: &Path) -> Result<Vec<f64>> {
    let broken = |e| Trouble::new("look into the database", e);
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(database).read_only(true))
        .await
        .map_err(broken)?;
    let put = |n: usize| std::fs::write(queue.join(format!("job-{n}")), "").map_err(|e| Trouble::new("put a job", e));
    let mut took = Vec::new();
    for _ in 0..CYCLES {
        let small = async || match serving.pools().await {
            Ok(pools)
                if pools
                    .iter()
                    .any(|p| p.name.as_str() == name && p.counts.live == 1 && p.counts.running == 1) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        };
        wait::until(Duration::from_secs(60), "the pool is at its minimum", small).await?;
        (0..HIGH).try_for_each(put)?;
        // Two readings find it within the band; then it crosses at a moment that has nothing to do with when it is read.
        let wait = 2 * EVERY + EVERY.mul_f64(fastrand::f64());
        tokio::time::sleep(wait).await;
        let last = last_launch(&mut connection, name).await.map_err(broken)?;
        let crossed = wall();
        put(HIGH)?;
        let seen = async {
            loop {
                if last_launch(&mut connection, name).await.map_err(broken)? > last {
                    return Ok(crossed.elapsed());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
        let seen = seen.map_err(|_| Trouble::new(format!("wait for a launch of {name}"), serving.running.output_tail()))??;
        took.push(seen.as_secs_f64() * 1_000.0);
        for n in 0..=HIGH {
            std::fs::remove_file(queue.join(format!("job-{n}"))).map_err(|e| Trouble::new("take a job", e))?;
        }
    }
    Ok(took)
}

async fn last_launch(connection: &mut SqliteConnection, pool: &str) -> std::result::Result<i64, sqlx::Error> {
    let text = "SELECT coalesce(max(sequence), 0) FROM journal WHERE pool = $1 AND kind = 'launch-recorded'";
    sqlx::query(text).bind(pool).fetch_one(connection).await?.try_get(0)
}
