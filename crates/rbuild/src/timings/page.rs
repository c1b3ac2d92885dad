//! The page: bars on a time axis as SVG, what the machine did below, and the figures as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::usage::Sample;
use super::{Bar, Kind};

const STYLE: &str = include_str!("page.css");
/// Width of the time axis, in the picture's units.
const WIDTH: f64 = 1000.0;
/// Height of a row of the picture.
const ROW: f64 = 20.0;
/// Height of a graph of the machine's use.
const GRAPH: f64 = 70.0;
/// Characters of a name in the picture; the whole name is its tooltip.
const NAME: usize = 90;

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Pull => "pull",
            Kind::Key => "key",
            Kind::Wait => "wait",
            Kind::Run => "run",
            Kind::Copy => "copy",
            Kind::Pack => "pack",
            Kind::Export => "export",
            Kind::Push => "push",
            Kind::Cached => "cached",
            Kind::Other => "other",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Kind::Pull => "asking for, fetching and unpacking base images",
            Kind::Key => "reading what a cache key depends on",
            Kind::Wait => "a stage waits for another",
            Kind::Run => "RUN",
            Kind::Copy => "COPY, ADD, WORKDIR",
            Kind::Pack => "digesting and compressing layers, beside the steps",
            Kind::Export => "writing images out",
            Kind::Push => "sending to a registry",
            Kind::Cached => "from the cache",
            Kind::Other => "everything else",
        }
    }
}

/// The whole document. `bars` are in order of their start.
pub(super) fn render(title: &str, took: Duration, bars: &[Bar], samples: &[Sample]) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>rbuild timings: {title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"total\">{} in all, {} on the critical \
         path (outlined)</p>\n{}{}{}{}</body>\n</html>\n",
        seconds(took),
        seconds(bars.iter().filter(|bar| bar.critical).map(|bar| bar.end - bar.start).sum()),
        legend(bars),
        chart(took, bars),
        graphs(took, samples),
        table(bars),
    )
}

/// The kinds that occur, with their time altogether.
fn legend(bars: &[Bar]) -> String {
    let mut sums: BTreeMap<Kind, Duration> = BTreeMap::new();
    for bar in bars {
        *sums.entry(bar.kind).or_default() += bar.end - bar.start;
    }
    let entry = |(kind, sum): (&Kind, &Duration)| {
        format!(
            "<li><i class=\"{}\"></i><b>{}</b> {} <small>{}</small></li>\n",
            kind.word(),
            kind.word(),
            seconds(*sum),
            kind.meaning()
        )
    };
    format!("<ul class=\"legend\">\n{}</ul>\n", sums.iter().map(entry).collect::<String>())
}

fn chart(took: Duration, bars: &[Bar]) -> String {
    let height = ROW * (bars.len() as f64 + 1.5);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"steps over time\">\n");
    axis(&mut svg, took, height);
    for (row, bar) in bars.iter().enumerate() {
        let (x, y) = (across(bar.start, took), ROW * (row as f64 + 1.5));
        let width = (across(bar.end, took) - x).max(1.0);
        let classes =
            [Some(bar.kind.word()), bar.critical.then_some("critical"), bar.failed.then_some("failed")];
        let classes = classes.into_iter().flatten().collect::<Vec<_>>().join(" ");
        // A name is written where there is room: after its bar, or before one that ends late.
        let (anchor, at) =
            if x + width < WIDTH * 0.55 { ("start", x + width + 5.0) } else { ("end", x - 5.0) };
        let (anchor, at) =
            if at < WIDTH * 0.25 && anchor == "end" { ("start", x + 5.0) } else { (anchor, at) };
        let name = escape(&bar.name);
        let _ = writeln!(
            svg,
            "<g><title>{name}\n{}: {} from {}</title><rect class=\"{classes}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
             height=\"{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} <tspan>{}</tspan></text></g>",
            bar.kind.word(),
            seconds(bar.end - bar.start),
            seconds(bar.start),
            y + 3.0,
            ROW - 6.0,
            y + 14.0,
            escape(&shortened(&bar.name)),
            seconds(bar.end - bar.start),
        );
    }
    svg + "</svg>\n"
}

