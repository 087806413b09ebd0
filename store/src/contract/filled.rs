//! A store with some of everything in it, and everything that is in a store, to see whether what was moved is what arrived.

use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::life::State;
use epu_core::request::Service;
use epu_core::time::{Span, Timestamp};
use serde_json::{Value, json};

use super::samples::{done, entry, instance, launch, launch_id, memory, moved, name, outgoing, pool};
use crate::{DecisionCommit, Document, Error, JournalQuery, ProvisionCommit, Store};

/// How many launches [`fill`] makes; each has two instances.
pub const LAUNCHES: u64 = 40;

/// Puts some of everything into an empty store.
///
/// # Errors
/// When the store fails.
pub async fn fill(store: &dyn Store) -> Result<(), Error> {
    store.keep("installation", "the one").await?;
    store.keep("odd", "it's \"quoted\", ünïcödé 🦀\n").await?;
    store
        .put_pools(&[pool("web", 1), pool("batch", 1)], vec![entry(1).of(&name("web"))])
        .await?;
    store.put_pools(&[pool("web", 2)], Vec::new()).await?;
    for n in 0..LAUNCHES {
        let at = i64::try_from(n).unwrap_or_default();
        let (a, b) = (instance(2 * n, n, at), instance(2 * n + 1, n, at));
        store
            .record_launch(&launch(n, &[2 * n, 2 * n + 1], at), &[a.clone(), b], vec![entry(at).on(a.id)], &[])
            .await?;
        let commit = ProvisionCommit {
            instances: vec![moved(&a, if n % 2 == 0 { State::Terminated } else { State::Running }, at)],
            launches: if n % 3 == 0 {
                vec![done(launch(n, &[2 * n, 2 * n + 1], at))]
            } else {
                Vec::new()
            },
            ..ProvisionCommit::default()
        };
        store.commit_provision(commit).await?;
    }
    let commit = DecisionCommit {
        memory: Some(memory(7)),
        outbox: vec![outgoing(9, "web", 20), outgoing(5, "web", 20), outgoing(7, "web", 20)],
        ..DecisionCommit::default()
    };
    store.commit_decision(&name("web"), commit).await?;
    for revision in 1..=3 {
        let document = Document {
            kind: "definition".to_owned(),
            name: "a".to_owned(),
            revision,
            body: json!({ "n": revision, "odd": "\u{0} ' 🦀" }),
        };
        store.put_document(&document, Vec::new()).await?;
    }
    for who in ["a", "b", "c"] {
        let member = Member {
            name: who.to_owned(),
            service: Service::Controller,
            url: None,
            since: Timestamp(1),
        };
        let want = [Domain::Shard(3), Domain::Shard(4)].into();
        store
            .lease(LeaseAsk {
                member,
                want,
                lasts: Span::secs(60),
            })
            .await?;
        store.leave(who).await?;
    }
    store.set_closed(true, None, Vec::new()).await?;
    // The newest entries go, so that the highest number is not that of any row.
    store.append(vec![entry(1_000_000)]).await?;
    store.append((0..20).map(|_| entry(-5)).collect()).await?;
    store.retire(Timestamp(0), 1_000).await.map(drop)
}

/// Everything that can be read from a store, but for who is there right now.
///
/// # Errors
/// When the store fails.
pub async fn everything(store: &dyn Store) -> Result<Value, Error> {
    let asked = JournalQuery {
        after: Some(i64::MIN),
        limit: u32::MAX,
        ..JournalQuery::default()
    };
    let mut launches = Vec::new();
    for n in 0..LAUNCHES {
        launches.push(store.launch(launch_id(n)).await?);
    }
    let standing = store.standing().await?;
    let epochs: Vec<_> = standing
        .leases
        .iter()
        .map(|lease| (&lease.name, lease.epoch, lease.since))
        .collect();
    Ok(json!({
        "installation": store.keep("installation", "another").await?,
        "odd": store.keep("odd", "another").await?,
        "closed": store.closed().await?,
        "pools": store.pools().await?,
        "revisions": store.pool_revisions().await?,
        "memories": store.memories().await?,
        "outbox": store.outbox().await?,
        "instances": store.instances(false).await?,
        "live": store.instances(true).await?,
        "launches": launches,
        "open": store.open_launches().await?,
        "documents": store.documents("definition").await?,
        "epochs": epochs,
        "journal": store.journal(asked).await?,
    }))
}
