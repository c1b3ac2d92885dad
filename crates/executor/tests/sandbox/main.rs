//! Real namespaces, as root and as an ordinary user: the harness enters before any thread and then runs its tests side by side.
//!
//! Started by root it runs everything twice: as it is, and as the account `ci` (or `EXECUTOR_TEST_USER`), which needs
//! subordinate ids. What can't run says so.

#![expect(clippy::print_stderr, reason = "a test harness speaks to its user")]

mod fixture;
mod isolation;
mod lifetime;
mod mounts;
mod process;
mod trees;

use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use rbuild_executor::{PlaceKind, enter};

/// Set for the second and third process of the harness.
const ROLE: &str = "EXECUTOR_TEST_ROLE";

fn main() -> ExitCode {
    let role = std::env::var(ROLE).unwrap_or_default();
    match role.as_str() {
        "victim" => lifetime::victim(),
        "timing" => process::timing(),
        "" if rustix::process::geteuid().is_root() => as_root_and_as_user(),
        _ => here(),
    }
}

fn as_root_and_as_user() -> ExitCode {
    let program = std::env::current_exe().expect("own path");
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let as_root = Command::new(&program).args(&arguments).env(ROLE, "root").status().expect("start itself");
    let user = std::env::var("EXECUTOR_TEST_USER").unwrap_or_else(|_| "ci".into());
    let Some(mut command) = fixture::as_user(&user, &program) else {
        eprintln!(
            "\nSKIP every test as an ordinary user: no setpriv, or no account `{user}` (set EXECUTOR_TEST_USER)\n"
        );
        return if as_root.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    let as_user = command.args(&arguments).env(ROLE, "user").status().expect("start itself as a user");
    if as_root.success() && as_user.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn here() -> ExitCode {
    let arguments = Arguments::from_args();
    let place = enter().expect("enter");
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
    let tests = [trees::tests(), mounts::tests(), isolation::tests(), process::tests(), lifetime::tests()];
    let trials = tests.into_iter().flatten().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
