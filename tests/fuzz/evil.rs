//! Input that is made on purpose to be expensive: deep, long, wide, and unfolding. Each reader ends in bounded time and memory.

use std::time::Duration;

use epu_core::input::TEXT_MAX;
use epu_tests::fuzz;
use rustix::time::{ClockId, clock_gettime};

use super::{ALONE, Counting};

/// The most memory that any input may take, in bytes, whatever it is; [`TEXT_MAX`] is the longest.
const MEMORY_MAX: usize = 512 << 20;
/// The most processor time that any may take, in milliseconds, in a build without optimisation.
const MILLIS_MAX: u128 = 20_000;

fn evil() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |name, text: String| all.push((name, text.into_bytes()));
    for (name, open) in [
        ("lists in lists", "["),
        ("mappings in mappings", "{\"a\":"),
        ("lists on lines", "- "),
        ("keys of keys", "? "),
        ("arguments in arguments", "{\"op\":"),
    ] {
        add(name, open.repeat(100_000));
    }
    add("lists in lists, closed", "[".repeat(100_000) + &"]".repeat(100_000));
    add(
        "mappings by indentation",
        (0..1_000).map(|depth| " ".repeat(depth) + "a:\n").collect(),
    );
    add("one long line", "x".repeat(TEXT_MAX));
    add("one long text", format!("a: \"{}\"", "x".repeat(TEXT_MAX - 10)));
    add("one long key", format!("{}: 1", "k".repeat(500_000)));
    add("a longer text than is read", "a: 1\n".repeat(TEXT_MAX / 5 + 1));
    add("a list of very many", format!("a: [{}1]", "1,".repeat(60_000)));
    add("a list of too many", format!("a: [{}1]", "1,".repeat(600_000)));
    add("very many keys", (0..20_000).map(|n| format!("k{n}: 1\n")).collect());
    add("the same key very often", "a: 1\n".repeat(20_000));
    add(
        "very many keys of a pool",
        format!(
            "pools:\n  web:\n{}",
            (0..10_000).map(|n| format!("    k{n}: 1\n")).collect::<String>()
        ),
    );
    add(
        "very many pools",
        format!("pools:\n{}", (0..3_000).map(|n| format!("  p{n}: 1\n")).collect::<String>()),
    );
    add(
        "very many bad names",
        format!("pools:\n{}", (0..3_000).map(|n| format!("  \"p {n}\": 1\n")).collect::<String>()),
    );
    add("very many lines", "\n".repeat(200_000));
    add("very many comments", "#\n".repeat(200_000));
    add("very many documents", "---\n".repeat(20_000));
    add("digits", format!("a: {}", "9".repeat(200_000)));
    add("digits behind the point", format!("a: 0.{}", "9".repeat(200_000)));
    add("a long length of time", format!("{{\"a\": \"{}\"}}", "1s ".repeat(50_000)));
    add(
        "a long span in a pool",
        format!("templates: {{w: {{run: [a], heartbeat: \"{}\"}}}}", "1s ".repeat(50_000)),
    );
    let long = "n".repeat(200_000);
    add(
        "long names",
        format!(
            "pools: {{w: {{template: \"{long}\", max: 1, engine: {{\"e\": {{sensor: \"{long}\"}}}}, placements: [{{site: \"{long}\"}}]}}}}"
        ),
    );
    add("a long operation", format!("{{\"op\": \"{long}\", \"args\": [1]}}"));
    add("blanks", " ".repeat(500_000));
    add("tabs", "\t".repeat(200_000));
    add("quotes", "\"".repeat(200_000));
    add("escapes", format!("a: \"{}\"", "\\u0041".repeat(40_000)));
    add("not UTF-8", "\u{fffd}".repeat(50_000));
    // Long keys around a long list: what stands where must not cost the keys again for each item.
    let keys: String = (0..50).map(|n| format!("{{{}{n:03}: ", "k".repeat(1_000))).collect();
    add(
        "a long list under long keys",
        format!("{keys}[{}1]{}", "1,".repeat(60_000), "}".repeat(50)),
    );
    // Aliases: of lists, of a long text, of themselves, in keys.
    let ten = |name: &str, of: &str| format!("{name}: &{name} [{}]\n", [of; 10].join(","));
    add(
        "aliases that unfold",
        ["a", "b", "c", "d", "e", "f", "g", "h"]
            .windows(2)
            .fold(ten("a", "x"), |text, pair| text + &ten(pair[1], &format!("*{}", pair[0]))),
    );
    add(
        "aliases of a long text",
        format!("a: &a \"{}\"\nb: [{}1]", "x".repeat(500_000), "*a,".repeat(40_000)),
    );
    add(
        "aliases of a list of long texts",
        format!(
            "a: &a [{}1]\nb: [{}1]",
            format!("{},", "x".repeat(1_000)).repeat(1_000),
            "*a,".repeat(45)
        ),
    );
    add("an alias of itself", "a: &a [*a]".to_owned());
    add("very many anchors", (0..20_000).map(|n| format!("- &a{n} x\n")).collect());
    add(
        "merged keys",
        format!(
            "a: &a {{{}}}\nb:\n{}",
            (0..1_000).map(|n| format!("k{n}: 1,")).collect::<String>(),
            "  <<: *a\n".repeat(100)
        ),
    );
    all
}

/// The processor time of this process so far.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// Every reader is given every evil input, whatever it was meant for.
#[test]
fn evil_input_ends_in_bounded_time_and_memory() {
    let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut wrong = Vec::new();
    let (mut hungriest, mut slowest) = ((0, String::new()), (0, String::new()));
    for (name, input) in evil() {
        for kind in fuzz::all() {
            let began = used();
            let unbounded = fuzz::Kind {
                allowance: fuzz::Allowance {
                    base: MEMORY_MAX,
                    per_byte: 0,
                    unfolding: 0,
                },
                ..*kind
            };
            let verdict = unbounded.judge(&input, &Counting::new());
            let took = used().saturating_sub(began);
            let what = format!("{name} for {}", kind.name);
            slowest = slowest.max((took.as_millis(), what.clone()));
            match verdict {
                Ok(most) => hungriest = hungriest.max((most, what.clone())),
                Err(why) => wrong.push(format!("{what}: {}", why.chars().take(500).collect::<String>())),
            }
            if took.as_millis() > MILLIS_MAX {
                wrong.push(format!("{what}: took {} ms", took.as_millis()));
            }
        }
    }
    drop(alone);
    let costly = format!("most memory: {hungriest:?} bytes; longest: {slowest:?} ms");
    assert!(hungriest.0 > 0, "nothing was measured");
    assert!(wrong.is_empty(), "{}\n{costly}", wrong.join("\n"));
}
