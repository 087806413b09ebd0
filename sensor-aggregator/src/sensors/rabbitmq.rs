//! How many messages wait in a RabbitMQ queue, or wait and are being worked on.
//!
//! Which of the two is counted is the sensor's choice and decides whom is asked: the broker itself for messages that wait, its
//! management API for both. When the one that was chosen fails, the reading has failed; the other would count something else.
//!
//! Each sensor has a probe, and so a connection, of its own: a broker that hangs delays its own sensors and no others.

use std::sync::Arc;

use async_trait::async_trait;
use epu_bus::amqp::QueueProbe;
use epu_core::pool::{Count, RabbitSensor};
use epu_core::{Clock, Fault};

use super::{Source, Value};

/// Counts the messages of a queue.
#[derive(Debug)]
pub struct Queue {
    probe: QueueProbe,
    queue: String,
    count: Count,
    source: String,
}

impl Queue {
    /// Counts as `sensor` says, and says `source` of where the amount came from. Nothing is opened yet.
    #[must_use]
    pub fn new(sensor: RabbitSensor, source: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            probe: QueueProbe::new(sensor.url, sensor.management_url, clock),
            queue: sensor.queue,
            count: sensor.count,
            source,
        }
    }
}

#[async_trait]
impl Source for Queue {
    async fn read(&mut self) -> Result<Value, Fault> {
        let messages = match self.count {
            Count::Ready => self.probe.ready(&self.queue).await?,
            Count::ReadyAndUnacked => self.probe.with_unacked(&self.queue).await?,
        };
        Ok(Value {
            // More than four billion messages are as good as four billion to any pool.
            amount: f64::from(u32::try_from(messages).unwrap_or(u32::MAX)),
            covers_in_progress: self.count == Count::ReadyAndUnacked,
            source: self.source.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use epu_core::secret::SecretUrl;
    use epu_core::time::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn queue(url: &str, count: Count, management_url: Option<String>) -> Queue {
        let sensor = RabbitSensor {
            url: SecretUrl::new(url),
            queue: "jobs".to_owned(),
            count,
            management_url: management_url.map(SecretUrl::new),
        };
        Queue::new(sensor, "rabbitmq queue jobs".to_owned(), Arc::new(SystemClock::start()))
    }

    /// An address at which nobody listens.
    async fn nobody() -> String {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
    }

    /// A management API that knows one queue.
    async fn management() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut asked = [0; 4_096];
                let length = socket.read(&mut asked).await.unwrap();
                assert!(asked[..length].starts_with(b"GET /api/queues/%2F/jobs"));
                let body = r#"{"messages": 12, "messages_ready": 5, "messages_unacknowledged": 7}"#;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_a_fault() {
        let url = format!("amqp://guest@{}/%2f", nobody().await);
        let fault = queue(&url, Count::Ready, None).read().await.unwrap_err();
        assert_eq!(fault.code, "broker-unreachable", "{fault}");
    }

    #[tokio::test]
    async fn each_count_asks_its_own_source_and_never_the_other() {
        let nobody_amqp = format!("amqp://guest@{}/%2f", nobody().await);
        let both = queue(&nobody_amqp, Count::ReadyAndUnacked, Some(management().await))
            .read()
            .await
            .unwrap();
        assert_eq!((both.amount, both.covers_in_progress), (12.0, true));
        // The management API would answer, and is not asked.
        let ready = queue(&nobody_amqp, Count::Ready, Some(management().await)).read().await;
        assert_eq!(ready.unwrap_err().code, "broker-unreachable");
    }
}
