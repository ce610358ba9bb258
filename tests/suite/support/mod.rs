//! The servers, the pipelines and the judge that all tests share.

pub mod case;
pub mod harness;
pub mod http;
pub mod judge;
pub mod ledger;
pub mod model;
pub mod op;
pub mod park;
pub mod proxy;
pub mod running;
pub mod server;
pub mod shape;
pub mod values;
pub mod watcher;
pub mod world;

/// Pins a text in `snapshots/`, as `area__case`.
pub fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
