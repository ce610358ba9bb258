//! Rows on their way: one thread reads them, another writes them, and a bounded channel between
//! them keeps the memory small whatever the table's size.
//!
//! They may be written in parts, between which the writer does something with the rows that are
//! there, as long as the reader is the slower of the two: a source is never held up for long by
//! what its rows are good for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::db::Session;
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::sql::copy::Format;

/// How many bytes are gathered before they are handed over. A flush for each row would be twenty
/// times slower.
const CHUNK_BYTES: usize = 256 * 1024;

/// How many are handed over to a writer that has nothing to do.
const FEW_BYTES: usize = 64 * 1024;

/// How many chunks may wait between reader and writer.
const CHUNKS_WAITING: usize = 4;

/// How many times as large as one part all parts before it may be. It bounds the number of parts
/// by the logarithm of the rows', each of which costs the destination a little.
const PARTS_SO_FAR: usize = 16;

/// Up to here rows are few: to delete them takes some milliseconds, as a TRUNCATE does.
const MOST_OF_FEW_ROWS: u64 = 5_000;
const MOST_OF_FEW_BYTES: usize = 256 << 10;

/// What begins and ends rows in the binary format. Neither flags nor an extension are in use.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const BINARY_TRAILER: &[u8] = b"\xff\xff";

static ROW_BY_ROW: OnceLock<()> = OnceLock::new();

/// Has this process write each row as a part of its own, and take it for many, for the tests.
pub fn row_by_row() {
    // A second choice would be one too many, and changes nothing.
    let _ = ROW_BY_ROW.set(());
}

enum Message {
    Rows(Chunk),
    /// Everything was read; without this message the writer must not finish.
    End,
}

/// Rows, or parts of them, without what begins and ends them all, and how many ended in it.
struct Chunk {
    bytes: Vec<u8>,
    rows: u64,
}

/// The reader's end of the channel.
pub struct Outgoing<'a> {
    sender: SyncSender<Message>,
    /// How many messages were sent and not received yet, one that waits for room included.
    waiting: &'a AtomicUsize,
    buffer: Vec<u8>,
    /// How many rows end in it.
    rows: u64,
    /// How many there were before.
    sent: u64,
}

impl Outgoing<'_> {
    /// Takes bytes along, in which so many rows end. Fails when the writer has given up.
    pub fn push(&mut self, bytes: &[u8], rows: u64) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.rows += rows;
        let enough = match self.waiting.load(Ordering::Relaxed) {
            _ if ROW_BY_ROW.get().is_some() => 1,
            0 => FEW_BYTES,
            _ => CHUNK_BYTES,
        };
        if self.buffer.len() >= enough { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES + 8192));
        let rows = std::mem::take(&mut self.rows);
        self.sent += rows;
        self.send(Message::Rows(Chunk { bytes, rows }))
    }

    fn send(&self, message: Message) -> Result<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(message).map_err(|_| writer_gone())
    }

    /// Says that everything was read, without which the writer fails, and returns how many rows it
    /// was.
    pub fn end(mut self) -> Result<u64> {
        if planted(Fault::CutShort) {
            let whole = self.buffer.iter().rposition(|&byte| byte == b'\n').unwrap_or_default();
            let before = self.buffer[..whole].iter().rposition(|&byte| byte == b'\n');
            self.buffer.truncate(before.map_or(0, |at| at + 1));
            self.rows = self.rows.saturating_sub(1);
        }
        self.flush()?;
        self.send(Message::End)?;
        Ok(self.sent)
    }
}

/// Stands in for the writer's own error, which is the one that is reported.
fn writer_gone() -> Error {
    Error::bug("the writer of the rows is gone")
}

/// The writer's end of the channel.
pub struct Incoming<'a> {
    receiver: Receiver<Message>,
    waiting: &'a AtomicUsize,
    first: Option<Message>,
    parts: Parts,
}

impl Incoming<'_> {
    /// Waits until something was read and tells whether that was everything and held no row.
    pub fn is_empty(&mut self) -> bool {
        self.first = self.receive();
        matches!(self.first, Some(Message::End))
    }

    fn receive(&mut self) -> Option<Message> {
        self.first.take().or_else(|| {
            let received = self.receiver.recv().ok()?;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            Some(received)
        })
    }

    /// The next rows; `None` at the end. Fails when the reader has given up.
    fn next(&mut self) -> Result<Option<Chunk>> {
        match self.receive() {
            Some(Message::Rows(chunk)) => Ok(Some(chunk)),
            Some(Message::End) => Ok(None),
            // Stands in for the reader's own error, which is the one that is reported.
            None => Err(Error::bug("the reader of the rows is gone")),
        }
    }
}

/// Where one part of the rows ends and the next begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// How many bytes were in the parts before.
    before: usize,
    /// How many have been in this one.
    bytes: usize,
    /// Whether the reader has had to wait for what was done with a part.
    held_up: bool,
}

impl Parts {
    /// Begins a part, with so many messages waiting.
    fn begin(&mut self, waiting: usize) {
        self.before += self.bytes;
        self.bytes = 0;
        self.held_up |= self.before > 0 && waiting >= CHUNKS_WAITING;
    }

    /// Takes a chunk of so many bytes along, and tells whether the part ends with it.
    fn take(&mut self, bytes: usize, waiting: usize) -> bool {
        self.bytes += bytes;
        let enough = self.bytes >= self.before / PARTS_SO_FAR;
        ROW_BY_ROW.get().is_some() || waiting == 0 && !self.held_up && enough
    }
}

