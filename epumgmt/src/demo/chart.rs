//! Workers and queue over time, as a picture in the terminal.

use std::time::Duration;

/// How many columns the picture has.
pub(crate) const WIDTH: usize = 72;
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What was seen at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Since the beginning.
    pub(crate) at: Duration,
    /// Jobs that wait or are being done.
    pub(crate) queue: usize,
    /// Workers that run.
    pub(crate) workers: usize,
}

/// A moment with a letter.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// When.
    pub(crate) at: Duration,
    /// The letter under the picture.
    pub(crate) letter: char,
    /// What it stands for.
    pub(crate) meaning: &'static str,
}

/// Draws it.
pub(crate) fn draw(samples: &[Sample], marks: &[Mark]) -> String {
    let end = samples
        .last()
        .map_or(Duration::from_secs(1), |s| s.at)
        .max(Duration::from_millis(1));
    let column = |at: Duration| {
        ((at.as_secs_f64() / end.as_secs_f64()) * (WIDTH - 1) as f64)
            .round()
            .clamp(0.0, (WIDTH - 1) as f64)
    };
    let mut queue = [0_usize; WIDTH];
    let mut workers = [0_usize; WIDTH];
    let mut known = [false; WIDTH];
    for sample in samples {
        let at = index(column(sample.at));
        queue[at] = queue[at].max(sample.queue);
        workers[at] = if known[at] {
            workers[at].max(sample.workers)
        } else {
            sample.workers
        };
        known[at] = true;
    }
    for at in 1..WIDTH {
        if !known[at] {
            (queue[at], workers[at]) = (queue[at - 1], workers[at - 1]);
        }
    }
    let mut picture = String::new();
    graph(&mut picture, "queue", &queue, 5);
    graph(&mut picture, "workers", &workers, 3);
    let mut letters = [' '; WIDTH];
    for mark in marks {
        let mut at = index(column(mark.at));
        while letters[at] != ' ' && at + 1 < WIDTH {
            at += 1;
        }
        letters[at] = mark.letter;
    }
    picture.push_str(&format!("{:>9}  {}\n", "", letters.iter().collect::<String>().trim_end()));
    picture.push_str(&format!("{:>9}  0 s{:>width$.0} s\n", "", end.as_secs_f64(), width = WIDTH - 5));
    let legend: Vec<String> = marks.iter().map(|m| format!("{} {}", m.letter, m.meaning)).collect();
    picture.push_str(&format!("{:>9}  {}\n", "", legend.join("   ")));
    picture
}

/// One row of values as bars, so many lines high.
pub(crate) fn graph(picture: &mut String, name: &str, values: &[usize; WIDTH], rows: usize) {
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    for row in (0..rows).rev() {
        let label = if row + 1 == rows { format!("{name} {top}") } else { String::new() };
        let line: String = values
            .iter()
            .map(|value| EIGHTHS[(value * rows * 8).div_ceil(top).saturating_sub(row * 8).min(8)])
            .collect();
        picture.push_str(&format!("{label:>10} {line}\n"));
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the width")]
fn index(column: f64) -> usize {
    column as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_the_highest_and_the_marks() {
        let at = |s| Duration::from_secs(s);
        let samples = [(0, 0, 1), (5, 40, 3), (10, 0, 1)].map(|(s, queue, workers)| Sample { at: at(s), queue, workers });
        let picture = draw(
            &samples,
            &[Mark {
                at: at(5),
                letter: 'K',
                meaning: "killed",
            }],
        );
        assert!(
            picture.contains("queue 40") && picture.contains("workers 3") && picture.contains("K killed"),
            "{picture}"
        );
        assert!(picture.lines().all(|line| line.chars().count() <= 90));
    }
}
