//! Asks a person at a terminal where the two servers are.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

use incremental_replication::config::{self, Side};
use incremental_replication::error::{Error, Result};
use incremental_replication::interrupt::Interrupt;

/// What is asked about each server: the variable's end, the words, and what Enter stands for.
const QUESTIONS: [(&str, &str, Option<&str>); 6] = [
    ("HOST", "host", Some("localhost")),
    ("PORT", "port", Some("5432")),
    ("DB", "database", None),
    ("USERNAME", "user", None),
    ("PASSWORD", "password (nothing for ~/.pgpass)", Some("")),
    ("SCHEMA", "schema", Some("public")),
];

/// Asks everything and returns the text of `.env`.
pub(crate) fn ask(interrupt: &Interrupt) -> Result<String> {
    let heard = interrupt.clone();
    let _shown_again = interrupt.on_signal(move || {
        stty("echo");
        std::process::exit(heard.signal().map_or(1, |signal| 128 + signal));
    });
    let mut text = String::new();
    for side in [Side::Source, Side::Destination] {
        let role = if side == Side::Source { "only read" } else { "written" };
        tell(&format!("The {side}, which is {role}:\n"))?;
        for (end, words, default) in QUESTIONS {
            let answer = answer(words, default, end == "PASSWORD")?;
            if !answer.is_empty() {
                text += &config::dotenv_line(&format!("{}_{end}", side.prefix()), &answer)?;
            }
        }
    }
    Ok(text)
}

fn answer(words: &str, default: Option<&str>, secret: bool) -> Result<String> {
    loop {
        let shown = match default {
            Some(default) if !default.is_empty() => format!("  {words} [{default}]: "),
            _ => format!("  {words}: "),
        };
        tell(&shown)?;
        let _hidden = secret.then(Hidden::begin);
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        if secret {
            tell("\n")?;
        }
        match read {
            Ok(0) => return Err(Error::configuration("the questions were not all answered")),
            Err(error) => {
                return Err(Error::configuration("cannot read the answer").caused_by(&error));
            }
            Ok(_) => {}
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match (line, default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

fn tell(text: &str) -> Result<()> {
    let mut stderr = std::io::stderr();
    let told = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    told.map_err(|error| Error::configuration("cannot ask").caused_by(&error))
}

/// A terminal that does not show what is typed, as long as this value lives.
struct Hidden;

impl Hidden {
    fn begin() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        stty("echo");
    }
}

fn stty(argument: &str) {
    // Where there is no stty, what is typed is seen, and nothing else is lost.
    let _ =
        Command::new("stty").arg(argument).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
}
