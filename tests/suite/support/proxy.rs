//! A network between the tool and a server that can be cut or made to stand still.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

const OPEN: u8 = 0;
const STALLED: u8 = 1;
const CUT: u8 = 2;

/// A proxy on loopback that lives as long as the test process.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    counted: Arc<Counted>,
}

/// What becomes of what is said.
#[derive(Default)]
struct State {
    of_all: AtomicU8,
    /// How many connections there have been.
    connections: AtomicU64,
    /// So many of them are forgotten.
    forgotten: AtomicU64,
}

impl State {
    fn of(&self, connection: u64) -> u8 {
        let forgotten = connection < self.forgotten.load(Ordering::SeqCst);
        if forgotten { STALLED } else { self.of_all.load(Ordering::SeqCst) }
    }
}

/// What has passed.
#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    round_trips: AtomicU64,
}

impl Proxy {
    /// Passes connections on to a port of 127.0.0.1.
    pub fn to(port: u16) -> Self {
        Self::between(TcpListener::bind("127.0.0.1:0").expect("a port"), port)
    }

    /// The same where one listens already.
    pub fn between(listener: TcpListener, port: u16) -> Self {
        let own = listener.local_addr().expect("an address").port();
        let (state, counted) = (Arc::new(State::default()), Arc::new(Counted::default()));
        let (seen, counting) = (Arc::clone(&state), Arc::clone(&counted));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let number = seen.connections.fetch_add(1, Ordering::SeqCst);
                let answered = Arc::new(AtomicBool::new(true));
                for (asks, from, to) in [(true, &client, &server), (false, &server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let (state, counted) = (Arc::clone(&seen), Arc::clone(&counting));
                    let answered = Arc::clone(&answered);
                    let count = move |bytes: usize| {
                        counted.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
                        if answered.swap(!asks, Ordering::SeqCst) && asks {
                            counted.round_trips.fetch_add(1, Ordering::SeqCst);
                        }
                    };
                    let state = move || state.of(number);
                    std::thread::spawn(move || pass(from, to, state, count));
                }
            }
        });
        Self { port: own, state, counted }
    }

    /// From now on nothing passes, and nobody is told.
    pub fn stall(&self) {
        self.state.of_all.store(STALLED, Ordering::SeqCst);
    }

    /// From now on nothing passes through the connections that are there, and nobody is told; new
    /// ones work.
    pub fn forget(&self) {
        let so_far = self.state.connections.load(Ordering::SeqCst);
        self.state.forgotten.store(so_far, Ordering::SeqCst);
    }

    /// Ends all connections; new ones pass again once [`Proxy::open`] is called.
    pub fn cut(&self) {
        self.state.of_all.store(CUT, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn open(&self) {
        self.state.of_all.store(OPEN, Ordering::SeqCst);
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.counted.bytes.load(Ordering::SeqCst)
    }

    /// How often a client has said something after an answer.
    pub fn round_trips(&self) -> u64 {
        self.counted.round_trips.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: impl Fn() -> u8, count: impl Fn(usize)) {
    let mut buffer = vec![0; 64 * 1024];
    // Woken often, to see whether the network has been cut.
    let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
    loop {
        match state() {
            STALLED => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            CUT => break,
            _ => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                // What was read in the instant before is held back as well.
                while state() == STALLED {
                    std::thread::sleep(Duration::from_millis(10));
                }
                count(length);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
