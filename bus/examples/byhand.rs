#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]
use epu_bus::amqp::QueueProbe;
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, SystemClock};
use futures::StreamExt;
use lapin::options::*;
use lapin::types::FieldTable;
use std::sync::Arc;
use std::time::Duration;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    match a[1].as_str() {
        "probe" => {
            let m = (a[3] != "-").then(|| SecretUrl::new(&a[3]));
            let mut p = QueueProbe::new(SecretUrl::new(&a[2]), m.clone(), clock.clone());
            let t0 = clock.now();
            let secs: u64 = a[5].parse().unwrap();
            let mut last = String::new();
            let (mut n, mut worst) = (0u64, Duration::ZERO);
            while clock.now().since(t0) < Duration::from_secs(secs) {
                let b = clock.now();
                let r = p.ready(&a[4]).await;
                let took = clock.now().since(b);
                worst = worst.max(took); n += 1;
                let mut line = match r { Ok(n) => format!("ready {n}"), Err(f) => format!("ready {f}") };
                if m.is_some() { line += &match p.with_unacked(&a[4]).await { Ok(n) => format!("\n        both {n}"), Err(f) => format!("\n        both {f}") }; }
                if line != last { println!("{:>6.1}s {line}   [{took:?}]", clock.now().since(t0).as_secs_f64()); last = line; }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
            println!("asked {n} times, slowest {worst:?}, threads {threads}");
        }
        "fill" => {
            let c = lapin::Connection::connect(&a[2], Default::default()).await.unwrap();
            let ch = c.create_channel().await.unwrap();
            ch.queue_declare(a[3].as_str().into(), QueueDeclareOptions { durable: true, ..Default::default() }, FieldTable::default()).await.unwrap();
            ch.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            for _ in 0..a[4].parse::<u32>().unwrap() {
                ch.basic_publish("".into(), a[3].as_str().into(), Default::default(), b"x", lapin::BasicProperties::default().with_delivery_mode(2)).await.unwrap().await.unwrap();
            }
        }
        "hold" => {
            let c = lapin::Connection::connect(&a[2], Default::default()).await.unwrap();
            let ch = c.create_channel().await.unwrap();
            let n: u16 = a[4].parse().unwrap();
            ch.basic_qos(n, Default::default()).await.unwrap();
            let mut s = ch.basic_consume(a[3].as_str().into(), "h".into(), Default::default(), Default::default()).await.unwrap();
            for _ in 0..n { std::mem::forget(s.next().await); }
            tokio::time::sleep(Duration::from_secs(a[5].parse().unwrap())).await;
        }
        "exclusive" => {
            let c = lapin::Connection::connect(&a[2], Default::default()).await.unwrap();
            let ch = c.create_channel().await.unwrap();
            ch.queue_declare(a[3].as_str().into(), QueueDeclareOptions { exclusive: true, ..Default::default() }, FieldTable::default()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(a[4].parse().unwrap())).await;
        }
        _ => {}
    }
}
