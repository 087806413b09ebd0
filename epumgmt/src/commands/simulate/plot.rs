//! The same as a picture: SVG 1.1, a panel for each variant and pool, without scripts, fonts or anything fetched.

use std::fmt::Write as _;

use epu_simulator::play::outcome::{Outcome, Point};

use super::run::Answer;

const WIDTH: f64 = 960.0;
/// A panel with its heading and axis.
const PANEL: f64 = 240.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
const HEAD: f64 = 30.0;

/// Colours that people of all kinds of sight tell apart (M. Okabe and K. Ito).
const DEMAND: &str = "#bbbbbb";
const SUPPLY: &str = "#0072b2";
const WAITING: &str = "#d55e00";

/// Draws it.
pub(super) fn draw(answer: &Answer) -> String {
    let panels: Vec<(&str, &Outcome, f64)> = answer
        .variants
        .iter()
        .flat_map(|column| {
            let of_pool = |outcome| (column.name.as_str(), outcome, column.played.measured_s);
            column.played.pools.iter().map(of_pool)
        })
        .collect();
    let height = HEAD + PANEL * panels.len().max(1) as f64;
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">"
        ),
    );
    put(
        &mut svg,
        format_args!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"),
    );
    let legend = [
        (DEMAND, "workers demanded"),
        (SUPPLY, "workers there"),
        (WAITING, "jobs waiting (right)"),
    ];
    for ((colour, name), x) in legend.into_iter().zip([LEFT, LEFT + 160.0, LEFT + 300.0]) {
        put(
            &mut svg,
            format_args!("<rect x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"),
        );
        put(&mut svg, format_args!("<text x=\"{}\" y=\"20\">{name}</text>", x + 18.0));
    }
    let mut top = HEAD;
    // All panels have the same scales, to be compared by eye.
    let highest = |of: fn(&Point) -> u64| {
        let all = panels.iter().flat_map(|(_, outcome, _)| outcome.series.iter().map(of));
        all.max().unwrap_or(0).max(1) as f64
    };
    let scales = (highest(|point| point.demand.max(point.supply)), highest(|point| point.waiting));
    for (name, outcome, measured) in panels {
        panel(&mut svg, top, name, outcome, measured, scales);
        top += PANEL;
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, name: &str, outcome: &Outcome, measured: f64, (workers, waiting): (f64, f64)) {
    let (width, height) = (WIDTH - LEFT - RIGHT, PANEL - TOP - BOTTOM);
    let (upper, lower) = (top + TOP, top + TOP + height);
    let heading = format!(
        "{} - {name}: mean wait {:.1} s, p95 {:.1} s, {:.1} worker-hours",
        outcome.pool, outcome.waits_s.mean, outcome.waits_s.p95, outcome.workers.hours
    );
    put(
        svg,
        format_args!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            upper - 10.0,
            escaped(&heading)
        ),
    );
    let x = |at: f64| LEFT + width * at / measured.max(1.0);
    let steps = |of: &dyn Fn(&Point) -> f64, highest: f64| {
        let mut path = String::new();
        let mut before: Option<f64> = None;
        for point in &outcome.series {
            let y = lower - height * of(point) / highest;
            let (x, first) = (x(point.at_s), before.is_none());
            if let Some(before) = before.filter(|before| *before != y) {
                put(&mut path, format_args!("L{x:.1} {before:.1}"));
            }
            if before != Some(y) {
                put(&mut path, format_args!("{}{x:.1} {y:.1}", if first { "M" } else { "L" }));
            }
            before = Some(y);
        }
        put(&mut path, format_args!("L{:.1} {:.1}", LEFT + width, before.unwrap_or(lower)));
        path.replace('\n', " ")
    };
    let demand = steps(&|point| point.demand as f64, workers);
    put(
        svg,
        format_args!(
            "<path d=\"{demand} L{:.1} {lower:.1} L{LEFT} {lower:.1} Z\" fill=\"{DEMAND}\" fill-opacity=\"0.6\"/>",
            LEFT + width
        ),
    );
    let queue = steps(&|point| point.waiting as f64, waiting);
    put(svg, format_args!("<path d=\"{queue}\" fill=\"none\" stroke=\"{WAITING}\"/>"));
    let supply = steps(&|point| point.supply as f64, workers);
    put(
        svg,
        format_args!("<path d=\"{supply}\" fill=\"none\" stroke=\"{SUPPLY}\" stroke-width=\"1.5\"/>"),
    );
    put(
        svg,
        format_args!("<rect x=\"{LEFT}\" y=\"{upper:.1}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#000000\"/>"),
    );
    let (left, right) = (LEFT - 6.0, LEFT + width + 6.0);
    put(
        svg,
        format_args!(
            "<text x=\"{left}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{SUPPLY}\">{workers}</text>",
            upper + 10.0
        ),
    );
    put(
        svg,
        format_args!("<text x=\"{left}\" y=\"{lower:.1}\" text-anchor=\"end\" fill=\"{SUPPLY}\">0</text>"),
    );
    put(
        svg,
        format_args!("<text x=\"{right}\" y=\"{:.1}\" fill=\"{WAITING}\">{waiting}</text>", upper + 10.0),
    );
    put(
        svg,
        format_args!("<text x=\"{right}\" y=\"{lower:.1}\" fill=\"{WAITING}\">0</text>"),
    );
    for quarter in 0..=4_u8 {
        let at = measured * f64::from(quarter) / 4.0;
        let label = if measured < 7_200.0 {
            format!("{:.0} min", at / 60.0)
        } else {
            format!("{:.1} h", at / 3_600.0)
        };
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                x(at),
                lower + 18.0
            ),
        );
    }
}

/// What would be taken for markup is not.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Writing to a text cannot fail.
fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(svg, "{what}").ok();
}
