//! Lines of untrusted input, one at a time, of bounded length.
//!
//! A file is read when the next line is wanted, so what runs beside what follows from the file alone.
//! Standard input is read by a thread of its own: a pipe that pauses must not stop what runs.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::request::LineError;

/// Most bytes of a line.
pub(super) const LINE_MAX: usize = 16 << 20;

/// Lines that wait between the thread that reads and the one that computes.
const AHEAD: usize = 16;

/// A line, or why it is none.
pub(super) type Line = Result<String, LineError>;

/// What there is.
pub(super) enum Next {
    Line(Line),
    /// Nothing now; there may be something later.
    Nothing,
    End,
}

pub(super) enum Lines {
    File(BufReader<File>),
    Pipe(Receiver<io::Result<Line>>),
}

impl Lines {
    /// Lines of a file; `-` is standard input.
    pub(super) fn open(path: &Path) -> io::Result<Lines> {
        if path != Path::new("-") {
            return Ok(Lines::File(BufReader::new(File::open(path)?)));
        }
        let (sender, receiver) = sync_channel(AHEAD);
        let read = move || {
            let mut stdin = io::stdin().lock();
            while let Some(line) = read(&mut stdin).transpose() {
                let failed = line.is_err();
                if sender.send(line).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("lines".to_string()).spawn(read)?;
        Ok(Lines::Pipe(receiver))
    }

    /// The next line; waits for it only when told to, or where it is in a file.
    pub(super) fn next(&mut self, wait: bool) -> io::Result<Next> {
        let line = match self {
            Lines::File(reader) => read(reader).transpose(),
            Lines::Pipe(receiver) if wait => receiver.recv().ok(),
            Lines::Pipe(receiver) => match receiver.try_recv() {
                Ok(line) => Some(line),
                Err(TryRecvError::Empty) => return Ok(Next::Nothing),
                Err(TryRecvError::Disconnected) => None,
            },
        };
        line.transpose().map(|line| line.map_or(Next::End, Next::Line))
    }
}

/// A line without its end. What is too long is read and dropped.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let (mut line, mut bytes) = (Vec::new(), 0usize);
    loop {
        let some = match reader.fill_buf() {
            Ok(some) => some,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if some.is_empty() && bytes == 0 {
            return Ok(None);
        }
        let end = some.iter().position(|&b| b == b'\n');
        let part = &some[..end.unwrap_or(some.len())];
        if line.len() + part.len() <= LINE_MAX {
            line.extend_from_slice(part);
        } else {
            // Longer than it may be, so that what follows does not fit either.
            line.resize(LINE_MAX + 1, 0);
        }
        let used = part.len() + usize::from(end.is_some());
        bytes += used;
        reader.consume(used);
        if end.is_some() || used == 0 {
            break;
        }
    }
    if line.len() > LINE_MAX {
        return Ok(Some(Err(LineError::TooLong { limit: LINE_MAX })));
    }
    let text = String::from_utf8(line);
    Ok(Some(text.map_err(|e| LineError::Utf8 { byte: e.utf8_error().valid_up_to() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Line> {
        let mut reader = BufReader::with_capacity(7, bytes);
        std::iter::from_fn(|| read(&mut reader).unwrap()).collect()
    }

    #[test]
    fn lines_end_at_newlines_and_at_the_end() {
        assert_eq!(all(b"").len(), 0);
        let ok = |lines: &[&str]| lines.iter().map(|l| Ok(l.to_string())).collect::<Vec<_>>();
        assert_eq!(
            all(b"a\n\nlonger than a buffer\r\nlast"),
            ok(&["a", "", "longer than a buffer\r", "last"])
        );
        assert_eq!(all(b"one\n"), ok(&["one"]));
    }

    #[test]
    fn what_is_no_text_or_too_long_is_an_error_of_its_line() {
        let found = all(b"good\nbad \xff\xfe\ngood");
        assert_eq!(found[1], Err(LineError::Utf8 { byte: 4 }));
        assert!(found[0].is_ok() && found[2].is_ok());
        let mut long = vec![b'x'; LINE_MAX + 1];
        long.extend(b"\nshort\n");
        let found = all(&long);
        assert_eq!(found, [Err(LineError::TooLong { limit: LINE_MAX }), Ok("short".to_string())]);
    }
}
