//! Waiting for something to become true, with a limit and a message that says what was waited for and what was seen last.

use std::fmt::Display;
use std::time::Duration;

use crate::{Result, Trouble};

/// Time between two looks. Too short: the looking itself loads the machine. Too long: tests are slow.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Looks until there is something, `within` at the longest. A look that does not come back counts as waiting, too.
///
/// # Errors
/// When there was nothing in time, with what the last look said.
pub async fn until<T, E: Display>(within: Duration, what: &str, mut look: impl AsyncFnMut() -> std::result::Result<T, E>) -> Result<T> {
    let mut last = String::from("no look came back");
    let looking = async {
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) => last = seen.to_string(),
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let found = tokio::time::timeout(within, looking).await;
    found.map_err(|_| Trouble(format!("not within {}: {what}; last seen: {last}", epu_core::Span(within))))
}

/// Looks until it is true.
///
/// # Panics
/// When it is not true in time: this is an assertion.
pub async fn eventually(within: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let outcome = until(within, what, async || if look().await { Ok(()) } else { Err("it is not so") }).await;
    assert!(outcome.is_ok(), "{}", outcome.err().map_or_else(String::new, |t| t.0));
}

/// Looks for as long as `during` and gives up as soon as it is not true.
///
/// # Panics
/// When it was once not true: this is an assertion.
pub async fn always(during: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let watching = async {
        loop {
            assert!(look().await, "not always: {what}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let watched: std::result::Result<(), _> = tokio::time::timeout(during, watching).await;
    drop(watched);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_becomes_true_is_waited_for() {
        let mut looks = 0;
        let third = until(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(third.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn what_never_becomes_true_is_named_with_what_was_seen_last() {
        let trouble = until(Duration::from_millis(120), "the moon is near", async || Err::<(), _>("it is far")).await;
        assert_eq!(trouble.unwrap_err().0, "not within 120ms: the moon is near; last seen: it is far");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up() {
        let hangs = until(Duration::from_millis(50), "an answer", async || {
            std::future::pending::<std::result::Result<(), &str>>().await
        });
        assert!(hangs.await.unwrap_err().0.ends_with("no look came back"));
    }

    #[tokio::test]
    #[should_panic(expected = "not always: it stays below three")]
    async fn what_stops_being_true_is_noticed() {
        let mut looks = 0;
        always(Duration::from_secs(5), "it stays below three", async || {
            looks += 1;
            looks < 3
        })
        .await;
    }
}
