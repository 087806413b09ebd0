//! Faults, fates and chance.

use super::*;

#[test]
fn planned_errors_hit_the_calls_they_are_meant_for() {
    let fault = Fault::on("RunInstances", Effect::error("InternalError")).after(1).next(2);
    let mut site = Site::quick(Plan {
        faults: vec![fault],
        ..Plan::default()
    });
    site.run(1, 1, "");
    site.listed("");
    for _ in 0..2 {
        assert_eq!(site.refused(&run(1, 1, "")), (500, "InternalError".to_owned()));
    }
    site.run(1, 1, "");
    let report = site.world.report(false);
    assert_eq!((report.ever, report.called("RunInstances"), report.faults["error"]), (2, 4, 2));
}

#[test]
fn a_dropped_reply_was_done_and_a_lost_request_was_not() {
    let faults = vec![
        Fault::on("RunInstances", Effect::Dropped).next(1),
        Fault::on("RunInstances", Effect::Lost).after(1).next(1),
    ];
    let mut site = Site::quick(Plan { faults, ..Plan::default() });
    assert!(site.reply(&run(2, 2, "ClientToken=a")).close);
    assert_eq!(site.world.report(false).ever, 2);
    assert!(site.reply(&run(2, 2, "ClientToken=b")).close);
    assert_eq!(site.world.report(false).ever, 2);
    assert_eq!(site.run(2, 2, "ClientToken=a").len(), 2);
    assert_eq!(site.world.report(false).ever, 2, "the retry finds what was done");
    site.world.set_plan(Plan {
        faults: vec![Fault::on("DescribeInstances", Effect::Delayed { by: Span::secs(3) })],
        ..Plan::default()
    });
    assert_eq!(site.reply("Action=DescribeInstances").delay, secs(3));
}

#[test]
fn lists_can_lie() {
    let mut site = Site::quick(Plan::default());
    let ids = site.run(20, 20, "");
    let with = |site: &mut Site, effect: Effect| {
        site.world.set_plan(Plan {
            faults: vec![Fault::on("DescribeInstances", effect)],
            ..Plan::default()
        });
        site.reply("Action=DescribeInstances&MaxResults=10").body
    };
    let seen = |body: &str| xml::read(body).map(|root| (root.all("instanceId").len(), root.get("nextToken").is_some()));
    assert_eq!(seen(&with(&mut site, Effect::Empty)), Ok((0, false)));
    assert_eq!(seen(&with(&mut site, Effect::Short)), Ok((5, false)));
    assert!(seen(&with(&mut site, Effect::Malformed)).is_err());
    site.world.set_plan(Plan {
        faults: vec![Fault::on("DescribeInstances", Effect::Missing { share: 0.5 })],
        ..Plan::default()
    });
    let (one, other) = (site.listed(""), site.listed(""));
    assert!((3..18).contains(&one.len()) && one != other, "each time others");
    assert_eq!(site.state_of(&ids[0]), "running", "by id it is there");
    site.pass(secs(60));
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={}", ids[0]));
    site.world.set_plan(Plan {
        faults: vec![Fault::on("DescribeInstances", Effect::Stale { by: Span::secs(30) })],
        ..Plan::default()
    });
    assert_eq!(site.state_of(&ids[0]), "running", "as it was");
    site.world.set_plan(Plan::default());
    assert_eq!(site.state_of(&ids[0]), "terminated");
}

#[test]
fn tags_may_not_be_applied_and_the_count_knows_better() {
    let mut site = Site::quick(Plan {
        faults: vec![Fault::on("RunInstances", Effect::TagsIgnored).next(1)],
        ..Plan::default()
    });
    let tags = tagged(&[("epu:installation", "one"), ("epu:launch", "l")]);
    let id = site.run(1, 1, &tags).remove(0);
    assert!(site.listed("Filter.1.Name=tag:epu:installation&Filter.1.Value.1=one").is_empty());
    let report = site.world.report(true);
    assert_eq!((report.machines[0].tags.len(), report.alive("one").len()), (0, 1));
    site.run(1, 1, &tags);
    let report = site.world.report(true);
    assert_eq!((report.doubled, report.tallies[0].most, report.tallies[0].ever), (1, 2, 2));
    site.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    assert_eq!(site.world.report(true).tallies[0].now, 1);
}

