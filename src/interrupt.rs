//! SIGINT and SIGTERM: what is running is cancelled, and the run ends in good order.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

/// How often the cancelling is repeated: a cancel that arrives between two statements is lost.
const REPEAT: Duration = Duration::from_millis(500);

/// How long the run may take to end in good order. Servers roll back on their own after that.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a signal may go unnoticed in a pause.
const NAP: Duration = Duration::from_millis(50);

type Cancel = Arc<dyn Fn() + Send + Sync>;

/// Knows whether a signal arrived, and whom to tell.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Inner>);

#[derive(Default)]
struct Inner {
    signal: AtomicI32,
    next: AtomicU64,
    cancels: Mutex<Vec<(u64, Cancel)>>,
}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on. A second signal ends the process at once.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|error| Error::bug("cannot listen for signals").caused_by(&error))?;
        let heard = interrupt.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if heard.0.signal.swap(signal, Ordering::SeqCst) != 0 {
                    std::process::exit(128 + signal);
                }
                let told = heard.clone();
                std::thread::spawn(move || told.cancel_until_the_end(signal));
            }
        });
        Ok(interrupt)
    }

    fn cancel_until_the_end(&self, signal: i32) {
        let told = self.clone();
        std::thread::spawn(move || {
            loop {
                told.cancel_all();
                std::thread::sleep(REPEAT);
            }
        });
        std::thread::sleep(PATIENCE);
        std::process::exit(128 + signal);
    }

    /// Calls all at once, and nobody waits for them who begins or ends something: each may take
    /// seconds where a server cannot be heard any more.
    fn cancel_all(&self) {
        let cancels: Vec<Cancel> =
            self.lock().iter().map(|(_, cancel)| Arc::clone(cancel)).collect();
        std::thread::scope(|scope| {
            for cancel in &cancels {
                scope.spawn(|| cancel());
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Cancel)>> {
        self.0.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `cancel` called when a signal arrives, as long as the returned value lives.
    #[must_use]
    pub fn on_signal(&self, cancel: impl Fn() + Send + Sync + 'static) -> Registration {
        let number = self.0.next.fetch_add(1, Ordering::SeqCst);
        self.lock().push((number, Arc::new(cancel)));
        Registration { interrupt: self.clone(), number }
    }

    /// The signal that arrived.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Sleeps, and fails as soon as a signal arrives.
    pub fn sleep(&self, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.check()?;
            std::thread::sleep(left.min(NAP));
        }
        self.check()
    }

    /// Fails once a signal has arrived.
    pub fn check(&self) -> Result<()> {
        self.signal().map_or(Ok(()), |_| Err(Error::interrupted()))
    }
}

/// Ends with the thing that can be cancelled.
pub struct Registration {
    interrupt: Interrupt,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.interrupt.lock().retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_server_that_cannot_be_heard_keeps_nobody_from_cancelling_or_ending() {
        let interrupt = Interrupt::default();
        let (go_on, silent) = channel::<()>();
        let silent = Mutex::new(silent);
        let first = interrupt.on_signal(move || {
            let _ = silent.lock().unwrap().recv();
        });
        let (called, calls) = channel();
        let second = interrupt.on_signal(move || called.send(()).unwrap());
        let told = interrupt.clone();
        let telling = std::thread::spawn(move || told.cancel_all());
        calls.recv_timeout(Duration::from_mins(1)).expect("the second is called");
        let (ended, end) = channel();
        std::thread::spawn(move || {
            drop((first, second));
            ended.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_mins(1)).expect("both can end");
        drop(go_on);
        telling.join().unwrap();
    }
}
