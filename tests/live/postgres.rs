//! The store in a real PostgreSQL: the one contract, and what happens when the server, the way to it, or its room goes.

use std::sync::Arc;

use epu_core::secret::SecretUrl;
use epu_store::{PgSettings, PgStore, contract};
use epu_tests::postgres::Postgres;

async fn store(server: &Postgres, database: &str) -> PgStore {
    PgStore::connect(&settings(server, database)).await.unwrap()
}

fn settings(server: &Postgres, database: &str) -> PgSettings {
    PgSettings::new(SecretUrl::new(server.url(database)))
}

async fn new_store(server: &Postgres) -> PgStore {
    store(server, &server.database().await.unwrap()).await
}

#[tokio::test]
async fn it_holds_what_every_store_must() {
    let server: Arc<Postgres> = Postgres::shared().await.unwrap();
    contract::holds_with_time(async || new_store(&server).await, tokio::time::sleep).await;
}
