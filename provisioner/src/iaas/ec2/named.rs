//! Calls that name machines: ending them, asking after them, tagging them, reading their console.
//!
//! EC2 refuses such a call as a whole when it does not know one of the ids, and says which. Those are then left out and the rest is
//! asked again; when it does not say which, the batch is halved until it is clear. The number of tries is bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aws_sdk_ec2::types::Tag;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::launch::Purpose;

use super::account::{Account, CHANGING};
use super::failure::Failure;
use super::origin;
use crate::iaas::{IaasError, MachineState};
use crate::pace::Action;

/// Ids of one TerminateInstances, and of one CreateTags: the most that EC2 takes.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>
const CHANGE_MOST: usize = 1_000;
/// Ids of one DescribeInstances. EC2 takes 1,000 and cannot page them, so that each answer is a large one.
const ASK_MOST: usize = 500;
/// Tries for each batch. Too low: a batch with ids that the site names one at a time fails. Too high: it takes too long for its caller.
const TRIES: usize = 24;
/// The most of a machine's console that is looked at; EC2 keeps 64 KB.
const CONSOLE_MOST: usize = 1 << 20;

/// Whether this looks like the id of a machine. One that does not is asked for apart, so that the site's word on it concerns no other.
fn is_id(text: &str) -> bool {
    text.strip_prefix("i-")
        .is_some_and(|rest| (1..=40).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Ids in batches that the site is asked about.
#[derive(Debug)]
struct Batches {
    left: VecDeque<Vec<String>>,
    /// How many of these are what was left of others, whose machines have been counted.
    rest: usize,
    tries: usize,
    /// Ids that the site does not know.
    unknown: BTreeSet<String>,
}

impl Batches {
    fn new(ids: &[String], most: usize) -> Self {
        let unique: BTreeSet<&String> = ids.iter().collect();
        let (unique, odd): (Vec<String>, Vec<String>) = unique.into_iter().cloned().partition(|id| is_id(id));
        let left: VecDeque<_> = unique.chunks(most).chain(odd.chunks(most)).map(<[String]>::to_vec).collect();
        Self {
            tries: left.len() * TRIES,
            left,
            rest: 0,
            unknown: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> Option<Vec<String>> {
        self.rest = self.rest.saturating_sub(1);
        self.left.pop_front()
    }

    /// So many machines are counted for the next call: those that a refused call named are counted once.
    fn counted(&self) -> u32 {
        match (self.rest, self.left.front()) {
            (0, Some(batch)) => count(batch),
            _ => 0,
        }
    }

    /// What is left of a batch comes next.
    fn again(&mut self, rest: Vec<String>) {
        if !rest.is_empty() {
            self.left.push_front(rest);
            self.rest += 1;
        }
    }

    /// What is left of a batch that was refused because of some of its ids.
    fn refused(&mut self, batch: Vec<String>, failure: Failure) -> Result<(), Failure> {
        self.tries = self.tries.saturating_sub(1);
        if self.tries == 0 {
            return Err(failure);
        }
        let (named, rest) = split(batch, &failure.message);
        if !named.is_empty() {
            self.unknown.extend(named);
            self.again(rest);
        } else if rest.len() == 1 {
            self.unknown.extend(rest);
        } else {
            let (one, two) = rest.split_at(rest.len() / 2);
            self.again(two.to_vec());
            self.again(one.to_vec());
        }
        Ok(())
    }
}

/// The ids that a text names, and the others.
fn split(ids: Vec<String>, text: &str) -> (Vec<String>, Vec<String>) {
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    ids.into_iter().partition(|id| words.contains(id.as_str()))
}

fn count(ids: &[String]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

impl Account {
    /// Ends machines, at most so many with one call, and says which the site does not know. The first call has its turn already. One that may not be ended does not
    /// keep the others from it.
    pub(super) async fn terminate(&self, machines: &[String], most: usize, doing: &str) -> Result<BTreeSet<String>, IaasError> {
        let mut batches = Batches::new(machines, most.clamp(1, CHANGE_MOST));
        let (mut is_first, mut refused) = (true, None);
        loop {
            let counted = batches.counted();
            let Some(batch) = batches.next() else { break };
            if !std::mem::take(&mut is_first) {
                self.turn(Action::TerminateInstances, counted, Purpose::Replace).await;
            }
            let call = self.client.ec2.terminate_instances().set_instance_ids(Some(batch.clone()));
            let result = self.call(Action::TerminateInstances, doing, CHANGING, call.send()).await;
            self.changed();
            match result {
                Ok(_) => {}
                Err(failure) if failure.is_about_ids() => batches.refused(batch, failure)?,
                Err(failure) if failure.is("OperationNotPermitted") => {
                    // EC2 ends the others only where they are in another zone.
                    let (named, rest) = split(batch, &failure.message);
                    if !named.is_empty() {
                        batches.again(rest);
                    }
                    refused = Some(failure);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        refused.map_or(Ok(batches.unknown), |failure| Err(failure.into()))
    }

    /// How machines are, in the order asked; none: the site does not know it.
    pub(super) async fn describe(&self, machines: &[String], doing: &str) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let mut batches = Batches::new(machines, ASK_MOST);
        let mut states: BTreeMap<String, MachineState> = BTreeMap::new();
        while let Some(batch) = batches.next() {
            let call = self.client.ec2.describe_instances().set_instance_ids(Some(batch.clone()));
            match self.asked(Action::DescribeInstancesById, doing, call.send()).await {
                Ok(answer) => {
                    for instance in answer.reservations().iter().flat_map(|reservation| reservation.instances()) {
                        if let Some(id) = instance.instance_id() {
                            states.insert(id.to_owned(), origin::state(instance));
                        }
                    }
                }
                Err(failure) if failure.is_about_ids() => batches.refused(batch, failure)?,
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(machines.iter().map(|id| (id.clone(), states.get(id).copied())).collect())
    }

    /// Tags machines. Ones that the site does not know any more, or not yet, make it fail.
    pub(super) async fn tag(&self, machines: &[String], tags: Vec<Tag>, purpose: Purpose) -> Result<(), Failure> {
        let doing = format!("tag {} machines", machines.len());
        for batch in machines.chunks(CHANGE_MOST) {
            self.turn(Action::CreateTags, 0, purpose).await;
            let call = self
                .client
                .ec2
                .create_tags()
                .set_resources(Some(batch.to_vec()))
                .set_tags(Some(tags.clone()));
            self.call(Action::CreateTags, &doing, CHANGING, call.send()).await?;
        }
        Ok(())
    }

    /// The last lines of a machine's console.
    pub(super) async fn console(&self, machine: &str, lines: u32) -> Result<Option<String>, IaasError> {
        if !is_id(machine) {
            return Ok(None);
        }
        let doing = format!("read the console of machine {machine}");
        let call = self.client.ec2.get_console_output().instance_id(machine);
        let answer = match self.asked(Action::Question, &doing, call.send()).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_about_ids() || failure.is("InvalidAction") || failure.is("UnsupportedOperation") => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let mut bytes = STANDARD.decode(answer.output().unwrap_or_default().trim()).unwrap_or_default();
        if bytes.len() > CONSOLE_MOST {
            bytes.drain(..bytes.len() - CONSOLE_MOST);
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        let last = all[all.len().saturating_sub(wanted)..].join("\n");
        Ok(Some(last).filter(|last| !last.trim().is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("i-{n:017x}")).collect()
    }

    fn not_found(named: &[String]) -> Failure {
        let text = format!("The instance IDs '{}' do not exist", named.join(", "));
        Failure::answered("describe", Some("InvalidInstanceID.NotFound"), Some(&text), 400)
    }

    #[test]
    fn ids_that_the_site_names_are_left_out() {
        let all = ids(0..10);
        let mut batches = Batches::new(&all, 500);
        let batch = batches.next().unwrap();
        batches.refused(batch, not_found(&all[2..4])).unwrap();
        let rest = batches.next().unwrap();
        assert_eq!(rest.len(), 8);
        assert!(!rest.contains(&all[2]));
        assert_eq!(batches.unknown.len(), 2);
        assert!(batches.next().is_none());
    }

    #[test]
    fn a_site_that_names_none_is_asked_in_halves() {
        let all = ids(0..8);
        let bad = all[5].clone();
        let mut batches = Batches::new(&all, 500);
        let mut good = BTreeSet::new();
        while let Some(batch) = batches.next() {
            if batch.contains(&bad) {
                batches.refused(batch, not_found(&[])).unwrap();
            } else {
                good.extend(batch);
            }
        }
        assert_eq!((good.len(), batches.unknown), (7, BTreeSet::from([bad])));
    }

    #[test]
    fn tries_end() {
        let all = ids(0..200);
        let mut batches = Batches::new(&all, 500);
        let mut tries = 0;
        let end = loop {
            let Some(batch) = batches.next() else { break None };
            tries += 1;
            // A site that names one at a time.
            let one = batch[..1].to_vec();
            if let Err(failure) = batches.refused(batch, not_found(&one)) {
                break Some(failure);
            }
        };
        assert!(end.is_some());
        assert_eq!(tries, TRIES);
    }

    #[test]
    fn what_cannot_be_an_id_is_asked_for_apart() {
        let mixed: Vec<String> = ["nothing", "i-", "i-0abc", "i-0a'b", "0199c5b2-7d4e-7000-8000-0123456789ab"]
            .map(String::from)
            .to_vec();
        let mut batches = Batches::new(&mixed, 500);
        assert_eq!(batches.next().unwrap(), ["i-0abc"]);
        assert_eq!(batches.next().unwrap().len(), 4);
        assert!(batches.next().is_none());
    }

    #[test]
    fn a_refusal_that_names_many_machines_names_them_all_and_they_are_counted_once() {
        let all = ids(0..900);
        let mut batches = Batches::new(&all, CHANGE_MOST);
        assert_eq!(batches.counted(), 900);
        let batch = batches.next().unwrap();
        let failure = not_found(&all[..800]);
        assert!(failure.error.text.len() < 1_000, "and not all are shown");
        batches.refused(batch, failure).unwrap();
        assert_eq!((batches.unknown.len(), batches.counted()), (800, 0));
        assert_eq!(batches.next().unwrap().len(), 100);
        assert!(batches.next().is_none());
    }

    #[test]
    fn batches_are_no_larger_than_the_site_takes() {
        let mut batches = Batches::new(&ids(0..2_300), CHANGE_MOST);
        let sizes: Vec<usize> = std::iter::from_fn(|| batches.next()).map(|batch| batch.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 300]);
    }
}
