//! What the door counts.

use epu_core::Fault;
use epu_core::code::CODES;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// Seconds at which a request changes its bucket: a heartbeat is far below the first, a teardown near the last.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// What the door counts. Labels are closed sets: ops, fault codes and words of this crate.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_bus_requests_total{op, outcome}`: requests that were understood and allowed; the outcome is `ok` or a fault's code.
    pub requests: IntCounterVec,
    /// `epu_bus_refused_total{why}`: requests that were turned away before anybody was asked.
    pub refused: IntCounterVec,
    /// `epu_bus_request_seconds{op}`: from a request understood to its answer, the client's own slowness not counted.
    pub seconds: HistogramVec,
    /// `epu_bus_connections`: open connections at the door.
    pub connections: IntGauge,
    /// `epu_bus_tls_expires_seconds`: how long the door's certificate is still good; negative when it has expired, absent without TLS.
    pub tls_expires: IntGaugeVec,
    /// `epu_bus_tls_reloads_total{outcome}`: new certificate files that were taken (`ok`) or not (`failed`).
    pub tls_reloads: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// Never, unless a name above is none.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new("epu_bus_requests_total", "Requests that were understood and allowed, by outcome."),
                &["op", "outcome"],
            )?,
            refused: IntCounterVec::new(
                Opts::new("epu_bus_refused_total", "Requests that were turned away before anybody was asked."),
                &["why"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("epu_bus_request_seconds", "From a request understood to its answer.").buckets(BUCKETS.to_vec()),
                &["op"],
            )?,
            connections: IntGauge::new("epu_bus_connections", "Open connections at the HTTP door.")?,
            tls_expires: IntGaugeVec::new(
                Opts::new(
                    "epu_bus_tls_expires_seconds",
                    "How long the door's certificate is still good; absent without TLS.",
                ),
                &[],
            )?,
            tls_reloads: IntCounterVec::new(
                Opts::new(
                    "epu_bus_tls_reloads_total",
                    "New certificate files that were taken, or could not be used.",
                ),
                &["outcome"],
            )?,
        })
    }

    /// Everything, to be registered.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.tls_expires.clone()),
            Box::new(self.tls_reloads.clone()),
        ]
    }

    pub(super) fn answered(&self, op: &str, fault: Option<&Fault>) {
        // A code may come from another process; one that is not in the list must not become a label.
        let outcome = fault.map_or("ok", |fault| {
            CODES
                .iter()
                .find(|(code, _, _)| *code == fault.code)
                .map_or("other", |(code, _, _)| code)
        });
        self.requests.with_label_values(&[op, outcome]).inc();
    }

    pub(super) fn refuse(&self, why: &str) {
        self.refused.with_label_values(&[why]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_registrable_and_codes_from_elsewhere_are_no_labels() {
        let metrics = Metrics::new().unwrap();
        let registry = prometheus::Registry::new();
        for collector in metrics.all() {
            registry.register(collector).unwrap();
        }
        metrics.answered("status", None);
        metrics.answered("status", Some(&Fault::new("no-contact", "")));
        metrics.answered(
            "status",
            Some(&Fault {
                code: "made up by somebody".into(),
                text: String::new(),
            }),
        );
        let get = |outcome: &str| metrics.requests.with_label_values(&["status", outcome]).get();
        assert_eq!((get("ok"), get("no-contact"), get("other")), (1, 1, 1));
    }
}
