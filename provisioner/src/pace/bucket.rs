//! A token bucket as EC2 describes its own, as arithmetic: no clock, no waiting.
//!
//! It holds at most `capacity` tokens; each second brings `refill`; what does not fit is lost; a call takes its tokens or is refused
//! (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>).
//!
//! **Never ahead of the site's.** There the tokens of a second come all at once, and when is not known here. A bucket that fills
//! evenly to one second's worth less than `capacity` never has more than such a one, whenever its seconds begin. And once it has been as
//! full as that for a whole second, the site's is full to the brim, and so much may be taken. The level is whichever is more.
//!
//! **Refused all the same**, because others use the account too or its limits are lower than published, it is emptied and refills at half
//! its speed, down to a thirty-second of it; every half minute without another refusal the speed doubles until it is what it was.

use std::time::Duration;

use epu_core::time::Timestamp;

use crate::iaas::ec2::settings::BucketSpec;

/// The least share of its speed at which a bucket refills. Too low: a passing refusal holds calls up for long. Too high: calls are
/// refused again and again while others use the account up.
const SHARE_LEAST: f64 = 1.0 / 32.0;
/// So long without a refusal and it refills twice as fast. Too high: slow to recover. Too low: refused again at once.
const FASTER_AFTER: Duration = Duration::from_secs(30);
/// Refusals this close together are of calls that were sent before the first was heard of: they slow it only once.
const SAME_REFUSAL: Duration = Duration::from_secs(2);
/// No wait is longer in one piece.
const WAIT_MOST: Duration = Duration::from_secs(3_600);
/// Within this the site's tokens of a second have come.
const SECOND: Duration = Duration::from_secs(1);
/// Sums of tokens differ by less than this from what they should be.
const NOTHING: f64 = 1e-6;

/// A token bucket at a point in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bucket {
    spec: BucketSpec,
    /// What is there at least, whenever the site's seconds begin: fills evenly, to one second's worth below the brim.
    even: f64,
    /// What is left of what was there when the site's was full, or refused; nothing comes in.
    left: f64,
    /// Since when `even` is as high as it gets.
    full_since: Option<Timestamp>,
    /// Up to when what came in is counted.
    at: Timestamp,
    /// The share of its speed at which it refills.
    share: f64,
    /// When that doubles, while it is less than one.
    faster_at: Timestamp,
    refused_at: Option<Timestamp>,
}

impl Bucket {
    pub(crate) fn full(spec: BucketSpec, now: Timestamp) -> Self {
        Self {
            spec,
            even: spec.capacity - spec.refill,
            left: spec.capacity,
            full_since: Some(now),
            at: now,
            share: 1.0,
            faster_at: now,
            refused_at: None,
        }
    }

    pub(crate) fn spec(&self) -> BucketSpec {
        self.spec
    }

    /// Changes its limits; it never holds more than it then may.
    pub(crate) fn limit(&mut self, spec: BucketSpec, now: Timestamp) {
        self.pass(now);
        if self.left >= self.spec.capacity - NOTHING {
            *self = Self::full(spec, now);
        } else {
            self.spec = spec;
            self.even = self.even.min(self.brim());
            self.left = self.left.min(spec.capacity);
            self.full_since = None;
        }
    }

    pub(crate) fn level(&self, now: Timestamp) -> f64 {
        self.then(now).even.max(self.then(now).left)
    }

    /// How much comes in each second now.
    pub(crate) fn speed(&self, now: Timestamp) -> f64 {
        let then = self.then(now);
        then.spec.refill * then.share
    }

    /// How long until a call that takes so many may be made; zero: now. One that takes more than the bucket ever holds may be made when
    /// it is full, and the rest is owed.
    pub(crate) fn wait(&self, tokens: f64, now: Timestamp) -> Duration {
        let mut then = self.then(now);
        let wanted = tokens.min(then.spec.capacity) - NOTHING;
        while then.even.max(then.left) < wanted {
            if then.at.since(now) >= WAIT_MOST {
                return WAIT_MOST;
            }
            let until = match then.full_since {
                Some(since) => since + SECOND,
                None => then.at + then.next(wanted.min(then.brim())),
            };
            then.pass(until);
        }
        then.at.since(now)
    }

    pub(crate) fn take(&mut self, tokens: f64, now: Timestamp) {
        self.pass(now);
        self.even -= tokens;
        self.left -= tokens;
        if tokens > 0.0 {
            self.full_since = None;
        }
    }

