//! Futures that can be held: what a suspended virtual machine or a long collection pause does to a process. A held one is not polled;
//! let go, it goes on where it was, with whatever arrived meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::lock;

/// Holds futures and lets them go.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    held: bool,
    waiting: Vec<Waker>,
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

    /// Puts a future behind this gate.
    pub fn around<F: Future>(&self, inner: F) -> Pausable<F> {
        Pausable {
            gate: self.clone(),
            inner: Box::pin(inner),
        }
    }
}

/// A future behind a [`Gate`].
#[derive(Debug)]
pub struct Pausable<F> {
    gate: Gate,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut held = lock(&self.gate.0);
            if held.held {
                if held.waiting.iter().all(|known| !known.will_wake(context.waker())) {
                    held.waiting.push(context.waker().clone());
                }
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}
