//! What the AMQP bus counts about itself. Handed in, never global.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};

/// Seconds at which a call changes its bucket: a broker beside us needs one or two milliseconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// What the AMQP bus counts. Labels are closed sets.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_bus_amqp_connected`: 1 while the broker is connected.
    pub connected: IntGauge,
    /// `epu_bus_amqp_connects_total`: connections opened, the first one too.
    pub connects: IntCounter,
    /// `epu_bus_amqp_blocked`: 1 while the broker takes no messages (memory or disk alarm).
    pub blocked: IntGauge,
    /// `epu_bus_amqp_asked_total{outcome}`: requests sent, by what came of them.
    pub asked: IntCounterVec,
    /// `epu_bus_amqp_ask_seconds`: from sending a request to its answer.
    pub seconds: Histogram,
    /// `epu_bus_amqp_unroutable_total`: requests that the broker gave back because nobody serves there.
    pub unroutable: IntCounter,
    /// `epu_bus_amqp_confirms_late_total`: requests that the broker did not confirm in time.
    pub confirms_late: IntCounter,
    /// `epu_bus_amqp_served_total{outcome}`: requests taken, by what came of them.
    pub served: IntCounterVec,
    /// `epu_bus_amqp_dead_letters_total{reason}`: messages put aside because they cannot be handled.
    pub dead: IntCounterVec,
    /// `epu_bus_amqp_facts_told_total`: facts given to the broker.
    pub facts_told: IntCounter,
    /// `epu_bus_amqp_facts_dropped_total`: facts that were not told because the broker was away or too slow.
    pub facts_dropped: IntCounter,
    /// `epu_bus_amqp_facts_heard_total`: facts that arrived.
    pub facts_heard: IntCounter,
    /// `epu_bus_amqp_facts_lost_total`: facts that a listener here missed.
    pub facts_lost: IntCounter,
    /// `epu_bus_amqp_refused_total{why}`: facts and replies that were not listened to.
    pub refused: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// Never, unless a name above is none.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            connected: IntGauge::new("epu_bus_amqp_connected", "1 while the broker is connected.")?,
            connects: IntCounter::new("epu_bus_amqp_connects_total", "Connections opened, the first one too.")?,
            blocked: IntGauge::new(
                "epu_bus_amqp_blocked",
                "1 while the broker takes no messages (memory or disk alarm).",
            )?,
            asked: IntCounterVec::new(
                Opts::new("epu_bus_amqp_asked_total", "Requests sent, by what came of them."),
                &["outcome"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("epu_bus_amqp_ask_seconds", "From sending a request to its answer.").buckets(BUCKETS.to_vec()),
            )?,
            unroutable: IntCounter::new(
                "epu_bus_amqp_unroutable_total",
                "Requests that the broker gave back because nobody serves there.",
            )?,
            confirms_late: IntCounter::new(
                "epu_bus_amqp_confirms_late_total",
                "Requests that the broker did not confirm in time.",
            )?,
            served: IntCounterVec::new(
                Opts::new("epu_bus_amqp_served_total", "Requests taken, by what came of them."),
                &["outcome"],
            )?,
            dead: IntCounterVec::new(
                Opts::new(
                    "epu_bus_amqp_dead_letters_total",
                    "Messages put aside because they cannot be handled.",
                ),
                &["reason"],
            )?,
            facts_told: IntCounter::new("epu_bus_amqp_facts_told_total", "Facts given to the broker.")?,
            facts_dropped: IntCounter::new(
                "epu_bus_amqp_facts_dropped_total",
                "Facts that were not told because the broker was away or too slow.",
            )?,
            facts_heard: IntCounter::new("epu_bus_amqp_facts_heard_total", "Facts that arrived.")?,
            facts_lost: IntCounter::new("epu_bus_amqp_facts_lost_total", "Facts that a listener here missed.")?,
            refused: IntCounterVec::new(
                Opts::new("epu_bus_amqp_refused_total", "Facts and replies that were not listened to."),
                &["why"],
            )?,
        })
    }

    /// Everything, to be registered.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.connected.clone()),
            Box::new(self.connects.clone()),
            Box::new(self.blocked.clone()),
            Box::new(self.asked.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.unroutable.clone()),
            Box::new(self.confirms_late.clone()),
            Box::new(self.served.clone()),
            Box::new(self.dead.clone()),
            Box::new(self.facts_told.clone()),
            Box::new(self.facts_dropped.clone()),
            Box::new(self.facts_heard.clone()),
            Box::new(self.facts_lost.clone()),
            Box::new(self.refused.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_registrable() {
        let metrics = Metrics::new().unwrap();
        let registry = prometheus::Registry::new();
        for collector in metrics.all() {
            registry.register(collector).unwrap();
        }
    }
}
