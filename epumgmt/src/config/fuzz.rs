//! The whole config file, made up: the examples, changed here and there. `tests/fuzz` does the same with pools alone, and more of it.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any};

use super::{Config, TEXT_MAX};

const EXAMPLES: &[&str] = &[
    include_str!("../../../examples/queue.yaml"),
    include_str!("../../../examples/ec2.yaml"),
    include_str!("../../../examples/distributed.yaml"),
    include_str!("../../../examples/spool.yaml"),
    include_str!("../../../packaging/epu.yaml"),
];
/// What stands where a secret should only be referred to, and in addresses.
const SECRET: &str = "hunter2hunter2";
const WORDS: &[&str] = &[
    "",
    "~",
    "0",
    "-1",
    "1e999",
    "5",
    "5m",
    "true",
    "[]",
    "{}",
    "text",
    "\"a: b\"",
    "&a x",
    "*a",
    "[*a]",
    "0.0.0.0:1",
    "localhost:99999",
    "https://h:1",
    "\"env:X\"",
    "\"file:/nowhere\"",
    "\"amqp://me:hunter2hunter2@host/v\"",
    "{role: operator, owners: [a]}",
    "{self-made: {names: [\"..\"]}}",
    "info,=,=",
    "99999999999999999999",
];

/// An example with lines dropped, doubled, swapped, moved in and out, and with other values.
fn made_up() -> impl Strategy<Value = String> {
    let edit = (0..6_u8, any::<u16>(), any::<u16>());
    (0..EXAMPLES.len(), vec(edit, 0..6)).prop_map(|(example, edits)| {
        // Comments would only hide what is changed.
        let plain = EXAMPLES[example].lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut lines: Vec<String> = plain.map(str::to_owned).collect();
        for (edit, a, b) in edits {
            let (one, two) = (usize::from(a) % lines.len(), usize::from(b) % lines.len());
            let word = WORDS[usize::from(b) % WORDS.len()];
            match edit {
                0 if lines.len() > 1 => drop(lines.remove(one)),
                1 => lines.insert(two, lines[one].clone()),
                2 => lines.swap(one, two),
                3 => lines[one].insert_str(0, "  "),
                4 => lines[one] = lines[one].replacen("  ", "", 1),
                _ => {
                    if let Some((key, _)) = lines[one].split_once(": ") {
                        lines[one] = format!("{key}: {word}");
                    }
                }
            }
        }
        lines.join("\n") + "\n"
    })
}

fn is_fit(text: &str) -> Result<(), String> {
    let Err(flaws) = Config::read(Path::new("/etc/epu/epu.yaml"), text) else {
        return Ok(());
    };
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    for flaw in flaws.as_slice() {
        let line = usize::try_from(flaw.line).unwrap_or(usize::MAX);
        let length = lines.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let column = usize::try_from(flaw.column).unwrap_or(usize::MAX);
        if line == 0 || line > lines.len() + 1 || column == 0 || column > length + 1 {
            return Err(format!("it has no place in the text: {flaw}"));
        }
        if flaw.text.is_empty() || flaw.text.chars().count() > 2_001 {
            return Err(format!("it says nothing, or too much: {flaw}"));
        }
        if flaw.to_string().contains(SECRET) {
            return Err(format!("a secret is repeated: {flaw}"));
        }
    }
    Ok(())
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_flaw_of_a_changed_file_has_its_place_and_tells_no_secret(text in made_up()) {
        if let Err(why) = is_fit(&text) {
            proptest::prop_assert!(false, "{}\n{}", why, text);
        }
    }
}

/// A secret that is written where only a reference to one may stand is not repeated.
#[test]
fn a_secret_in_the_open_is_not_told() {
    for (example, field) in [
        (1, "access-key-id: env:AWS_ACCESS_KEY_ID"),
        (1, "secret-access-key: env:AWS_SECRET_ACCESS_KEY"),
        (2, "data-dir: epu-data"),
    ] {
        let key = field.split(':').next().unwrap_or_default().replace("data-dir", "installation-key");
        assert!(EXAMPLES[example].contains(field), "{field}");
        for value in [
            SECRET.to_owned(),
            format!("[{SECRET}]"),
            format!("{{a: {SECRET}}}"),
            format!("env: {SECRET}"),
        ] {
            let text = EXAMPLES[example].replace(field, &format!("{key}: {value}"));
            assert_eq!(is_fit(&text), Ok(()), "{key}: {value}");
        }
    }
}

/// Neither is one in an address that somebody wrote in the place of another.
#[test]
fn a_password_in_an_address_is_not_told() {
    let advertised = EXAMPLES.iter().find(|example| example.contains("\nadvertise: ")).unwrap();
    let is_it = |line: &&str| line.starts_with("advertise: ");
    let line = advertised.lines().find(is_it).unwrap();
    for scheme in ["amqp", "http", "https"] {
        let written = format!("advertise: \"{scheme}://me:{SECRET}@host/v\"");
        assert_eq!(is_fit(&advertised.replace(line, &written)), Ok(()), "{scheme}");
    }
}

#[test]
fn a_file_of_nothing_but_one_thing_is_refused() {
    for evil in [
        "[".repeat(100_000),
        "a".repeat(TEXT_MAX),
        "sites:\n  ".repeat(10_000),
        "users: {a: &a {b: *a}}".to_owned(),
    ] {
        assert_eq!(is_fit(&evil), Ok(()));
    }
}
