//! Whether a program is there and can be run, asked of this machine's file system.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Why a program cannot be run; none when it can.
///
/// A program with a slash is a path, relative to `directory`; one without is looked for in `search`, like the system does.
pub(super) fn fault(program: &str, directory: Option<&Path>, search: &OsStr) -> Option<String> {
    if program.is_empty() {
        return Some("the program has no name".to_owned());
    }
    if program.contains('/') {
        let path = match directory {
            Some(directory) => directory.join(program),
            None => program.into(),
        };
        return file_fault(&path);
    }
    let found = std::env::split_paths(search).any(|directory| file_fault(&directory.join(program)).is_none());
    (!found).then(|| format!("no program {program:?} is found on PATH"))
}

fn file_fault(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(format!("there is no program {}", path.display())),
        Err(error) => Some(format!("look at program {}: {error}", path.display())),
        Ok(found) if found.is_dir() => Some(format!("{} is a directory and no program", path.display())),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some(format!("{} may not be executed; try `chmod +x`", path.display())),
        Ok(_) => None,
    }
}
