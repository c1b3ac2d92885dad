//! What builds fetch: archives and files by HTTP, repositories by git.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{text, tool};

/// An archive of these files; a name that ends in `@` is a symbolic link to what the content names.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1234);
        header.set_gid(1234);
        header.set_mtime(1);
        let (name, is_link) = name.strip_suffix('@').map_or((*name, false), |name| (name, true));
        // The builder refuses hostile names, so they are written by hand.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let content = if is_link { "" } else { content };
        header.set_size(content.len() as u64);
        if is_link {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = files.iter().find(|(known, _)| known.strip_suffix('@') == Some(name)).unwrap().1;
            header.set_link_name(target).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Answers GET of these paths on a port of this machine, for as long as the program runs. The answer is its address.
pub(crate) fn serve(files: Vec<(&'static str, Vec<u8>)>) -> String {
    serve_dated(files.into_iter().map(|(path, body)| (path, body, None)).collect())
}

/// The same with what `Last-Modified` says of each file.
pub(crate) fn serve_dated(files: Vec<(&'static str, Vec<u8>, Option<&'static str>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is no fault of the server.
            _ = answer(&stream.unwrap(), &files);
        }
    });
    format!("http://{address}")
}

fn answer(
    mut stream: &TcpStream,
    files: &[(&'static str, Vec<u8>, Option<&'static str>)],
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while reader.read_line(&mut line)? > 2 {}
    let found = files.iter().find(|(name, ..)| *name == path);
    let (status, body) = found.map_or(("404 Not Found", &b"no"[..]), |(_, body, _)| ("200 OK", body));
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    if let Some((_, _, Some(time))) = found {
        write!(stream, "Last-Modified: {time}\r\n")?;
    }
    write!(stream, "\r\n")?;
    stream.write_all(body)?;
    // All of the request is read before the connection is closed, or the kernel would reset it.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.take(1).read_to_end(&mut Vec::new()).map(drop)
}

/// A server of the repositories below a folder, ended with the value.
pub(crate) struct GitServer(Child, String);

impl GitServer {
    pub(crate) fn of(folder: &Path) -> GitServer {
        // The program itself: `git daemon` would run it as a child that outlives it.
        let program = format!("{}/git-daemon", tool("git", &["--exec-path"]).trim());
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let options = ["--export-all", "--reuseaddr", "--informative-errors", "--listen=127.0.0.1"];
            let mut server = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", &program])
                .args(options)
                .args([format!("--port={port}"), format!("--base-path={}", folder.display())])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            for _ in 0..200 {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return GitServer(server, format!("git://127.0.0.1:{port}"));
                }
                if server.try_wait().unwrap().is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            _ = server.kill();
            _ = server.wait();
        }
        panic!("git daemon does not listen");
    }

    /// The URL below which the repositories are.
    pub(crate) fn address(&self) -> &str {
        &self.1
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // Already dead is as good.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Commits what is in the folder, at this time by the committer's clock; the commit's hash.
pub(crate) fn commit(repository: &Path, seconds: u64) -> String {
    let git = |arguments: &[&str]| tool("git", &[&["-C", text(repository)], arguments].concat());
    git(&["add", "-A"]);
    let committed = Command::new("git")
        .args(["-C", text(repository), "-c", "user.name=t", "-c", "user.email=t@t.test"])
        .args(["commit", "-q", "-m", "change", "--date=@500000000"])
        .env("GIT_COMMITTER_DATE", format!("@{seconds}"))
        .status();
    assert!(committed.unwrap().success());
    git(&["rev-parse", "HEAD"]).trim().to_owned()
}
