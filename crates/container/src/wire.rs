//! What goes over a monitor's socket: a byte for the kind, the length as four bytes, the lowest first, and the content.

use std::io::{self, Read, Write};

use rbuild_executor::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest content; longer input is sent in parts.
const MOST: usize = 1 << 20;

const DOCUMENT: u8 = 0;
const INPUT: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;

/// What a client wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// To see what the container writes from now on, and to write to it.
    Attach,
    /// There is no more input.
    EndOfInput,
    /// The terminal has another size, in columns and rows.
    Resize(u16, u16),
    /// A signal for the command.
    Signal(i32),
    /// The command is to end: a signal, and so many seconds later the kernel's; the container's own where nothing is said.
    Stop { signal: Option<i32>, seconds: Option<u64> },
    /// To hear of its end.
    Wait,
    /// To run another command inside; input and output of this connection are its.
    Exec(Box<ExecRequest>),
}

/// What a monitor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// The command, or the one that this connection started, has ended with this code.
    Exited(i32),
    /// It could not be done.
    Refused(String),
}

/// A command to run in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables beyond the container's own.
    pub env: Vec<(String, String)>,
    /// Working directory; the container's own where none is given.
    pub cwd: Option<String>,
    /// User; the container's own where none is given.
    pub user: Option<String>,
    /// The size of the terminal that it gets, in columns and rows.
    pub terminal: Option<(u16, u16)>,
    /// It has input.
    pub stdin: bool,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Frame<T> {
    Document(T),
    Input(Vec<u8>),
    Output(Stream, Vec<u8>),
}

pub(crate) fn send_document(line: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    send(line, DOCUMENT, &serde_json::to_vec(document)?)
}

pub(crate) fn send_input(line: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(MOST).try_for_each(|part| send(line, INPUT, part))
}

pub(crate) fn send_output(line: &mut impl Write, stream: Stream, bytes: &[u8]) -> io::Result<()> {
    let kind = match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    };
    bytes.chunks(MOST).try_for_each(|part| send(line, kind, part))
}

/// One write for each message, so that a reader who is slow does not get it in two.
fn send(line: &mut impl Write, kind: u8, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(5 + content.len());
    message.push(kind);
    message.extend(length.to_le_bytes());
    message.extend(content);
    line.write_all(&message)
}

/// The next message; nothing at the end.
pub(crate) fn receive<T: DeserializeOwned>(line: &mut impl Read) -> io::Result<Option<Frame<T>>> {
    let mut head = [0; 5];
    let mut first = [0];
    if line.read(&mut first)? == 0 {
        return Ok(None);
    }
    line.read_exact(&mut head[1..])?;
    let [_, a, b, c, d] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut content = vec![0; length];
    line.read_exact(&mut content)?;
    Ok(Some(match first[0] {
        DOCUMENT => Frame::Document(serde_json::from_slice(&content)?),
        INPUT => Frame::Input(content),
        STDOUT => Frame::Output(Stream::Stdout, content),
        STDERR => Frame::Output(Stream::Stderr, content),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of an unknown kind")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let mut line = Vec::new();
        send_document(&mut line, &Request::Stop { signal: Some(3), seconds: None }).unwrap();
        send_input(&mut line, &vec![7; MOST + 1]).unwrap();
        send_output(&mut line, Stream::Stderr, b"\0\xff").unwrap();
        let mut line = line.as_slice();
        let mut next = || receive::<Request>(&mut line).unwrap();
        assert!(matches!(next(), Some(Frame::Document(Request::Stop { signal: Some(3), seconds: None }))));
        assert!(matches!(next(), Some(Frame::Input(bytes)) if bytes.len() == MOST));
        assert!(matches!(next(), Some(Frame::Input(bytes)) if bytes == [7]));
        assert!(matches!(next(), Some(Frame::Output(Stream::Stderr, bytes)) if bytes == [0, 255]));
        assert!(next().is_none());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for wrong in [&[9, 0, 0, 0, 0][..], &[0, 255, 255, 255, 255], &[0, 1, 0, 0, 0, b'x'], &[1, 5, 0]] {
            assert!(receive::<Request>(&mut &*wrong).is_err(), "{wrong:?}");
        }
    }
}
