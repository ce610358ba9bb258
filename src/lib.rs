//! Copies PostgreSQL tables to another PostgreSQL and keeps them in step, with nothing but SELECT
//! on the source.
//!
//! ```text
//! config -> catalog -> plan -> pg_dump | COPY -> staging -> merge + receipt -> state file -> report -> webhook
//!  what is   shape of   pure:     stream, no       one destination transaction
//!  wanted    both ends  decides   temporary file
//! ```
//!
//! The modules stand in the order a row travels. Each sees those above it, never those below.

// The edge: flags and files become typed choices, errors become sentences.
pub mod error;

// Pure: plain data in, values and text out; no connection, no file, no clock.
pub mod config;
pub mod digest;
pub mod fault;
pub mod mapping;
pub mod plan;
pub mod receipt;
pub mod sql;
pub mod table;
pub mod watermark;

// Each does one step of the way of a row.
pub mod apply;
pub mod catalog;
pub mod check;
pub mod connections;
pub mod copy;
pub mod crash;
pub mod db;
pub mod facts;
pub mod files;
pub mod init;
pub mod inspect;
pub mod interrupt;
pub mod pg_dump;
pub mod reconcile;
pub mod state;
pub mod status;
pub mod verify;

// What happened, for people, machines and the webhook.
pub mod metrics;
pub mod notify;
pub mod progress;
pub mod report;
pub mod runs;

// The order of it all, and what can be typed.
pub mod cli;
pub mod sync;
