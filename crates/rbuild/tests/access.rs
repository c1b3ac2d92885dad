//! Registries that are reached by token, by TLS, through a proxy: every command that speaks to one.

use std::fs;
use std::path::Path;
use std::process::Command;

use rbuild_testkit::{Access, Authority, RealRegistry, TestProxy};

use crate::common::{Protected, Run, Test, log_in, text};

/// Runs each command; all must succeed.
#[track_caller]
fn all_succeed(test: &Test, change: &dyn Fn(&mut Command), commands: &[Vec<&str>]) {
    for arguments in commands {
        let mut command = test.command();
        change(&mut command);
        let run = Run::of(command.args(arguments));
        assert_eq!(run.code, 0, "rbuild {}:\n{}", arguments.join(" "), run.stderr);
    }
}

/// Every command that speaks to a registry, one after the other, with images below `place` (`host[:port]/namespace`).
fn every_command(test: &Test, change: &dyn Fn(&mut Command), place: &str) {
    let context = test.context();
    let name = |image: &str| format!("{place}/{image}");
    let (one, two, three, list) = (name("app:1"), name("app:2"), name("copy:1"), name("list:1"));
    let (source, target) = (format!("docker://{one}"), format!("docker://{three}"));
    all_succeed(
        test,
        change,
        &[
            vec!["-t", &one, "--push", text(&context)],
            vec!["rmi", &one],
            vec!["pull", &one],
            vec!["tag", &one, &two],
            vec!["push", &two],
            vec!["push", "--all-tags", &one],
            vec!["copy", &source, &target],
            vec!["inspect", &target],
            vec!["manifest", "create", &list, &one, &three],
            vec!["manifest", "push", &list],
            vec!["manifest", "inspect", &list],
            vec!["pull", &list],
            vec!["prune", "--all", "--force"],
        ],
    );
    // And as a base, in a store that has nothing.
    test.dockerfile(&format!("FROM {one}\nCOPY Dockerfile /second\n"));
    all_succeed(test, change, &[vec![text(&context)]]);
}

fn as_it_is(_: &mut Command) {}

#[test]
fn every_command_with_tokens() {
    let server = Protected::start_with_tokens();
    let tokens = server.tokens.as_ref().unwrap();
    let test = Test::new("FROM scratch\nCOPY Dockerfile /first\n");
    let name = format!("{}/team/app:1", server.address);
    test.run(&["-t", &name]).succeeds();
    Run::of(test.command().args(["push", &name])).fails(4, &["401", "rbuild login"]);
    Run::of(test.command().args(["login", "-u", "ci", "-p", "wrong", &server.address]))
        .fails(4, &["could not log in", "incorrect username or password"]);
    log_in(&test, &server.address);
    every_command(&test, &as_it_is, &format!("{}/team", server.address));
    // The password goes to the token server only, and for exactly what is needed.
    let asked = tokens.requests();
    assert!(asked.iter().any(|request| request.target.contains("scope=repository:team/app:pull%2Cpush")));
    Run::of(test.command().args(["logout", &server.address])).succeeds();
    Run::of(test.command().args(["pull", &name])).fails(4, &["401"]);
}

#[test]
fn every_command_with_a_password() {
    let server = Protected::start();
    let test = Test::new("FROM scratch\nCOPY Dockerfile /first\n");
    log_in(&test, &server.address);
    every_command(&test, &as_it_is, &format!("{}/team", server.address));
}

/// `certs.d/HOST/ca.crt` below the home folder of the test.
fn trust(test: &Test, folder: &str, host: &str, authority: &Path) {
    let own = test.beside("home/.config").join(folder).join("certs.d").join(host);
    fs::create_dir_all(&own).unwrap();
    fs::copy(authority, own.join("ca.crt")).unwrap();
}

#[test]
fn every_command_by_tls_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::make(folder.path()).unwrap();
    let tls = Some(authority.sign("server", "DNS:registry.test").unwrap());
    let registry = RealRegistry::start_with(&Access { tls, ..Access::default() }).unwrap();
    let proxy = TestProxy::start(&[("registry.test:443", registry.address())]);
    let by_proxy = |command: &mut Command| {
        command.env("HTTPS_PROXY", proxy.url());
    };
    let test = Test::new("FROM scratch\nCOPY Dockerfile /first\n");
    let name = "registry.test/team/app:1";
    test.run(&["-t", name]).succeeds();
    let push = |arguments: &[&str]| {
        let mut command = test.command();
        by_proxy(&mut command);
        Run::of(command.args(["push"]).args(arguments).arg(name))
    };
    push(&[]).fails(4, &["certificate", "--cert-dir"]);
    // An authority for this command alone, or one that is configured.
    let given = test.beside("given");
    fs::create_dir(&given).unwrap();
    fs::copy(authority.certificate(), given.join("ca.crt")).unwrap();
    push(&["--cert-dir", text(&given)]).succeeds();
    push(&["--cert-dir", text(&test.beside("missing"))]).fails(2, &["missing"]);
    push(&[]).fails(4, &["certificate"]);
    for place in ["docker", "containers"] {
        trust(&test, place, "registry.test", &authority.certificate());
        push(&[]).succeeds();
        fs::remove_dir_all(test.beside("home/.config").join(place)).unwrap();
    }
    push(&[]).fails(4, &["certificate"]);
    // Docker's own list of registries that are not checked.
    fs::create_dir_all(test.beside("home/.config/docker")).unwrap();
    let daemon = test.beside("home/.config/docker/daemon.json");
    fs::write(&daemon, r#"{"insecure-registries":["registry.test"]}"#).unwrap();
    push(&[]).succeeds();
    fs::remove_file(&daemon).unwrap();
    trust(&test, "containers", "registry.test", &authority.certificate());
    every_command(&test, &by_proxy, "registry.test/team");
    // NO_PROXY: it is looked for here, where nobody knows it.
    let mut command = test.command();
    by_proxy(&mut command);
    Run::of(command.env("NO_PROXY", "registry.test").args(["pull", name]))
        .fails(4, &["GET https://registry.test/"]);
}

#[test]
fn mirrors_of_docker() {
    let mirror = rbuild_testkit::TestRegistry::start();
    mirror.put_image("library/mirrored", "1", &rbuild_testkit::tiny_image());
    let test = Test::new("FROM mirrored:1\nCOPY Dockerfile /\n");
    let hub = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n";
    fs::write(test.beside("registries.conf"), hub).unwrap();
    fs::create_dir_all(test.beside("home/.config/docker")).unwrap();
    let daemon = test.beside("home/.config/docker/daemon.json");
    fs::write(&daemon, format!(r#"{{"registry-mirrors":["http://{}"]}}"#, mirror.address())).unwrap();
    test.run(&[]).succeeds();
    assert_eq!(mirror.count("GET", "/v2/library/mirrored/manifests/1"), 1);
    fs::write(&daemon, "{").unwrap();
    test.run(&[]).fails(2, &["daemon.json"]);
}
