//! Who asks, how often, and what a machine asks about itself.

use super::*;

#[test]
fn only_known_keys_get_in_and_each_account_and_region_is_its_own() {
    let mut site = Site::quick(Plan::default());
    let ids = site.run(2, 2, "");
    site.key = "nobody";
    assert_eq!(site.refused("Action=DescribeInstances"), (401, "AuthFailure".to_owned()));
    site.key = OTHER_ACCESS_KEY;
    assert!(site.listed("").is_empty());
    assert_eq!(
        site.code(&format!("Action=DescribeInstances&InstanceId.1={}", ids[0])),
        "InvalidInstanceID.NotFound"
    );
    assert_eq!(
        site.code(&format!("Action=TerminateInstances&InstanceId.1={}", ids[0])),
        "InvalidInstanceID.NotFound"
    );
    (site.key, site.region) = (ACCESS_KEY, "us-east-1");
    assert!(site.listed("").is_empty());
    site.region = "eu-central-1";
    assert_eq!(site.listed("").len(), 2);
    let unsigned = site.world.handle(
        &Heard {
            body: "Action=DescribeInstances".to_owned(),
            ..Heard::default()
        },
        START,
    );
    assert_eq!((unsigned.status, unsigned.body.contains("MissingAuthenticationToken")), (401, true));
}

