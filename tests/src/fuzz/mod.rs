//! Input from outside, made up in great numbers, and what must be true of every reader of it.
//!
//! A [`Kind`] is one sort of input with one property. Its input is always bytes, mostly made by changing good examples (`input`): seeds lie in
//! `tests/fuzz/corpus/<kind>/`, one file each, and so does every input that ever failed, as `failed-<what>`. Each of these is tried as it
//! is before anything is made up, so a past failure is a regression case by being a file. The same seed number makes the same input on any
//! machine; what fails is shrunk by proptest.
//!
//! **What is asked of all readers.** No panic. What is taken can be written and read again, equal. What is refused says so in a text of
//! bounded length, with a code that is documented. Memory stays within an [`Allowance`] that grows with the input's length only: it is
//! measured by a [`Meter`], which the test target has (an allocator that counts) and the figure has not (it watches the process instead).
//! Secrets that stand in input where secrets may stand are never repeated.
//!
//! **Limits**: an input made up here is at most [`INPUT_MAX`] bytes long. What is larger or more evil is made on purpose in
//! `tests/fuzz/evil.rs`.

mod config;
mod dashi;
mod envelope;
mod heartbeats;
mod input;
mod kinds;
mod machine;
mod management;
mod reconfigure;
pub mod resident;
mod saying;
mod tokens;
mod words;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

pub use input::{INPUT_MAX, Input};
pub use kinds::all;

use crate::{Result, Trouble};

/// How often a failing input is made smaller at the most.
const SHRINK_MOST: u32 = 2_000;
/// Characters of what is wrong that are told: it may repeat the whole input.
const SHOWN_MOST: usize = 1_000;

/// What a property says of an input: what is wrong, in words.
pub type Verdict = std::result::Result<(), String>;

/// Counts memory while an input is judged.
pub trait Meter {
    /// From here on.
    fn begin(&self);
    /// The most there was at a time since then above what there was then, in bytes.
    fn most(&self) -> usize;
}

/// Counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn begin(&self) {}
    fn most(&self) -> usize {
        0
    }
}

/// How much memory judging an input may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// For anything, in bytes.
    pub base: usize,
    /// For each byte of the input, in bytes.
    pub per_byte: usize,
    /// For aliases (`*name`), once there is one: what they may unfold to, in bytes.
    pub unfolding: usize,
}

impl Allowance {
    /// For this input.
    #[must_use]
    pub fn of(self, input: &[u8]) -> usize {
        let unfolding = if input.contains(&b'*') { self.unfolding } else { 0 };
        self.base + self.per_byte * input.len() + unfolding
    }
}

/// One sort of input.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Its share of all cases, in thousandths.
    pub share: u32,
    /// How much memory it may take.
    pub allowance: Allowance,
    /// Words that matter to its reader.
    pub words: &'static [&'static str],
    /// What must be true.
    pub property: fn(&[u8]) -> Verdict,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// How many inputs were judged, those of the corpus too.
    pub cases: u32,
    /// The most memory that one took, in bytes; 0 when nobody measured.
    pub most: usize,
    /// The first that failed.
    pub failure: Option<Failure>,
}

/// An input that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The kind.
    pub kind: &'static str,
    /// What is wrong.
    pub why: String,
    /// The input, made as small as could be; none when it is the corpus's own, or none was judged.
    pub input: Option<Input>,
}

impl Failure {
    /// What is wrong in as many words as somebody reads, the input's beginning, and where all of it was put: its corpus can take that
    /// file in as it is.
    #[must_use]
    pub fn told(&self) -> String {
        let why = format!("{}: {}", self.kind, beginning(&self.why));
        let Some(input) = &self.input else { return why };
        let path = std::env::temp_dir().join(format!("epu-fuzz-failed-{}-{}", self.kind, std::process::id()));
        let place = match std::fs::write(&path, &input.0) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("nowhere: {}: {error}", path.display()),
        };
        format!("{why}\n{input:?}\nkept in {place}")
    }
}

impl Kind {
    /// Its corpus: name and content, in the order of names.
    ///
    /// # Errors
    /// When it cannot be read or there is none.
    pub fn corpus(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus")).join(self.name);
        let trouble = |error: std::io::Error| Trouble::new(format!("read the corpus {}", directory.display()), error);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(trouble)? {
            let entry = entry.map_err(trouble)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            all.push((name, std::fs::read(entry.path()).map_err(trouble)?));
        }
        all.sort();
        if all.is_empty() {
            return Err(Trouble::new(format!("read the corpus {}", directory.display()), "it is empty"));
        }
        Ok(all)
    }

    /// Judges one input: its property, no panic, and no more memory than allowed.
    ///
    /// # Errors
    /// What is wrong with how it was read.
    pub fn judge(&self, input: &[u8], meter: &dyn Meter) -> std::result::Result<usize, String> {
        meter.begin();
        let verdict = catch_unwind(AssertUnwindSafe(|| (self.property)(input)));
        let most = meter.most();
        match verdict {
            Ok(verdict) => verdict?,
            Err(panic) => return Err(format!("panicked: {}", panic_text(&*panic))),
        }
        let allowed = self.allowance.of(input);
        if most > allowed {
            return Err(format!(
                "took {most} bytes of memory for {} of input; {allowed} are allowed",
                input.len()
            ));
        }
        Ok(most)
    }

    /// Judges the corpus, and then as many inputs as wanted that are made up from it.
    ///
    /// # Errors
    /// When there is no corpus. That an input fails is no error but stands in the result.
    pub fn run(&self, cases: u32, seed: u64, meter: &dyn Meter) -> Result<Ran> {
        let corpus = self.corpus()?;
        let (judged, most) = (Cell::new(0_u32), Cell::new(0_usize));
        let ran = |failure| Ran {
            cases: judged.get(),
            most: most.get(),
            failure,
        };
        let failed = |why: &str, input| {
            Some(Failure {
                kind: self.name,
                why: why.to_owned(),
                input,
            })
        };
        let judge = |input: &[u8]| {
            judged.set(judged.get().saturating_add(1));
            most.set(most.get().max(self.judge(input, meter)?));
            Ok::<(), String>(())
        };
        for (name, content) in &corpus {
            if let Err(why) = judge(content) {
                return Ok(ran(failed(&format!("{name} of the corpus: {why}"), None)));
            }
        }
        let seeds: Arc<Vec<Vec<u8>>> = Arc::new(corpus.into_iter().map(|(_, content)| content).collect());
        let config = Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: SHRINK_MOST,
            ..Config::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let result = runner.run(&input::made_from(seeds, self.words), |input| {
            judge(&input.0).map_err(TestCaseError::fail)
        });
        Ok(ran(match result {
            Ok(()) => None,
            Err(TestError::Fail(why, input)) => failed(why.message(), Some(input)),
            Err(TestError::Abort(why)) => failed(why.message(), None),
        }))
    }
}

/// As much of a text as somebody reads.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no text)")
        .to_owned()
}

/// `Ok` when it is so.
fn so(is_so: bool, why: impl FnOnce() -> String) -> Verdict {
    if is_so { Ok(()) } else { Err(why()) }
}
