//! Growth with size as a picture: both axes grow by factors of ten, so that what grows in proportion rises and what does not lies flat.

use super::Size;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Room for the labels.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// The axes' ends: instances, and milliseconds.
const X: (f64, f64) = (10_000.0, 1_000_000.0);
const Y: (f64, f64) = (0.1, 100_000.0);

/// A line: its name, its colour, and what it shows of a size.
type Line = (&'static str, &'static str, fn(&Size) -> f64);

const LINES: [Line; 4] = [
    ("restart", "#7b3294", |size| size.restart_s * 1_000.0),
    ("longest second", "#bdb76b", |size| size.longest_ms),
    ("idle second", "#2166ac", |size| size.idle_ms),
    ("100 replaced", "#d6604d", |size| size.change_ms),
];

fn place(value: f64, (least, most): (f64, f64)) -> f64 {
    (value.max(least) / least).log10() / (most / least).log10()
}

fn x(instances: f64) -> f64 {
    LEFT + place(instances, X) * (WIDTH - LEFT - RIGHT)
}

fn y(milliseconds: f64) -> f64 {
    HEIGHT - BOTTOM - place(milliseconds, Y) * (HEIGHT - TOP - BOTTOM)
}

/// The picture as SVG.
pub(super) fn draw(sizes: &[Size]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Processor time by size of the installation</text>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        svg.push_str(&format!("{text}\n"));
    };
    for (at, text) in [
        (0.1, "0.1 ms"),
        (1.0, "1 ms"),
        (10.0, "10 ms"),
        (100.0, "0.1 s"),
        (1_000.0, "1 s"),
        (10_000.0, "10 s"),
    ] {
        let (y, right) = (y(at), WIDTH - RIGHT);
        line(format_args!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
        ));
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        ));
    }
    for (at, text) in [(10_000.0, "10,000"), (100_000.0, "100,000"), (1_000_000.0, "1,000,000")] {
        let (x, bottom) = (x(at), HEIGHT - BOTTOM);
        line(format_args!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
        ));
        line(format_args!(
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
            bottom + 18.0
        ));
    }
    line(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">instances, fifty to a pool</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    ));
    for (name, colour, of) in LINES {
        // A difference that is lost in the noise may come out below nothing, and has no point.
        let shown: Vec<(f64, f64)> = sizes
            .iter()
            .filter(|size| of(size) > 0.0)
            .map(|size| (x(f64::from(size.instances)), y(of(size))))
            .collect();
        let points: Vec<String> = shown.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        line(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        if let Some((x, y)) = shown.last() {
            line(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                x + 8.0,
                y + 4.0
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}
