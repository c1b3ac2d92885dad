//! A page as a browser has it.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Run, Test};

/// Without a window, a sandbox of its own, or talk with anybody but the page's server.
const QUIETLY: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--dump-dom",
];

/// The page's elements after its scripts ran, in Debian's Chromium; nothing where there is none, which is said.
pub(crate) fn in_browser(test: &Test, address: &str) -> Option<String> {
    if !["/usr/bin/chromium", "/usr/local/bin/chromium"].iter().any(|path| Path::new(path).exists()) {
        eprintln!(
            "SKIP what a browser makes of {address}: no chromium (`cargo xtask test` as root installs it)"
        );
        return None;
    }
    let mut browser = Command::new("timeout");
    browser.args(["100", "chromium"]).args(QUIETLY).stdin(Stdio::null()).current_dir("/");
    browser.arg(format!("--user-data-dir={}", test.beside("profile").display()));
    browser.env("HOME", test.beside("home")).arg(address);
    let run = Run::of(&mut browser);
    assert_eq!(run.code, 0, "{}", run.stderr);
    Some(run.said().to_owned())
}
