//! Futures that can be held and that can die: what a suspended virtual machine, a long collection pause, or `kill -9` at the worst
//! moment does to a process. A held one is not polled; let go, it goes on where it was, with whatever arrived meanwhile. A dead one is
//! dropped, with all that it awaits, and has no effect on anything any more.
//!
//! A process has tasks of its own beside the future that is behind its [`Gate`], and these are polled whatever the gate says. So the
//! gate also stands where they meet the world ([`crate::edge`], [`crate::ledger`]): there they wait, or end, with their process.

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};

use crate::lock;

/// Where a process meets the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// It writes to the store; leases do not count.
    Commit,
    /// It calls a site, to launch or to terminate.
    Call,
    /// It tells the others something, or asks them.
    Tell,
}

/// On which side of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Before anything of it is done.
    Before,
    /// When it is done, and before the process hears so.
    After,
}

/// When a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doom {
    /// At the end of its n-th poll from now, counted from 1: at any of the places where it waits.
    Polls(u32),
    /// On a side of the n-th time from now, counted from 1, that it meets the world so.
    At {
        /// How it meets the world.
        edge: Edge,
        /// On which side.
        side: Side,
        /// Which time.
        nth: u32,
    },
}

impl fmt::Display for Doom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (edge, side, nth) = match self {
            Self::Polls(polls) => return write!(out, "at the end of its poll {polls}"),
            Self::At { edge, side, nth } => (edge, side, nth),
        };
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        let edge = match edge {
            Edge::Commit => "write to the store",
            Edge::Call => "call to a site",
            Edge::Tell => "word to the others",
        };
        write!(out, "{side} its {edge} {nth}")
    }
}

/// Holds futures, lets them go, and ends them.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    held: bool,
    dead: bool,
    doom: Option<Doom>,
    waiting: Vec<Waker>,
}

impl Held {
    fn wait(&mut self, context: &Context<'_>) {
        if self.waiting.iter().all(|known| !known.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }

    /// Once more; dead when that was the last.
    fn polled(&mut self) {
        if let Some(Doom::Polls(left)) = &mut self.doom {
            *left = left.saturating_sub(1);
            self.dead |= *left == 0;
        }
    }

    fn met(&mut self, edge: Edge, side: Side) {
        if let Some(Doom::At {
            edge: at,
            side: on,
            nth: left,
        }) = &mut self.doom
            && (*at, *on) == (edge, side)
        {
            *left = left.saturating_sub(1);
            self.dead |= *left == 0;
        }
    }
}

impl Gate {
    /// From now on nothing behind this gate is polled.
    pub fn hold(&self) {
        lock(&self.0).held = true;
    }

    /// Lets everything go on.
    pub fn let_go(&self) {
        let waiting = {
            let mut held = lock(&self.0);
            held.held = false;
            std::mem::take(&mut held.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        lock(&self.0).held
    }

    /// What is behind it dies then; none: no more.
    pub fn doom(&self, doom: Option<Doom>) {
        lock(&self.0).doom = doom;
    }

    /// Whether it is to die.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        lock(&self.0).doom.is_some()
    }

    /// Whether what was behind it died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        lock(&self.0).dead
    }

    /// A task meets the world: it waits while it is held, dies when that is its doom, and does not come back when it is dead.
    pub async fn pass(&self, edge: Edge, side: Side) {
        self.wait().await;
        if !self.meet(edge, side) {
            pending().await
        }
    }

