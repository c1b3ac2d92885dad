//! As much HTTP/1.1 as a registry needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::fault::Effect;
use super::{Shared, handler};

/// A request as it was made.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of its body that were received.
    pub received: usize,
    /// Bytes of the answer's body, before any fault.
    pub sent: usize,
    /// The status it was answered with; 0 where the connection was closed instead.
    pub status: u16,
    /// How many requests were being answered when it came, itself among them.
    pub under_way: usize,
}

impl Logged {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// It came to the registry's other host.
    pub(super) elsewhere: bool,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(super) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// What the header says of the body's length; none of a chunked one.
    pub(super) fn announced(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }

    fn waits_for_a_word(&self) -> bool {
        self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }
}

#[derive(Clone)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Arc<Vec<u8>>,
    /// Part of `body` to send.
    pub(super) start: usize,
}

impl Response {
    pub(super) fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Arc::default(), start: 0 }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
        Response::json(status, &format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#))
    }

    pub(super) fn json(status: u16, body: &str) -> Response {
        Response::new(status).with("Content-Type", "application/json").body(body.as_bytes())
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Response {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, bytes: &[u8]) -> Response {
        self.body = Arc::new(bytes.to_vec());
        self
    }
}

/// Serves one connection until it is closed. `elsewhere`: at the registry's other host.
pub(super) fn serve(shared: &Shared, stream: &TcpStream, elsewhere: bool) {
    // Head and body are written apart: the second must not wait for the first's acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    // A client that goes away ends its connection; that is no failure of the test.
    while let Ok(Some(request)) = read_head(&mut reader, elsewhere) {
        if !matches!(answer(shared, &mut reader, request), Ok(true)) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_head(reader: &mut BufReader<&TcpStream>, elsewhere: bool) -> io::Result<Option<Request>> {
    let first = read_line(reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Request { method, target, headers, body: Vec::new(), elsewhere }))
}

fn read_body(reader: &mut BufReader<&TcpStream>, request: &Request) -> io::Result<Vec<u8>> {
    if request.waits_for_a_word() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.header("transfer-encoding") == Some("chunked") {
        return read_chunks(reader);
    }
    let mut body = vec![0; request.announced().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = u64::from_str_radix(line.trim(), 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        reader.take(size).read_to_end(&mut body)?;
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A line without its end. A TLS greeting has none: its first byte ends the connection.
fn read_line(reader: &mut BufReader<&TcpStream>) -> io::Result<String> {
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut line = Vec::new();
    reader.take(64 << 10).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Answers a request; true if the connection goes on.
fn answer(shared: &Shared, reader: &mut BufReader<&TcpStream>, mut request: Request) -> io::Result<bool> {
    let _under_way = UnderWay::begin(shared);
    let effect = take_fault(shared, &request);
    if let Some(Effect::CutRequest(count)) = &effect {
        let mut part = Vec::new();
        reader.take(*count as u64).read_to_end(&mut part)?;
        log(shared, request, part.len(), None);
        return Ok(false);
    }
    let early = early_answer(shared, &request, effect.as_ref());
    let unread = request.waits_for_a_word() && early.is_some();
    if !unread {
        request.body = read_body(reader, &request)?;
    }
    if matches!(effect, Some(Effect::IgnoreRange)) {
        request.headers.retain(|(name, _)| name != "range");
    }
    let response = match (&effect, early) {
        (Some(Effect::Close), _) => None,
        (_, Some(early)) => Some(early),
        _ => Some(handler::handle(shared, &request)),
    };
    let is_head = request.method == "HEAD";
    let received = request.body.len();
    log(shared, request, received, response.as_ref());
    let Some(response) = response.filter(|_| !matches!(effect, Some(Effect::LostAnswer))) else {
        return Ok(false);
    };
    // Whoever was refused before the body was read may send it all the same.
    let response = if unread { response.with("Connection", "close") } else { response };
    let goes_on = send(reader.get_ref(), disturb(response, effect.as_ref()), effect.as_ref(), is_head)?;
    Ok(goes_on && !unread)
}

/// What is answered without a look at the body.
fn early_answer(shared: &Shared, request: &Request, effect: Option<&Effect>) -> Option<Response> {
    match effect {
        Some(Effect::Status(status, headers, body)) => {
            let plain = Response::new(*status).body(body.as_bytes());
            Some(headers.iter().fold(plain, |response, (name, value)| response.with(name, value)))
        }
        Some(Effect::Redirect(url)) => Some(Response::new(307).with("Location", url)),
        _ => handler::refusal(shared, request),
    }
}

fn log(shared: &Shared, request: Request, received: usize, response: Option<&Response>) {
    let status = response.map_or(0, |response| response.status);
    let sent = response
        .filter(|_| request.method != "HEAD")
        .map_or(0, |response| response.body.len().saturating_sub(response.start));
    let (method, target, headers) = (request.method, request.target, request.headers);
    let mut state = shared.state();
    let under_way = state.under_way;
    state.log.push(Logged { method, target, headers, received, sent, status, under_way });
}

/// A request that is being answered.
struct UnderWay<'a>(&'a Shared);

impl<'a> UnderWay<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.state().under_way += 1;
        UnderWay(shared)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

fn take_fault(shared: &Shared, request: &Request) -> Option<Effect> {
    let mut state = shared.state();
    let fits = |fault: &&mut super::Fault| {
        fault.times > 0 && fault.method == request.method && request.target.contains(&fault.text)
    };
    let fault = state.faults.iter_mut().find(fits)?;
    fault.times -= 1;
    Some(fault.effect.clone())
}

/// Changes a right answer as the fault says.
fn disturb(mut response: Response, effect: Option<&Effect>) -> Response {
    match effect {
        Some(Effect::Altered) => {
            let mut bytes = response.body.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            response.body = Arc::new(bytes);
        }
        Some(Effect::Resized(by)) => {
            let mut bytes = response.body.to_vec();
            bytes.resize(usize::try_from(bytes.len() as i64 + by).unwrap_or(0), b'x');
            response.body = Arc::new(bytes);
        }
        Some(Effect::LyingRange) => response = response.with("Content-Range", "bytes 1-2/3"),
        Some(Effect::Without(name)) => {
            response.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name))
        }
        Some(Effect::With(name, value)) => response = response.with(name, value),
        _ => {}
    }
    response
}

fn send(
    mut stream: &TcpStream,
    response: Response,
    effect: Option<&Effect>,
    is_head: bool,
) -> io::Result<bool> {
    let body = &response.body[response.start.min(response.body.len())..];
    let mut head = format!("HTTP/1.1 {} Scripted\r\nContent-Length: {}\r\n", response.status, body.len());
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let body = if is_head { &[] } else { body };
    match effect {
        Some(Effect::Cut(count)) => {
            stream.write_all(&body[..body.len().min(*count)])?;
            Ok(false)
        }
        Some(Effect::Stall(count, time)) => {
            stream.write_all(&body[..body.len().min(*count)])?;
            thread::sleep(Duration::min(*time, Duration::from_secs(60)));
            Ok(false)
        }
        Some(Effect::Drip(pause)) => {
            for byte in body {
                stream.write_all(&[*byte])?;
                thread::sleep(*pause);
            }
            Ok(true)
        }
        _ => {
            stream.write_all(body)?;
            Ok(true)
        }
    }
}
