//! A bar for the person who watches; nothing where nobody does.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The rows of one table on their way.
pub struct Progress(ProgressBar);

impl Progress {
    /// Begins to show a table on stderr, if that is a terminal and `shown`.
    #[must_use]
    pub fn start(table: &str, shown: bool) -> Self {
        let bar = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg}: {bytes} ({bytes_per_sec})")
        {
            bar.set_style(style);
        }
        bar.set_message(table.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// So many bytes more have arrived.
    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
