//! Settings that are put beside those of the file.

use std::collections::BTreeMap;

use epu_controller::spec::{self, Known, Resolved};
use epu_core::pool::{Origin, Paused, Pool};
use epu_core::time::Timestamp;
use serde_json::Value;

use crate::cli;
use crate::exit::Failure;

/// Most that are compared at once. Above: nobody can read the table.
const MOST: usize = 20;

/// Settings with a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    /// The column's heading.
    pub name: String,
    /// What differs from the file.
    pub set: BTreeMap<String, Value>,
}

/// The file's own settings first, then those that were given.
///
/// # Errors
/// What is no setting.
pub(super) fn read(written: &[String]) -> Result<Vec<Variant>, Failure> {
    if written.len() > MOST {
        return Err(Failure::Usage(format!(
            "{} are to be compared, and {MOST} are the most",
            written.len()
        )));
    }
    let base = Variant {
        name: "base".to_owned(),
        set: BTreeMap::new(),
    };
    let mut all = vec![base];
    for text in written {
        let variant = one(text).map_err(|why| Failure::Usage(format!("--compare {text}: {why}")))?;
        if all.iter().any(|known| known.name == variant.name) {
            return Err(Failure::Usage(format!("--compare {text}: there are two named {:?}", variant.name)));
        }
        all.push(variant);
    }
    Ok(all)
}

fn one(text: &str) -> Result<Variant, String> {
    let named = text
        .split_once(':')
        .filter(|(name, _)| !name.contains(['=', ',']) && !name.trim().is_empty());
    let (name, settings) = named.map_or((text.trim(), text), |(name, settings)| (name.trim(), settings));
    let parts: Vec<(String, Value)> = parts(settings).into_iter().map(cli::setting).collect::<Result<_, _>>()?;
    if parts.is_empty() {
        return Err("there is no setting in it: write KEY=VALUE".to_owned());
    }
    Ok(Variant {
        name: name.to_owned(),
        set: cli::settings(&parts)?,
    })
}

/// The parts between commas that are in no bracket and no quotes.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut deep, mut quoted) = (Vec::new(), 0, 0_usize, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '[' | '{' | '(' if !quoted => deep += 1,
            ']' | '}' | ')' if !quoted => deep = deep.saturating_sub(1),
            ',' if deep == 0 && !quoted => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// A pool with a variant's settings, checked as `pool reconfigure` checks them.
///
/// # Errors
/// Every fault.
pub(super) fn applied(pool: &Resolved, variant: &Variant, known: &Known) -> Result<Resolved, Failure> {
    if variant.set.is_empty() {
        return Ok(pool.clone());
    }
    let record = Pool {
        name: pool.name.clone(),
        spec: pool.spec.clone(),
        template: pool.template.clone(),
        template_version: pool.template_version.clone(),
        origin: Origin::Operator,
        revision: 1,
        paused: Paused::default(),
        removed: false,
        added_at: Timestamp::START,
        refresh: None,
        previous: None,
        owner: None,
    };
    spec::patched(&record, &variant.set, None, known).map_err(|flaws| {
        let faults: Vec<String> = flaws.as_slice().iter().map(ToString::to_string).collect();
        Failure::Usage(format!("--compare {}: {}", variant.name, faults.join("\n  ")))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variants_have_names_and_settings() {
        let all = read(&[
            "max=3".to_owned(),
            "eager: limits.cooldown-down=0s, placements=[{site: a, max: 2}, {site: b}]".to_owned(),
        ])
        .unwrap();
        assert_eq!(
            all.iter().map(|variant| variant.name.as_str()).collect::<Vec<_>>(),
            ["base", "max=3", "eager"]
        );
        assert_eq!(all[1].set, BTreeMap::from([("max".to_owned(), json!(3))]));
        assert_eq!(all[2].set["placements"], json!([{"site": "a", "max": 2}, {"site": "b"}]));
        for wrong in [
            &["max"][..],
            &["eager:"],
            &[""],
            &["a: max=1", "a: max=2"],
            &["base: max=1"],
            &["max=1,max=2"],
        ] {
            let written: Vec<String> = wrong.iter().map(|text| (*text).to_owned()).collect();
            assert!(read(&written).is_err(), "{wrong:?}");
        }
    }
}
