use std::fs;

use super::super::{Config, way_of};
use super::*;

const POOLS: &str = "pools: {}\n";

fn read(text: &str) -> Result<Config, Vec<String>> {
    Config::read(Path::new("/etc/epu/epu.yaml"), &format!("{text}\n{POOLS}")).map_err(|flaws| {
        flaws
            .as_slice()
            .iter()
            .map(|flaw| flaw.to_string().replace("/etc/epu/", ""))
            .collect()
    })
}

fn authority() -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn what_is_written_is_how_the_door_is_reached() {
    let cases = [
        ("", "http://127.0.0.1:8650", "http://127.0.0.1:8650"),
        ("listen: 127.0.0.2:1", "http://127.0.0.2:1", "http://127.0.0.2:1"),
        ("advertise: http://localhost:9/", "http://localhost:9", "http://127.0.0.1:8650"),
        ("tls: {self-made: {}}", "https://127.0.0.1:8650", "https://127.0.0.1:8650"),
        (
            "listen: 0.0.0.0:8650\ntls: {self-made: {names: [epu.example.org, 10.0.0.5]}}",
            "https://epu.example.org:8650",
            "https://127.0.0.1:8650",
        ),
        (
            "listen: \"[::]:8650\"\ntls: {self-made: {names: [\"fd00::5\"]}}",
            "https://[fd00::5]:8650",
            "https://[::1]:8650",
        ),
        (
            "listen: 10.0.0.5:8650\ntls: {certificate: c.pem, key: k.pem}",
            "https://10.0.0.5:8650",
            "https://10.0.0.5:8650",
        ),
        (
            "listen: 0.0.0.0:8650\nadvertise: https://epu.example.org\ntls: {certificate: c.pem, key: k.pem}",
            "https://epu.example.org",
            "https://epu.example.org",
        ),
        (
            "advertise: https://epu.example.org\nadvertise-ca: system",
            "https://epu.example.org",
            "http://127.0.0.1:8650",
        ),
    ];
    for (text, url, here) in cases {
        let config = read(text).unwrap_or_else(|flaws| panic!("{text}: {flaws:?}"));
        assert_eq!((config.way().url().as_str(), config.way().here().as_str()), (url, here), "{text}");
    }
}

#[test]
fn a_self_made_certificate_is_for_every_name_that_leads_here() {
    let config =
        read("listen: 10.0.0.5:8650\nadvertise: https://epu.example.org:8650\ntls: {self-made: {names: [\"*.b.org\", localhost]}}")
            .unwrap();
    let names = ["*.b.org", "localhost", "epu.example.org", "10.0.0.5", "127.0.0.1", "::1"];
    assert_eq!(config.way().names(), names);
}

