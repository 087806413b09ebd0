//! Fires in the order in which they came, calls after the fires before them.
//!
//! The original worked its messages off one after the other. Clients count on that in one way: what they fired is done before what they
//! ask next. Calls wait for each other nowhere, since a client asks the next only after the answer.

use tokio::sync::watch;

/// Hands out places, and knows how far the work is.
#[derive(Debug)]
pub(super) struct Lane {
    given: u64,
    done: watch::Sender<u64>,
}

/// A place: begins when everything before it is done.
#[derive(Debug)]
pub(super) struct Place {
    after: u64,
    done: watch::Receiver<u64>,
}

/// A fire's duty to say that it is done, which it also does when its task ends early.
#[derive(Debug)]
pub(super) struct Duty {
    place: u64,
    done: watch::Sender<u64>,
}

impl Drop for Duty {
    fn drop(&mut self) {
        self.done.send_modify(|done| *done = (*done).max(self.place));
    }
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            given: 0,
            done: watch::Sender::new(0),
        }
    }

    /// A place behind all fires so far.
    pub(super) fn behind(&self) -> Place {
        Place {
            after: self.given,
            done: self.done.subscribe(),
        }
    }

    /// A place in the line itself.
    pub(super) fn within(&mut self) -> (Place, Duty) {
        let place = self.behind();
        self.given += 1;
        let duty = Duty {
            place: self.given,
            done: self.done.clone(),
        };
        (place, duty)
    }
}

impl Place {
    /// Waits for it.
    pub(super) async fn comes(mut self) {
        // The lane lives at least as long as anybody who has a duty in it; when all are gone, nothing is before this any more.
        self.done.wait_for(|done| *done >= self.after).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_keep_their_order_and_a_call_comes_after_them() {
        let (mut lane, seen) = (Lane::new(), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = tokio::task::JoinSet::new();
        for (name, takes) in [("slow", 50), ("quick", 1)] {
            let ((place, duty), seen) = (lane.within(), seen.clone());
            tasks.spawn(async move {
                place.comes().await;
                tokio::time::sleep(Duration::from_millis(takes)).await;
                seen.lock().expect("lock").push(name);
                drop(duty);
            });
        }
        let (place, told) = (lane.behind(), seen.clone());
        tasks.spawn(async move {
            place.comes().await;
            told.lock().expect("lock").push("call");
        });
        while tasks.join_next().await.is_some() {}
        assert_eq!(*seen.lock().expect("lock"), ["slow", "quick", "call"]);
    }

    #[tokio::test]
    async fn a_fire_that_ends_early_holds_nobody_up() {
        let mut lane = Lane::new();
        let (_, duty) = lane.within();
        let behind = lane.behind();
        drop(duty);
        behind.comes().await;
    }
}
