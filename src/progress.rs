//! Bars for the person who watches; nothing where nobody does.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressState, ProgressStyle};

/// The terminal at stderr, where all bars are shown, and lines of the log above them.
#[derive(Clone, Debug, Default)]
pub struct Screen(MultiProgress);

impl Screen {
    /// Prints while no bar is in the way.
    pub fn print<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

/// One table's rows on their way.
pub struct Progress {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
    table: String,
}

/// The room for a table's name, so that bars stand below each other.
const NAME_COLUMNS: usize = 14;

impl Progress {
    /// Begins to show a table, if stderr is a terminal and `shown`. `expected` is about how many
    /// rows there will be, where that is known.
    #[must_use]
    pub fn start(screen: &Screen, table: &str, expected: Option<u64>, shown: bool) -> Self {
        let expected = expected.filter(|rows| *rows > 0);
        let bar = match (shown, expected) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(rows)) => screen.0.add(ProgressBar::new(rows)),
            (true, None) => screen.0.add(ProgressBar::new_spinner()),
        };
        let bytes = Arc::default();
        bar.set_style(style(expected.is_some(), &bytes));
        bar.set_message(named(table));
        if shown {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar, bytes, table: table.to_owned() }
    }

    /// So many more have arrived.
    pub fn add(&self, rows: u64, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bar.inc(rows);
        // The server's statistics may be old.
        if self.bar.length().is_some_and(|expected| self.bar.position() > expected) {
            self.bar.set_length(self.bar.position());
        }
    }

    /// The rows are there, and this is being done with them.
    pub fn doing(&self, purpose: &str) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(format!("{}: {purpose}", self.table));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Within 80 columns: how far it is, how fast, and how long it will take.
fn style(expected: bool, bytes: &Arc<AtomicU64>) -> ProgressStyle {
    let template = if expected {
        "{msg} {bar:12} {rows}, {size} ({rate}/s), {eta} left"
    } else {
        "{msg} {spinner} {rows}, {size} ({rate}/s)"
    };
    let (total, rate) = (Arc::clone(bytes), Arc::clone(bytes));
    // Writing to a string does not fail.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rows", |state: &ProgressState, text: &mut dyn Write| {
            let of = state.len().map(|rows| format!("/~{}", compact(rows))).unwrap_or_default();
            let _ = write!(text, "{}{of} rows", compact(state.pos()));
        })
        .with_key("size", move |_: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{}", HumanBytes(total.load(Ordering::Relaxed)));
        })
        .with_key("rate", move |state: &ProgressState, text: &mut dyn Write| {
            let milliseconds = state.elapsed().as_millis().max(1);
            let each_second = u128::from(rate.load(Ordering::Relaxed)) * 1000 / milliseconds;
            let _ = write!(text, "{}", HumanBytes(u64::try_from(each_second).unwrap_or(u64::MAX)));
        })
}

/// A number in at most five characters, up to ten million million.
fn compact(number: u64) -> String {
    let units = ["", "k", "M", "G"];
    let (mut number, mut unit) = (number, 0);
    while number >= 10_000 && unit + 1 < units.len() {
        number /= 1000;
        unit += 1;
    }
    format!("{number}{}", units[unit])
}

/// A name in the room that there is for it.
fn named(table: &str) -> String {
    format!("{:NAME_COLUMNS$}", shortened(table, NAME_COLUMNS))
}

/// So much of a text as fits.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_room_for_large_numbers_and_long_names() {
        let written = [0, 9_999, 10_000, 9_999_999, 10_000_000, 12_345_678_901].map(compact);
        assert_eq!(written, ["0", "9999", "10k", "9999k", "10M", "12G"].map(str::to_owned));
        assert_eq!(named("orders").chars().count(), NAME_COLUMNS);
        assert_eq!(named("größer_als_die_spalte"), "größer_als_di…");
    }
}
