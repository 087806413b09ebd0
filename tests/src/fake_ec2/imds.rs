//! Instance metadata of each machine, at `/_imds/<instance id>/latest/...` where a real machine asks `http://169.254.169.254/latest/...`.
//!
//! Source: "Access instance metadata for an EC2 instance",
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>, and "Use the Instance Metadata Service",
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>: a token is had by PUT with a time to
//! live of 1 second to 6 hours; with `HttpTokens=required` a request without a valid one gets 401, an invalid one gets 401 always; 400 for
//! a PUT without time to live; 403 when the service is switched off; 404 for what there is not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::time::Timestamp;

use super::row::{Row, State};
use super::world::World;

/// Longest time to live of a token, in seconds.
const MAX_TTL: u32 = 21_600;

/// What a machine asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Its id.
    pub id: &'a str,
    /// Whether it asks for a token (PUT); otherwise it reads (GET).
    pub is_put: bool,
    /// What, without the slash at the start, such as `latest/meta-data/ami-launch-index`.
    pub path: &'a str,
    /// The header `X-aws-ec2-metadata-token`.
    pub token: Option<&'a str>,
    /// The header `X-aws-ec2-metadata-token-ttl-seconds`.
    pub ttl: Option<&'a str>,
}

/// The HTTP status and the body.
pub type Told = (u16, Vec<u8>);

impl World {
    /// Answers a machine.
    pub fn metadata(&mut self, asking: Asking<'_>, now: Timestamp) -> Told {
        self.advance(now);
        let seq = self.ids.get(asking.id).copied().unwrap_or(0);
        // A machine that does not run cannot ask.
        let runs = |row: &&Row| matches!(row.state, State::Running | State::ShuttingDown | State::Stopping) && row.times.vanished.is_none();
        let Some(row) = self.rows.get(&seq).filter(runs) else {
            return told(404, "no such machine");
        };
        if row.spec.http_endpoint == "disabled" {
            return told(403, "Forbidden");
        }
        if asking.is_put {
            if asking.path != "latest/api/token" {
                return told(404, "Not Found");
            }
            let ttl = asking.ttl.and_then(|text| text.parse::<u32>().ok());
            return match ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) {
                Some(ttl) => told(200, &self.metadata_token(asking.id, now.0 + i64::from(ttl) * 1_000)),
                None => told(400, "Bad Request"),
            };
        }
        let is_good = |token: &str| {
            let until = token.split_once('.').and_then(|(until, _)| i64::from_str_radix(until, 16).ok());
            until.is_some_and(|until| until > now.0 && self.metadata_token(asking.id, until) == token)
        };
        let allowed = asking.token.map_or(row.spec.http_tokens != "required", is_good);
        if !allowed {
            return told(401, "Unauthorized");
        }
        read(row, asking.path)
    }

    /// Good for one machine until a time.
    fn metadata_token(&self, id: &str, until: i64) -> String {
        let random = self.random(&format!("token/{id}"), until.unsigned_abs()).u64(..);
        format!("{until:x}.{random:016x}")
    }
}

fn read(row: &Row, path: &str) -> Told {
    if path == "latest/user-data" {
        let text = row.spec.user_data.as_ref().and_then(|text| STANDARD.decode(text).ok());
        return text.map_or_else(|| told(404, "Not Found"), |bytes| (200, bytes));
    }
    match path.strip_prefix("latest/meta-data/") {
        Some("") => told(
            200,
            "ami-id\nami-launch-index\ninstance-id\ninstance-type\nlocal-ipv4\nplacement/\nspot/",
        ),
        Some("ami-id") => told(200, &row.spec.image),
        Some("ami-launch-index") => told(200, &row.index.to_string()),
        Some("instance-id") => told(200, &row.id),
        Some("instance-type") => told(200, &row.spec.instance_type),
        Some("local-ipv4") => told(200, &row.address()),
        Some("local-hostname") => told(200, &row.host()),
        Some("placement/availability-zone") => told(200, &row.spec.zone),
        Some("placement/region") => told(200, &row.home.region),
        // Source: "Spot Instance interruption notices": 404 until there is one; then the action and about when.
        Some("spot/instance-action") => match row.notice {
            Some(at) => told(200, &format!("{{\"action\": \"terminate\", \"time\": \"{}\"}}", at.rfc3339())),
            None => told(404, "Not Found"),
        },
        Some("spot/termination-time") => match row.notice {
            Some(at) => told(200, &at.rfc3339()),
            None => told(404, "Not Found"),
        },
        Some(_) | None => told(404, "Not Found"),
    }
}

fn told(status: u16, text: &str) -> Told {
    (status, text.as_bytes().to_vec())
}
