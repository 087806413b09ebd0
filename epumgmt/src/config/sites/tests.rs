use std::path::Path;

use super::*;

fn read(text: &str) -> Result<Config, epu_core::input::Flaws> {
    Config::read(Path::new("/etc/epu/epu.yaml"), text)
}

fn flaws(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(flaws) => flaws
            .as_slice()
            .iter()
            .map(|flaw| flaw.to_string().replace("/etc/epu/", ""))
            .collect(),
    }
}

/// A site with these settings, and a pool that launches there.
fn with(settings: &str, machine: &str, placement: &str) -> String {
    format!(
        "advertise: https://epu.example.org:8650\nadvertise-ca: system\n\
         sites:\n  aws:\n    ec2: {{region: us-east-1{settings}}}\n  local: {{local: {{}}}}\n\
         templates:\n  worker:\n    run: [worker]\n    machine: {{{machine}}}\n\
         pools:\n  web:\n    template: worker\n    max: 3\n    engine: {{keep: {{n: 1}}}}\n    placements: [{{site: aws{placement}}}, {{site: local}}]\n"
    )
}

const MACHINE: &str = "image: ami-1, size: m7i.large";

#[test]
fn a_site_that_rents_machines_is_taken() {
    let text = with(
        ", credentials: {profile: epu}, pace: {run-instances: {capacity: 2, refill: 1}}",
        MACHINE,
        ", name: spot, max: 2, machine: {market: {spot: {max-price: 0.05}}, zone: us-east-1a}",
    );
    let config = read(&text).unwrap();
    assert!(all_local(&BTreeMap::new()) && !all_local(&config.sites));
    let names: Vec<&str> = config.sites.values().map(SiteSpec::driver).collect();
    assert_eq!(names, ["ec2", "local"]);
    assert_eq!(config.pools[0].spec.placements[0].called(), "spot");
    assert!(config.known().search.is_none(), "programs are looked for on this machine");
}

#[test]
fn every_fault_of_a_site_is_found_at_once() {
    let text = "\
advertise: https://epu.example.org:8650
advertise-ca: system
sites:
  both: {ec2: {region: r, credentials: {profile: epu, access-key-id: env:A, secret-access-key: env:B}}}
  half: {ec2: {region: r, credentials: {access-key-id: env:A}}}
  token: {ec2: {region: r, credentials: {session-token: env:T}}}
  nothing: {ec2: {region: r, credentials: {}}}
  open: {ec2: {region: r, credentials: {access-key-id: AKIA123, secret-access-key: env:B}}}
  two: {ec2: {region: r}, local: {}}
  nowhere: {ec2: {}}
  hasty: {ec2: {region: r, look-fast: 100ms, look-steady: 2s, consistency-grace: 20m}}
  slow: {ec2: {region: r, look-fast: 5m, pace: {run-instance: {capacity: 2, refill: 1}, nonsense: {capacity: 2, refill: 1}}}}
";
    insta::assert_snapshot!(flaws(text).join("\n"));
}

#[test]
fn a_machine_names_what_a_launch_needs() {
    let cases = [
        with("", "", ""),
        with("", "image: ami-1", ""),
        with(
            "",
            "size: m7i.large",
            ", machine: {image: ami-2, zone: us-east-1a, subnet: subnet-1}",
        ),
        with("", "launch-template: {id: lt-1, name: web, version: \"1\"}", ""),
        with(
            "",
            &format!(
                "image: ami-1, size: m7i.large, tags: {{\"epu:pool\": x, {}: y, z: {}}}",
                "k".repeat(129),
                "v".repeat(257)
            ),
            "",
        ),
    ]
    .map(|text| flaws(&text).join("\n"));
    assert!(cases.iter().all(|flaws| !flaws.is_empty()), "{cases:#?}");
    insta::assert_snapshot!(cases.join("\n"));
    for fine in [
        with("", MACHINE, ""),
        with("", "size: m7i.large", ", machine: {image: ami-2}"),
        with("", "launch-template: {id: lt-1, version: \"1\"}", ""),
    ] {
        assert_eq!(flaws(&fine), Vec::<String>::new());
    }
}

