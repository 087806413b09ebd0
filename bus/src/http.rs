//! The door for agents and operators.
//!
//! One endpoint, `POST /v1/ask`, takes the one envelope (`{"op", "args"}`, see [`epu_core::request`]) and gives the one reply
//! (`{"result", "error"}`), so that a new request needs no new path. The HTTP status repeats the error's code for proxies and
//! people ([`status_of`]); programs read the reply. Beside it stand `GET /metrics`, `/healthz` and `/readyz`, which need no token.
//!
//! [`auth`] says who may ask what, [`server`] listens, [`door`] answers, [`client`] asks, [`tls`] proves to who asks that this is the door.

pub mod auth;
pub mod client;
pub mod door;
pub mod metrics;
mod patient;
pub mod server;
pub(crate) mod text;
pub mod tls;

pub use client::Client;
pub use door::{Door, Limits, Ready, Render};
pub use metrics::Metrics;
pub use server::{Error, bind, serve, serve_tls};
pub use tls::{Roots, Tls};

use hyper::StatusCode;

/// The status that goes with a fault's code. A code that is not named here is 500: the fault is on this side until somebody
/// decided otherwise.
#[must_use]
pub fn status_of(code: &str) -> StatusCode {
    match code {
        "bad-request" | "bad-config" => StatusCode::BAD_REQUEST,
        "unauthorized" => StatusCode::UNAUTHORIZED,
        "forbidden" => StatusCode::FORBIDDEN,
        "conflict" | "closed" | "above-max" | "from-file" | "claim-refused" | "stale-epoch" => StatusCode::CONFLICT,
        "too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "no-contact" => StatusCode::SERVICE_UNAVAILABLE,
        "timeout" => StatusCode::GATEWAY_TIMEOUT,
        "unknown-instance" => StatusCode::NOT_FOUND,
        other if other.starts_with("no-such-") => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, so that a code that is added is looked at here.
    #[test]
    fn every_code_has_the_status_that_clients_expect() {
        let table: Vec<(u16, &str)> = epu_core::code::CODES
            .iter()
            .map(|(code, _, _)| (status_of(code).as_u16(), *code))
            .collect();
        for (status, code) in [
            (400, "bad-request"),
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "no-such-instance"),
            (404, "no-such-pool"),
            (409, "conflict"),
            (409, "closed"),
            (409, "above-max"),
            (409, "from-file"),
            (503, "no-contact"),
            (504, "timeout"),
            (500, "internal"),
            (500, "store-failed"),
        ] {
            assert!(table.contains(&(status, code)), "{code} is not {status}: {table:?}");
        }
        assert_eq!(status_of("too-large").as_u16(), 413);
        assert_eq!(status_of("never-heard-of").as_u16(), 500);
    }
}
