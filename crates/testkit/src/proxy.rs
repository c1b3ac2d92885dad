//! An HTTP proxy in this process that opens tunnels (`CONNECT`, RFC 9110, 9.3.6), for names that no resolver knows.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The running proxy; ends with the value.
#[derive(Debug)]
pub struct TestProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
}

impl TestProxy {
    /// Starts on a free port. `hosts` says which loopback address (`127.0.0.1:PORT`) each `host:port` means; others are refused.
    ///
    /// # Panics
    ///
    /// If no loopback port can be had.
    pub fn start(hosts: &[(&str, &str)]) -> TestProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let hosts: BTreeMap<String, String> =
            hosts.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
        let (hosts, asked) = (Arc::new(hosts), Arc::new(Mutex::new(Vec::new())));
        let stopping = Arc::new(AtomicBool::new(false));
        let (log, stop) = (Arc::clone(&asked), Arc::clone(&stopping));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (hosts, log) = (Arc::clone(&hosts), Arc::clone(&log));
                // Whoever breaks off a tunnel ends it.
                thread::spawn(move || tunnel(&stream, &hosts, &log));
            }
        });
        TestProxy { address, asked, stopping }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `host:port` of each tunnel so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

fn tunnel(
    mut client: &TcpStream,
    hosts: &BTreeMap<String, String>,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let name = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    let Some(address) = hosts.get(name) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    };
    let server = TcpStream::connect(address)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    thread::scope(|scope| {
        scope.spawn(|| pass_on(&server, client));
        // What the client sent already is in the buffer.
        let _ = io::copy(&mut reader, &mut &server);
        let _ = server.shutdown(Shutdown::Write);
    });
    Ok(())
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