#[test]
fn the_only_site_is_where_a_pool_without_placements_launches() {
    let text = "\
advertise: https://epu.example.org:8650
advertise-ca: system
sites: {aws: {ec2: {region: us-east-1}}}
templates: {worker: {run: [worker]}}
pools: {web: {template: worker, max: 3, engine: {keep: {n: 1}}}}
";
    let found = flaws(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("epu.yaml:5:9: pools.web: a machine on site aws needs `image` and `size`"),
        "{found:#?}"
    );
    // A machine is harmless where there is no choice of one.
    let local = "\
templates: {sleeper: {run: [sleep, '1'], machine: {image: ami-1, market: {spot: {}}}, agent: baked}}
pools: {web: {template: sleeper, max: 3, engine: {keep: {n: 1}}}}
";
    assert_eq!(flaws(local), Vec::<String>::new());
}

#[test]
fn a_path_of_another_machine_does_not_count_from_here() {
    let text = with("", MACHINE, "").replace("run: [worker]", "run: [./worker]\n    set-up: [bin/set-up]");
    let found = flaws(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|flaw| flaw.contains("on other machines")), "{found:#?}");
    let text = with("", MACHINE, "").replace("run: [worker]", "run: [./worker]\n    directory: here");
    let found = flaws(&text);
    assert!(found.len() == 1 && found[0].contains("templates.worker.directory"), "{found:#?}");
    let text = with("", MACHINE, "").replace("run: [worker]", "run: [./worker]\n    directory: /opt/worker");
    assert_eq!(flaws(&text), Vec::<String>::new());
}

#[test]
fn what_may_be_otherwise_elsewhere_is_told_and_no_fault() {
    let text = with(
        ", endpoint: \"http://cloud.example.org:8773/\", credentials: {access-key-id: env:EPU_TEST_NO_SUCH_VARIABLE, secret-access-key: file:/no/such/file}",
        MACHINE,
        "",
    );
    let notes = notes(&read(&text).unwrap());
    let has = |part: &str| notes.iter().any(|note| note.contains(part));
    assert!(has("EPU_TEST_NO_SUCH_VARIABLE") && has("/no/such/file"), "{notes:#?}");
    assert!(has("is not https"), "{notes:#?}");
    assert_eq!(has("built without EC2"), cfg!(not(feature = "ec2")), "{notes:#?}");
    assert!(super::notes(&read("pools: {}\n").unwrap()).is_empty());
}

#[test]
fn an_address_is_open_beyond_this_machine_and_without_tls() {
    for open in ["http://cloud.example.org", "http://10.0.0.1:8773/x", "http://[2001:db8::1]:80/"] {
        assert!(is_open(open), "{open}");
    }
    for closed in [
        "https://cloud.example.org",
        "http://localhost:5000",
        "http://127.0.0.1:5000/",
        "http://[::1]:5000",
    ] {
        assert!(!is_open(closed), "{closed}");
    }
}

#[test]
fn a_program_without_the_driver_serves_no_role_that_launches() {
    let role_of = |role| {
        let mut config = read(&with("", MACHINE, "")).unwrap();
        config.adjust(role, None, None)
    };
    if cfg!(feature = "ec2") {
        assert_eq!(role_of(crate::cli::Role::All), Ok(()));
        return;
    }
    for role in [crate::cli::Role::All, crate::cli::Role::Provisioner] {
        let fault = role_of(role).unwrap_err();
        assert_eq!(fault.code, "driver-missing");
        assert!(
            fault.text.contains("--features ec2") && fault.text.contains("release package"),
            "{}",
            fault.text
        );
        assert_eq!(crate::exit::Exit::of(&fault).number(), 2);
    }
    // A controller launches nothing itself; it lacks a broker here.
    assert_eq!(role_of(crate::cli::Role::Controller).unwrap_err().code, "bad-config");
}

#[test]
fn how_sites_differ_is_said_by_name() {
    let sites = |text: &str| read(text).unwrap().sites;
    let one = sites("sites: {local: {local: {}}}\npools: {}\n");
    let other = sites(
        "sites: {local: {local: {max-instances: 5}}, aws: {ec2: {region: r}}}\nadvertise: https://h:1\nadvertise-ca: system\npools: {}\n",
    );
    assert_eq!(difference(&one, &one), None);
    assert_eq!(difference(&one, &other).unwrap(), "aws is new, local is changed");
    assert_eq!(difference(&other, &one).unwrap(), "local is changed, aws is gone");
}

