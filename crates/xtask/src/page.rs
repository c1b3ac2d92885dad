//! A look at a page: by HTTP, and in a browser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::{Result, find, output, tool};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Debian's Chromium without a window, a sandbox of its own, or talk with anybody but the page's server.
const QUIETLY: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--dump-dom",
];

/// The body that a server on loopback answers with, once it answers.
pub(crate) fn fetch(port: u16, path: &str) -> Result<String> {
    let started = Instant::now();
    loop {
        match ask(port, path) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                let (_, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
                return Ok(body.to_owned());
            }
            Ok(answer) if !answer.is_empty() => {
                return Err(
                    format!("the server answers {}", answer.lines().next().unwrap_or_default()).into()
                );
            }
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(format!("nobody answers on port {port}: {error}").into());
            }
            _ if started.elapsed() > PATIENCE => return Err(format!("nobody answers on port {port}").into()),
            _ => sleep(Duration::from_millis(20)),
        }
    }
}

fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The page after its script ran, as a browser has it; `None` where there is no browser.
pub(crate) fn in_browser(port: u16) -> Result<Option<String>> {
    if find("chromium").is_none() {
        return Ok(None);
    }
    let profile = tempfile::tempdir()?;
    let mut browser = tool("timeout");
    browser.args(["60", "chromium"]).args(QUIETLY);
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    browser.arg(format!("http://127.0.0.1:{port}/"));
    output(&mut browser).map(Some)
}

/// What stands on a page, without its elements, a line for each piece of text.
pub(crate) fn text_of(page: &str) -> Vec<String> {
    let body = page.split_once("<body").map_or(page, |(_, body)| body);
    let mut lines = Vec::new();
    let mut line = String::new();
    for piece in body.split('<') {
        let (element, text) = piece.split_once('>').unwrap_or(("", piece));
        let name = element.trim_start_matches('/');
        // Those stand in a line with what is beside them.
        if !["span", "output"].iter().any(|inline| name.starts_with(inline)) && !line.trim().is_empty() {
            lines.push(std::mem::take(&mut line).trim().to_owned());
        }
        if !element.starts_with("script") {
            line.push_str(text.trim());
            line.push(' ');
        }
    }
    lines.extend(Some(line.trim().to_owned()).filter(|line| !line.is_empty()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_lines() {
        let page = "<html><head><title>x</title></head><body><div><h1>Title</h1><li><span>a</span><output>1 B</output></li>\
                    <p>in all</p></div><script>let a;</script></body></html>";
        assert_eq!(text_of(page), ["Title", "a  1 B", "in all"]);
    }
}
