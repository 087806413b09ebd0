//! What is handed out: made by the one command, installed under a root of its own, and run from there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use epu_tests::process::program;

fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert!(
        output.status.success(),
        "{shown}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Makes both packages of the programs that the tests run.
fn made(out: &Path) -> (PathBuf, PathBuf) {
    let programs = program().unwrap().parent().unwrap().to_path_buf();
    run(Command::new("timeout")
        .args(["-k", "5", "300", "bash"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/make"))
        .arg("--out")
        .arg(out)
        .arg("--programs")
        .arg(programs));
    let of = |ending: &str| {
        let mut found = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
        found.find(|path| path.to_string_lossy().ends_with(ending)).unwrap()
    };
    (of(".deb"), of(".tar.gz"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What both packages hold, and that it runs.
fn is_whole(root: &Path) {
    let file = |path: &str| root.join(path);
    for path in [
        "usr/bin/epu-agent",
        "usr/lib/systemd/system/epu.service",
        "usr/lib/systemd/system/epu@.service",
        "usr/lib/sysusers.d/epu.conf",
        "usr/share/man/man1/epumgmt.1.gz",
        "usr/share/man/man1/epumgmt-pool-add.1.gz",
        "usr/share/bash-completion/completions/epumgmt",
        "usr/share/zsh/vendor-completions/_epumgmt",
        "usr/share/fish/vendor_completions.d/epumgmt.fish",
        "usr/share/doc/epu/examples/queue.yaml",
        "usr/share/doc/epu/README.md",
        "usr/share/doc/epu/copyright",
        "etc/epu/epu.yaml",
    ] {
        assert!(file(path).is_file(), "{path} is missing in {}", root.display());
    }
    let unit = text(&file("usr/lib/systemd/system/epu.service"));
    assert!(
        unit.contains("ExecStart=/usr/bin/epumgmt serve all --config /etc/epu/epu.yaml"),
        "{unit}"
    );
    assert!(!unit.contains("/usr/local/"), "{unit}");
    let epumgmt = |arguments: &[&str]| run(Command::new(file("usr/bin/epumgmt")).args(arguments));
    let said = epumgmt(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout).trim(),
        concat!("epumgmt ", env!("CARGO_PKG_VERSION"))
    );
    let settings = file("etc/epu/epu.yaml");
    epumgmt(&["config", "check", settings.to_str().unwrap()]);
    let example = file("usr/share/doc/epu/examples/keep.yaml");
    epumgmt(&["config", "check", example.to_str().unwrap()]);
    run(Command::new(file("usr/bin/epu-agent")).arg("--version"));
}

#[test]
fn the_packages_are_made_installed_and_run() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let (deb, archive) = made(&out);

    // As dpkg does it, under a root of its own: nothing of this machine is touched.
    let root = home.path().join("installed");
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["var/lib/dpkg/status", "var/lib/dpkg/available", "etc/passwd", "etc/group"] {
        std::fs::write(root.join(file), "").unwrap();
    }
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg("--root").arg(&root).args([
            "--force-not-root",
            "--force-script-chrootless",
            "--force-depends",
            "--force-bad-path",
            "--no-triggers",
        ]);
        command.arg("--log").arg(home.path().join("dpkg.log")).args(arguments);
        run(&mut command)
    };
    dpkg(&["--install", deb.to_str().unwrap()]);
    is_whole(&root);
    assert!(
        text(&root.join("etc/passwd")).contains("epu:"),
        "the package makes the user that its units name"
    );
    let said = run(Command::new("dpkg-deb").arg("--field").arg(&deb).args(["Package", "Depends"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Package: epu") && said.contains("libc6 (>= 2."), "{said}");
    // What a person changed survives the package and comes back with it.
    std::fs::create_dir_all(root.join("var/lib/epu")).unwrap();
    std::fs::write(root.join("var/lib/epu/epu.db"), "records").unwrap();
    dpkg(&["--remove", "epu"]);
    assert!(!root.join("usr/bin/epumgmt").exists());
    assert!(root.join("etc/epu/epu.yaml").is_file(), "settings stay when the package is removed");
    dpkg(&["--purge", "epu"]);
    assert!(!root.join("etc/epu/epu.yaml").exists());
    assert_eq!(text(&root.join("var/lib/epu/epu.db")), "records", "records stay whatever happens");

    let unpacked = home.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("-C")
        .arg(&unpacked)
        .arg("-xzf")
        .arg(&archive)
        .arg("--strip-components=1"));
    is_whole(&unpacked);

    // Whoever checks the digests finds that they fit.
    let sums = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.ends_with(".sha256"));
    run(Command::new("sha256sum").arg("--check").arg(sums.unwrap()).current_dir(&out));
}
