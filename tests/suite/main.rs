//! The test suite: a table of contents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::format_collect)]
#![allow(missing_docs, unreachable_pub, dead_code)]

mod support;

mod command;
mod crash;
mod faults;
mod incremental;
mod initial;
mod network;
mod state;
mod statements;
mod swap;
mod tls;
mod types;
mod watermark;
