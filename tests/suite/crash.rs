//! The process ends at every named point of every kind of sync; the next sync puts it right.

use incremental_replication::crash::POINTS;
use serde_json::json;

use crate::support::case::Case;

/// A copy does not merge or compare.
fn is_passed(point: &str, copy: bool) -> bool {
    !(copy && ["merged", "compared"].contains(&point))
}

#[test]
fn a_crash_at_any_point_of_any_kind_of_sync_is_healed_by_the_next_one() {
    for initial in ["pg_dump", "copy"] {
        let mut case = Case::new(
            "CREATE SEQUENCE numbers; CREATE TABLE orders (id int PRIMARY KEY, note text, at bigint DEFAULT nextval('numbers'))",
            &json!([{"name": "orders", "replication_key": "at", "settle": "0s", "initial": initial, "deletes": "remove"}]),
        );
        case.at_source("INSERT INTO orders SELECT n, 'note' FROM generate_series(1, 50) n");
        for copy in [true, false] {
            for (number, point) in POINTS.into_iter().enumerate() {
                case.at_source(&format!(
                    "UPDATE orders SET note = '{point}', at = nextval('numbers') WHERE id % 3 = {};
                     DELETE FROM orders WHERE id = {}",
                    number % 3,
                    if copy { number } else { number + 20 }
                ));
                // So that a crash may come when some rows are merged and others are not.
                let mut arguments = vec!["sync", "--row-by-row", "--crash-at", point];
                if copy {
                    arguments.push("--full-refresh");
                }
                let before =
                    case.ask_if_there("SELECT string_agg(o::text, '|' ORDER BY id) FROM orders o");
                let run = case.run(&arguments);
                if !is_passed(point, copy) {
                    run.expect(0);
                    continue;
                }
                assert_eq!(run.code, None, "the process was to end at {point}");
                case.wait_until_alone();
                let reached = POINTS.iter().position(|p| *p == "committed").expect("a point");
                let after =
                    case.ask_if_there("SELECT string_agg(o::text, '|' ORDER BY id) FROM orders o");
                assert_eq!(before != after, number >= reached, "at {point}, copy: {copy}");
                case.assert_nothing_left_but_a_temporary_file();
                case.sync();
                case.assert_equal("public.orders");
                case.assert_nothing_left();
            }
        }
        // A merge that finds nothing passes few points, and those heal as well.
        for point in ["connected", "marks-taken", "locked", "snapshot-open", "planned"] {
            assert_eq!(case.run(&["sync", "--crash-at", point]).code, None);
            case.wait_until_alone();
            case.sync().says("done: 0 rows");
        }
    }
}