    /// The same where nothing counts.
    pub async fn wait(&self) {
        poll_fn(|context| {
            let mut held = lock(&self.0);
            if held.dead {
                // Dropped with its process, and never woken.
                return Poll::Pending;
            }
            if held.held {
                held.wait(context);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// A task meets the world where it cannot wait. False when it is dead.
    #[must_use]
    pub fn meet(&self, edge: Edge, side: Side) -> bool {
        let mut held = lock(&self.0);
        if !held.dead {
            held.met(edge, side);
        }
        !held.dead
    }

    /// Puts a future behind this gate.
    pub fn around<F: Future>(&self, inner: F) -> Pausable<F> {
        Pausable {
            gate: self.clone(),
            inner: Some(Box::pin(inner)),
        }
    }
}

/// A future behind a [`Gate`].
#[derive(Debug)]
pub struct Pausable<F> {
    gate: Gate,
    /// None once it is dead.
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let was_dead = {
            let mut held = lock(&self.gate.0);
            if held.held && !held.dead {
                held.wait(context);
                return Poll::Pending;
            }
            held.dead
        };
        if !was_dead
            && let Some(inner) = &mut self.inner
            && let Poll::Ready(output) = inner.as_mut().poll(context)
        {
            return Poll::Ready(output);
        }
        let is_dead = {
            let mut held = lock(&self.gate.0);
            held.polled();
            held.dead
        };
        if is_dead {
            self.inner = None;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts how far it came, and when it was dropped.
    #[derive(Clone, Default)]
    struct Counted(Arc<(AtomicU32, AtomicU32)>);

    struct Drops(Counted);

    impl Drop for Drops {
        fn drop(&mut self) {
            self.0.0.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counted {
        async fn counts(self, gate: Gate, edge: Edge) {
            let _drops = Drops(self.clone());
            loop {
                gate.pass(edge, Side::Before).await;
                self.0.0.fetch_add(1, Ordering::Relaxed);
                gate.pass(edge, Side::After).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }

        fn seen(&self) -> (u32, u32) {
            (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed))
        }
    }

    async fn doomed(doom: Doom) -> (u32, u32) {
        let (gate, counted) = (Gate::default(), Counted::default());
        gate.doom(Some(doom));
        let task = tokio::spawn(gate.around(counted.clone().counts(gate.clone(), Edge::Commit)));
        tokio::time::sleep(Duration::from_millis(9_500)).await;
        assert_eq!(gate.is_dead(), counted.seen().1 == 1);
        assert!(!task.is_finished());
        task.abort();
        let seen = counted.seen();
        if gate.is_dead() {
            assert_eq!(seen.1, 1, "what is dead is dropped at once");
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn it_dies_at_the_end_of_the_poll_that_was_said() {
        assert_eq!(doomed(Doom::Polls(1)).await, (1, 1));
        assert_eq!(doomed(Doom::Polls(4)).await, (4, 1));
        assert_eq!(doomed(Doom::Polls(1_000)).await, (10, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn it_dies_before_and_after_what_it_does() {
        let at = |edge, side, nth| doomed(Doom::At { edge, side, nth });
        assert_eq!(at(Edge::Commit, Side::Before, 1).await, (0, 1));
        assert_eq!(at(Edge::Commit, Side::After, 1).await, (1, 1));
        assert_eq!(at(Edge::Commit, Side::Before, 3).await, (2, 1));
        assert_eq!(at(Edge::Commit, Side::After, 3).await, (3, 1));
        assert_eq!(at(Edge::Call, Side::After, 3).await, (10, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_beside_it_has_no_effect_once_it_is_dead_and_none_while_it_is_held() {
        let (gate, beside) = (Gate::default(), Counted::default());
        let _beside = tokio::spawn(beside.clone().counts(gate.clone(), Edge::Call));
        let seconds = |n| tokio::time::sleep(Duration::from_secs(n));
        seconds(3).await;
        gate.hold();
        let at = beside.seen().0;
        seconds(10).await;
        assert_eq!(beside.seen().0, at);
        gate.let_go();
        seconds(3).await;
        assert!(beside.seen().0 > at);
        gate.doom(Some(Doom::Polls(1)));
        let main = tokio::spawn(gate.around(std::future::pending::<()>()));
        seconds(1).await;
        let at = beside.seen().0;
        seconds(10).await;
        assert_eq!(beside.seen().0, at);
        main.abort();
    }
}
