//! A real HTTP server on loopback that answers as it is told and keeps what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that lives as long as the test process.
pub struct WebhookServer {
    pub url: String,
    bodies: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl WebhookServer {
    /// Answers the first requests with these status codes, and all later ones with the last.
    pub fn answering(codes: &'static [u16]) -> Self {
        Self::answering_after(Duration::ZERO, codes)
    }

    /// The same, each answer after a while.
    pub fn answering_after(pause: Duration, codes: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook/T0KEN", listener.local_addr().expect("an address"));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let code = codes.get(number).or(codes.last()).copied().unwrap_or(200);
                let keep = |body| kept.lock().expect("nobody panics here").push(body);
                std::thread::sleep(pause);
                // A caller that hangs up gets no answer.
                let _ = answer(stream, code, keep);
            }
        });
        Self { url, bodies }
    }

    /// What it was sent so far.
    pub fn bodies(&self) -> Vec<serde_json::Value> {
        self.bodies.lock().expect("nobody panics here").clone()
    }
}

fn answer(stream: TcpStream, code: u16, keep: impl FnOnce(serde_json::Value)) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    keep(serde_json::from_slice(&body).ok()?);
    let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    reader.into_inner().write_all(answer.as_bytes()).ok()
}