#[test]
fn what_cannot_work_or_would_send_tokens_in_the_clear_is_refused() {
    let cases = [
        "listen: 0.0.0.0:8650",
        "listen: 10.0.0.5:8650",
        "listen: 0.0.0.0:8650\ntls: {self-made: {}}",
        "listen: 0.0.0.0:8650\ntls: {certificate: c.pem, key: k.pem}",
        "tls: {}",
        "tls: {certificate: c.pem}",
        "tls: {self-made: {names: [\"https://a.org\"]}, key: k.pem}",
        "tls: {self-made: {names: [\"10.0.0.5:8650\"]}}",
        "tls: {self-made: {name: [a]}}",
        "tls: {self-made: {}}\nstore: {postgres: {url: env:EPU_POSTGRES_URL}}",
        "tls: {self-made: {}}\nadvertise: http://127.0.0.1:8650",
        "advertise: epu.example.org",
        "advertise: http://epu.example.org:8650",
        "advertise: https://epu.example.org",
        "advertise: https://epu.example.org\nadvertise-ca: no-such.pem",
        "advertise-ca: system",
        "tls: {certificate: c.pem, key: k.pem, ca: no-such.pem}",
    ]
    .map(|text| {
        let said = read(text).map_or_else(|flaws| flaws.join("\n"), |_| panic!("{text}: no flaw"));
        format!("{text}\n=> {said}\n")
    });
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn a_site_that_is_not_this_machine_needs_a_way_to_this_one_that_keeps_tokens_to_itself() {
    let tree = |text: &str| {
        Tree::read(
            "epu.yaml",
            &format!("sites: {{here: {{local: {{}}}}, east: {{ec2: {{}}}}}}\n{text}"),
        )
        .unwrap()
    };
    let said = |text: &str| {
        let mut flaws = Vec::new();
        rules(&tree(text), Path::new("/"), &mut flaws);
        flaws.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for refused in ["tick: 1s", "advertise: http://127.0.0.1:1", "tls: {self-made: {}}"] {
        let said = said(refused);
        assert!(
            said.contains("sites.east") && said.contains("advertise: https://") && !said.contains("sites.here"),
            "{refused}: {said}"
        );
    }
    for fine in [
        "listen: 0.0.0.0:8650\ntls: {self-made: {names: [a.org]}}",
        "tls: {self-made: {}}\nadvertise: https://127.0.0.1:8650",
        "advertise: https://a.org\nadvertise-ca: system",
    ] {
        assert_eq!(said(fine), "", "{fine}");
    }
}

#[test]
fn what_agents_pin_is_the_authority_of_the_certificate_that_they_see() {
    let home = tempfile::tempdir().unwrap();
    let (ours, proxys, made) = (authority(), authority(), authority());
    fs::write(home.path().join("ours.pem"), &ours).unwrap();
    fs::write(home.path().join("proxys.pem"), &proxys).unwrap();
    let config = |text: &str| Config::read(&home.path().join("epu.yaml"), &format!("{text}\n{POOLS}")).unwrap();
    assert_eq!(config("").agents_ca(), None);
    assert_eq!(config("tls: {certificate: c, key: k}").agents_ca(), None);
    assert_eq!(config("tls: {certificate: c, key: k, ca: ours.pem}").agents_ca(), Some(ours));
    let in_front = "tls: {certificate: c, key: k, ca: ours.pem}\nadvertise: https://a.org\nadvertise-ca: ";
    assert_eq!(config(&format!("{in_front}proxys.pem")).agents_ca(), Some(proxys.clone()));
    assert_eq!(config(&format!("{in_front}system")).agents_ca(), None);
    assert_eq!(
        config("advertise: https://a.org\nadvertise-ca: proxys.pem").agents_ca(),
        Some(proxys)
    );
    let self_made = config("tls: {self-made: {}}");
    assert_eq!(self_made.agents_ca(), None, "before the first start");
    fs::create_dir_all(home.path().join("epu-data/tls")).unwrap();
    fs::write(authority_in(&home.path().join("epu-data")), &made).unwrap();
    assert_eq!(self_made.agents_ca(), Some(made));
}

#[test]
fn operators_find_way_and_authority_even_when_the_rest_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("epu.yaml");
    assert!(way_of(&file).is_none());
    fs::write(&file, "wrong: 1\nlisten: 0.0.0.0:9\ntls: {self-made: {names: [a.org]}}\n").unwrap();
    let way = way_of(&file).unwrap();
    assert_eq!(way.here().as_deref(), Some("https://127.0.0.1:9"));
    assert_eq!(
        way.authority(home.path(), Path::new("/data")),
        Some(PathBuf::from("/data/tls/ca.pem"))
    );
    fs::write(&file, "tls: {certificate: c, key: k, ca: ours.pem}\n").unwrap();
    assert_eq!(
        way_of(&file).unwrap().authority(home.path(), Path::new("/data")),
        Some(home.path().join("ours.pem"))
    );
    fs::write(&file, "listen: 5\n").unwrap();
    assert_eq!(way_of(&file).unwrap().authority(home.path(), Path::new("/data")), None);
}

#[test]
fn the_command_line_is_judged_as_the_file_is() {
    use crate::cli::Role;
    let adjusted = |text: &str, listen: Option<&str>, advertise: Option<&str>| {
        let mut config = read(text).unwrap();
        let listen = listen.map(|listen| listen.parse().unwrap());
        config
            .adjust(Role::All, listen, advertise.map(str::to_owned))
            .map(|()| config.way().url())
    };
    let fault = adjusted("", Some("0.0.0.0:1"), None).unwrap_err();
    assert!(fault.text.contains("--listen") && fault.text.contains("tls"), "{fault}");
    let fault = adjusted("", None, Some("http://a.org:1")).unwrap_err();
    assert!(fault.text.contains("--advertise") && fault.text.contains("https://"), "{fault}");
    let tls = "tls: {self-made: {names: [a.org]}}";
    assert_eq!(adjusted(tls, Some("0.0.0.0:1"), None).unwrap(), "https://a.org:1");
    assert_eq!(adjusted(tls, Some("0.0.0.0:1"), Some("https://b.org/")).unwrap(), "https://b.org");
}
