//! Whoever reads the results of a program.

use std::io::{self, ErrorKind, Write};

/// Results for a reader who may leave early (`| head`): what is written after that goes nowhere and is no error, so that a
/// program ends its work, and its exit code still tells what was found.
pub struct Listener<W> {
    reader: Option<W>,
}

impl<W: Write> Listener<W> {
    /// A reader who is there.
    pub fn new(reader: W) -> Self {
        Self { reader: Some(reader) }
    }

    fn tell<T>(&mut self, gone: T, tell: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        let Some(reader) = &mut self.reader else { return Ok(gone) };
        match tell(reader) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader = None;
                Ok(gone)
            }
            told => told,
        }
    }
}

impl<W: Write> Write for Listener<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tell(bytes.len(), |reader| reader.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tell((), Write::flush)
    }
}
