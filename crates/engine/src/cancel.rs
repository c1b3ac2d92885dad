//! Streams that end when the user asks to stop.

use std::io::{self, Read, Write};

use rbuild_executor::Cancel;

/// A reader or writer that fails from the moment its switch is thrown. Without a switch it is what it wraps.
pub(crate) struct Cancellable<'a, T>(pub(crate) T, pub(crate) Option<&'a Cancel>);

/// An error from the moment the switch is thrown.
pub(crate) fn check(cancel: Option<&Cancel>) -> io::Result<()> {
    match cancel {
        Some(cancel) if cancel.is_cancelled() => Err(io::Error::other("cancelled")),
        _ => Ok(()),
    }
}

impl<T: Read> Read for Cancellable<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.1)?;
        self.0.read(buffer)
    }
}

impl<T: Write> Write for Cancellable<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check(self.1)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
