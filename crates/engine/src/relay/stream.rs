//! A registry's blob as something to read: fetched by a thread that is never more than a few buffers ahead.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rbuild_image::{Descriptor, Reference};
use rbuild_registry::{BlobSink, Client};

/// Buffers that may wait, each of what the client reads at once (128 KiB).
const AHEAD: usize = 8;

type Part = io::Result<Vec<u8>>;

/// The blob from its start. Cuts are resumed by the client; what was passed on can't be taken back, so wrong content ends it.
pub(super) fn blob(
    client: Arc<Client>,
    reference: Reference,
    descriptor: Descriptor,
) -> Box<dyn Read + Send> {
    let (sender, parts) = sync_channel(AHEAD);
    let fetch = move || {
        let mut sink = Passing { sender, sent: 0 };
        let result = client.blob(&reference, &descriptor, &mut sink, &|_| {});
        // Who stopped reading needs no end.
        let _ = sink.sender.send(match result {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error)),
        });
    };
    let started = std::thread::Builder::new().name("copy".into()).spawn(fetch);
    Box::new(Parts { parts, part: Vec::new(), at: 0, over: false, unstarted: started.err() })
}

struct Passing {
    sender: SyncSender<Part>,
    sent: u64,
}

impl BlobSink for Passing {
    fn len(&self) -> u64 {
        self.sent
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent += bytes.len() as u64;
        self.sender.send(Ok(bytes.to_vec())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn restart(&mut self) -> io::Result<()> {
        match self.sent {
            0 => Ok(()),
            _ => {
                Err(io::Error::other("its content was wrong, or the registry can't go on where it broke off"))
            }
        }
    }
}

struct Parts {
    parts: Receiver<Part>,
    part: Vec<u8>,
    at: usize,
    over: bool,
    unstarted: Option<io::Error>,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.unstarted.take() {
            return Err(error);
        }
        if self.at == self.part.len() && !self.over {
            self.part = self.parts.recv().unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()))?;
            self.at = 0;
            self.over = self.part.is_empty();
        }
        let count = buffer.len().min(self.part.len() - self.at);
        buffer[..count].copy_from_slice(&self.part[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
