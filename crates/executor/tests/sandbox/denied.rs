//! Places where the kernel lets a namespace come to be and denies what follows. A filter does the denying, so only root can try.

use std::process::{Command, ExitCode};

use rbuild_executor::{EnterError, Isolation, PlaceKind, enter};

use crate::fixture::{Test, as_user};
use crate::raw::{ID_MAP, MOUNTS, PIVOT_ROOT};
use crate::{ROLE, run_as};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("denied_mounts_are_found_by_doing", denied_mounts_are_found_by_doing),
        ("a_denied_id_map_is_found_by_doing", a_denied_id_map_is_found_by_doing),
    ]
}

/// Without `pivot_root` the root is entered by `chroot`, from which there are known ways out: every attack is tried there too.
pub(crate) fn attacks_without_pivot_root(user: &str) -> bool {
    let program = std::env::current_exe().expect("own path");
    let mut passed = true;
    for who in ["root", user, "23456"] {
        let inner = if who == "root" { Some(Command::new(&program)) } else { as_user(who, &program) };
        let command = inner.map(|inner| without(PIVOT_ROOT, &inner));
        eprintln!("\nwithout pivot_root, as `{who}`:");
        passed &= run_as(command, &format!("{who}, {PIVOT_ROOT} denied"));
    }
    passed
}

/// The same command, denied something.
fn without(what: &str, command: &Command) -> Command {
    let mut denied = Command::new(std::env::current_exe().expect("own path"));
    denied.current_dir("/").args(["--deny", what]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        denied.env(name, value.unwrap_or_default());
    }
    denied
}

/// What a process finds that is no longer root, and is denied something: `KIND: error; remedy`.
fn place_without(test: &str, what: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() || crate::fixture::place().kind() != PlaceKind::Root {
        eprintln!("SKIP {test}: only root can have calls denied to a program that changes its user");
        return None;
    }
    let Some(inner) = as_user("23456", &std::env::current_exe().expect("own path")) else {
        eprintln!("SKIP {test}: no setpriv");
        return None;
    };
    let output = without(what, &inner).env(ROLE, "place").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What [`place_without`] starts.
pub(crate) fn print_place() -> ExitCode {
    let place = enter(Isolation::Auto).expect("no error unless a way was asked for");
    let why = place.shortfall().expect("why it is less");
    let cause = std::error::Error::source(why).map(ToString::to_string).unwrap_or_default();
    let kind = match why {
        EnterError::UserNamespace { .. } => "namespace",
        EnterError::Mount { .. } => "mount",
        _ => "other",
    };
    println!("{:?}, {kind}: {cause}; {}", place.kind(), why.remedy().unwrap_or_default());
    // What asks for a namespace is told why there is none.
    assert!(enter(Isolation::SingleId).is_err());
    ExitCode::SUCCESS
}

fn denied_mounts_are_found_by_doing() {
    let Some(said) = place_without("denied_mounts_are_found_by_doing", MOUNTS) else { return };
    assert!(said.starts_with("None, mount: Operation not permitted"), "{said}");
    assert!(
        said.contains("; in a container, its seccomp profile forbids this") || said.contains("`userns,`"),
        "{said}"
    );
}

fn a_denied_id_map_is_found_by_doing() {
    let denied = format!("{ID_MAP}{}", "0 23456 1\n".len());
    let Some(said) = place_without("a_denied_id_map_is_found_by_doing", &denied) else { return };
    assert!(said.starts_with("None, namespace: Operation not permitted"), "{said}");
}
