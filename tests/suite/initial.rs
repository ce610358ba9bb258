//! The first copy of a table.

use serde_json::json;

use crate::support::case::{Case, by};

#[test]
fn a_table_is_copied_and_then_kept_in_step() {
    let mut case = Case::new(
        "CREATE TABLE orders (id int PRIMARY KEY, note text, updated_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO orders SELECT n, 'note ' || n FROM generate_series(1, 1000) n",
        &json!([by("orders", "updated_at")]),
    );
    let run = case.sync();
    run.says("initial sync: there is no such table at the destination");
    case.assert_equal("public.orders");
    case.at_source(
        "UPDATE orders SET note = 'changed', updated_at = clock_timestamp() WHERE id <= 10;
         INSERT INTO orders VALUES (1001, NULL, clock_timestamp())",
    );
    let run = case.sync();
    run.says("incremental sync done: 11 rows");
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}
