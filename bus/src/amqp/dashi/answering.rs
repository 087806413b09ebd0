//! Carrying one message out and answering it.

use std::sync::Arc;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::answers::{self, Answers, Turn};
use super::wire::{self, Asked, Problem};
use super::{Failed, GIVE_BACK_AFTER, Served};

/// Where answers go.
pub(super) struct Reply {
    pub(super) exchange: String,
    pub(super) channel: Channel,
}

impl Reply {
    async fn send(&self, to: &str, body: &[u8]) -> lapin::Result<()> {
        let properties = wire::properties(FieldTable::default());
        let options = BasicPublishOptions::default();
        let publishing = self
            .channel
            .basic_publish(self.exchange.as_str().into(), to.into(), options, body, properties);
        publishing.await.map(drop)
    }
}

/// Answers a call: carried out, or with the answer it got before.
pub(super) async fn answer(
    served: &Served,
    asked: Result<Asked, Problem>,
    to: &str,
    key: &str,
    answers: &Answers,
    reply: &Reply,
    delivery: &Delivery,
) {
    let body = match (delivery.redelivered, answers.turn(key)) {
        (true, Turn::Again(told)) => match answers::earlier(told).await {
            Some(body) => body,
            None => Arc::new(wire::reply(&handled(served, asked).await)),
        },
        (_, Turn::First(tell)) => {
            let body = Arc::new(wire::reply(&handled(served, asked).await));
            answers.keep(key, &tell, &body);
            body
        }
        // The same reply queue and the same words, and no repetition: a client that uses a queue for several calls.
        (false, Turn::Again(_)) => Arc::new(wire::reply(&handled(served, asked).await)),
    };
    match reply.send(to, &body).await {
        Ok(()) => acknowledge(delivery).await,
        // The message comes again on the next connection, and is answered then.
        Err(error) => debug!(topic = served.topic, %error, "an answer could not be sent"),
    }
}

/// Carries out a fire.
pub(super) async fn carry_out(served: &Served, asked: Asked, delivery: &Delivery) {
    let (op, sender) = (asked.op.clone(), asked.sender.clone().unwrap_or_default());
    match served.handler.handle(asked).await {
        Ok(_) => acknowledge(delivery).await,
        Err(Failed { problem, passing: false }) => {
            warn!(topic = served.topic, op, sender, %problem, "what was fired was not done");
            acknowledge(delivery).await;
        }
        Err(Failed { problem, passing: true }) => {
            debug!(topic = served.topic, op, sender, %problem, "what was fired is tried again");
            sleep(GIVE_BACK_AFTER).await;
            let options = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            if let Err(error) = delivery.acker.nack(options).await {
                debug!(%error, "a message could not be given back; it comes again by itself");
            }
        }
    }
}

async fn handled(served: &Served, asked: Result<Asked, Problem>) -> Result<Value, Problem> {
    served.handler.handle(asked?).await.map_err(|failed| failed.problem)
}

pub(super) async fn acknowledge(delivery: &Delivery) {
    if let Err(error) = delivery.acker.ack(BasicAckOptions::default()).await {
        debug!(%error, "a message could not be acknowledged; it comes again");
    }
}

/// FNV-1a, 64 bits: tells bodies apart, not more.
pub(super) fn digest(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