#[test]
fn a_clock_that_is_off_by_more_than_five_minutes_is_refused() {
    let mut site = Site::quick(Plan::default());
    let at = |site: &mut Site, date: &str| {
        let authorization = Some(format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20261118/r/ec2/aws4_request"));
        let (date, body) = (Some(date.to_owned()), "Action=DescribeInstances".to_owned());
        let reply = site.world.handle(
            &Heard {
                authorization,
                date,
                body,
                ..Heard::default()
            },
            START,
        );
        (reply.status, reply.body.contains("RequestExpired"), reply.date)
    };
    // START is 2026-11-18T11:06:40Z.
    assert_eq!(at(&mut site, "20261118T110640Z"), (200, false, START));
    assert_eq!(at(&mut site, "20261118T111140Z").0, 200);
    assert_eq!(at(&mut site, "20261118T110139Z"), (400, true, START));
    assert_eq!(at(&mut site, "20261118T111141Z"), (400, true, START));
    site.world.set_plan(Plan {
        clock_ahead_ms: 600_000,
        ..Plan::default()
    });
    assert_eq!(
        at(&mut site, "20261118T110640Z"),
        (400, true, START + secs(600)),
        "it says what time it believes it is"
    );
    assert_eq!(at(&mut site, "20261118T111640Z").0, 200);
}

#[test]
fn sts_says_who_asks_in_its_own_form() {
    let mut site = Site::quick(Plan::default());
    let root = site.ask("Action=GetCallerIdentity");
    assert_eq!(root.text_of("GetCallerIdentityResult/Account"), ACCOUNT);
    assert!(root.text_of("GetCallerIdentityResult/Arn").contains(ACCOUNT));
    site.key = "nobody";
    let reply = site.reply("Action=GetCallerIdentity");
    let root = xml::read(&reply.body).unwrap();
    assert_eq!((root.name.as_str(), root.text_of("Error/Code")), ("ErrorResponse", "AuthFailure"));
}

#[test]
fn what_it_does_not_know_it_refuses() {
    let mut site = Site::quick(Plan::default());
    assert_eq!(site.refused("Action=FlyToTheMoon"), (400, "InvalidAction".to_owned()));
    assert_eq!(site.code("Nothing=1"), "MissingAction");
    assert_eq!(site.code("Action=DescribeInstances&MaxResult=5"), "UnknownParameter");
    assert_eq!(
        site.code("Action=DescribeInstances&Filter.1.Name=moon&Filter.1.Value.1=full"),
        "InvalidParameterValue"
    );
    assert_eq!(
        site.code("Action=DescribeImages&Filter.1.Name=moon&Filter.1.Value.1=full"),
        "InvalidParameterValue"
    );
}

#[test]
fn requests_and_machines_are_throttled_apart_and_each_account_for_itself() {
    let mut site = Site::new(Plan {
        timings: Some(Timings::instant()),
        ..Plan::default()
    });
    for _ in 0..5 {
        site.run(1, 1, "");
    }
    assert_eq!(site.refused(&run(1, 1, "")), (503, "RequestLimitExceeded".to_owned()));
    site.key = OTHER_ACCESS_KEY;
    assert_eq!(site.run(1, 1_000, "ClientToken=t").len(), 1_000);
    assert_eq!(
        site.code(&run(1, 1, "")),
        "RequestLimitExceeded",
        "there are requests left, but no machines"
    );
    assert_eq!(
        site.run(1, 1_000, "ClientToken=t").len(),
        1_000,
        "what launches nothing takes no machines"
    );
    site.pass(secs(2));
    assert_eq!(site.run(1, 4, "").len(), 4, "two machines a second");
    let buckets = [(
        "DescribeInstances".to_owned(),
        Rate {
            capacity: 1.0,
            refill: 1.0,
        },
    )]
    .into();
    site.world.set_plan(Plan {
        throttle: Some(Throttle { on: true, buckets }),
        ..Plan::default()
    });
    site.pass(secs(60));
    let paged = "Action=DescribeInstances&MaxResults=1000";
    site.ask(paged);
    assert_eq!(site.code(paged), "RequestLimitExceeded");
    site.ask("Action=DescribeInstances");
    assert_eq!(site.world.report(false).errors["RequestLimitExceeded"], 3);
}

#[test]
fn metadata_is_read_with_a_token_where_one_is_demanded() {
    let mut site = Site::quick(Plan::default());
    let ids = site.run(1, 2, "UserData=aGk%3D&MetadataOptions.HttpTokens=required");
    let now = site.now;
    let mut ask = |is_put: bool, path: &str, token: Option<&str>, ttl: Option<&str>, now| {
        let (status, body) = site.world.metadata(
            Asking {
                id: &ids[1],
                is_put,
                path,
                token,
                ttl,
            },
            now,
        );
        (status, String::from_utf8(body).unwrap())
    };
    let index = "latest/meta-data/ami-launch-index";
    assert_eq!(ask(false, index, None, None, now).0, 401);
    assert_eq!(ask(true, "latest/api/token", None, None, now).0, 400);
    assert_eq!(ask(true, "latest/api/token", None, Some("21601"), now).0, 400);
    let (status, token) = ask(true, "latest/api/token", None, Some("60"), now);
    assert_eq!(status, 200);
    assert_eq!(ask(false, index, Some(&token), None, now), (200, "1".to_owned()));
    assert_eq!(ask(false, "latest/user-data", Some(&token), None, now), (200, "hi".to_owned()));
    assert_eq!(
        ask(false, "latest/meta-data/instance-id", Some(&token), None, now),
        (200, ids[1].clone())
    );
    assert_eq!(
        ask(false, "latest/meta-data/placement/availability-zone", Some(&token), None, now).1,
        "eu-central-1a"
    );
    assert_eq!(ask(false, "latest/meta-data/nothing", Some(&token), None, now).0, 404);
    assert_eq!(ask(false, index, Some("forged"), None, now).0, 401);
    assert_eq!(ask(false, index, Some(&token), None, now + secs(60)).0, 401, "it has expired");
    let other = Asking {
        id: &ids[0],
        is_put: false,
        path: index,
        token: Some(&token),
        ttl: None,
    };
    assert_eq!(site.world.metadata(other, now).0, 401, "it is another machine's");
    let open = site.run(1, 1, "").remove(0);
    let asking = Asking {
        id: &open,
        is_put: false,
        path: index,
        token: None,
        ttl: None,
    };
    assert_eq!(site.world.metadata(asking, now), (200, b"0".to_vec()));
    let closed = site.run(1, 1, "MetadataOptions.HttpEndpoint=disabled").remove(0);
    assert_eq!(site.world.metadata(Asking { id: &closed, ..asking }, now).0, 403);
}
