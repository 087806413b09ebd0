//! Every kind there is, its share, and how much memory its reader may take.

use super::{Allowance, Kind, config, dashi, envelope, heartbeats, machine, management, reconfigure, tokens, words};

/// JSON becomes a tree of 32 bytes a value, lists of which grow by doubling, and is written and read again to compare.
const JSON: Allowance = Allowance {
    base: 256 * 1024,
    per_byte: 250,
    unfolding: 0,
};
/// What aliases unfold to is bounded in number, and each may be as long as a key or more.
const UNFOLDING: usize = 128 * 1024 * 1024;
/// YAML is read with the place of everything in it, twice.
const YAML: Allowance = Allowance {
    base: 1024 * 1024,
    per_byte: 1_500,
    unfolding: UNFOLDING,
};
/// A schema is made and compiled each time, and a flaw may list what is known where it is.
const POOLS: Allowance = Allowance {
    base: 16 * 1024 * 1024,
    per_byte: 6_000,
    unfolding: UNFOLDING,
};
const TEXT: Allowance = Allowance {
    base: 256 * 1024,
    per_byte: 50,
    unfolding: 0,
};

/// Every kind. Shares follow what a case costs: those that check a schema are a thousand times dearer than those that read a line.
#[must_use]
pub fn all() -> &'static [Kind] {
    const fn kind(
        name: &'static str,
        share: u32,
        allowance: Allowance,
        words: &'static [&'static str],
        property: fn(&[u8]) -> super::Verdict,
    ) -> Kind {
        Kind {
            name,
            share,
            allowance,
            words,
            property,
        }
    }
    const ALL: &[Kind] = &[
        kind("requests", 200, JSON, envelope::WORDS, envelope::request),
        kind("answers", 100, JSON, envelope::WORDS, envelope::answer),
        kind("dashi", 100, JSON, dashi::WORDS, dashi::call),
        kind("heartbeats", 120, JSON, heartbeats::WORDS, heartbeats::heard),
        kind("management", 100, JSON, management::WORDS, management::answers),
        kind("notices", 80, JSON, machine::NOTICE_WORDS, machine::notices),
        kind("worker-files", 80, TEXT, machine::STATUS_WORDS, machine::files),
        kind("tokens", 80, TEXT, tokens::WORDS, tokens::shown),
        kind("words", 64, TEXT, words::WORDS, words::words),
        kind("yaml", 50, YAML, config::WORDS, config::yaml),
        kind("json", 20, YAML, envelope::WORDS, config::json),
        kind("pools", 4, POOLS, config::WORDS, config::pools),
        kind("reconfigure", 2, POOLS, reconfigure::WORDS, reconfigure::changes),
    ];
    ALL
}