/// With the driver in the program, what machines are given at their start is tried.
#[cfg(feature = "ec2")]
#[test]
fn user_data_that_a_site_would_not_take_is_refused() {
    let long = "{% for i in range(2000) %}0123456789{% endfor %}";
    let text = with("", &format!("{MACHINE}, user-data: \"{long}\""), "");
    let found = flaws(&text);
    assert!(
        !found.is_empty() && found.iter().all(|flaw| flaw.contains("user data for pool web")),
        "{found:#?}"
    );
}

fn one(text: &str, name: Option<&str>) -> Result<(String, SiteSpec), Vec<String>> {
    let file = epu_core::request::SiteFile {
        file: "site.yaml".to_owned(),
        text: text.to_owned(),
        name: name.map(|name| SiteName::new(name).unwrap()),
    };
    let config = read("sites: {}\ncredentials: {main: {profile: p}}\n").unwrap();
    let read = written::read(&file, &config, &config.credentials);
    read.map(|(name, spec)| (name.to_string(), spec))
        .map_err(|flaws| flaws.as_slice().iter().map(ToString::to_string).collect())
}

#[test]
fn a_site_by_itself_is_held_to_the_rules_of_the_file() {
    assert_eq!(one("local: {max-instances: 2}\n", Some("a")).unwrap().0, "a");
    assert_eq!(one("sites: {a: {local: {}}}\n", None).unwrap().0, "a");
    let two = "sites: {a: {local: {}}, b: {local: {max-instances: 2}}}\n";
    let (name, spec) = one(two, Some("b")).unwrap();
    assert_eq!((name.as_str(), spec.local.unwrap().max_instances), ("b", 2));
    let near = "ec2: {region: r, endpoint: \"http://127.0.0.1:1\"}\n";
    assert!(one(near, Some("a")).is_ok(), "machines of this machine reach it");
    let refused = [
        one("local: {}\n", None),
        one(two, None),
        one(two, Some("c")),
        one("sites: {}\n", None),
        one("sites: {a: {locl: {}}}\n", None),
        one("{}\n", Some("a")),
        one("ec2: {region: us-east-1}\n", Some("a")),
        one(
            "ec2: {region: r, endpoint: \"http://127.0.0.1:1\", credentials: {name: mian}}\n",
            Some("a"),
        ),
        one(
            "ec2: {regio: r, endpoint: \"http://127.0.0.1:1\", look-fast: 1ms, credentials: {access-key-id: AKIA}, pace: {RunInstance: {capacity: 1, refill: 1}}}\n",
            Some("a"),
        ),
    ];
    let flaws: Vec<String> = refused.into_iter().flat_map(Result::unwrap_err).collect();
    insta::assert_snapshot!(flaws.join("\n"));
}

#[test]
fn credentials_are_named_once_and_used_by_several_sites() {
    let near = "endpoint: \"http://127.0.0.1:1\"";
    let text = format!(
        "credentials:\n  main: {{access-key-id: env:KEY, secret-access-key: file:/run/secret}}\n\
         sites:\n  east: {{ec2: {{region: e, {near}, credentials: {{name: main}}}}}}\n  west: {{ec2: {{region: w, {near}, credentials: {{name: main}}}}}}\n"
    );
    let config = read(&text).unwrap();
    for site in config.sites.values() {
        let who = site.ec2.as_ref().unwrap().credentials.clone().unwrap();
        assert_eq!((who.name, who.access_key_id.unwrap().shown()), (None, "env:KEY"));
    }
    let wrong = format!(
        "credentials:\n  main: {{name: other}}\n  half: {{access-key-id: env:KEY}}\n  'a b': {{profile: p}}\n  open: {{access-key-id: AKIA123, secret-access-key: sesame}}\n\
         sites:\n  east: {{ec2: {{region: e, {near}, credentials: {{name: mian}}}}}}\n  west: {{ec2: {{region: w, {near}, credentials: {{name: main, profile: p}}}}}}\n"
    );
    let found = flaws(&wrong).join("\n");
    assert!(!found.contains("AKIA123") && !found.contains("sesame"), "{found}");
    insta::assert_snapshot!(found);
}
