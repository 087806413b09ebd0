//! Documents, and what is little to read of pools.

use serde_json::json;

use super::is_conflict;
use super::samples::{entry, events, name, pool};
use crate::{Document, Store};

fn document(kind: &str, name: &str, revision: u64) -> Document {
    Document {
        kind: kind.to_owned(),
        name: name.to_owned(),
        revision,
        body: json!({ "says": format!("{kind}, {name}, {revision}: it's \"ünïcödé\" \u{0} 🦀"), "n": 1.5 }),
    }
}

pub(super) async fn one_revision_after_another(store: &dyn Store) {
    for name in ["b", "a", "B"] {
        store
            .put_document(&document("definition", name, 1), vec![entry(1)])
            .await
            .expect("a new document");
    }
    store
        .put_document(&document("other", "a", 1), Vec::new())
        .await
        .expect("another kind");
    store
        .put_document(&document("definition", "a", 2), vec![entry(2)])
        .await
        .expect("the next revision");
    for wrong in [0, 1, 2, 4] {
        let done = store.put_document(&document("definition", "a", wrong), vec![entry(9)]).await;
        assert!(is_conflict(&done), "revision {wrong} after 2: {done:?}");
    }
    for wrong in [0, 2] {
        let done = store.put_document(&document("definition", "new", wrong), vec![entry(9)]).await;
        assert!(is_conflict(&done), "a new one with revision {wrong}: {done:?}");
    }
    let expected = [("B", 1), ("a", 2), ("b", 1)].map(|(name, revision)| document("definition", name, revision));
    assert_eq!(
        store.documents("definition").await.expect("documents"),
        expected,
        "by name, upper case first"
    );
    assert_eq!(store.documents("other").await.expect("documents"), [document("other", "a", 1)]);
    assert!(store.documents("none").await.expect("documents").is_empty());
    assert_eq!(events(store).await, [1, 1, 1, 2], "a conflict was journalled");
}

pub(super) async fn a_forgotten_one_begins_anew(store: &dyn Store) {
    for revision in [1, 2] {
        store
            .put_document(&document("definition", "a", revision), Vec::new())
            .await
            .expect("a document");
        store
            .put_document(&document("other", "a", revision), Vec::new())
            .await
            .expect("a document");
    }
    for at in [1, 2] {
        store
            .forget_document("definition", "a", vec![entry(at)])
            .await
            .expect("forget, twice");
    }
    assert!(store.documents("definition").await.expect("documents").is_empty());
    assert_eq!(
        store.documents("other").await.expect("documents").len(),
        1,
        "another kind was forgotten"
    );
    store
        .put_document(&document("definition", "a", 1), Vec::new())
        .await
        .expect("it begins anew");
    assert_eq!(events(store).await, [1, 2]);
}

pub(super) async fn of_two_writers_one_wins(store: &dyn Store) {
    for revision in [1, 2] {
        let (one, other) = (document("definition", "a", revision), document("definition", "a", revision));
        let (a, b) = tokio::join!(store.put_document(&one, vec![entry(1)]), store.put_document(&other, vec![entry(1)]));
        assert!(a.is_ok() != b.is_ok() && (is_conflict(&a) || is_conflict(&b)), "{a:?} {b:?}");
    }
    assert_eq!(events(store).await, [1, 1]);
}

pub(super) async fn revisions_of_pools_are_those_of_the_pools(store: &dyn Store) {
    store
        .put_pools(&[pool("web", 1), pool("Batch", 1)], Vec::new())
        .await
        .expect("new pools");
    store.put_pools(&[pool("web", 2)], Vec::new()).await.expect("the next revision");
    let revisions = store.pool_revisions().await.expect("revisions");
    assert_eq!(revisions.into_iter().collect::<Vec<_>>(), [(name("Batch"), 1), (name("web"), 2)]);
    store.forget_pool(&name("web"), 2, None, Vec::new()).await.expect("forget");
    assert_eq!(store.pool_revisions().await.expect("revisions").len(), 1);
}