/// Lines at round times.
fn axis(svg: &mut String, took: Duration, height: f64) {
    let step = round_step(took.as_secs_f64() / 8.0);
    let mut at = 0.0;
    while at <= took.as_secs_f64() {
        let x = across(Duration::from_secs_f64(at), took);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{ROW}\" y2=\"{height}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"14\">{}</text>",
            seconds(Duration::from_secs_f64(at))
        );
        at += step;
    }
}

/// The next of 1, 2, 5, 10 … upwards, of a millisecond at least.
fn round_step(wanted: f64) -> f64 {
    let mut power = 0.001;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if power * factor >= wanted {
                return power * factor;
            }
        }
        power *= 10.0;
    }
}

fn graphs(took: Duration, samples: &[Sample]) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let disk = samples.iter().map(|sample| sample.disk).fold(1e6, f64::max);
    let of_cores = graph(took, samples, |sample| sample.cores / cores);
    let of_disk = graph(took, samples, |sample| sample.disk / disk);
    format!(
        "<h2>The machine meanwhile</h2>\n<p>Cores in use, of {cores}</p>\n{of_cores}\
         <p>Disk, read and written, up to {:.0} MB/s</p>\n{of_disk}",
        disk / 1e6
    )
}

/// An area under the samples; `part` is between 0 and 1.
fn graph(took: Duration, samples: &[Sample], part: impl Fn(&Sample) -> f64) -> String {
    let mut path = format!("M0,{GRAPH}");
    let mut before = 0.0;
    for sample in samples {
        let (x, y) = (across(sample.at, took), GRAPH * (1.0 - part(sample).clamp(0.0, 1.0)));
        let _ = write!(path, " L{before:.1},{y:.1} L{x:.1},{y:.1}");
        before = x;
    }
    format!(
        "<svg class=\"graph\" viewBox=\"0 0 {WIDTH} {GRAPH}\" preserveAspectRatio=\"none\"><path d=\"{path} L{before:.1},{GRAPH} Z\"/></svg>\n"
    )
}

fn table(bars: &[Bar]) -> String {
    let mut rows: Vec<&Bar> = bars.iter().collect();
    rows.sort_by_key(|bar| std::cmp::Reverse(bar.end - bar.start));
    let row = |bar: &&Bar| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            seconds(bar.end - bar.start),
            seconds(bar.start),
            bar.kind.word(),
            if bar.critical { "critical" } else { "" },
            escape(&bar.name)
        )
    };
    format!(
        "<h2>Longest first</h2>\n<table>\n<tr><th>took</th><th>from</th><th>kind</th><th></th><th>what</th></tr>\n{}</table>\n",
        rows.iter().map(row).collect::<String>()
    )
}

fn across(at: Duration, took: Duration) -> f64 {
    (at.as_secs_f64() / took.as_secs_f64().max(0.001)).min(1.0) * WIDTH
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 0.1 => format!("{:.0} ms", short * 1000.0),
        short if short < 10.0 => format!("{short:.2} s"),
        long => format!("{long:.1} s"),
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Text for HTML; control characters other than line ends would make it none.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> String {
        let (start, end) = (Duration::from_millis(100), Duration::from_millis(1600));
        let bar = Bar { name: name.to_owned(), kind: Kind::Run, start, end, failed: false, critical: true };
        let sample = Sample { at: end, cores: 1.0, disk: 5e6 };
        render("app", Duration::from_secs(2), &[bar], &[sample])
    }

    #[test]
    fn a_bar_lies_where_its_time_is() {
        let page = page("[1/1] RUN make");
        assert!(page.contains("class=\"run critical\" x=\"50.0\""), "{page}");
        assert!(page.contains("width=\"750.0\""), "{page}");
        assert!(page.contains("2.00 s in all, 1.50 s on the critical path"), "{page}");
    }

    #[test]
    fn names_cannot_become_markup() {
        let page = page("RUN echo '</title><script>alert(1)</script>' \"&\" \u{1b}[1m");
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains('\u{1b}'), "{page}");
        assert!(page.contains("&lt;script&gt;"), "{page}");
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = page("RUN true");
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("href="), "{page}");
    }

    #[test]
    fn steps_of_the_axis_are_round() {
        assert_eq!(round_step(0.0), 0.001);
        assert_eq!(round_step(0.3), 0.5);
        assert_eq!(round_step(7.0).round(), 10.0);
    }
}
