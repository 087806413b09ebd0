use epu_core::machine::Fetched;
use serde_json::Value as Json;

use super::*;
use crate::iaas::LaunchToken;

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUV0dF\n-----END CERTIFICATE-----\n";

fn launch(machines: usize) -> IaasLaunch {
    let id = |n: usize| format!("0193a5a0-0000-7000-8000-{n:012}");
    IaasLaunch {
        installation: "prod".to_owned(),
        launch: id(9).parse().unwrap(),
        pool: epu_core::PoolName::new("web").unwrap(),
        instances: (1..=machines).map(|n| id(n).parse().unwrap()).collect(),
        min: 1,
        launch_token: LaunchToken("l.0193a5a0-0000-7000-8000-000000000009.1763840236000.5a5a".to_owned()),
        url: "https://epu.example.org:7311 https://10.0.0.2:7311".to_owned(),
        template: serde_json::from_str(r#"{"run": ["worker"]}"#).unwrap(),
        doubtful: false,
    }
}

fn fetched() -> AgentSource {
    AgentSource::Fetched(Fetched {
        url: "https://example.org/epu-agent?sig=a&b=%20".to_owned(),
        sha256: "ab".repeat(32),
    })
}

fn with_own(template: &str) -> IaasLaunch {
    let mut launch = launch(2);
    launch.template.machine.user_data = Some(template.to_owned());
    launch
}

fn parsed(text: &str) -> Json {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Name, permissions and content of each file.
fn written(text: &str) -> Vec<(String, String, String)> {
    let read = |file: &Json, key: &str| file[key].as_str().unwrap().to_owned();
    parsed(text)["write_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            let path = read(file, "path");
            (
                path.strip_prefix("/var/lib/epu/").unwrap().to_owned(),
                read(file, "permissions"),
                read(file, "content"),
            )
        })
        .collect()
}

fn content(text: &str, name: &str) -> String {
    let files = written(text);
    files.into_iter().find(|(found, _, _)| found == name).unwrap().2
}

/// To accept a change: run with `EPU_ACCEPT=1`, and read the difference.
fn golden(name: &str, text: &str) {
    let path = format!("{}/src/iaas/ec2/user_data/golden/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("EPU_ACCEPT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{path}");
}

#[test]
fn what_a_machine_with_a_baked_agent_is_told() {
    golden("baked", &render(&launch(1), None).unwrap());
}

#[test]
fn what_a_machine_that_fetches_its_agent_is_told() {
    let mut launch = launch(3);
    launch.template.agent = fetched();
    let text = render(&launch, Some(CA)).unwrap();
    golden("fetched", &text);
    assert!(
        text.len() < USER_DATA_MAX / 2,
        "{} bytes: little is left for an operator's own",
        text.len()
    );
}

#[test]
fn the_files_are_those_that_start_sh_reads() {
    let mut launch = launch(3);
    launch.template.agent = fetched();
    let text = render(&launch, Some(CA)).unwrap();
    let files: Vec<_> = written(&text).into_iter().map(|(name, mode, _)| (name, mode)).collect();
    let told: Vec<_> = files.iter().map(|(name, mode)| (name.as_str(), mode.as_str())).collect();
    assert_eq!(
        told,
        [
            ("agent.env", "0600"),
            ("launch-token", "0600"),
            ("ca.pem", "0644"),
            ("start.sh", "0755")
        ]
    );
    assert_eq!(content(&text, "ca.pem"), CA);
    assert_eq!(content(&text, "start.sh"), START);
    assert_eq!(content(&text, "launch-token").trim(), launch.launch_token.0);
    assert_eq!(parsed(&text)["runcmd"], serde_json::json!([["sh", "/var/lib/epu/start.sh"]]));
    assert!(text.starts_with("#cloud-config\n"));
}

#[test]
fn the_same_launch_gives_the_same_bytes() {
    assert_eq!(render(&launch(2), Some(CA)), render(&launch(2), Some(CA)));
    let mut other = launch(2);
    other.launch_token = LaunchToken("l.other".to_owned());
    assert_ne!(render(&launch(2), None), render(&other, None));
}

#[test]
fn a_single_machine_need_not_ask_for_its_index() {
    assert!(content(&render(&launch(1), None).unwrap(), "agent.env").contains("EPU_INDEX=0\n"));
    assert!(content(&render(&launch(2), None).unwrap(), "agent.env").contains("EPU_INDEX=metadata\n"));
}

const NASTY: [&str; 14] = [
    "\"'`$(reboot)$HOME",
    "a\nruncmd:\n- [sh, -c, reboot]\n",
    "{{ launch_token }}{% for x in files %}",
    "'\nEPU_URL='http://evil",
    "back\\slash\\n \\x41",
    "\ttab\u{1}\u{7f}\u{85}\u{9b}",
    "\u{2028}\u{2029}\u{feff}\u{fffe}\u{10ffff}é日本🦀",
    "--- !!python/object:x &a *a",
    "yes",
    "0755",
    "#cloud-config",
    " leading and trailing ",
    "|\n  - %",
    "",
];

#[test]
fn nothing_that_is_put_in_breaks_out() {
    for nasty in NASTY {
        let mut launch = launch(2);
        launch.installation = nasty.to_owned();
        launch.url = nasty.to_owned();
        launch.launch_token = LaunchToken(nasty.to_owned());
        launch.template.agent = AgentSource::Fetched(Fetched {
            url: nasty.to_owned(),
            sha256: nasty.to_owned(),
        });
        let text = render(&launch, Some(nasty)).unwrap();
        let tree = parsed(&text);
        let keys: Vec<_> = tree.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["runcmd", "write_files"], "{nasty:?}");
        assert_eq!(written(&text).len(), 4, "{nasty:?}");
        assert_eq!(content(&text, "launch-token"), format!("{nasty}\n"), "{nasty:?}");
        assert_eq!(content(&text, "ca.pem").trim(), nasty.trim(), "{nasty:?}");
        assert_eq!(content(&text, "start.sh"), START, "{nasty:?}");
    }
}

/// What a real shell makes of the settings.
#[test]
fn a_shell_reads_the_settings_back() {
    for nasty in NASTY {
        let mut launch = launch(2);
        launch.installation = nasty.to_owned();
        let settings = content(&render(&launch, None).unwrap(), "agent.env");
        let script = format!("{settings}printf '%s.' \"$EPU_INSTALLATION\"; printf %s \"$EPU_URL\"");
        let ran = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(
            String::from_utf8(ran.stdout).unwrap(),
            format!("{nasty}.{}", launch.url),
            "{nasty:?}"
        );
        assert!(ran.status.success() && ran.stderr.is_empty(), "{nasty:?}");
    }
}

#[test]
fn every_way_of_writing_a_text_is_read_back() {
    for nasty in NASTY {
        let own = "#cloud-config\nquoted: {{ installation|yaml }}\nblock: {{ installation|block(2) }}\nlist: {{ [installation, none, 1, true]|yaml }}\n";
        let mut launch = with_own(own);
        launch.installation = nasty.to_owned();
        let tree = parsed(&render(&launch, None).unwrap());
        assert_eq!(tree["quoted"], nasty);
        assert_eq!(tree["block"], nasty);
        assert_eq!(tree["list"], serde_json::json!([nasty, null, 1, true]));
    }
}

#[test]
fn an_operators_template_needs_one_line_to_have_it_all() {
    let own = "#cloud-config\npackages: [redis]\nwrite_files: {{ files|yaml }}\nruncmd:\n- [sh, -c, 'mount /data']\n- {{ start|yaml }}\n";
    let text = render(&with_own(own), Some(CA)).unwrap();
    assert_eq!(written(&text), written(&render(&launch(2), Some(CA)).unwrap()));
    assert_eq!(parsed(&text)["runcmd"][1], serde_json::json!(["sh", "/var/lib/epu/start.sh"]));
    assert_eq!(check(&with_own(own).template, "https://a:1", Some(CA)), Vec::<String>::new());
}

#[test]
fn a_shell_script_will_do_as_well() {
    let own = "#!/bin/sh\nmkdir -p /var/lib/epu\numask 077\n{% for file in files %}printf %s {{ file.content|shell }} > {{ file.path|shell }}\n\
               chmod {{ file.permissions }} {{ file.path|shell }}\n{% endfor %}{{ start|join(' ') }}\n";
    let home = tempfile::tempdir().unwrap();
    let text = render(&with_own(own), None).unwrap();
    let script = text.replace("/var/lib/epu", home.path().to_str().unwrap()).replace("\nsh ", "\n: ");
    let ran = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (name, _, content) in written(&render(&launch(2), None).unwrap()) {
        let found = std::fs::read_to_string(home.path().join(&name)).unwrap();
        assert_eq!(found.replace(home.path().to_str().unwrap(), "/var/lib/epu"), content, "{name}");
    }
    assert_eq!(check(&with_own(own).template, "http://127.0.0.1:1", None), Vec::<String>::new());
}

#[test]
fn a_wrong_template_says_what_and_where() {
    let text_of = |own: &str| render(&with_own(own), None).unwrap_err().to_string();
    for (own, line, holds) in [
        (
            "#cloud-config\n\na: {{ lunch_token }}\n",
            3,
            "nothing is named lunch_token; there are installation, pool",
        ),
        ("{% if false %}{{ lanch }}{% endif %}", 1, "nothing is named lanch"),
        ("#!\n{{ agent.digest }}", 2, "nothing is named agent.digest"),
        (
            "#!\n{% for f in files %}{{ f.mode|yaml }}{% endfor %}",
            2,
            "in: {% for f in files %}{{ f.mode|yaml }}",
        ),
        ("#!\n{% for f in files %}", 2, "unexpected end of input"),
        ("a\nb\n{{ launch | yamll }}", 3, "filter yamll"),
        ("{{ files|block(2) }}", 1, "no text"),
        (
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
            1,
            "too long",
        ),
    ] {
        let text = text_of(own);
        assert!(
            text.contains(&format!(", line {line}: ")) && text.contains(holds),
            "{own:?}: {text}"
        );
    }
}

#[test]
fn too_much_says_how_much_each_part_has() {
    let own = format!("#cloud-config\nwrite_files: {{{{ files|yaml }}}}\n# {}\n", "x".repeat(12_000));
    let length = own.len();
    let error = render(&with_own(&own), Some(CA)).unwrap_err();
    let UserDataError::TooLong { bytes, parts, own } = &error else {
        panic!("{error}");
    };
    assert!(*own && *bytes > USER_DATA_MAX, "{error}");
    let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["the template's own text", "agent.env", "launch-token", "ca.pem", "start.sh"]
    );
    assert_eq!(parts[0].1, length);

    let endless = "{% for a in range(9000) %}{{ url }}{% endfor %}";
    let error = render(&with_own(endless), None).unwrap_err().to_string();
    assert!(error.contains("at least 65") && error.contains("takes 16384"), "{error}");

    let chain = CA.repeat(200);
    let error = render(&launch(1), Some(&chain)).unwrap_err().to_string();
    assert!(
        error.contains("certificates") && error.contains(&format!("ca.pem {}", chain.len())),
        "{error}"
    );
}

