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

type Cancel = Box<dyn Fn() + Send>;

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
        let rounds = PATIENCE.as_millis() / REPEAT.as_millis();
        for _ in 0..rounds {
            for (_, cancel) in self.lock().iter() {
                cancel();
            }
            std::thread::sleep(REPEAT);
        }
        std::process::exit(128 + signal);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Cancel)>> {
        self.0.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `cancel` called when a signal arrives, as long as the returned value lives.
    #[must_use]
    pub fn on_signal(&self, cancel: impl Fn() + Send + 'static) -> Registration {
        let number = self.0.next.fetch_add(1, Ordering::SeqCst);
        self.lock().push((number, Box::new(cancel)));
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
