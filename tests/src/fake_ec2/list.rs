//! DescribeInstances and DescribeInstanceStatus: filters, pages, and lists that are not what they should be.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::change::find;
use super::params::Params;
use super::refusal::{Outcome, Refusal};
use super::row::{self, Row, State};
use super::things::dry_run;
use super::world::{Asked, World};
use super::xml;

/// A filter: a name, and values of which one must match.
pub(super) struct Filter {
    pub(super) name: String,
    values: Vec<String>,
}

impl Filter {
    /// Source: "List and filter using the CLI and API", <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>: filters
    /// are joined by AND, values by OR; at most 50 filters and 200 values each; `*` and `?` are wildcards; values are case-sensitive.
    pub(super) fn all(params: &Params) -> Outcome<Vec<Self>> {
        let mut filters = Vec::new();
        for group in params.groups("Filter") {
            let name = group.required("Name")?.to_owned();
            let values: Vec<String> = group.list("Value").iter().map(|value| (*value).to_owned()).collect();
            if values.is_empty() {
                return Err(Refusal::value(format!("The filter '{name}' has no values")));
            }
            if values.len() > 200 || filters.len() >= 50 {
                return Err(Refusal::new(
                    "FilterLimitExceeded",
                    "The maximum number of filters or filter values was exceeded.",
                ));
            }
            filters.push(Self { name, values });
        }
        Ok(filters)
    }

    /// An unknown filter. Source: what EC2 is seen to say, with the code `InvalidParameterValue` of its error codes.
    pub(super) fn unknown(name: &str) -> Refusal {
        Refusal::value(format!("The filter '{name}' is invalid"))
    }

    /// Whether one of the values matches one of these.
    pub(super) fn takes<T: AsRef<str>>(&self, are: &[T]) -> bool {
        self.values.iter().any(|wanted| are.iter().any(|is| like(wanted, is.as_ref())))
    }

    /// Whether a machine passes it; none when it is not known.
    fn passes(&self, row: &Row, seen: State) -> Option<bool> {
        match self.name.strip_prefix("tag:") {
            Some(key) => Some(row.tags.get(key).is_some_and(|value| self.takes(&[value]))),
            None => row.field(&self.name, seen).map(|are| self.takes(&are)),
        }
    }
}

/// Whether a text is like a pattern with `*` and `?`.
fn like(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return pattern == text;
    }
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == '?' || *letter == text[t] => (p, t) = (p + 1, t + 1),
            Some(_) | None => match star {
                Some((at, from)) => {
                    (p, t) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == '*')
}

/// What a page holds.
struct Page {
    machines: Vec<(u64, State)>,
    next: Option<String>,
}

