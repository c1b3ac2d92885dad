//! rbuild at a terminal.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::{RBUILD, Test};

/// Types at a terminal of 101 by 33 characters, each key when what stands before it is shown; all that it shows.
pub(crate) fn typed(test: &Test, command: &str, keys: &[(&str, &str)]) -> String {
    let rbuild = format!("{} --root {}", RBUILD, test.store().display());
    let line =
        format!("stty rows 33 cols 101; {}; echo code $?", command.replace("rbuild ", &format!("{rbuild} ")));
    let mut script = Command::new("timeout");
    script.args(["60", "script", "-q", "-c", &line, "/dev/null"]).env("HOME", test.beside("home"));
    script.env("CONTAINERS_REGISTRIES_CONF", test.beside("registries.conf")).env("SHELL", "/bin/sh");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Its end would be typed as Ctrl-D: it is kept until the command has ended by itself.
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut keys) = (String::new(), keys.iter());
    let mut next = keys.next();
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = stdout.read(&mut bytes) {
        shown += &String::from_utf8_lossy(&bytes[..length]).replace('\r', "");
        while let Some((_, typed)) = next.filter(|(before, _)| shown.contains(before)) {
            stdin.write_all(typed.as_bytes()).unwrap();
            next = keys.next();
        }
    }
    child.wait().unwrap();
    shown
}