#[test]
fn machines_meet_their_fate() {
    let after = Span::secs(30);
    let fated = |fate: Fate| {
        Site::quick(Plan {
            fates: vec![Chance::always(fate)],
            ..Plan::default()
        })
    };
    let after_a_minute = |mut site: Site| {
        let id = site.run(1, 1, "UserData=aGk%3D").remove(0);
        site.pass(secs(60));
        let reply = site.reply(&format!("Action=DescribeInstances&InstanceId.1={id}"));
        let root = xml::read(&reply.body).unwrap();
        let state = root
            .all("instanceState")
            .first()
            .map_or("", |state| state.text_of("name"))
            .to_owned();
        let shown = site.world.report(true).machines.remove(0);
        (
            state,
            root.all("stateReason").first().map_or("", |r| r.text_of("code")).to_owned(),
            shown.times.booted.map(|at| at - START.0),
        )
    };
    let is = |state: &str, reason: &str, booted: Option<i64>| (state.to_owned(), reason.to_owned(), booted);
    let user = "Client.UserInitiatedShutdown";
    assert_eq!(after_a_minute(fated(Fate::Stuck)), is("running", "", None));
    assert_eq!(after_a_minute(fated(Fate::Slow { by: after })), is("running", "", Some(30_000)));
    assert_eq!(after_a_minute(fated(Fate::Pending { by: Span::secs(90) })), is("pending", "", None));
    assert_eq!(
        after_a_minute(fated(Fate::LaunchFails)),
        is("terminated", "Server.InternalError", None)
    );
    assert_eq!(after_a_minute(fated(Fate::Stops { after })), is("stopped", user, Some(0)));
    assert_eq!(after_a_minute(fated(Fate::Terminated { after })), is("terminated", user, Some(0)));
    assert_eq!(after_a_minute(fated(Fate::Vanishes { after })), is("", "", Some(0)));
    assert_eq!(
        after_a_minute(fated(Fate::Interrupted { after })),
        is("running", "", Some(0)),
        "it is not a spot machine"
    );
}

#[test]
fn a_spot_machine_is_told_two_minutes_before_its_end() {
    let mut site = Site::quick(Plan::default());
    let id = site.run(1, 1, "InstanceMarketOptions.MarketType=spot").remove(0);
    let told = |site: &mut Site| {
        let asking = Asking {
            id: &id,
            is_put: false,
            path: "latest/meta-data/spot/instance-action",
            token: None,
            ttl: None,
        };
        let (status, body) = site.world.metadata(asking, site.now);
        (status, String::from_utf8(body).unwrap())
    };
    assert_eq!(told(&mut site).0, 404);
    site.world
        .befall(&id, Fate::Interrupted { after: Span::secs(0) }, site.now)
        .unwrap();
    assert_eq!(
        told(&mut site),
        (200, "{\"action\": \"terminate\", \"time\": \"2026-11-18T11:08:40Z\"}".to_owned())
    );
    site.pass(secs(119));
    assert_eq!(site.state_of(&id), "running");
    site.pass(secs(1));
    assert_eq!(site.state_of(&id), "terminated");
    let root = site.ask("Action=DescribeInstances");
    assert_eq!(root.all("stateReason")[0].text_of("code"), "Server.SpotInstanceTermination");
    assert_eq!(told(&mut site).0, 404, "a machine that is gone asks nothing");
    assert!(site.world.befall("i-none", Fate::Stuck, START).is_err());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let plan = || Plan {
        faults: vec![Fault::on("RunInstances", Effect::error("InternalError")).probability(0.3)],
        fates: vec![Chance::always(Fate::Stuck).probability(0.5)],
        ..Plan::default()
    };
    let history = |seed: u64, with_others: bool| {
        let mut site = Site::seeded(seed, plan());
        let mut said = vec![];
        for _ in 0..20 {
            let reply = site.reply(&run(1, 2, ""));
            said.push(reply.status);
            if with_others {
                site.reply("Action=DescribeInstances");
            }
            site.pass(secs(10));
        }
        let machines = site.world.report(true).machines.into_iter();
        (said, machines.map(|m| (m.id, m.times)).collect::<Vec<_>>())
    };
    assert_eq!(history(1, false), history(1, false));
    assert_ne!(history(1, false), history(2, false));
    assert_eq!(history(1, false), history(1, true), "calls of other actions change nothing");
    assert!(history(1, false).0.contains(&500) && history(1, false).0.contains(&200));
}

#[test]
fn ten_thousand_machines_are_paged_through_and_no_page_lacks_one() {
    let mut site = Site::quick(Plan::default());
    for _ in 0..10 {
        site.run(1_000, 1_000, &tagged(&[("epu:installation", "one")]));
    }
    let (mut token, mut pages, mut all) = (String::new(), 0, std::collections::BTreeSet::new());
    loop {
        let next = if token.is_empty() {
            String::new()
        } else {
            format!("&NextToken={token}")
        };
        let reply = site.reply(&format!(
            "Action=DescribeInstances&MaxResults=1000&Filter.1.Name=tag:epu:installation&Filter.1.Value.1=one{next}"
        ));
        pages += 1;
        let ids = reply
            .body
            .split("<instanceId>")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap_or("").to_owned());
        all.extend(ids);
        token = reply
            .body
            .split("<nextToken>")
            .nth(1)
            .map_or(String::new(), |rest| rest.split('<').next().unwrap_or("").to_owned());
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, all.len()), (10, 10_000));
}