#[test]
fn the_limit_is_exact() {
    let whole = |length: usize| {
        let own = format!("#!{}\n", "x".repeat(length - 3));
        render(&with_own(&own), None).map(|text| text.len())
    };
    assert_eq!(whole(USER_DATA_MAX), Ok(USER_DATA_MAX));
    assert!(whole(USER_DATA_MAX + 1).is_err());
}

#[test]
fn a_private_key_is_sent_to_nobody() {
    let both = format!("{CA}-----BEGIN EC PRIVATE KEY-----\nx\n-----END EC PRIVATE KEY-----\n");
    assert_eq!(render(&launch(1), Some(&both)), Err(UserDataError::PrivateKey));
}

#[test]
fn a_check_finds_what_cloud_init_or_the_agent_would_miss() {
    let flaws = |own: &str| check(&with_own(own).template, "https://a:1 https://b:1", Some(CA)).join("\n");
    assert!(flaws(" #cloud-config\nwrite_files: {{ files|yaml }}\n").contains("begins with \" #cloud-config\""));
    let text = flaws("#cloud-config\nwrite_files:\n  - a: [\n x: {{ files|yaml }}\n");
    assert!(text.contains("gives no YAML"), "{text}");
    let text = flaws("#!/bin/sh\nreboot\n");
    for missing in ["the launch token", "the launch,", "where the services answer"] {
        assert!(text.contains(missing), "{text}");
    }
    assert!(flaws("{{ pol }}").contains("nothing is named pol"));
    assert_eq!(check(&launch(1).template, "https://a:1", Some(CA)), Vec::<String>::new());
}
