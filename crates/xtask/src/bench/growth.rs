//! How time and memory grow with the work: bytes, files, steps, stages, each up to where a builder is seldom taken.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::builder::{Builder, Output};
use super::measure::Sample;
use super::plot;
use super::workload::{Bytes, once, path_of};
use crate::process::Result;
use crate::report::{heading, seconds, size};

/// ext4 looks at every inode that was deleted less than a minute ago before it takes a new one (`recently_deleted` in
/// fs/ext4/ialloc.c): right after a store had been deleted, the next build of 1,000 steps took 17 s instead of 9 s.
const SHUNNED: Duration = Duration::from_secs(61);

/// One kind of work in growing amounts.
#[derive(Debug)]
pub(super) struct Series {
    name: &'static str,
    amounts: &'static [usize],
    make: fn(&Path, usize) -> Result<()>,
}

static SERIES: [Series; 4] = [
    Series { name: "steps", amounts: &[10, 100, 1_000], make: steps },
    Series { name: "stages", amounts: &[2, 20, 200], make: stages },
    Series { name: "files", amounts: &[1_000, 10_000, 100_000, 1_000_000], make: files },
    Series { name: "megabytes", amounts: &[100, 1_000, 10_000], make: megabytes },
];

/// The series with these names, or all.
pub(super) fn chosen(names: Option<&[String]>) -> Result<Vec<&'static Series>> {
    let Some(names) = names else { return Ok(SERIES.iter().collect()) };
    let find = |name: &String| {
        let found = SERIES.iter().find(|series| series.name == *name);
        found.ok_or_else(|| {
            format!("nothing grows in `{name}`; there are steps, stages, files and megabytes").into()
        })
    };
    names.iter().map(find).collect()
}

/// A cold and a warm build of one amount.
#[derive(Debug)]
struct Point {
    amount: usize,
    cold: Sample,
    warm: Sample,
}

/// Builds every amount once into an archive, prints a table and draws the picture that was asked for.
pub(super) fn run(
    series: &[&Series],
    rbuild: &Builder<'_>,
    folder: &Path,
    picture: Option<&PathBuf>,
) -> Result<()> {
    let mut lines = Vec::new();
    for series in series {
        heading(&format!("Growth in {}", series.name));
        let mut points = Vec::new();
        for &amount in series.amounts {
            let context = folder.join(format!("growth-{}-{amount}", series.name));
            once(&context, |context| (series.make)(context, amount))?;
            let store = rbuild.new_store(series.name, amount)?;
            let build = || rbuild.build(&store, &context, Output::Archive);
            let point = Point { amount, cold: build()?, warm: build()? };
            println!("{}", row(&point));
            points.push(point);
            // The largest contexts are larger than what many disks have left for a second one.
            fs::remove_dir_all(&context)?;
            store.discard()?;
            sleep(SHUNNED);
        }
        lines.push((series.name, points));
    }
    heading("In all");
    println!("{}", table(&lines));
    if let Some(file) = picture {
        fs::write(file, svg(&lines))?;
    }
    Ok(())
}

fn row(point: &Point) -> String {
    let each = point.cold.wall.as_secs_f64() * 1e6 / point.amount as f64;
    let (cold, warm) = (seconds(point.cold.wall), seconds(point.warm.wall));
    format!(
        "{} | {cold} | {each:.0} µs | {warm} | {}",
        point.amount,
        size(point.cold.own.max(point.warm.own))
    )
}

fn table(lines: &[(&str, Vec<Point>)]) -> String {
    let mut text =
        "| what | how many | cold | each | warm | memory |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
    for (name, points) in lines {
        for point in points {
            let _ = writeln!(text, "| {name} | {} |", row(point));
        }
    }
    text
}

