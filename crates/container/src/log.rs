//! What a container wrote, in a file: for each line the time, the stream, whether it is whole (`F`) or goes on in the next
//! line of that stream (`P`), and its bytes. Kubernetes' format for container logs (CRI logging).

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rbuild_executor::Stream;

/// Appends to a log.
#[derive(Debug)]
pub(crate) struct LogWriter(File);

impl LogWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?))
    }

    /// One write for all lines of a piece of output.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let time = jiff::Timestamp::now();
        let mut lines = Vec::with_capacity(bytes.len() + 64);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, whole) = match line.strip_suffix(b"\n") {
                Some(content) => (content, 'F'),
                None => (line, 'P'),
            };
            write!(lines, "{time:.9} {name} {whole} ")?;
            lines.extend(content);
            lines.push(b'\n');
        }
        self.0.write_all(&lines)
    }
}

/// A piece of output, with the end of its line where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nine digits of a second.
    pub time: String,
    /// Where it was written to.
    pub stream: Stream,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Reads a log, as far as it is written.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    /// A line of which only the beginning is written yet.
    begun: Vec<u8>,
}

impl LogReader {
    /// Opens a log; a container that has not written yet may have none.
    ///
    /// # Errors
    /// What cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(64 << 10, File::open(path)?), begun: Vec::new() })
    }

    /// Goes to where the last `count` lines begin.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn skip_to_last(&mut self, count: usize) -> io::Result<()> {
        // Where each of the last whole lines begins: the file is read through once, in as much memory as they are many.
        let mut starts = std::collections::VecDeque::new();
        let (mut at, mut open) = (0, [false; 2]);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = self.file.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            if let Some((parsed, whole)) = parse(&line) {
                let begun = &mut open[usize::from(parsed.stream == Stream::Stderr)];
                if !*begun {
                    starts.push_back(at);
                    if starts.len() > count {
                        starts.pop_front();
                    }
                }
                *begun = !whole;
            }
            at += length as u64;
        }
        let start = starts.front().copied().unwrap_or(at);
        self.file.seek(SeekFrom::Start(start)).map(drop)
    }
}

impl Iterator for LogReader {
    type Item = io::Result<LogLine>;

    /// The next piece, or nothing when no more is written yet; it may be asked again.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.file.read_until(b'\n', &mut self.begun) {
                Ok(_) if self.begun.ends_with(b"\n") => {}
                Ok(_) => return None,
                Err(error) => return Some(Err(error)),
            }
            let line = std::mem::take(&mut self.begun);
            // A disk that was full may have cut a line.
            if let Some((line, _)) = parse(&line) {
                return Some(Ok(line));
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<(LogLine, bool)> {
    let mut parts = line.strip_suffix(b"\n")?.splitn(4, |byte| *byte == b' ');
    let time = String::from_utf8(parts.next()?.to_owned()).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let whole = parts.next()? == b"F";
    let mut content = parts.next()?.to_owned();
    if whole {
        content.push(b'\n');
    }
    Some((LogLine { time, stream, content }, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[(Stream, &[u8])]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogWriter::create(&path).unwrap();
        pieces.iter().for_each(|(stream, bytes)| log.write(*stream, bytes).unwrap());
        (folder, path)
    }

    fn read(path: &Path, last: Option<usize>) -> Vec<(Stream, Vec<u8>)> {
        let mut log = LogReader::open(path).unwrap();
        last.iter().for_each(|count| log.skip_to_last(*count).unwrap());
        log.map(|line| line.map(|line| (line.stream, line.content)).unwrap()).collect()
    }

    #[test]
    fn every_byte_comes_back_on_its_stream() {
        use Stream::{Stderr, Stdout};
        let (_folder, path) =
            written(&[(Stdout, b"a\n\nb"), (Stderr, b"\xff\0 x\n"), (Stdout, b" c\n"), (Stdout, b"end")]);
        let pieces = read(&path, None);
        let of = |wanted| {
            pieces.iter().filter(move |(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes.clone())
        };
        assert_eq!(of(Stdout).collect::<Vec<u8>>(), b"a\n\nb c\nend");
        assert_eq!(of(Stderr).collect::<Vec<u8>>(), b"\xff\0 x\n");
    }

    #[test]
    fn the_last_lines_are_whole_ones() {
        use Stream::{Stderr, Stdout};
        let (_folder, path) =
            written(&[(Stdout, b"1\n2"), (Stderr, b"e\n"), (Stdout, b"2\n"), (Stdout, b"3\n")]);
        let text =
            |count| read(&path, Some(count)).into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>();
        assert_eq!(text(0), b"");
        assert_eq!(text(1), b"3\n");
        assert_eq!(text(3), b"2e\n2\n3\n");
        assert_eq!(text(9), b"1\n2e\n2\n3\n");
    }

    #[test]
    fn a_line_that_is_half_written_is_waited_for() {
        let (_folder, path) = written(&[(Stream::Stdout, b"one\n")]);
        let mut log = LogReader::open(&path).unwrap();
        assert_eq!(log.next().unwrap().unwrap().content, b"one\n");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2024-05-01T00:00:00.000000000Z stdout F t").unwrap();
        assert!(log.next().is_none());
        file.write_all(b"wo\n").unwrap();
        assert_eq!(log.next().unwrap().unwrap().content, b"two\n");
    }
}