/// Source: "DescribeInstances", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>, MaxResults: between 5
/// and 1000; not together with instance ids. Pages count machines, not reservations, so a reservation may be spread over several.
fn page(world: &World, asked: &mut Asked<'_>, ids: &[&str], wanted: impl Fn(State) -> bool) -> Outcome<Page> {
    let params = asked.params;
    let filters = Filter::all(params)?;
    let limit = params.number("MaxResults")?;
    if !ids.is_empty() && (limit.is_some() || params.has("NextToken")) {
        return Err(Refusal::combination(
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    if let Some(limit) = limit.filter(|limit| !(5..=1_000).contains(limit)) {
        let bound = if limit < 5 { "greater than 5" } else { "less than 1000" };
        let message = format!("Value ( {limit} ) for parameter maxResults is invalid. Expecting a value {bound}.");
        return Err(Refusal::value(message));
    }
    let mark = mark(params);
    let from = params
        .get("NextToken")
        .map(|token| read_token(token, &mark))
        .transpose()?
        .unwrap_or(0);
    let candidates: Vec<u64> = if ids.is_empty() {
        let region = world.homes.get(asked.home);
        region.into_iter().flat_map(|region| region.listed.range(from..)).copied().collect()
    } else {
        find(world, asked, ids)?
    };
    if params.flag("DryRun")? {
        return Err(dry_run());
    }
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let stale = asked.trouble.stale.unwrap_or(Duration::ZERO);
    let mut found = Page {
        machines: Vec::new(),
        next: None,
    };
    for filter in &filters {
        let known = |row: &Row| filter.passes(row, State::Running).is_some();
        // Whether a filter is known must not depend on there being a machine to look at.
        if !filter.name.starts_with("tag:") && !FILTERS.contains(&filter.name.as_str()) {
            return Err(Filter::unknown(&filter.name));
        }
        debug_assert!(world.rows.values().next().is_none_or(known), "{} is known", filter.name);
    }
    for seq in candidates {
        let Some(row) = world.rows.get(&seq) else { continue };
        let seen = if stale.is_zero() {
            row.seen()
        } else {
            row.seen_at(asked.now - stale)
        };
        let Some(seen) = seen.filter(|seen| wanted(*seen)) else { continue };
        if !filters.iter().all(|filter| filter.passes(row, seen).unwrap_or(false)) {
            continue;
        }
        if asked
            .trouble
            .missing
            .is_some_and(|share| ids.is_empty() && asked.random.f64() < share)
        {
            continue;
        }
        if found.machines.len() == limit {
            found.next = Some(URL_SAFE_NO_PAD.encode(format!("{seq} {mark}")));
            break;
        }
        found.machines.push((seq, seen));
    }
    if ids.is_empty() && asked.trouble.short {
        found.machines.truncate(found.machines.len() / 2);
        found.next = None;
    }
    if ids.is_empty() && asked.trouble.empty {
        found.machines.clear();
        found.next = None;
    }
    Ok(found)
}

/// Names that [`Row::field`] knows.
const FILTERS: &[&str] = &[
    "tag-key",
    "instance-id",
    "instance-state-name",
    "instance-state-code",
    "client-token",
    "image-id",
    "instance-type",
    "instance-lifecycle",
    "availability-zone",
    "subnet-id",
    "vpc-id",
    "key-name",
    "launch-index",
    "reservation-id",
    "owner-id",
    "private-ip-address",
    "private-dns-name",
    "instance.group-id",
    "instance.group-name",
];

/// What a token belongs to: the same question. Source: "DescribeInstances", NextToken: pagination continues from the end of the items
/// returned by the previous request.
fn mark(params: &Params) -> String {
    let text: String = params.groups("Filter").iter().map(Params::canonical).collect();
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:x}", text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, mix))
}

/// Source: "Error codes for the Amazon EC2 API", `InvalidPaginationToken`.
fn read_token(token: &str, mark: &str) -> Outcome<u64> {
    let invalid = || Refusal::new("InvalidPaginationToken", "The specified pagination token is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    let (seq, of) = text.split_once(' ').ok_or_else(invalid)?;
    if of != mark {
        return Err(invalid());
    }
    seq.parse().map_err(|_| invalid())
}

pub(super) fn describe_instances(world: &mut World, asked: &mut Asked<'_>) -> Outcome<String> {
    let ids = asked.params.list("InstanceId");
    let mut page = page(world, asked, &ids, |_| true)?;
    // "The order of the elements in the response, including those within nested structures, might vary."
    if asked.random.bool() {
        page.machines.reverse();
    }
    let is_stale = asked.trouble.stale.is_some();
    Ok(xml::answer("DescribeInstances", asked.request, |xml| {
        xml.within("reservationSet", |xml| {
            let mut open: Option<String> = None;
            for (seq, seen) in &page.machines {
                let Some(row) = world.rows.get_mut(seq) else { continue };
                if open.as_deref() != Some(&row.reservation) {
                    if open.is_some() {
                        xml.close("instancesSet").close("item");
                    }
                    xml.open("item").leaf("reservationId", &row.reservation);
                    xml.leaf("ownerId", &row.home.account).empty("groupSet").open("instancesSet");
                    open = Some(row.reservation.clone());
                }
                if is_stale {
                    xml.0.push_str(&row.render(*seen));
                } else {
                    let text = match row.rendered.take() {
                        Some(text) => text,
                        None => row.render(*seen),
                    };
                    xml.0.push_str(&text);
                    row.rendered = Some(text);
                }
            }
            if open.is_some() {
                xml.close("instancesSet").close("item");
            }
        });
        if let Some(next) = &page.next {
            xml.leaf("nextToken", next);
        }
    }))
}

/// Source: "DescribeInstanceStatus", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html>: by default only
/// running machines; `initializing`, then `ok` or `impaired`.
pub(super) fn describe_instance_status(world: &mut World, asked: &mut Asked<'_>) -> Outcome<String> {
    let ids = asked.params.list("InstanceId");
    let every = asked.params.flag("IncludeAllInstances")?;
    let page = page(world, asked, &ids, |seen| every || seen == State::Running)?;
    let now = asked.now;
    Ok(xml::answer("DescribeInstanceStatus", asked.request, |xml| {
        xml.within("instanceStatusSet", |xml| {
            for (seq, seen) in &page.machines {
                let Some(row) = world.rows.get(seq) else { continue };
                xml.within("item", |xml| {
                    xml.leaf("instanceId", &row.id).leaf("availabilityZone", &row.spec.zone);
                    xml.within("instanceState", |xml| row::state(xml, *seen));
                    let passed = row.checked.is_some_and(|at| at <= now);
                    let (summary, detail) = match (*seen == State::Running, row.impaired, passed) {
                        (false, ..) => ("not-applicable", None),
                        (true, _, false) => ("initializing", Some("initializing")),
                        (true, true, true) => ("impaired", Some("failed")),
                        (true, false, true) => ("ok", Some("passed")),
                    };
                    for kind in ["systemStatus", "instanceStatus"] {
                        // A machine that is impaired is so by itself; what it stands on is fine.
                        let fine = kind == "systemStatus" && summary == "impaired";
                        xml.within(kind, |xml| {
                            xml.leaf("status", if fine { "ok" } else { summary });
                            if let Some(detail) = detail {
                                xml.within("details", |xml| {
                                    xml.within("item", |xml| {
                                        xml.leaf("name", "reachability");
                                        xml.leaf("status", if fine { "passed" } else { detail });
                                    });
                                });
                            }
                        });
                    }
                });
            }
        });
        if let Some(next) = &page.next {
            xml.leaf("nextToken", next);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn wildcards() {
        for (pattern, text) in [
            ("a*", "abc"),
            ("*c", "abc"),
            ("a?c", "abc"),
            ("*", ""),
            ("a*b*c", "axxbyyc"),
            ("abc", "abc"),
        ] {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a?", "abc"), ("b*", "abc"), ("ABC", "abc"), ("?", "")] {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
    }
}