    /// The site refused a call: what was believed to be left was not there, but for this share of it.
    pub(crate) fn refused(&mut self, share_left: f64, now: Timestamp) {
        self.pass(now);
        let level = self.even.max(self.left);
        self.left = if level > 0.0 { level * share_left } else { level };
        self.even = self.even.min(self.left);
        self.full_since = None;
        if self.refused_at.is_none_or(|before| now.since(before) >= SAME_REFUSAL) {
            self.share = (self.share / 2.0).max(SHARE_LEAST);
            self.refused_at = Some(now);
        }
        self.faster_at = now + FASTER_AFTER;
    }

    /// How high it gets by filling evenly.
    fn brim(&self) -> f64 {
        self.spec.capacity - self.spec.refill
    }

    fn then(&self, now: Timestamp) -> Self {
        let mut then = self.clone();
        then.pass(now);
        then
    }

    /// How long from `at` until `even` is so high or it gets faster, rounded up to what a clock shows.
    fn next(&self, wanted: f64) -> Duration {
        let seconds = (wanted - NOTHING / 2.0 - self.even).max(0.0) / (self.spec.refill * self.share);
        let length =
            Duration::try_from_secs_f64((seconds * 1_000.0).ceil().max(1.0) / 1_000.0).map_or(WAIT_MOST, |length| length.min(WAIT_MOST));
        if self.share < 1.0 {
            length.min(self.faster_at.since(self.at).max(Duration::from_millis(1)))
        } else {
            length
        }
    }

    /// Lets time pass until `now`.
    fn pass(&mut self, now: Timestamp) {
        self.quicken();
        while self.at < now {
            let brim = self.brim();
            if self.even >= brim - NOTHING {
                self.even = brim;
                let since = *self.full_since.get_or_insert(self.at);
                if now.since(since) >= SECOND {
                    self.left = self.spec.capacity;
                }
                self.at = now;
            } else {
                let length = self.next(brim).min(now.since(self.at));
                self.even += length.as_secs_f64() * self.spec.refill * self.share;
                self.at = self.at + length;
                if self.even >= brim - NOTHING {
                    self.even = brim;
                    self.full_since = Some(self.at);
                }
            }
            self.quicken();
        }
    }