/// Cold times over amounts, both logarithmic: what grows in proportion is parallel to the grey line.
fn svg(lines: &[(&str, Vec<Point>)]) -> String {
    const SIDE: f64 = 420.0;
    let across = |amount: f64| 40.0 + amount.max(1.0).log10() / 6.0 * SIDE;
    let up = |time: f64| 20.0 + SIDE - (time.max(0.001).log10() + 3.0) / 6.0 * SIDE;
    let mut svg = plot::head(SIDE + 160.0, SIDE + 50.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
        across(1.0),
        up(0.001),
        across(1e6),
        up(1e3)
    );
    for power in 0..=6 {
        let (amount, time) = (10_f64.powi(power), 10_f64.powi(power - 3));
        let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"{}\">{amount}</text>", across(amount), SIDE + 36.0);
        let _ = writeln!(svg, "<text x=\"2\" y=\"{:.0}\">{time} s</text>", up(time));
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let at = |point: &Point| (across(point.amount as f64), up(point.cold.wall.as_secs_f64()));
        let path: Vec<String> = points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let colour = plot::COLOURS[index % plot::COLOURS.len()];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        if let Some((x, y)) = points.last().map(at) {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\">{name}</text>", x + 6.0);
        }
    }
    svg + "</svg>\n"
}

fn megabytes(context: &Path, amount: usize) -> Result<()> {
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY files /files\n")?;
    fs::create_dir(context.join("files"))?;
    let mut bytes = Bytes(11);
    for number in 0..amount / 10 {
        let content = [bytes.take(5_000_000, true), bytes.take(5_000_000, false)].concat();
        fs::write(context.join(format!("files/{number}")), content)?;
    }
    Ok(())
}

/// A hundred to a folder.
fn files(context: &Path, amount: usize) -> Result<()> {
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY files /files\n")?;
    let mut bytes = Bytes(12);
    for folder in 0..amount / 100 {
        let path = context.join("files").join(path_of(folder));
        fs::create_dir_all(&path)?;
        for number in 0..100 {
            fs::write(path.join(format!("file-{number}")), bytes.take(200, false))?;
        }
    }
    Ok(())
}

fn steps(context: &Path, amount: usize) -> Result<()> {
    let steps: String = (0..amount).map(|step| format!("RUN echo {step} > /f{step}\n")).collect();
    Ok(fs::write(context.join("Dockerfile"), format!("FROM busybox\n{steps}"))?)
}

fn stages(context: &Path, amount: usize) -> Result<()> {
    let stages = (0..amount).map(|stage| format!("FROM busybox AS s{stage}\nRUN echo {stage} > /f{stage}\n"));
    let copies = (0..amount).map(|stage| format!("COPY --from=s{stage} /f{stage} /\n"));
    let dockerfile = stages.chain(["FROM busybox\n".to_owned()]).chain(copies).collect::<String>();
    Ok(fs::write(context.join("Dockerfile"), dockerfile)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn proportional_growth_has_one_price_each() {
        let sample = |milliseconds| Sample {
            wall: Duration::from_millis(milliseconds),
            own: 5_000_000,
            ..Sample::default()
        };
        let point = |amount, time| Point { amount, cold: sample(time), warm: sample(1) };
        let lines = [("files", vec![point(10, 20), point(100, 200)])];
        let text = table(&lines);
        assert!(text.contains("| files | 10 | 0.020 s | 2000 µs | 0.001 s | 5.0 MB |"), "{text}");
        assert!(text.contains("| files | 100 | 0.200 s | 2000 µs |"), "{text}");
        assert!(svg(&lines).contains("<polyline points=\"110.0,"), "{}", svg(&lines));
    }

    #[test]
    fn amounts_are_kept() {
        let folder = std::env::temp_dir().join(format!("rbuild-growth-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        files(&folder, 300).unwrap();
        stages(&folder, 3).unwrap();
        let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let third = fs::read_dir(folder.join("files").join(path_of(2))).unwrap().count();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((dockerfile.matches("FROM busybox").count(), third), (4, 100));
    }
}
