//! `${NAME}` in a template's programs.
//!
//! A name stands for a variable of the instance's slot, of its template, or one of ours (`EPU_INSTANCE`, `EPU_POOL`, `EPU_SLOT`),
//! in that order from weakest: ours cannot be overridden. Values of the template may themselves name slot variables and ours. `$$`
//! is a plain `$`, so that `$${HOME}` reaches a shell as `${HOME}`; a `$` before anything else stays as it is.

use std::collections::BTreeMap;

use epu_core::instance::Instance;
use epu_core::pool::Template;

/// What an instance's programs are started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The run program and its arguments.
    pub run: Vec<String>,
    /// The set-up program and its arguments.
    pub set_up: Vec<String>,
    /// The environment of both.
    pub variables: BTreeMap<String, String>,
}

/// The template's programs for one instance.
///
/// # Errors
/// What cannot be put in, in words: the place and the name.
pub fn programs(template: &Template, instance: &Instance) -> Result<Programs, String> {
    let mut ours = BTreeMap::from([
        ("EPU_INSTANCE".to_owned(), instance.id.to_string()),
        ("EPU_POOL".to_owned(), instance.pool.to_string()),
    ]);
    if let Some(slot) = &instance.slot {
        ours.insert("EPU_SLOT".to_owned(), slot.to_string());
    }
    let mut basis = instance.variables.clone();
    basis.extend(ours.clone());
    let mut variables = BTreeMap::new();
    for (name, value) in &template.variables {
        variables.insert(name.clone(), fill(value, &basis).map_err(|why| format!("variable {name}: {why}"))?);
    }
    variables.extend(basis);
    let program = |what: &str, words: &[String]| -> Result<Vec<String>, String> {
        words
            .iter()
            .map(|word| fill(word, &variables).map_err(|why| format!("{what}: {why}")))
            .collect()
    };
    Ok(Programs {
        run: program("run", &template.run)?,
        set_up: program("set-up", &template.set_up)?,
        variables,
    })
}

fn fill(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(named) = rest.strip_prefix('{') {
            let (name, after) = named.split_once('}').ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
            let value = variables.get(name).ok_or_else(|| {
                format!("${{{name}}} is not a variable of the template or the slot (write $${{{name}}} to leave it as it is)")
            })?;
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        fill(
            text,
            &BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "${A}".to_owned())]),
        )
    }

    #[test]
    fn names_are_put_in_once() {
        assert_eq!(filled("x${A}y${B}").unwrap(), "x1y${A}");
        assert_eq!(filled("$A $${A} $$ $").unwrap(), "$A ${A} $ $");
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert!(filled("${C}").unwrap_err().contains("${C}"));
        assert!(filled("${A").unwrap_err().contains("without its }"));
    }
}
