//! Templates, as pools have them.

use super::{brief, count, harmless, lines, table};
use crate::commands::{Style, Version};

/// Versions, a line each.
#[must_use]
pub(crate) fn templates(versions: &[Version], style: Style) -> String {
    if versions.is_empty() {
        return "no pool launches anything, and no template is kept by itself\n".to_owned();
    }
    let is_kept = versions.iter().any(|version| version.kept.is_some());
    let mut columns = vec!["TEMPLATE", "VERSION", "LAUNCHED BY", "FORMERLY BY", "LIVE"];
    columns.extend(is_kept.then_some("ADDED BY"));
    let mut table = table(style, &columns);
    for version in versions {
        let mut row = vec![
            brief(&version.template),
            brief(&version.version),
            names(&version.pools),
            names(&version.before),
            count(version.live),
        ];
        row.extend(is_kept.then(|| version.kept.as_deref().map_or_else(|| "-".to_owned(), brief)));
        table.add_row(row);
    }
    lines(&table)
}

fn names(pools: &std::collections::BTreeSet<epu_core::PoolName>) -> String {
    let names: Vec<&str> = pools.iter().map(|pool| pool.as_str()).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        brief(&names.join(", "))
    }
}

/// One template, each of its versions with its content as it is written in a config file.
#[must_use]
pub(crate) fn template(versions: &[Version]) -> String {
    let mut parts = Vec::new();
    for version in versions {
        let mut text = format!("{}\n", brief(&version.version));
        let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
        fact("launched by", names(&version.pools));
        if !version.before.is_empty() {
            fact("formerly by", names(&version.before));
        }
        fact("live", count(version.live));
        if let Some(by) = &version.kept {
            fact("added by", brief(by));
        }
        match &version.content {
            Some(content) => {
                let yaml = serde_yaml::to_string(content).unwrap_or_default();
                fact("content", String::new());
                for line in harmless(&yaml).lines() {
                    text.push_str(&format!("    {line}\n"));
                }
            }
            None => fact("content", "no pool has it any more".to_owned()),
        }
        parts.push(text);
    }
    // No blanks at the ends of lines.
    let lines: Vec<String> = parts.join("\n").lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}
