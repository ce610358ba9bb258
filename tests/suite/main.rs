//! The test suite: a table of contents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::format_collect, clippy::format_push_string)]
// Operations have one form, whether they can fail or not; stories are told on stdout.
#![allow(clippy::unnecessary_wraps, clippy::print_stdout)]
#![allow(missing_docs, unreachable_pub, dead_code)]

mod support;

mod append;
mod check;
mod command;
mod convergence;
mod crash;
mod diff;
mod docs;
mod evolve;
mod faults;
mod incremental;
mod init;
mod initial;
mod keys;
mod login;
mod network;
mod plan;
#[cfg(feature = "planted-faults")]
mod planted;
mod reconcile;
mod regressions;
mod rewritten;
mod scale;
mod state;
mod statements;
mod status;
mod swap;
mod tls;
mod types;
mod verify;
mod watermark;
