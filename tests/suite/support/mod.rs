//! The servers, the pipelines and the judge that all tests share.

pub mod case;
pub mod judge;
pub mod server;
