//! Answers given lately, so that a call that arrives twice is carried out once.
//!
//! A call is acknowledged after its answer went out. When the connection breaks in between, the broker delivers it again, and an operation
//! such as adding a domain would then fail as a duplicate of itself, before the eyes of a client that still waits. Its reply queue's name is
//! different for every call, so it tells the repetition: the second delivery gets the first one's answer, also when that is still being
//! worked out. This is in memory and of one process; a repetition that goes to another process is carried out again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Most answers that are kept. Too low: a repetition after a long break is carried out again. Too high: memory.
const KEPT_MOST: usize = 512;
/// The largest answer that is kept, in bytes. Larger ones are those of questions, which may be asked again.
const BODY_MOST: usize = 64 * 1024;

/// An answer's body, once there is one; none for one that is too large to keep.
type Body = Option<Arc<Vec<u8>>>;

/// Answers by the reply queue they went to.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_key: BTreeMap<String, watch::Receiver<Body>>,
    order: VecDeque<String>,
}

/// What to do with a call.
#[derive(Debug)]
pub(super) enum Turn {
    /// Carry it out, and give the answer here.
    First(watch::Sender<Body>),
    /// It was taken before: its answer arrives here.
    Again(watch::Receiver<Body>),
}

impl Answers {
    /// Whose turn a call with this reply queue is.
    pub(super) fn turn(&self, key: &str) -> Turn {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.by_key.get(key) {
            return Turn::Again(known.clone());
        }
        let (tell, told) = watch::channel(None);
        kept.by_key.insert(key.to_owned(), told);
        kept.order.push_back(key.to_owned());
        if kept.order.len() > KEPT_MOST
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_key.remove(&oldest);
        }
        Turn::First(tell)
    }

    /// Keeps an answer, unless it is too large.
    pub(super) fn keep(&self, key: &str, turn: &watch::Sender<Body>, body: &Arc<Vec<u8>>) {
        if body.len() <= BODY_MOST {
            turn.send_replace(Some(body.clone()));
        } else {
            self.forget(key);
        }
    }

    /// A call came to nothing and is to be carried out when it comes again.
    pub(super) fn forget(&self, key: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_key.remove(key);
        kept.order.retain(|other| other != key);
    }
}

/// The first delivery's answer; none when it is not kept, and the call is to be carried out.
pub(super) async fn earlier(mut told: watch::Receiver<Body>) -> Body {
    let found = told.wait_for(Option::is_some).await;
    found.ok().and_then(|body| body.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_repetition_waits_for_the_first_answer_and_gets_it() {
        let answers = Answers::default();
        let Turn::First(tell) = answers.turn("a") else {
            panic!("taken before")
        };
        let Turn::Again(told) = answers.turn("a") else {
            panic!("not known")
        };
        let waiting = tokio::spawn(earlier(told));
        answers.keep("a", &tell, &Arc::new(b"answer".to_vec()));
        let body = waiting.await.expect("no panic").expect("an answer");
        assert_eq!(*body, b"answer");
        assert!(matches!(answers.turn("a"), Turn::Again(_)));
    }

    #[tokio::test]
    async fn what_is_not_kept_is_carried_out_again() {
        let answers = Answers::default();
        let Turn::First(tell) = answers.turn("a") else {
            panic!("taken before")
        };
        let Turn::Again(told) = answers.turn("a") else {
            panic!("not known")
        };
        answers.keep("a", &tell, &Arc::new(vec![0; BODY_MOST + 1]));
        drop(tell);
        assert_eq!(earlier(told).await, None);
        assert!(matches!(answers.turn("a"), Turn::First(_)));
        for number in 0..2 * KEPT_MOST {
            assert!(matches!(answers.turn(&format!("n{number}")), Turn::First(_)));
        }
        assert!(answers.0.lock().expect("lock").by_key.len() <= KEPT_MOST);
    }
}
