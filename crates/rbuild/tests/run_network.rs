//! The networks of containers and of RUN: ports, what is behind them, one user id.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Place, Run, Test, fetch, in_browser, is_root, text};

#[test]
fn ports_lead_into_a_network_of_its_own() {
    let place = Place::with("FROM busybox\nRUN mkdir /www && echo page > /www/index.html\nEXPOSE 8000\n");
    let serve = ["app", "httpd", "-f", "-v", "-p", "80", "-h", "/www"];
    place.rbuild(&[&["run", "-d", "--name", "web", "-p", "127.0.0.1::80"], &serve[..]].concat()).succeeds();
    let port = place.port("web");
    place.until("it serves", || fetch(port, "/").is_ok_and(|answer| answer.ends_with("page\n")));
    // The same port inside, another one here.
    place
        .rbuild(&[&["run", "-d", "--name", "too", "-u", "alice", "-p", "127.0.0.1::80"], &serve[..]].concat())
        .succeeds();
    place.until("the other serves too", || fetch(place.port("too"), "/").is_ok());
    let taken = format!("127.0.0.1:{port}:80");
    let refused = place.rbuild(&[&["run", "-d", "--name", "late", "-p", &taken], &serve[..]].concat());
    refused.fails(125, &[&format!("could not listen on port {port}/tcp"), "take another port"]);
    assert!(!place.printed(&["ps", "-a"]).contains("late"));
    if !is_root()
        && fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim() == "1024"
    {
        let refused = place.rbuild(&[&["run", "-d", "-p", "80:80"], &serve[..]].concat());
        refused.fails(125, &["could not listen on port 80/tcp", "8080:80", "ip_unprivileged_port_start=80"]);
    }
    place.printed(&["stop", "web"]);
    let free = TcpListener::bind(("127.0.0.1", port));
    assert!(free.is_ok(), "the port is free again");
    let none = place.printed(&["run", "--rm", "--network", "none", "app", "ls", "/sys/class/net"]);
    assert_eq!(none, "lo");
}

/// As an account without subordinate ids has it: a user namespace with one id.
#[test]
fn one_user_id_is_enough() {
    let place = Place::with(
        "FROM busybox\nRUN chown alice /home\nHEALTHCHECK --interval=50ms CMD test $(id -u) = 1000\n",
    );
    let single = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        let rbuild = place.0.command();
        command
            .args(["--user", "--map-root-user"])
            .arg(rbuild.get_program())
            .args(rbuild.get_args())
            .args(arguments);
        command.env_clear().envs(rbuild.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).current_dir(place.0.beside("."));
        Run::of(&mut command)
    };
    // Of its own store: another id map has other trees.
    let archive = place.0.beside("app.tar");
    place.printed(&["save", "-o", text(&archive), "app"]);
    single(&["load", "-i", text(&archive)]).succeeds();
    let line = "id -u; stat -c %u /home; touch /home/mine && stat -c %u /home/mine; echo log > /dev/stdout; exec httpd -f -p 80 -h /etc";
    let options =
        ["run", "-d", "--name", "one", "-u", "alice", "-p", "127.0.0.1::80", "app", "sh", "-c", line];
    single(&options).succeeds();
    let port = place.port("one");
    place.until("it serves", || fetch(port, "/passwd").is_ok_and(|answer| answer.contains("alice")));
    assert_eq!(single(&["logs", "one"]).said(), "1000\n1000\n1000\nlog");
    assert_eq!(
        single(&["exec", "one", "sh", "-c", "id -u; touch /home/b; stat -c %u /home/b"]).said(),
        "1000\n1000"
    );
    place.until("it is well", || place.known("one")["Health"] == "healthy");
    single(&["stop", "-t", "1", "one"]).succeeds();
    single(&["rm", "one"]).succeeds();
    // An ordinary user's own namespace cannot remove these; the test's folder goes as a whole.
    single(&["prune", "--all", "--force"]).succeeds();
}

/// The modules of the example's page, without the bundler: a script that imports two others and writes into the page.
#[test]
fn a_browser_runs_the_pages_script() {
    let place = Place(Test::new(
        "FROM busybox\nCOPY . /www/\nRUN echo '.js:text/javascript' > /etc/httpd.conf\n\
         CMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n",
    ));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/node-nginx/src");
    for module in ["parts.js", "units.js"] {
        place.0.file(module, fs::read(example.join(module)).unwrap());
    }
    let script = "import { parts } from './parts.js'; import { inUnits } from './units.js';\n\
                  document.body.textContent = `${parts.length} parts, the first has ${inUnits(parts[0].bytes)}`;\n";
    place.0.file("main.js", script);
    place
        .0
        .file("index.html", "<!doctype html><body>not run<script type=module src=/main.js></script></body>");
    place.0.run(&["-t", "app"]).succeeds();
    place.printed(&["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "app"]);
    let port = place.port("web");
    place.until("it serves", || fetch(port, "/").is_ok());
    let Some(shown) = in_browser(&place.0, &format!("http://127.0.0.1:{port}/")) else { return };
    assert!(shown.contains("5 parts, the first has 48 MB"), "{shown}");
}

/// The same for RUN, and what there is to say where it cannot be had.
#[test]
fn run_may_have_a_private_network() {
    let place = Place(Test::new("FROM busybox\nRUN --network=private ls /sys/class/net > /network\n"));
    let run = place.0.run(&["-t", "app"]);
    if run.code == 0 {
        let network = place.printed(&["run", "--rm", "app", "cat", "/network"]);
        assert_eq!(network.lines().count(), 2, "loopback and the way out: {network}");
        assert!(network.lines().any(|name| name == "lo"), "{network}");
    } else {
        eprintln!("SKIP the network itself: neither pasta nor slirp4netns can be used here");
        run.fails(3, &["could not make a private network for RUN", "pasta:", "slirp4netns:", "help:"]);
    }
    place.0.run(&["--strict-docker"]).fails(1, &["private"]);
}
