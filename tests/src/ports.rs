//! Free TCP ports on loopback.
//!
//! Asking the kernel for port 0 gives one from the range that outgoing connections use too, and any of these may take it before the
//! server that it is meant for does. So ports are drawn from below that range, tried, and never given out twice by one test program.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use crate::{Result, Trouble};

/// Below what Linux uses for outgoing connections (32768 and up), above what services commonly use.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
/// Draws before giving up: far more than needed unless nearly every port is taken.
const DRAWS: usize = 1_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nobody listens on. Another program may still take it; who starts a server must be ready to try again.
///
/// # Errors
/// When none is found.
pub fn free() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..DRAWS {
        let port = fastrand::u16(RANGE);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    Err(Trouble::new("find a free port", format!("none in {DRAWS} draws from {RANGE:?}")))
}
