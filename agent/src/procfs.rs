//! What the kernel says of processes. See proc(5) and proc_pid_stat(5).

use crate::host::WorkerMark;

/// The mark of a living process; none when there is no such process, or only its unreaped end.
pub(crate) fn mark(pid: u32) -> Option<WorkerMark> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(WorkerMark {
        pid,
        started: started(&stat)?,
        boot: boot(),
    })
}

/// Whether that very process still lives.
pub(crate) fn lives(marked: &WorkerMark) -> bool {
    mark(marked.pid).as_ref() == Some(marked)
}

/// Which boot of the machine this is; empty when the kernel does not say.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// Field 22, unless field 3 says that it is a zombie or dead. The second field is the program's name in parentheses and may hold
/// anything, so counting begins after the last one that closes.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name_and_the_dead_have_none() {
        let line = |state: &str| {
            let rest: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
            format!("7 (a ) b) {state} {}", rest.join(" "))
        };
        assert_eq!(started(&line("S")), Some(22));
        assert_eq!(started(&line("T")), Some(22));
        assert_eq!(started(&line("Z")), None);
        assert_eq!(started("nonsense"), None);
    }

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let mut me = mark(std::process::id()).unwrap();
        assert!(lives(&me));
        me.started += 1;
        assert!(!lives(&me));
    }
}
