//! Containers of a test: started, asked, and gone at its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Run, Test};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store with busybox; all of its containers are gone when the value is.
pub(crate) struct Place(pub(crate) Test);

impl Place {
    pub(crate) fn new() -> Place {
        Place(Test::new(""))
    }

    /// A store with the image `app`, built from this.
    pub(crate) fn with(dockerfile: &str) -> Place {
        let place = Place(Test::new(dockerfile));
        place.0.run(&["-t", "app"]).succeeds();
        place
    }

    pub(crate) fn rbuild(&self, arguments: &[&str]) -> Run {
        Run::of(self.0.command().args(arguments))
    }

    /// What rbuild prints; it must succeed.
    #[track_caller]
    pub(crate) fn printed(&self, arguments: &[&str]) -> String {
        self.rbuild(arguments).succeeds().said().to_owned()
    }

    /// What `ps` knows of a container.
    #[track_caller]
    pub(crate) fn known(&self, name: &str) -> Value {
        let all = self.printed(&["ps", "-a", "--format", "json"]);
        let all: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found = all.iter().find(|one| one["Names"] == name);
        found.unwrap_or_else(|| panic!("no container `{name}` in {all:?}")).clone()
    }

    /// Asks until the answer is right.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "never: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The port of this machine that a container's one port is behind.
    #[track_caller]
    pub(crate) fn port(&self, name: &str) -> u16 {
        let known = self.known(name);
        let ports = known["Ports"].as_str().unwrap();
        let (before, _) = ports.split_once("->").unwrap_or_else(|| panic!("no port in {known}"));
        before.rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.rbuild(&["ps", "-aq"]);
        let ids: Vec<&str> = left.said().lines().collect();
        if !ids.is_empty() {
            self.rbuild(&[&["rm", "-f"], &ids[..]].concat());
        }
    }
}

/// What a server on this machine's loopback answers.
pub(crate) fn fetch(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}
