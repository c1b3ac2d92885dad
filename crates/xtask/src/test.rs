//! `cargo xtask test`: every test of the workspace, as root and as an ordinary user.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Result, is_root, output, tool};
use crate::report::heading;
use crate::user::{ACCOUNT, Account};
use crate::workspace::Workspace;
use crate::{bases, install};

/// Crates whose tests depend on who runs them: files, owners, namespaces.
const IDENTITY_MATTERS: [&str; 7] = ["fs", "context", "layer", "store", "executor", "engine", "rbuild"];

/// A test program that cargo built.
#[derive(Debug)]
struct TestBinary {
    name: String,
    file: PathBuf,
    /// The folder of its crate, where cargo would start it.
    folder: PathBuf,
}

/// Tests passed and failed, and programs that ended otherwise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let only = match arguments {
        [] => None,
        [option, name] if option == "--only" => Some(name.as_str()),
        _ => return Err("usage: cargo xtask test [--only CRATE]".into()),
    };
    heading("Tools");
    install::ensure(&[install::REGISTRY, install::ROOTLESS, install::TESTS])?;
    if only.is_none_or(|name| name == "rbuild") && is_root() {
        heading("The Debian that the tests of places build on");
        bases::make_debian(workspace)?;
    }
    heading("Building the tests");
    let binaries = build(workspace, only)?;

    let mut tally = Tally::default();
    let mut broken = Vec::new();
    let mut run_one = |who: &str, binary: &TestBinary, command: &mut Command| -> Result<()> {
        println!("\n-- {} {who}", binary.name);
        let (result, ended_well) = run_binary(binary, command, workspace)?;
        tally.passed += result.passed;
        tally.failed += result.failed;
        tally.ignored += result.ignored;
        // A program that died before it could count its failures is one.
        if !ended_well {
            broken.push(format!("{} {who}", binary.name));
            tally.failed += u64::from(result.failed == 0);
        }
        Ok(())
    };

    let me = if is_root() { "as root" } else { "as an ordinary user" };
    heading(&format!("Tests {me}"));
    for binary in &binaries {
        run_one(me, binary, &mut tool(&binary.file))?;
    }
    if is_root() {
        heading("Tests as an ordinary user");
        let account = Account::ensure()?;
        for binary in binaries.iter().filter(|binary| identity_matters(binary, workspace)) {
            run_one(&format!("as `{ACCOUNT}`"), binary, &mut as_user(&account, workspace, binary)?)?;
        }
    } else {
        println!("\nNOT RUN: the tests as root. Run this task as root too.");
    }
    if only.is_none() {
        heading("Examples in the documentation");
        let (result, ended_well) = run_doc_tests(workspace)?;
        tally.passed += result.passed;
        tally.failed += result.failed.max(u64::from(!ended_well));
    }

    println!();
    for name in &broken {
        println!("failed: {name}");
    }
    if tally.ignored > 0 {
        println!("{} ignored", tally.ignored);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    // Last line on standard output, also where the two streams are one file.
    std::io::stdout().flush()?;
    if tally.failed == 0 && tally.passed > 0 { Ok(()) } else { std::process::exit(1) }
}

/// Builds all test programs, once.
fn build(workspace: &Workspace, only: Option<&str>) -> Result<Vec<TestBinary>> {
    let mut cargo = tool("cargo");
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).current_dir(&workspace.root);
    match only {
        Some(name) => cargo.args(["--package", name]),
        None => cargo.arg("--workspace"),
    };
    let messages = output(cargo.stderr(Stdio::inherit()))?;
    let mut binaries: Vec<TestBinary> = messages.lines().filter_map(test_binary).collect();
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    if binaries.is_empty() { Err("cargo built no tests".into()) } else { Ok(binaries) }
}

/// The test program in one of cargo's messages, if it is of that kind.
fn test_binary(message: &str) -> Option<TestBinary> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let crate_name = folder.file_name()?.to_string_lossy().into_owned();
    let (kind, target) = (message["target"]["kind"][0].as_str()?, message["target"]["name"].as_str()?);
    let name =
        if kind == "test" { format!("{crate_name}: {target}") } else { format!("{crate_name}: unit tests") };
    Some(TestBinary { name, file: PathBuf::from(message["executable"].as_str()?), folder })
}

