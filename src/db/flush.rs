//! Has a server write its log to the disk while another of our sessions adds to it.
//!
//! What a transaction adds to the write-ahead log stays in buffers (`wal_buffers`, 16 MB at most by default)
//! until they are full or it commits, and then its own session writes it, and waits for the disk at the end of
//! each segment. A second session that wakes the WAL writer has that done meanwhile.

use std::thread;
use std::time::Duration;

use tokio::sync::oneshot::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::connect::{FLUSHER, runtime};
use super::first_value;
use super::watch::{Watch, connect_timeout, open};
use crate::sql::session;

/// The pause before the next look at how much is not on the disk yet, where there was much. A merge fills
/// buffers of 4 MB, those of a server whose `shared_buffers` nobody has raised, in ten milliseconds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// The longest one, where there is little.
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// What a second session does, once it is told to and as long as this lives.
pub struct Flusher {
    /// How to reach the server; none once it has begun.
    watch: Option<Watch>,
    running: Option<Sender<()>>,
}

impl Flusher {
    /// On a server of that version (`server_version_num`).
    pub(super) fn new(mut watch: Watch, version: u32) -> Self {
        watch.configuration.application_name(FLUSHER);
        // The network may lose this session as any other, and nobody would look for it. Where somebody stands
        // between who passes no options on, it is theirs.
        if let Some(options) = watch.configuration.get_options() {
            let options = format!("{options} {}", session::end_where_silent(version));
            watch.configuration.options(options);
        }
        Self { watch: Some(watch), running: None }
    }

    /// Begins, and tells whether it had not yet. It saves time, and nothing depends on it: where no session or
    /// thread more can be had, or a function may not be used, it ends without a word.
    pub fn begin(&mut self) -> bool {
        let Some(watch) = self.watch.take() else { return false };
        let (running, end) = channel();
        self.running = Some(running);
        let work = move || {
            if let Ok(runtime) = runtime() {
                runtime.block_on(flush(&watch, end));
            }
        };
        thread::Builder::new().spawn(work).is_ok()
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.running = None;
    }
}

async fn flush(watch: &Watch, end: Receiver<()>) {
    let work = async {
        let opened = timeout(connect_timeout(), open(&watch.configuration, &watch.connector));
        let Ok(Ok(client)) = opened.await else { return };
        let (mut pause, mut woken_at) = (SHORTEST_PAUSE, None);
        while let Ok(answer) = client.simple_query(&session::flush(woken_at.as_deref())).await {
            let woken = first_value(answer);
            pause = if woken.is_some() { SHORTEST_PAUSE } else { LONGEST_PAUSE.min(pause * 2) };
            woken_at = woken.or(woken_at);
            sleep(pause).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = end => {}
    }
}
