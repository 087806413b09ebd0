//! A million inputs from outside, made up: see `epu_tests::fuzz`. None may fail.

use epu_tests::fuzz::resident::Resident;
use epu_tests::fuzz::{Meter as _, Unmetered, all};
use epu_tests::{Result, Trouble};

use super::clock::wall;
use super::{Goal, Report};

/// Made up in all, over all kinds.
const CASES: u32 = 1_000_000;
/// Another than the tests have.
const SEED: u64 = 20_261_122;
/// What resident memory may grow by while one kind is judged, in bytes: what is made up is at most 64 KiB long.
const GROWTH_MAX: usize = 512 << 20;

/// Judges them all, each kind after the other, and says what each cost.
pub(super) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let (mut judged, mut failed) = (0_u64, 0_u32);
    // A reader that panics is found below; the usual message for each input on the way to the smallest one helps nobody.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for kind in all() {
        let resident = Resident::default();
        resident.begin();
        let began = wall();
        let ran = kind.run(CASES / 1_000 * kind.share, SEED, &Unmetered);
        let (took, grew) = (began.elapsed(), resident.most());
        let ran = match ran {
            Ok(ran) => ran,
            Err(trouble) => {
                std::panic::set_hook(usual);
                return Err(trouble);
            }
        };
        judged += u64::from(ran.cases);
        report.note(format!(
            "{}: {} cases in {:.1} s, memory grew by {:.1} MiB",
            kind.name,
            ran.cases,
            took.as_secs_f64(),
            f64::from(u32::try_from(grew >> 10).unwrap_or(u32::MAX)) / 1_024.0
        ));
        if let Some(failure) = ran.failure {
            failed += 1;
            report.note(format!("FAILED {}", failure.told()));
        }
        if grew > GROWTH_MAX {
            failed += 1;
            report.note(format!("FAILED {}: memory grew by more than {} MiB", kind.name, GROWTH_MAX >> 20));
        }
    }
    std::panic::set_hook(usual);
    if failed == 0 && judged < u64::from(CASES) {
        return Err(Trouble::new("judge a million inputs", format!("only {judged} were judged")));
    }
    report.note(format!("{judged} cases in all"));
    report.figure("fuzz-million-cases", f64::from(failed), "failed", Goal::Below(1.0));
    Ok(report)
}
