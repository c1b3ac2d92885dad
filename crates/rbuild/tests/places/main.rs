//! The same builds in every place that rbuild promises to work in, made for real: accounts with and without subordinate
//! ids, and containers as Docker and Kubernetes start them. What comes out must be what root builds on the host.
//!
//! Needs root, `runc`, `busybox-static` and `uidmap`; what can't run says so. `testdata/places` holds the builds. The table of
//! results is printed, and must be the one in `crates/executor/README.md`.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a test harness speaks to its user")]

mod base;
mod container;
mod fixture;
mod guards;
mod image;
mod places;
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::fixture::{Case, Fixture};
use crate::image::Image;
use crate::places::{PLACES, Place, Promise};
use crate::table::{Cell, Table};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match missing() {
        Some(what) => {
            eprintln!("\nSKIP every place: {what}\n");
            return libtest_mimic::run(&arguments, Vec::new()).exit_code();
        }
        None if arguments.list => trials(&Arc::default(), None),
        None => {
            let fixture = Arc::new(Fixture::new());
            let reference = Reference::build(&fixture);
            let table = Arc::new(Mutex::new(Table::new(&fixture.cases)));
            let conclusion =
                libtest_mimic::run(&arguments, trials(&table, Some((&fixture, &Arc::new(reference)))));
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            println!("\n{table}");
            return match table.differs_from_readme() {
                Some(why) if !conclusion.has_failed() => {
                    eprintln!("\ncrates/executor/README.md: {why}\n");
                    ExitCode::FAILURE
                }
                _ => conclusion.exit_code(),
            };
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What this machine lacks for any of it.
fn missing() -> Option<&'static str> {
    let has =
        |program: &str| ["/usr/bin", "/bin", "/usr/sbin"].iter().any(|d| Path::new(d).join(program).exists());
    if !rustix::process::geteuid().is_root() {
        return Some("only root can make them");
    }
    [
        ("runc", "no runc (`apt-get install runc`)"),
        ("busybox", "no static busybox (`apt-get install busybox-static`)"),
        ("newuidmap", "no newuidmap (`apt-get install uidmap`)"),
        ("setpriv", "no setpriv (`apt-get install util-linux`)"),
    ]
    .into_iter()
    .find_map(|(program, what)| (!has(program)).then_some(what))
}

fn trials(table: &Arc<Mutex<Table>>, ready: Option<(&Arc<Fixture>, &Arc<Reference>)>) -> Vec<Trial> {
    let fixture = ready.map(|(fixture, _)| fixture.clone());
    let guards = Trial::test("guards", move || fixture.map_or(Ok(()), |fixture| guards::hold(&fixture)));
    PLACES
        .iter()
        .map(|place| {
            let table = table.clone();
            let ready = ready.map(|(fixture, reference)| (fixture.clone(), reference.clone()));
            Trial::test(place.name, move || match ready {
                Some((fixture, reference)) => try_out(place, &fixture, &reference, &table),
                None => Ok(()),
            })
        })
        .chain([guards])
        .collect()
}

/// What root builds on the host.
struct Reference(Vec<(Case, Image)>);

impl Reference {
    fn build(fixture: &Fixture) -> Reference {
        let out = fixture.run(&places::HOST_ROOT).expect("builds of root on the host");
        let images = fixture.cases.iter().map(|case| {
            let image = Image::read(&out.join(format!("{}.tar", case.name)));
            (case.clone(), image.unwrap_or_else(|| panic!("{}: {}", case.name, log(&out, case))))
        });
        Reference(images.collect())
    }
}

/// Builds everything in one place and compares.
fn try_out(
    place: &'static Place,
    fixture: &Fixture,
    reference: &Reference,
    table: &Mutex<Table>,
) -> Result<(), Failed> {
    let out = match fixture.run(place) {
        Ok(out) => out,
        Err(why) => {
            eprintln!("\nSKIP {}: {why}\n", place.name);
            return Ok(());
        }
    };
    let mut faults = Vec::new();
    for (case, expected) in &reference.0 {
        let outcome = outcome(place, &out, case, expected);
        let known = place.exceptions.iter().find(|(name, _)| *name == case.name);
        let cell = match (&outcome, known) {
            (Ok(cell), None) => *cell,
            (Ok(_), Some((_, why))) => {
                faults
                    .push(format!("{}: is as it should be, though listed as an exception: {why}", case.name));
                Cell::Same
            }
            (Err(_), Some(_)) => Cell::Exception,
            (Err(why), None) => {
                faults.push(format!("{}: {why}", case.name));
                Cell::Wrong
            }
        };
        table.lock().unwrap_or_else(PoisonError::into_inner).set(&case.name, place, cell);
    }
    if let Err(why) = place.check_doctor(&std::fs::read_to_string(out.join("doctor")).unwrap_or_default()) {
        faults.push(why);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n\n").into()) }
}

/// Whether a build ended as its place promises.
fn outcome(place: &Place, out: &Path, case: &Case, expected: &Image) -> Result<Cell, String> {
    let code = std::fs::read_to_string(out.join(format!("{}.code", case.name))).unwrap_or_default();
    let refused = place.promise == Promise::NoRun && case.runs;
    match (code.trim(), refused) {
        ("3", true) if log(out, case).contains(place.refusal) => Ok(Cell::Refused),
        ("0", false) => {
            let image = Image::read(&out.join(format!("{}.tar", case.name)));
            let differences = expected.differences(&image.ok_or("no image")?);
            if differences.is_empty() { Ok(Cell::Same) } else { Err(differences) }
        }
        (code, _) => Err(format!("exit code {code}\n{}", log(out, case))),
    }
}

fn log(out: &Path, case: &Case) -> String {
    let text = std::fs::read_to_string(out.join(format!("{}.log", case.name))).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