fn identity_matters(binary: &TestBinary, workspace: &Workspace) -> bool {
    IDENTITY_MATTERS.iter().any(|name| binary.folder == workspace.root.join("crates").join(name))
}

/// Runs a test program as cargo would, shows what it prints, and reads its result lines.
fn run_binary(binary: &TestBinary, command: &mut Command, workspace: &Workspace) -> Result<(Tally, bool)> {
    command
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        // Snapshot tests look for the workspace with cargo, which the ordinary user may not have.
        .env("INSTA_WORKSPACE_ROOT", &workspace.root)
        .env("INSTA_UPDATE", "no");
    watch(command, &binary.name)
}

fn run_doc_tests(workspace: &Workspace) -> Result<(Tally, bool)> {
    let mut cargo = tool("cargo");
    watch(
        cargo.args(["test", "--doc", "--workspace", "--no-fail-fast"]).current_dir(&workspace.root),
        "doc tests",
    )
}

/// Runs a command, passes its standard output on line by line, and sums the result lines in it.
fn watch(command: &mut Command, name: &str) -> Result<(Tally, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not run the tests of {name}: {error}"))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.add_result_line(&line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        println!("{name}: ended with {status}");
    }
    Ok((tally, status.success()))
}

impl Tally {
    /// Adds `test result: ok. 5 passed; 0 failed; 1 ignored; …`; other lines are nothing to it.
    fn add_result_line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(';') {
            let mut words = part.split_whitespace().rev();
            let (what, count) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
            match (what, count) {
                (Some("passed"), Some(count)) => self.passed += count,
                (Some("failed"), Some(count)) => self.failed += count,
                (Some("ignored"), Some(count)) => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// The test program, run by the account. Where the project lies in a folder that only root may enter (`/root`), the
/// program gets a mount namespace of its own in which that folder holds nothing but the way to the project.
fn as_user(account: &Account, workspace: &Workspace, binary: &TestBinary) -> Result<Command> {
    if account.reaches(&binary.file) {
        return Ok(account.command(&binary.file));
    }
    let Some(closed) =
        closed_folder(&workspace.root, account).or_else(|| closed_folder(&workspace.target, account))
    else {
        return Err(format!("the account `{ACCOUNT}` may not run `{}`", binary.file.display()).into());
    };
    let script = "set -e; closed=$1; shift; here=$(mktemp -d); \
                  i=0; for folder in \"$1\" \"$2\"; do i=$((i+1)); mkdir $here/$i; mount --bind \"$folder\" $here/$i; done; \
                  mount -t tmpfs -o mode=0755 tmpfs \"$closed\"; \
                  i=0; for folder in \"$1\" \"$2\"; do i=$((i+1)); mkdir -p \"$folder\"; mount --bind $here/$i \"$folder\"; umount $here/$i; done; \
                  rm -r $here; shift 2; cd \"$1\"; shift; exec \"$@\"";
    let mut command = tool("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(closed).arg(&workspace.root).arg(&workspace.target).arg(&binary.folder);
    let inner = account.command(&binary.file);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(command)
}

/// The first folder on the way to `path` that the account may not enter.
fn closed_folder(path: &Path, account: &Account) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find(|folder| !account.reaches(folder)).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut tally = Tally::default();
        tally.add_result_line("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        tally.add_result_line(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; finished in 0.1s",
        );
        tally.add_result_line("a test printed: test result: ok. 9 passed");
        assert_eq!(tally, Tally { passed: 8, failed: 2, ignored: 1 });
    }

    #[test]
    fn only_test_programs_are_taken() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/p/crates/fs/Cargo.toml","profile":{"test":true},
            "target":{"kind":["lib"],"name":"rbuild_fs"},"executable":"/t/debug/deps/rbuild_fs-1"}"#;
        assert_eq!(test_binary(test).unwrap().name, "fs: unit tests");
        assert!(test_binary(&test.replace("\"test\":true", "\"test\":false")).is_none());
        assert!(test_binary("not JSON").is_none());
    }
}