    fn quicken(&mut self) {
        while self.share < 1.0 && self.at >= self.faster_at {
            self.share = (self.share * 2.0).min(1.0);
            self.faster_at = self.faster_at + FASTER_AFTER;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_763_840_236_000);

    fn bucket(capacity: f64, refill: f64) -> Bucket {
        Bucket::full(BucketSpec { capacity, refill }, BEGIN)
    }

    fn at(seconds: f64) -> Timestamp {
        BEGIN + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn it_lets_as_many_through_as_it_holds_and_then_as_many_as_come_in() {
        let mut bucket = bucket(5.0, 2.0);
        for _ in 0..5 {
            assert_eq!(bucket.wait(1.0, BEGIN), Duration::ZERO);
            bucket.take(1.0, BEGIN);
        }
        assert_eq!(bucket.level(BEGIN), 0.0);
        // When the site's seconds begin is not known: one of them must be over first.
        assert_eq!(bucket.wait(1.0, BEGIN), Duration::from_millis(1_500));
        assert_eq!(bucket.wait(1.0, at(0.4)), Duration::from_millis(1_100));
        assert_eq!(bucket.level(at(2.0)), 2.0);
        assert_eq!(bucket.level(at(2.5)), 3.0);
        assert_eq!(bucket.level(at(3.4)), 3.0);
        assert_eq!(bucket.level(at(3.5)), 5.0, "full for a whole second");
        assert_eq!(bucket.wait(4.0, BEGIN), Duration::from_millis(3_500));
        assert_eq!(bucket.level(at(10_000_000.0)), 5.0, "it holds no more than it may");
    }

    #[test]
    fn what_is_more_than_it_ever_holds_goes_when_it_is_full_and_is_owed() {
        let mut bucket = bucket(1_000.0, 2.0);
        bucket.take(1.0, BEGIN);
        assert_eq!(bucket.wait(1_500.0, BEGIN), Duration::from_millis(1_500));
        bucket.take(1_500.0, at(2.0));
        assert_eq!(bucket.level(at(2.0)), -500.0);
        assert_eq!(bucket.wait(10.0, at(2.0)), Duration::from_secs(256));
        assert_eq!(bucket.wait(1_000.0, at(2.0)), Duration::from_secs(751));
    }

    #[test]
    fn a_refusal_empties_and_slows_it_and_both_pass() {
        let mut bucket = bucket(100.0, 20.0);
        bucket.refused(0.0, BEGIN);
        assert_eq!((bucket.level(BEGIN), bucket.speed(BEGIN)), (0.0, 10.0));
        // Those of calls that were under way are no news.
        bucket.refused(0.0, at(1.0));
        assert_eq!(bucket.speed(at(1.0)), 10.0);
        bucket.refused(0.0, at(4.0));
        assert_eq!(bucket.speed(at(4.0)), 5.0);
        for second in 0..20 {
            bucket.refused(0.0, at(10.0 + f64::from(second) * 3.0));
        }
        assert_eq!(bucket.speed(at(67.0)), 20.0 / 32.0, "no slower than that");
        assert_eq!(bucket.wait(1.0, at(67.0)), Duration::from_millis(1_600));
        assert_eq!(bucket.speed(at(97.0)), 20.0 / 16.0);
        assert_eq!(bucket.speed(at(67.0 + 150.0)), 20.0);
        assert_eq!(bucket.level(at(67.0 + 150.0)), 100.0);
    }

    #[test]
    fn a_refusal_can_leave_part_of_it_and_forgives_no_debt() {
        let mut bucket = bucket(1_000.0, 2.0);
        bucket.refused(0.5, BEGIN);
        assert_eq!(bucket.level(BEGIN), 500.0);
        bucket.take(600.0, BEGIN);
        bucket.refused(0.5, BEGIN);
        assert_eq!(bucket.level(BEGIN), -100.0);
    }

    #[test]
    fn other_limits_hold_from_then_on() {
        let mut full = bucket(5.0, 2.0);
        full.limit(
            BucketSpec {
                capacity: 50.0,
                refill: 1.0,
            },
            BEGIN,
        );
        assert_eq!(full.level(BEGIN), 50.0);
        full.take(20.0, BEGIN);
        full.limit(
            BucketSpec {
                capacity: 10.0,
                refill: 1.0,
            },
            BEGIN,
        );
        assert_eq!((full.level(BEGIN), full.spec().capacity), (10.0, 10.0));
    }

    proptest! {
        /// The site's tokens come at seconds of its own, whenever they begin; whoever waits as told is never refused.
        #[test]
        fn whoever_waits_as_told_is_never_refused(
            capacity in 1_u32..50,
            refill in 1_u32..30,
            phase in 0_i64..1_000,
            calls in prop::collection::vec((1_u32..60, 0_u64..3_000), 1..60),
        ) {
            let (capacity, refill) = (f64::from(capacity), f64::from(refill));
            let mut ours = bucket(capacity, refill);
            let (mut theirs, mut ticked) = (capacity, BEGIN.0 - 1_000 + phase);
            let mut now = BEGIN;
            for (tokens, pause) in calls {
                let tokens = f64::from(tokens).min(capacity);
                now = now + Duration::from_millis(pause);
                let wait = ours.wait(tokens, now);
                prop_assert!(wait.as_secs_f64() <= 2.01 + capacity / refill, "{wait:?} is too long");
                now = now + wait;
                prop_assert_eq!(ours.wait(tokens, now), Duration::ZERO, "it was told to wait too short");
                ours.take(tokens, now);
                while ticked + 1_000 <= now.0 {
                    ticked += 1_000;
                    theirs = (theirs + refill).min(capacity);
                }
                prop_assert!(theirs >= tokens - 1e-3, "refused: {} there, {} asked", theirs, tokens);
                theirs -= tokens;
            }
        }

        /// Whatever happened to it, a wait ends, and it is not too long.
        #[test]
        fn every_wait_ends(refusals in prop::collection::vec(0_u64..100_000, 0..20), tokens in 1_u32..2_000) {
            let mut bucket = bucket(1_000.0, 2.0);
            let mut now = BEGIN;
            for pause in refusals {
                now = now + Duration::from_millis(pause);
                bucket.refused(0.0, now);
            }
            let wait = bucket.wait(f64::from(tokens), now);
            prop_assert!(wait <= Duration::from_secs(700), "{wait:?}");
        }
    }
}
