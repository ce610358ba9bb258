//! Rows on their way: one thread reads them, another writes them, and a bounded channel between
//! them keeps the memory small whatever the table's size.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::db::Session;
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::sql::copy::Format;

/// How many bytes are gathered before they are handed over. A flush for each row would be twenty
/// times slower.
const CHUNK_BYTES: usize = 256 * 1024;

/// How many chunks may wait between reader and writer.
const CHUNKS_WAITING: usize = 4;

/// The binary format's header and trailer, which are there even without rows.
const EMPTY_BINARY_BYTES: usize = 19 + 2;

enum Message {
    Rows(Chunk),
    /// Everything was read; without this message the writer must not finish.
    End,
}

/// Rows, or parts of them, and how many ended in it.
struct Chunk {
    bytes: Vec<u8>,
    rows: u64,
}

/// The reader's end of the channel.
pub struct Outgoing {
    sender: SyncSender<Message>,
    buffer: Vec<u8>,
    rows: u64,
}

impl Outgoing {
    /// Takes bytes along, in which so many rows end. Fails when the writer has given up.
    pub fn push(&mut self, bytes: &[u8], rows: u64) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.rows += rows;
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES + 8192));
        let rows = std::mem::take(&mut self.rows);
        self.sender.send(Message::Rows(Chunk { bytes: full, rows })).map_err(|_| writer_gone())
    }

    fn end(mut self) -> Result<()> {
        if planted(Fault::CutShort) {
            let whole = self.buffer.iter().rposition(|&byte| byte == b'\n').unwrap_or_default();
            let before = self.buffer[..whole].iter().rposition(|&byte| byte == b'\n');
            self.buffer.truncate(before.map_or(0, |at| at + 1));
        }
        self.flush()?;
        self.sender.send(Message::End).map_err(|_| writer_gone())
    }
}

/// Stands in for the writer's own error, which is the one that is reported.
fn writer_gone() -> Error {
    Error::bug("the writer of the rows is gone")
}

/// The writer's end of the channel.
pub struct Incoming {
    receiver: Receiver<Message>,
    first: Option<Message>,
}

impl Incoming {
    /// Waits until something was read and tells whether that was everything and held no row.
    pub fn is_empty(&mut self, format: Format) -> bool {
        match self.receiver.recv() {
            Ok(Message::End) => {
                self.first = Some(Message::End);
                true
            }
            Ok(Message::Rows(chunk)) => {
                let nothing = format == Format::Binary && chunk.bytes.len() == EMPTY_BINARY_BYTES;
                self.first = Some(Message::Rows(chunk));
                // The reader must get rid of its last word, else it takes us for gone.
                nothing && matches!(self.receiver.recv(), Ok(Message::End))
            }
            Err(_) => false,
        }
    }

    /// The next bytes; `None` at the end. Fails when the reader has given up.
    fn next(&mut self) -> Result<Option<Chunk>> {
        match self.first.take().map_or_else(|| self.receiver.recv(), Ok) {
            Ok(Message::Rows(chunk)) => Ok(Some(chunk)),
            Ok(Message::End) => Ok(None),
            // Stands in for the reader's own error, which is the one that is reported.
            Err(_) => Err(Error::bug("the reader of the rows is gone")),
        }
    }
}

/// Lets `read` and `write` run side by side. Where both fail, the one that failed first is
/// reported.
pub fn transfer<T>(
    read: impl FnOnce(&mut Outgoing) -> Result<()> + Send,
    write: impl FnOnce(&mut Incoming) -> Result<T>,
) -> Result<T> {
    let (sender, receiver) = sync_channel(CHUNKS_WAITING);
    let mut incoming = Incoming { receiver, first: None };
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let buffer = Vec::with_capacity(CHUNK_BYTES + 8192);
            let mut outgoing = Outgoing { sender, buffer, rows: 0 };
            read(&mut outgoing)?;
            outgoing.end()
        });
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

/// Reads rows by a COPY at the source.
pub fn read_query(source: &mut Session, sql: &str, outgoing: &mut Outgoing) -> Result<()> {
    source.copy_out("read the rows", sql, |row| outgoing.push(row, 1))
}

/// Writes rows by a COPY at the destination, tells `progress` of every chunk's rows and bytes,
/// and returns the number of rows.
pub fn write(
    destination: &mut Session,
    sql: &str,
    incoming: &mut Incoming,
    mut progress: impl FnMut(u64, usize),
) -> Result<u64> {
    let interrupt = destination.interrupt().clone();
    destination.copy_in("write the rows", sql, || {
        interrupt.check()?;
        let Some(Chunk { bytes, rows }) = incoming.next()? else { return Ok(None) };
        progress(rows, bytes.len());
        Ok(Some(bytes))
    })
}
