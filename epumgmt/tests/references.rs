//! The references in `docs/` say what the program does, the table of error codes has every code there is, and what people are shown
//! (README, examples, dashboard, alert rules) is there and is taken.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use epu_core::code::CODES;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_references_are_what_the_program_writes() {
    let fresh = tempfile::tempdir().unwrap();
    let wrote = Command::new(env!("CARGO_BIN_EXE_epumgmt"))
        .arg("docs")
        .arg(fresh.path())
        .output()
        .unwrap();
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let mut stale = Vec::new();
    let mut compared = 0;
    for entry in fs::read_dir(fresh.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let (now, kept) = (fresh.path().join(&name), root().join("docs").join(&name));
        if fs::read_to_string(now).unwrap() != fs::read_to_string(kept).unwrap_or_default() {
            stale.push(name);
        }
        compared += 1;
    }
    assert_eq!(
        compared, 6,
        "configuration.md, epu.schema.json, errors.md, metrics.md, wire.md, wire-compatibility.md"
    );
    assert!(
        stale.is_empty(),
        "stale in docs/: {stale:?}; run `cargo run -p epumgmt -- docs docs`"
    );
}

#[test]
fn every_code_in_the_sources_is_in_the_table_and_none_in_the_table_is_unused() {
    let mut used: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut all_text = String::new();
    for file in sources(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for code in codes_in(text) {
            used.entry(code).or_insert_with(|| file.clone());
        }
        // These three also say something about codes that others make.
        if !["core/src/code.rs", "epumgmt/src/exit.rs", "bus/src/http.rs"]
            .iter()
            .any(|about| file.ends_with(about))
        {
            all_text.push_str(text);
        }
    }
    assert!(used.len() > 20, "the search for codes finds only {used:?}");
    let unknown: Vec<_> = used
        .iter()
        .filter(|(code, _)| !CODES.iter().any(|(known, _, _)| known == code))
        .collect();
    assert!(unknown.is_empty(), "add to CODES in core/src/code.rs: {unknown:?}");
    let unused: Vec<_> = CODES
        .iter()
        .filter(|(code, _, _)| !used.contains_key(*code) && !all_text.contains(&format!("\"{code}\"")))
        .collect();
    assert!(unused.is_empty(), "take out of CODES in core/src/code.rs: {unused:?}");
}

#[test]
fn the_search_for_codes_finds_them_however_they_are_written() {
    for text in [
        r#"Fault::new("a-code", "text")"#,
        "Fault::new(\n    \"a-code\",\n    text)",
        r#"let code = match class { A => "a-code", B => "a-code" };"#,
        "Err((\n    \"a-code\", text))",
        r#"return fault("a-code", &what);"#,
    ] {
        assert!(codes_in(text).contains(&"a-code".to_owned()), "{text}");
    }
    assert!(codes_in(r#"other("no-code") let mode = "no-code";"#).is_empty());
}

#[test]
fn the_examples_are_taken_and_the_readme_shows_them() {
    // The check looks for programs; where Python is not installed, an example for it is good all the same.
    let here = tempfile::tempdir().unwrap();
    fs::create_dir_all(here.path().join("spool/waiting")).unwrap();
    let python = here.path().join("python3");
    fs::write(&python, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", here.path().display(), std::env::var("PATH").unwrap());
    let mut checked = 0;
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let copy = here.path().join(file.file_name().unwrap());
            fs::copy(&file, &copy).unwrap();
            let mut check = Command::new(env!("CARGO_BIN_EXE_epumgmt"));
            let said = check.args(["config", "check"]).arg(&copy).env("PATH", &path).output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            checked += 1;
        }
    }
    assert!(checked >= 3, "examples are missing");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (language, file) in [("yaml", "queue.yaml"), ("python", "worker.py")] {
        let shown = block(&readme, language);
        let example = fs::read_to_string(root().join("examples").join(file)).unwrap();
        assert!(
            !shown.is_empty() && example.ends_with(shown),
            "README.md shows another examples/{file}"
        );
    }
}

/// The first block of a language, without its fences.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let begun = text.split_once(&format!("```{language}\n"));
    begun.and_then(|(_, rest)| rest.split_once("```")).map_or("", |(block, _)| block)
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let metrics = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut asked = 0;
    for file in ["epu.dashboard.json", "epu.rules.yaml"] {
        let text = fs::read_to_string(root().join("monitoring").join(file)).unwrap();
        for word in text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("epu_"))
        {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| word.strip_suffix(end))
                .unwrap_or(word);
            assert!(metrics.contains(&format!("`{name}`")), "{file}: there is no metric {name}");
            asked += 1;
        }
    }
    assert!(asked > 20, "the search for metrics finds only {asked}");
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for directory in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut followed = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            let template = target.starts_with("NNNN");
            if !target.is_empty() && !target.contains("://") && !template {
                let to = document.parent().unwrap().join(target);
                assert!(to.exists(), "{}: {target} is not there", document.display());
                followed += 1;
            }
        }
    }
    assert!(followed > 20, "the search for links finds only {followed}");
}

/// Every Rust file of the workspace that is not only tests.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for member in fs::read_dir(root).unwrap() {
        let source = member.unwrap().path().join("src");
        // The tests' own crate makes no faults of ours.
        if source.is_dir() && !source.ends_with("tests/src") {
            walk(&source, &mut found);
        }
    }
    found
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // The store's contract suite has samples of its own.
            if name != "contract" {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "contract.rs" {
            found.push(path);
        }
    }
}

/// Literals in the places where codes stand: the first argument of what makes a fault, the first of a pair that becomes one, and
/// what a `let code` may be.
fn codes_in(text: &str) -> Vec<String> {
    let mut codes = Vec::new();
    for before in ["Fault::new(", "fault(", "Err(("] {
        for (at, _) in text.match_indices(before) {
            let rest = text[at + before.len()..].trim_start();
            // At the door, what stands before a status is a metric's label.
            let label = rest
                .split_once(',')
                .is_some_and(|(_, then)| then.trim_start().starts_with("StatusCode"));
            codes.extend(rest.strip_prefix('"').filter(|_| !label).and_then(literal));
        }
    }
    for (at, _) in text.match_indices("let code = ") {
        let statement = text[at..].split(';').next().unwrap_or_default();
        // A comparison's right side is no result.
        let parts: Vec<&str> = statement.split('"').collect();
        for pair in parts.windows(2).step_by(2) {
            if !pair[0].trim_end().ends_with("==") {
                codes.extend(literal(&format!("{}\"", pair[1])));
            }
        }
    }
    codes
}

/// The text up to the closing quote, when it looks like a code.
fn literal(rest: &str) -> Option<String> {
    let code = rest.split('"').next()?;
    let fits = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    fits.then(|| code.to_owned())
}
