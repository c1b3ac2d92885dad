//! Real namespaces, as root and as an ordinary user: the harness enters before any thread and then runs its tests side by side.
//!
//! Started by root it runs everything three times: as it is, as the account `ci` (or `EXECUTOR_TEST_USER`), which needs
//! subordinate ids, and as a number that has none. What can't run says so.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a test harness speaks to its user")]

mod attacks;
mod company;
mod denied;
mod fixture;
mod isolation;
mod keys;
mod lifetime;
mod limits;
mod mounts;
mod process;
mod raw;
mod supervised;
mod trees;

use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use rbuild_executor::{Isolation, PlaceKind, enter};

/// Set for the processes that the harness starts.
pub(crate) const ROLE: &str = "EXECUTOR_TEST_ROLE";

fn main() -> ExitCode {
    let role = std::env::var(ROLE).unwrap_or_default();
    if std::env::args().any(|word| word == "--deny") {
        return raw::denied();
    }
    match role.as_str() {
        "place" => denied::print_place(),
        "victim" => lifetime::victim(),
        "attacker" => attacks::attacker(),
        "timing" => process::timing(),
        "" if rustix::process::geteuid().is_root() => as_root_and_as_user(),
        _ => here(),
    }
}

fn as_root_and_as_user() -> ExitCode {
    let program = std::env::current_exe().expect("own path");
    let user = std::env::var("EXECUTOR_TEST_USER").unwrap_or_else(|_| "ci".into());
    let mut passed = run_as(Some(Command::new(&program)), "root");
    passed &= run_as(fixture::as_user(&user, &program), &user);
    // Nobody has this number, so it has no subordinate ids either.
    passed &= run_as(fixture::as_user("23456", &program), "23456");
    passed &= denied::attacks_without_pivot_root(&user);
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_as(command: Option<Command>, who: &str) -> bool {
    let Some(mut command) = command else {
        eprintln!("\nSKIP every test as `{who}`: no setpriv, or no such account (set EXECUTOR_TEST_USER)\n");
        return true;
    };
    command.args(std::env::args_os().skip(1)).env(ROLE, who).status().expect("start itself").success()
}

fn here() -> ExitCode {
    let arguments = Arguments::from_args();
    let place = enter(Isolation::Auto).expect("enter");
    eprintln!(
        "\nplace: {:?}, ids {}, {:?}",
        place.kind(),
        place.id_map(),
        place.shortfall().map(ToString::to_string)
    );
    if place.kind() == PlaceKind::None {
        eprintln!("\nSKIP every test: no user namespace here ({:?})\n", place.shortfall());
        return ExitCode::SUCCESS;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("\nSKIP every test: no static /bin/busybox (`apt-get install busybox-static`)\n");
        return ExitCode::SUCCESS;
    }
    fixture::remember(place);
    let without_pivot_root = std::env::var(ROLE).is_ok_and(|role| role.ends_with("denied"));
    let tests = if without_pivot_root { vec![attacks::tests()] } else { all_tests() };
    let trials = tests.into_iter().flatten().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    fixture::clean();
    conclusion.exit_code()
}

fn all_tests() -> Vec<Vec<fixture::Test>> {
    vec![
        trees::tests(),
        mounts::tests(),
        attacks::tests(),
        isolation::tests(),
        process::tests(),
        company::tests(),
        lifetime::tests(),
        limits::tests(),
        denied::tests(),
        supervised::tests(),
    ]
}