/// Lets `read`, which says when everything was read, and `write` run side by side. Where both fail,
/// the reader's error is reported, unless it failed because the writer had.
pub fn transfer<T>(
    read: impl FnOnce(Outgoing) -> Result<()> + Send,
    write: impl FnOnce(&mut Incoming) -> Result<T>,
) -> Result<T> {
    let (sender, receiver) = sync_channel(CHUNKS_WAITING);
    let waiting = &AtomicUsize::new(0);
    let mut incoming = Incoming { receiver, waiting, first: None, parts: Parts::default() };
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                let buffer = Vec::with_capacity(CHUNK_BYTES + 8192);
                read(Outgoing { sender, waiting, buffer, rows: 0, sent: 0 })
            })
            .map_err(|error| Error::host("cannot read and write at once", &error))?;
        let written = write(&mut incoming);
        drop(incoming);
        let read =
            reader.join().unwrap_or_else(|_| Err(Error::bug("the reader of the rows panicked")));
        match (read, written) {
            (Ok(()), written) => written,
            (Err(reader), Err(writer)) if reader == writer_gone() => Err(writer),
            (Err(reader), _) => Err(reader),
        }
    })
}

/// Reads rows by a COPY at the source, which sends each in a message of its own.
pub fn read_query(
    source: &mut Session,
    sql: &str,
    format: Format,
    outgoing: &mut Outgoing,
) -> Result<()> {
    let mut header = if format == Format::Binary { BINARY_HEADER } else { b"" };
    source.copy_out("read the rows", sql, |message| {
        // It stands in one message with the first row, or with the trailer.
        let row = message.strip_prefix(std::mem::take(&mut header)).unwrap_or(message);
        // No row reads like the trailer: it begins with the number of its columns.
        if format == Format::Binary && row == BINARY_TRAILER {
            return Ok(());
        }
        outgoing.push(row, 1)
    })
}

/// What was written by one COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// How many rows.
    pub rows: u64,
    /// How many bytes they were.
    pub bytes: usize,
    /// Whether more may come.
    pub more: bool,
}

impl Part {
    /// Whether it is dearer to go through them again than to have the table's files made anew.
    #[must_use]
    pub fn is_many(&self) -> bool {
        are_many(self.rows, self.bytes)
    }
}

/// Whether so many rows, of so many bytes, are many.
#[must_use]
pub fn are_many(rows: u64, bytes: usize) -> bool {
    rows > MOST_OF_FEW_ROWS || bytes > MOST_OF_FEW_BYTES || ROW_BY_ROW.get().is_some()
}

/// Writes rows by a COPY at the destination, and tells `progress` of every chunk's rows and bytes:
/// all rows, or, `in_parts`, a part of them.
pub fn write(
    destination: &mut Session,
    (sql, format): (&str, Format),
    incoming: &mut Incoming,
    in_parts: bool,
    mut progress: impl FnMut(u64, usize),
) -> Result<Part> {
    let interrupt = destination.interrupt().clone();
    let binary = format == Format::Binary;
    let mut header = binary.then_some(BINARY_HEADER);
    let mut trailer = binary.then_some(BINARY_TRAILER);
    incoming.parts.begin(incoming.waiting.load(Ordering::Relaxed));
    let (mut over, mut more, mut all, mut sent) = (false, true, 0, 0);
    let rows = destination.copy_in("write the rows", sql, || {
        interrupt.check()?;
        if let Some(header) = header.take() {
            return Ok(Some(header.to_vec()));
        }
        if !over {
            if let Some(Chunk { bytes, rows }) = incoming.next()? {
                let waiting = incoming.waiting.load(Ordering::Relaxed);
                over = incoming.parts.take(bytes.len(), waiting) && in_parts;
                progress(rows, bytes.len());
                sent += rows;
                all += bytes.len();
                return Ok(Some(bytes));
            }
            (over, more) = (true, false);
        }
        Ok(trailer.take().map(<[u8]>::to_vec))
    })?;
    if rows < sent {
        return Err(Error::table(format!(
            "the destination took {rows} of {sent} rows and said nothing of the others"
        ))
        .hint("look for a trigger that somebody made on the staging table, and drop it"));
    }
    Ok(Part { rows, bytes: all, more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_no_row_waits_and_the_reader_never_had_to() {
        let mut parts = Parts::default();
        parts.begin(CHUNKS_WAITING);
        assert!(!parts.take(1, 1), "more is there");
        assert!(parts.take(1, 0), "nothing was done yet that could have held the reader up");
        parts.begin(CHUNKS_WAITING - 1);
        assert!(parts.take(1, 0));
        parts.begin(CHUNKS_WAITING);
        assert!(!parts.take(1, 0), "the reader waits");
        parts.begin(0);
        assert!(!parts.take(1, 0), "it has waited once");
    }

    #[test]
    fn there_are_few_parts_however_many_rows_there_are() {
        let mut parts = Parts::default();
        let mut ended = 0;
        // 16 GB in chunks of 64 KiB, by a reader that is slower each time.
        parts.begin(0);
        for _ in 0..250_000 {
            if parts.take(FEW_BYTES, 0) {
                ended += 1;
                parts.begin(0);
            }
        }
        assert!((150..200).contains(&ended), "{ended}");
    }
}
