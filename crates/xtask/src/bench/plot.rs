//! The medians as a picture: a bar for each builder, on a logarithmic axis of seconds.

use std::fmt::Write as _;

use super::table::Table;
use crate::report::seconds;

pub(super) const COLOURS: [&str; 4] = ["#d9663d", "#5b8def", "#4c9f70", "#8e6bbf"];
/// Left of the axis: what was done.
const MARGIN: f64 = 90.0;
const WIDTH: f64 = 620.0;
const BAR: f64 = 12.0;
/// Between two kinds of work.
const GAP: f64 = 8.0;
/// The shortest time that is told apart, in seconds.
const LEAST: f64 = 0.01;

/// The whole picture as SVG.
pub(super) fn svg(table: &Table) -> String {
    let rows: Vec<_> = table.medians().collect();
    let group = BAR * table.builders().len() as f64 + GAP;
    let height = 40.0 + group * rows.len() as f64;
    let times = rows.iter().flat_map(|(_, medians)| medians.iter().flatten());
    let longest = times.map(|sample| sample.wall.as_secs_f64()).fold(1.0, f64::max);
    let across = |time: f64| WIDTH * (time.max(LEAST) / LEAST).log10() / (longest / LEAST).log10();

    let mut svg = head(MARGIN + WIDTH + 60.0, height);
    for (index, builder) in table.builders().iter().enumerate() {
        let x = MARGIN + 110.0 * index as f64;
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"4\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"13\">{builder}</text>",
            x + 14.0
        );
    }
    let mut tick = LEAST;
    while tick <= longest {
        let x = MARGIN + across(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"30\" y2=\"{height}\"/><text x=\"{x:.1}\" y=\"27\">{tick} s</text>"
        );
        tick *= 10.0;
    }
    for (row, (work, medians)) in rows.iter().enumerate() {
        let top = 36.0 + group * row as f64;
        let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">{work}</text>", top + group / 2.0);
        for (index, sample) in medians.iter().enumerate() {
            let Some(sample) = sample else { continue };
            let (y, width) = (top + BAR * index as f64, across(sample.wall.as_secs_f64()).max(1.0));
            let _ = writeln!(
                svg,
                "<rect x=\"{MARGIN}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                BAR - 2.0,
                COLOURS[index % COLOURS.len()],
                MARGIN + width + 4.0,
                y + BAR - 3.0,
                seconds(sample.wall)
            );
        }
    }
    svg + "</svg>\n"
}

/// The beginning of a picture; its grey is legible on light and dark grounds.
pub(super) fn head(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <style>text {{ fill: #777; }} line {{ stroke: #7775; }}</style>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measure::Sample;
    use super::*;

    #[test]
    fn ten_times_the_time_is_one_step_to_the_right() {
        let mut table = Table::new(vec!["rbuild", "other"]);
        for (builder, milliseconds) in [("rbuild", 100), ("other", 10_000)] {
            let wall = Duration::from_millis(milliseconds);
            table.add("W2", "cold", builder, Sample { wall, ..Sample::default() });
        }
        let svg = svg(&table);
        // 10 ms is the left end, 10 s the right: three decades, of which ours is one.
        assert!(svg.contains(&format!("width=\"{:.1}\"", WIDTH / 3.0)), "{svg}");
        assert!(svg.contains(&format!("width=\"{WIDTH:.1}\"")), "{svg}");
        assert!(svg.contains(">other</text>") && svg.contains(">W2 cold</text>"), "{svg}");
    }
}
