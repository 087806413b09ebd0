//! Sites: what is happening on each, what a check of one found, and what the sweep makes of what is there.

use comfy_table::{Cell, Color};
use epu_core::Timestamp;
use epu_core::request::{FindingVerdict, SiteOrigin, SiteReport, SiteStatus, SweepVerdict, SweepView};

use super::{age, brief, count, harmless, lines, table};
use crate::commands::Style;

/// Sites, a line each.
#[must_use]
pub(crate) fn sites(sites: &[SiteStatus], now: Timestamp, style: Style) -> String {
    let has_account = sites.iter().any(|site| site.account.is_some());
    let is_paced = sites.iter().any(|site| !site.pace.is_empty() || site.waiting > 0);
    let mut columns = vec!["SITE", "DRIVER"];
    columns.extend(has_account.then_some("ACCOUNT"));
    columns.extend(["LIVE", "LISTED"]);
    columns.extend(is_paced.then_some("WAITING"));
    let is_written = sites.iter().any(|site| site.origin.is_some());
    columns.extend(is_written.then_some("FROM"));
    columns.push("FAULT");
    let mut table = table(style, &columns);
    for site in sites {
        let listed = site
            .listed_at
            .map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(now.since(at))));
        let fault = site.fault.as_ref().map_or_else(String::new, |fault| brief(&fault.to_string()));
        let mut row = vec![Cell::new(&site.site), Cell::new(&site.driver)];
        if has_account {
            row.push(Cell::new(site.account.as_deref().map_or_else(|| "-".to_owned(), brief)));
        }
        row.extend([Cell::new(count(site.live)), Cell::new(listed)]);
        if is_paced {
            row.push(Cell::new(waiting(site)).fg(Color::Yellow));
        }
        if is_written {
            row.push(Cell::new(site.origin.as_ref().map_or_else(|| "-".to_owned(), origin)));
        }
        row.push(Cell::new(fault).fg(Color::Red));
        table.add_row(row);
    }
    lines(&table)
}

/// Where it is written.
fn origin(origin: &SiteOrigin) -> String {
    match origin {
        SiteOrigin::File { line: 0, .. } => "default".to_owned(),
        SiteOrigin::File { path, line } => {
            let file = path.rsplit('/').next().unwrap_or(path);
            format!("{}:{line}", brief(file))
        }
        SiteOrigin::Record { by, owner: None } => brief(by),
        SiteOrigin::Record { by, owner: Some(owner) } => format!("{} for {}", brief(by), brief(owner)),
    }
}

/// How many launches and which calls wait for their turn.
fn waiting(site: &SiteStatus) -> String {
    let launches = (site.waiting > 0).then(|| format!("{} launches", site.waiting));
    let calls = site.pace.iter().filter(|bucket| bucket.waiting > 0);
    let calls = calls.map(|bucket| format!("{} {}", bucket.waiting, brief(&bucket.what)));
    let waiting: Vec<String> = launches.into_iter().chain(calls).collect();
    if waiting.is_empty() { "-".to_owned() } else { waiting.join(", ") }
}

/// What a check found, a line a thing that was tried, and below each what was seen.
#[must_use]
pub(crate) fn site_report(report: &SiteReport, style: Style) -> String {
    let mut text = format!("site {}, driver {}\n", report.site, brief(&report.driver));
    let width = report
        .findings
        .iter()
        .map(|finding| brief(&finding.what).chars().count())
        .max()
        .unwrap_or(0);
    for finding in &report.findings {
        let (mark, colour) = match finding.verdict {
            FindingVerdict::Good => ("good", "\x1b[32m"),
            FindingVerdict::Unknown => ("unknown", "\x1b[33m"),
            FindingVerdict::Doubtful => ("doubtful", "\x1b[33m"),
            FindingVerdict::Bad => ("BAD", "\x1b[1;31m"),
        };
        let (colour, plain) = if style.colour { (colour, "\x1b[0m") } else { ("", "") };
        let what = brief(&finding.what);
        let said = harmless(&finding.text).replace('\n', &format!("\n  {:10}{:width$}  ", "", ""));
        let line = format!("  {colour}{mark:<10}{plain}{what:<width$}  {said}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let of = |verdict| report.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (bad, doubtful, unknown) = (of(FindingVerdict::Bad), of(FindingVerdict::Doubtful), of(FindingVerdict::Unknown));
    text.push_str(&match (bad, doubtful, unknown) {
        (0, 0, 0) => "all is well\n".to_owned(),
        (0, 0, _) => "nothing is known to be wrong\n".to_owned(),
        (0, _, _) => "launching works, and not all is as it should be\n".to_owned(),
        _ => "launching will fail until what is BAD is mended\n".to_owned(),
    });
    text
}

/// What the sweep makes of each machine that no record explains, and what keeps it from looking.
#[must_use]
pub(crate) fn sweep(view: &SweepView, style: Style) -> String {
    let mut text = String::new();
    if view.machines.is_empty() {
        text.push_str("every machine with our tags is explained by a record\n");
    } else {
        let mut table = table(style, &["SITE", "MACHINE", "LAUNCH", "INDEX", "SEEN FOR", "WOULD", "IN", "WHY"]);
        for stray in &view.machines {
            let verdict = match stray.verdict {
                SweepVerdict::Adopt => Cell::new("take it in").fg(Color::Green),
                SweepVerdict::Terminate => Cell::new("end it").fg(Color::Red),
                SweepVerdict::Wait => Cell::new("look again").fg(Color::Yellow),
                SweepVerdict::Leave => Cell::new("leave it"),
            };
            table.add_row(vec![
                Cell::new(&stray.site),
                Cell::new(brief(&stray.machine)),
                Cell::new(stray.launch.map_or_else(|| "-".to_owned(), |launch| launch.to_string())),
                Cell::new(stray.index.map_or_else(|| "-".to_owned(), |index| index.to_string())),
                Cell::new(age(view.now.since(stray.first_seen))),
                verdict,
                Cell::new(match stray.at {
                    Some(at) if at > view.now => age(at.since(view.now)),
                    Some(_) => "now".to_owned(),
                    None => "-".to_owned(),
                }),
                Cell::new(brief(&stray.why)),
            ]);
        }
        text.push_str(&lines(&table));
    }
    for site in &view.sites {
        let listed = site.listed_at.map_or_else(
            || "was never listed whole".to_owned(),
            |at| format!("was listed {} ago", age(view.now.since(at))),
        );
        match &site.fault {
            Some(fault) => text.push_str(&format!("site {} {listed}: {}\n", site.site, brief(&fault.to_string()))),
            None if site.listed_at.is_none() => text.push_str(&format!("site {} {listed}\n", site.site)),
            None => {}
        }
    }
    text
}
