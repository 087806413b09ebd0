//! A controller on the other side of a network that loses everything: real packets, on cables that are pulled out.
//!
//! Where networks cannot be made (not root, or no `ip`), the test says so: chaos cuts wires everywhere, this adds that packets vanish for
//! real, so that not even the operating system knows that nobody is there.

use std::net::Ipv4Addr;
use std::time::Duration;

use epu_tests::chaos::net::{self, Cable};
use epu_tests::chaos::wire::{Aside, Wire};
use epu_tests::cluster::Cluster;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::super::several::relay::port_of;
use crate::pools::sleeping;

/// How many shares this many controllers lead together.
const SHARES: i64 = 64;

/// How many leases each member has that is a controller, by how many there are of it.
async fn shares(database: &mut PgConnection) -> Vec<(String, i64)> {
    let asked = "SELECT holder, count(*) FROM leases WHERE name LIKE 'controller/%' AND holder <> '' GROUP BY holder ORDER BY holder";
    let rows = sqlx::query(asked).fetch_all(database).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_controller_on_a_network_that_loses_everything_does_no_harm_and_comes_back() {
    if let Some(why) = net::cannot() {
        eprintln!("NOT TESTED: a service on a network of its own: {why}");
        return;
    }
    let aside = Aside::new().unwrap();
    let cables = [Cable::new().unwrap(), Cable::new().unwrap()];
    let mut cluster = Cluster::of(1, 1, 1, "").await;
    let (broker, store) = (cluster.rabbit.url(), cluster.database_url());
    let wire = |address: Ipv4Addr, url: &str| Wire::from_to(&aside, address, port_of(url)).unwrap();
    let wires = [wire(cables[0].address, &broker), wire(cables[1].address, &store)];
    let urls = (wires[0].url(&broker, port_of(&broker)), wires[1].url(&store, port_of(&store)));
    cluster.reach_through("controller-2", urls.0, urls.1);
    cluster.live_on(net::words(&cables), cluster.path("data"));
    cluster.start_unready("controller-2");
    net::connect(&cables, cluster.process("controller-2")).await.unwrap();

    let pools: Vec<(String, u32)> = (0..6).map(|n| (format!("p{n}"), 1)).collect();
    let pools: Vec<(&str, u32)> = pools.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    cluster.add(&sleeping(&pools));
    let mut database = PgConnection::connect(&cluster.database_url()).await.unwrap();
    let led_by_two = async |database: &mut PgConnection| {
        let found = shares(database).await;
        if found.len() == 2 && found.iter().map(|(_, n)| n).sum::<i64>() == SHARES {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    cluster
        .until("two controllers lead", async || led_by_two(&mut database).await)
        .await;
    let before = cluster.until_running(6).await;

    // Everything, then the broker alone; the database alone is what chaos does with its wires.
    for pulled in [&[0, 1][..], &[0]] {
        pulled.iter().for_each(|cable| cables[*cable].pull().unwrap());
        if pulled.contains(&1) {
            cluster
                .until("the other one leads all", async || match &shares(&mut database).await[..] {
                    [(_, n)] if *n == SHARES => Ok(()),
                    other => Err(format!("{other:?}")),
                })
                .await;
            // What is asked now is done by the one that is left, as soon as everybody knows that it leads.
            for (n, all) in [("2", 7), ("1", 6)] {
                cluster
                    .until("an operator is heard", async || {
                        match cluster.run(&["pool", "resize", "p0", "--n", n]) {
                            said if said.code == Some(0) => Ok(()),
                            said => Err(said.err),
                        }
                    })
                    .await;
                cluster.until_running(all).await;
            }
        } else {
            tokio::time::sleep(Duration::from_secs(8)).await;
            assert_eq!(cluster.agents().len(), 6, "nobody is harmed by a controller that hears nothing");
        }
        assert!(cluster.is_alive("controller-2"), "it waits\n{}", cluster.logs());
        pulled.iter().for_each(|cable| cables[*cable].plug().unwrap());
        cluster
            .until("two controllers lead", async || led_by_two(&mut database).await)
            .await;
    }
    let after = cluster.until_running(6).await;
    let stayed = before
        .iter()
        .filter(|view| after.iter().any(|now| now.instance.id == view.instance.id));
    assert!(stayed.count() >= 5, "only p0 changed");
}
