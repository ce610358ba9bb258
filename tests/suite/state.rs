//! What is remembered between syncs, where, and what happens when it is lost, old or damaged.

use std::fs;

use serde_json::json;

use crate::support::case::{Case, by, create_roles, with};
use crate::support::judge;
use crate::support::server::Servers;

const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text, at int);
    INSERT INTO orders SELECT n, 'note', n FROM generate_series(1, 10) n;";

const FILE: &str = "sync-state/orders.json";

fn orders() -> Case {
    let case = Case::new(ORDERS, &json!([by("orders", "at")]));
    case.sync();
    case
}

#[test]
fn the_state_file_repeats_the_receipt() {
    let mut case = orders();
    let file: serde_json::Value = serde_json::from_str(&case.read(FILE)).expect("JSON");
    let receipt = case.ask("SELECT receipt FROM _sync_state WHERE table_name = 'orders'");
    let receipt: serde_json::Value = serde_json::from_str(&receipt[0]).expect("JSON");
    assert_eq!(file, receipt);
    assert_eq!(file["watermark"], "10");
}

#[test]
fn a_lost_state_file_is_written_again_from_the_receipt() {
    let mut case = orders();
    fs::remove_dir_all(case.path().join("sync-state")).expect("a folder");
    case.sync().says("incremental sync: from 10");
    let file: serde_json::Value = serde_json::from_str(&case.read(FILE)).expect("JSON");
    let receipt = case.ask("SELECT receipt FROM _sync_state WHERE table_name = 'orders'");
    let receipt: serde_json::Value = serde_json::from_str(&receipt[0]).expect("JSON");
    assert_eq!(file, receipt);
}

#[test]
fn a_copied_state_file_continues_without_a_receipt() {
    let mut case = orders();
    case.at_destination("DROP TABLE _sync_state");
    case.at_source("INSERT INTO orders VALUES (11, 'new', 11)");
    case.sync()
        .says("there is no receipt at the destination: sync-state/orders.json counts")
        .says("1 row ");
    case.assert_equal("public.orders");
    case.sync().says("incremental sync: from 11");
}

/// The destination's rows come back from a backup, and what is known of them does not, or the other way round.
#[test]
fn a_backup_of_the_destination_is_brought_up_to_date_whatever_the_receipts_say() {
    let receipts_come_anew =
        "ALTER TABLE _sync_state RENAME TO old; CREATE TABLE _sync_state (LIKE old INCLUDING ALL);
        INSERT INTO _sync_state SELECT * FROM old; DROP TABLE old;";
    let all = "a, b, c, d, e";
    for (what, backup) in [
        ("they came with the rows, of which some did not", receipts_come_anew),
        ("the rows alone were loaded", ""),
        ("the state files are the newer ones", "DROP TABLE _sync_state;"),
    ] {
        let table = |name: &str| {
            format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, note text, at timestamptz DEFAULT now());
                 INSERT INTO {name} SELECT n, 'old' FROM generate_series(1, 9) n;"
            )
        };
        let rules = json!([
            by("a", "at"),
            by("b", "xmin"),
            with(by("c", "at"), &json!({"deletes": "remove"})),
            with(by("d", "at"), &json!({"deletes": "mark"})),
            with(by("e", "at"), &json!({"mode": "incremental-append"})),
        ]);
        let mut case = Case::new(&all.split(", ").map(table).collect::<String>(), &rules);
        case.sync();
        for name in all.split(", ") {
            let change = "SET note = 'new', at = now() - interval '1 min' WHERE id <= 3";
            case.at_source(&format!("UPDATE {name} {change}; INSERT INTO {name} VALUES (10)"));
        }
        case.sync();
        // A row that is as late as the newest is in the backup.
        for name in all.split(", ") {
            case.at_destination(&format!(
                "CREATE TABLE backup AS TABLE {name}; TRUNCATE {name};
                 INSERT INTO {name} SELECT * FROM backup WHERE note IS DISTINCT FROM 'new' AND id NOT IN (5, 6);
                 DROP TABLE backup"
            ));
        }
        case.at_destination(backup);
        case.sync().says("all rows are read");
        case.sync();
        for name in all.split(", ") {
            let rows = format!("SELECT concat(id, ' ', note) FROM {name}");
            let here = case.ask(&rows);
            let there = judge::column(&mut case.source, &rows);
            let missing: Vec<&String> = there.iter().filter(|row| !here.contains(row)).collect();
            assert!(missing.is_empty(), "{what}: {name} lacks {missing:?}");
        }
        case.run(&["verify"]).expect(0);
    }
}

/// As after pg_dump and restore: other numbers, the same names. The destination has rows that the source has not.
#[test]
fn a_source_that_was_moved_is_followed_where_that_is_asked() {
    let rules = json!([
        by("a", "at"),
        with(by("b", "at"), &json!({"deletes": "mark"})),
        with(by("c", "at"), &json!({"mode": "incremental-append"})),
        with(by("d", "xmin"), &json!({"deletes": "remove"})),
    ]);
    let names = ["a", "b", "c", "d"];
    let make = |columns: &str, from: u32| {
        names.map(|name| {
            format!(
                "CREATE TABLE {name} ({columns}); ALTER TABLE {name} DROP IF EXISTS gone;
                 INSERT INTO {name} (id, at) SELECT n, n FROM generate_series({from}, 10) n;"
            )
        })
    };
    let before = make("gone int, id int PRIMARY KEY, note text, at int", 1).concat();
    let mut case = Case::new(&before, &rules);
    case.sync();
    for name in names {
        case.at_source(&format!(
            "DELETE FROM {name} WHERE id <= 5; UPDATE {name} SET note = 'new', at = 11 WHERE id = 6"
        ));
    }
    case.sync();
    case.at_source("DROP TABLE a, b, c, d");
    case.at_source(&make("id int PRIMARY KEY, note text, at int", 6).concat());
    for name in names {
        case.at_source(&format!("UPDATE {name} SET note = 'newer' WHERE id = 7"));
    }
    case.run(&["sync", "--table", "c"]).expect(1).says("sync --source-moved");
    // A column that is gone has not become the one that is new.
    case.write_tables(&json!([with(
        by("b", "at"),
        &json!({"deletes": "mark", "on_schema_change": "evolve"})
    )]));
    // Even where it has got its number.
    case.at_source(
        "ALTER TABLE b RENAME TO aside; CREATE TABLE b (id int PRIMARY KEY, at int, city text);
         INSERT INTO b SELECT id, at, note FROM aside",
    );
    case.run(&["sync", "--source-moved"])
        .expect(1)
        .says("would lose what only the destination has");
    case.at_source("DROP TABLE b; ALTER TABLE aside RENAME TO b");
    case.write_tables(&rules);
    // Nor is another pipeline's copy one that goes on.
    case.write_env("PIPELINE_NAME=another");
    case.run(&["sync", "--source-moved", "--table", "c"]).expect(1).says("would lose the versions");
    case.write_env("");
    case.run(&["plan", "--source-moved", "--outline"]).expect(0).says("4 incremental");
    case.run(&["sync", "--source-moved"]).expect(0).says("goes on as one of");
    let ids = |case: &mut Case, of: &str| case.ask(&format!("SELECT id FROM {of} ORDER BY id"));
    assert_eq!(ids(&mut case, "a").len(), 10);
    assert_eq!(ids(&mut case, "b WHERE _deleted_at IS NOT NULL"), ["1", "2", "3", "4", "5"]);
    assert_eq!(
        ids(&mut case, "c").len(),
        12,
        "each version once: ten, 6 as it was, and 7 as it is"
    );
    for name in ["a", "b", "d"] {
        assert_eq!(ids(&mut case, &format!("{name} WHERE note = 'newer'")), ["7"], "{name}");
    }
    case.assert_equal("public.d");
    let run = case.sync();
    assert!(!run.stdout.contains("all rows are read"), "{}", run.stdout);
    assert_eq!(run.stdout.matches("done: 0 rows").count(), 4, "{}", run.stdout);
}

#[test]
fn a_state_file_that_the_rows_do_not_bear_out_does_not_count() {
    let mut case = orders();
    case.at_destination("DROP TABLE _sync_state; DELETE FROM orders WHERE id > 5");
    case.sync().says("initial sync: there is no receipt, and the destination has no row as late as sync-state/orders.json says (10)");
    case.assert_equal("public.orders");
}

#[test]
fn of_two_that_differ_the_older_watermark_counts() {
    let mut case = orders();
    let old = case.read(FILE);
    case.at_source("INSERT INTO orders SELECT n, 'new', n FROM generate_series(11, 20) n");
    case.sync();
    // The destination's rows are damaged where only the older watermark reaches.
    case.at_destination("UPDATE orders SET note = 'spoilt' WHERE id = 11");
    case.write(FILE, &old);
    case.sync()
        .says("the receipt says 20 and sync-state/orders.json says 10: the older one counts");
    case.assert_equal("public.orders");
    // A destination restored from an old backup: now the receipt is the older one.
    case.at_destination("DELETE FROM orders WHERE id > 15; UPDATE _sync_state SET receipt = jsonb_set(receipt, '{watermark}', '\"9\"')");
    case.sync().says("the receipt says 9");
    case.assert_equal("public.orders");
}

#[test]
fn what_cannot_be_compared_with_the_key_of_now_keeps_no_table_from_its_sync() {
    let mut case = orders();
    let old = case.read(FILE);
    case.at_source(
        "ALTER TABLE orders ADD changed timestamptz DEFAULT '2024-01-01'; INSERT INTO orders VALUES (11, 'new', 11)",
    );
    case.sync();
    // An old file of a damaged disk, and a key of another type.
    case.write(FILE, &old.replace("\"10\"", "\"nonsense\""));
    case.sync().says("sync-state/orders.json says nonsense, which is no value of `at`");
    case.assert_equal("public.orders");
    case.write(FILE, &old);
    case.write_tables(&json!([by("orders", "changed")]));
    case.sync().says("initial sync: `replication_key`");
    case.assert_equal("public.orders");
    // The same where only the file is there.
    case.at_destination("DELETE FROM _sync_state");
    case.write(FILE, &old);
    case.run(&["verify"]).expect(0);
    case.sync().says("initial sync: there is no receipt, and what sync-state/orders.json says (10) is no value of `changed`");
    case.assert_equal("public.orders");
}

#[test]
fn of_two_texts_nobody_knows_which_the_source_takes_for_the_older_one() {
    let mut case = Case::new(
        "CREATE TABLE orders (id int PRIMARY KEY, at text COLLATE \"C\");
         INSERT INTO orders VALUES (1, 'B1')",
        &json!([by("orders", "at")]),
    );
    case.sync();
    let old = (case.ask("SELECT receipt FROM _sync_state"), case.read(FILE));
    case.at_source("INSERT INTO orders SELECT n, 'a' || n FROM generate_series(2, 9) n");
    case.sync();
    // A destination that was put back, and one that was put forth.
    let new = (case.ask("SELECT receipt FROM _sync_state"), case.read(FILE));
    for (receipt, file) in [(&old.0, &new.1), (&new.0, &old.1)] {
        case.at_destination(&format!(
            "DELETE FROM orders WHERE id > 1; UPDATE _sync_state SET receipt = '{}'",
            receipt[0]
        ));
        case.write(FILE, file);
        case.sync().says("nothing tells the older text");
        case.assert_equal("public.orders");
    }
}

#[test]
fn neither_receipt_nor_state_file_means_a_new_copy() {
    let mut case = orders();
    case.at_destination("DELETE FROM _sync_state; UPDATE orders SET note = 'spoilt'");
    fs::remove_file(case.path().join(FILE)).expect("a file");
    case.sync().says("initial sync: there is no receipt at the destination");
    case.assert_equal("public.orders");
}

#[test]
fn the_predecessors_tables_are_taken_over_without_a_new_copy() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "at")]));
    case.at_destination(
        "CREATE TABLE orders (id int NOT NULL, note text, at int);
         INSERT INTO orders SELECT n, 'note', n FROM generate_series(1, 8) n;
         CREATE TABLE orders_stg (LIKE orders); INSERT INTO orders_stg VALUES (7, 'left over', 7)",
    );
    case.write("sync-state/orders.txt", "2024-01-01T00:00:00.000Z");
    let run = case.sync();
    run.says("incremental sync: taken over from the predecessor at 8").says("2 rows");
    run.says("what the predecessor has missed below 8 is not read again: run");
    // It is taken over once.
    fs::remove_file(case.path().join(FILE)).expect("a file");
    case.at_destination("CREATE TABLE receipts AS TABLE _sync_state; DELETE FROM _sync_state");
    case.run(&["plan"]).expect(0).says("there is no receipt at the destination");
    case.at_destination("INSERT INTO _sync_state SELECT * FROM receipts; DROP TABLE receipts");
    case.assert_equal("public.orders");
    case.at_source("UPDATE orders SET note = 'changed', at = 11 WHERE id = 1");
    case.sync().says("incremental sync: from 10").says("1 row ");
    case.assert_equal("public.orders");
    assert_eq!(case.read("sync-state/orders.txt"), "2024-01-01T00:00:00.000Z");
    case.assert_nothing_left();
}

/// What the Node.js script has left of a table: eight rows of ten, and a table to stage rows in.
const PREDECESSORS: &str = "
    CREATE TABLE orders (id int NOT NULL, note text, at int);
    INSERT INTO orders SELECT n, 'note', n FROM generate_series(1, 8) n;
    CREATE TABLE orders_stg (LIKE orders)";

#[test]
fn a_transaction_that_was_open_when_the_predecessors_table_was_taken_over_is_not_lost() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, ORDERS, &json!([by("orders", "at")]));
    case.at_destination(PREDECESSORS);
    case.write("sync-state/orders.txt", "8");
    let mut open = case.another_source();
    open.batch_execute("BEGIN; INSERT INTO orders VALUES (0, 'late', 2)").expect("a row");
    case.sync().says("taken over from the predecessor at 8");
    case.sync();
    open.batch_execute("COMMIT").expect("an end");
    case.sync().says("1 row ");
    case.assert_equal("public.orders");
    let receipts = "SELECT concat(xmin, receipt) FROM _sync_state";
    case.sync();
    let settled = case.ask(receipts);
    case.sync();
    assert_eq!(case.ask(receipts), settled);
    servers.stop();
}

#[test]
fn a_table_that_the_predecessor_cannot_have_copied_as_the_rule_says_is_copied_again() {
    let late = "there is no receipt at the destination";
    let renamed = json!({"destination_name": "bestellungen"});
    let cases = [
        (PREDECESSORS.to_owned(), with(by("orders", "at"), &json!({"where": "id > 4"})), late),
        (PREDECESSORS.replace("orders", "bestellungen"), with(by("orders", "at"), &renamed), late),
        (PREDECESSORS.replace("at int", "at text"), by("orders", "at"), "column `at` is text"),
        (PREDECESSORS.replace("at int", "day int"), by("orders", "at"), "has no column `at` with"),
    ];
    for (there, rule, why) in cases {
        let mut case = Case::new(ORDERS, &json!([rule]));
        case.at_destination(&there);
        case.write("sync-state/orders.txt", "8");
        case.write("sync-state/bestellungen.txt", "8");
        let run = case.sync();
        run.says("initial sync: ").says(why);
        assert!(!run.stdout.contains("missed"), "{rule}: {}", run.stdout);
        case.run(&["verify"]).expect(0);
    }
}

#[test]
fn doubled_rows_of_the_predecessor_are_healed_by_a_new_copy() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "at")]));
    case.at_destination(
        "CREATE TABLE orders (id int, note text, at int);
         INSERT INTO orders SELECT n / 2, 'note', n / 2 FROM generate_series(2, 9) n;
         CREATE TABLE orders_stg (LIKE orders)",
    );
    case.write("sync-state/orders.txt", "whatever");
    case.sync().says("initial sync: rows at the destination share their unique columns");
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}

/// Its source has been pruned since, and `deletes` is `keep`.
#[test]
fn no_kept_rows_are_lost_to_a_copy_that_heals_doubled_ones_or_looks_as_if_it_did() {
    let archive = |row: &str| {
        let mut case = Case::new(
            "CREATE TABLE t (id int PRIMARY KEY, email text, at int);
             INSERT INTO t SELECT n, 'mail ' || n, n FROM generate_series(901, 1000) n",
            &json!([by("t", "at")]),
        );
        case.at_destination(&format!(
            "CREATE TABLE t (id int NOT NULL, email text UNIQUE, at int);
             INSERT INTO t SELECT n, 'mail ' || n, n FROM generate_series(1, 1000) n; {row};
             CREATE TABLE t_stg (id int, email text, at int)"
        ));
        case.write("sync-state/t.txt", "whatever");
        case
    };
    let mut doubled = archive("INSERT INTO t VALUES (950, NULL, 950)");
    doubled.sync_fails(1).says("it has 100 rows, and the table has 1000");
    assert_eq!(doubled.ask("SELECT count(*) FROM t"), ["1001"]);
    doubled.run(&["sync", "--full-refresh"]).expect(0);
    doubled.assert_equal("public.t");
    // What is doubled twice over leaves enough.
    let mut twice =
        archive("DELETE FROM t WHERE id < 901; INSERT INTO t SELECT id, NULL, at FROM t");
    twice.sync().says("initial sync: rows at the destination share their unique columns");
    twice.assert_equal("public.t");
    let mut another = archive("SELECT 1");
    another.at_source("INSERT INTO t VALUES (1001, 'mail 1', 1001)");
    another.sync_fails(1).says("t_email_key");
    assert_eq!(another.ask("SELECT count(*) FROM t"), ["1000"]);
}

#[test]
fn a_damaged_state_file_is_named_and_the_receipt_counts() {
    let case = orders();
    for damage in ["", "garbage", "{\"version\": 1}"] {
        case.write(FILE, damage);
        case.sync().says("sync-state/orders.json is damaged and does not count").says("from 10");
    }
    case.sync();
    assert!(case.read(FILE).contains("watermark"));
}

#[test]
fn state_from_the_future_is_an_error_that_changes_nothing() {
    let mut case = orders();
    case.at_source("INSERT INTO orders VALUES (11, 'new', 11)");
    let good = case.read(FILE);
    case.write(FILE, "{\"version\": 99}");
    case.sync_fails(1)
        .says("`sync-state/orders.json` has version 99, and this tool knows versions up to 1");
    assert_eq!(case.read(FILE), "{\"version\": 99}");
    case.write(FILE, &good);
    case.at_destination("UPDATE _sync_state SET version = 99");
    case.sync_fails(1)
        .says("the receipt of `orders` in `_sync_state` at the destination has version 99");
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["10"]);
    case.at_destination("UPDATE _sync_state SET version = 1, receipt = '{}'");
    case.sync_fails(1).says("cannot read the receipt of `orders`").says("delete that row");
}

#[test]
fn a_pipeline_pointed_at_another_source_copies_again() {
    let mut case = orders();
    case.at_source(
        "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO reader;
         CREATE TABLE other.orders (id int PRIMARY KEY, note text, at int);
         INSERT INTO other.orders VALUES (1, 'another shop', 3); GRANT SELECT ON other.orders TO reader",
    );
    case.write_env("SOURCE_SCHEMA=other");
    case.sync().says("initial sync: the source is `other.orders`");
    assert_eq!(case.ask("SELECT note FROM orders"), ["another shop"]);
}

#[test]
fn a_source_that_does_not_tell_of_crashes_is_read_with_its_overlap() {
    let mut case = orders();
    case.at_source("REVOKE SELECT ON pg_stat_archiver FROM PUBLIC");
    case.sync();
    case.at_source("INSERT INTO orders VALUES (11, 'new', 11)");
    case.run(&["-v", "sync"])
        .expect(0)
        .says("it is not known that the source has been running ever since");
    case.assert_equal("public.orders");
    case.sync().says("done: 0 rows");
}

/// Clusters made by one script give the same object identifiers.
#[test]
fn a_source_that_does_not_tell_its_number_is_known_by_its_address() {
    let mut case = orders();
    case.at_source("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    case.sync().says("initial sync: the source is");
    case.sync().says("done: 0 rows");
    case.write_env("SOURCE_HOST=localhost");
    case.sync().says("initial sync: the source is").says("at `localhost:").says("at `127.0.0.1:");
    case.assert_equal("public.orders");
    case.sync().says("done: 0 rows");
}

#[test]
fn a_destination_table_that_somebody_made_anew_is_copied_again() {
    for mode in ["incremental-deduped", "incremental-append"] {
        let mut case =
            Case::new(ORDERS, &json!([with(by("orders", "at"), &json!({"mode": mode}))]));
        case.sync();
        // As pg_restore --clean brings a table back from yesterday's dump.
        case.at_destination(
            "CREATE TABLE older AS SELECT * FROM orders WHERE id < 4; ALTER TABLE older ALTER id SET NOT NULL;
             DROP TABLE orders; ALTER TABLE older RENAME TO orders",
        );
        case.sync().says("the destination table was made anew by somebody else");
        case.assert_equal("public.orders");
        case.sync().says("incremental sync: from 10").says("0 rows");
    }
}

#[test]
fn a_destination_table_that_somebody_emptied_is_copied_again() {
    let xmin = json!({"name": "orders", "replication_key": "xmin"});
    let append = with(by("orders", "at"), &json!({"mode": "incremental-append"}));
    for rule in [by("orders", "at"), append, xmin] {
        let mut case = Case::new(ORDERS, &json!([rule]));
        case.sync();
        case.at_destination("TRUNCATE orders");
        case.sync().says("somebody has emptied the destination table");
        case.assert_equal("public.orders");
    }
    let mut case = orders();
    case.at_destination("CREATE TEMPORARY TABLE older AS SELECT * FROM orders WHERE id < 4; TRUNCATE orders; INSERT INTO orders SELECT * FROM older");
    case.sync().says("it has no row as late as the receipt says (10)");
    case.assert_equal("public.orders");
    // VACUUM gives the room back, and with it the last sign of the rows.
    case.at_destination("DELETE FROM orders");
    case.at_destination("VACUUM orders");
    case.sync().says("somebody has emptied the destination table");
    case.assert_equal("public.orders");
    case.sync().says("incremental sync: from 10").says("0 rows");
    let by_xmin = json!({"name": "orders", "replication_key": "xmin"});
    let mut case = Case::new(ORDERS, &json!([by_xmin]));
    case.sync();
    case.at_destination("DROP TABLE _sync_state; TRUNCATE orders");
    case.sync().says("there is no receipt, and the destination table is empty");
    case.assert_equal("public.orders");
    case.at_destination("DELETE FROM orders");
    case.at_destination("VACUUM orders");
    case.sync().says("somebody has emptied the destination table");
    case.assert_equal("public.orders");
}

#[test]
fn a_destination_table_that_is_rightly_empty_is_not_copied_again() {
    let filtered = with(by("orders", "at"), &json!({"where": "note = 'no such'"}));
    let removed = json!({"name": "orders", "destination_name": "drained", "replication_key": "at",
                         "deletes": "remove", "max_delete_percent": 100});
    let mut case = Case::new(ORDERS, &json!([filtered, removed]));
    case.sync();
    case.sync().says("orders-incremental-0 || orders-incremental-0");
    case.at_source("DELETE FROM orders");
    case.sync();
    case.at_destination("VACUUM drained");
    for _ in 0..2 {
        case.sync().says("orders-incremental-0 || orders-incremental-0");
    }
    case.at_source("INSERT INTO orders VALUES (51, 'new', 51)");
    case.sync().says("orders-incremental-0 || orders-incremental-1");
}

#[test]
fn an_unlogged_destination_table_that_a_crash_has_emptied_is_copied_again() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, ORDERS, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination("ALTER TABLE orders SET UNLOGGED");
    case.sync();
    servers.destination.crash();
    case.reconnect();
    case.at_source("INSERT INTO orders VALUES (11, 'new', 11)");
    case.sync().says("somebody has emptied the destination table");
    case.assert_equal("public.orders");
    servers.stop();
}

#[test]
fn a_destination_table_that_was_rewritten_as_it_was_is_not_copied_again() {
    let mut case = orders();
    let table = "SELECT 'orders'::regclass::oid";
    let before = case.ask(table);
    case.at_destination("VACUUM FULL orders");
    case.sync().says("incremental sync: from 10").says("0 rows");
    assert_eq!(case.ask(table), before);
    // It is known from now on.
    let receipt = "SELECT xmin || ' ' || ctid FROM _sync_state";
    // What others had in flight at the source when it was copied is looked for until they have ended.
    let written_again = |_: &usize| {
        let known = case.ask(receipt);
        case.sync().says("0 rows");
        case.ask(receipt) != known
    };
    let syncs = (0..20).take_while(written_again).count();
    assert!(syncs < 20, "each sync of an idle table writes its receipt");
}

#[test]
fn what_a_state_file_knows_as_our_copy_is_not_taken_for_somebody_elses() {
    let mut case = orders();
    case.at_destination("TRUNCATE _sync_state");
    case.at_source("ALTER TABLE orders ADD more text");
    let run = case.sync();
    run.says("orders.json counts").says("the source has a new column `more`");
    assert!(!run.stdout.contains("no receipt; if it is not a copy"), "{}", run.stdout);
}

#[test]
fn a_source_at_which_somebody_always_is_at_work_has_no_idle_table_written_again() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "at")]));
    let busy = |case: &Case| {
        let mut session = case.another_source();
        session.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("a transaction");
        session
    };
    let mut at_work = busy(&case);
    case.sync();
    case.at_destination("VACUUM FULL orders");
    let receipt = "SELECT xmin || ' ' || ctid FROM _sync_state";
    let mut seen = Vec::new();
    for _ in 0..8 {
        let next = busy(&case);
        case.sync().says("0 rows");
        at_work.batch_execute("COMMIT").expect("an end");
        at_work = next;
        seen.push(case.ask(receipt).concat());
    }
    seen.dedup();
    assert!(seen.len() <= 3, "{seen:?}");
}

#[test]
fn a_destination_that_was_brought_here_whole_goes_on_once_all_rows_were_read() {
    let mut case = orders();
    case.at_destination(
        "CREATE TABLE brought AS TABLE orders; CREATE TABLE receipts AS TABLE _sync_state; ALTER TABLE receipts ADD PRIMARY KEY (table_name);
         DROP TABLE orders, _sync_state; ALTER TABLE brought RENAME TO orders; ALTER TABLE orders ALTER id SET NOT NULL;
         ALTER TABLE receipts RENAME TO _sync_state",
    );
    case.at_source("INSERT INTO orders VALUES (11, 'new', 11)");
    case.sync().says("were brought here from elsewhere: all rows are read").says("1 row ");
    case.assert_equal("public.orders");
    let run = case.sync();
    run.says("incremental sync: from 11");
    assert!(!run.stdout.contains("all rows are read"), "{}", run.stdout);
}

#[test]
fn an_older_table_of_receipts_gets_what_it_is_missing() {
    let mut case = orders();
    case.at_destination("ALTER TABLE _sync_state DROP COLUMN written_beside");
    case.run(&["plan"]).expect(0).says("from 10");
    case.run(&["status"]).expect(0);
    case.sync().says("incremental sync: from 10").says("0 rows");
    assert_eq!(case.ask("SELECT count(written_beside) FROM _sync_state"), ["1"]);
}

#[test]
fn a_table_that_was_rewritten_is_not_copied_again_because_its_latest_row_is_gone() {
    let filtered = with(by("orders", "at"), &json!({"where": "id < 10"}));
    let removed = with(by("orders", "at"), &json!({"deletes": "remove"}));
    for rule in [filtered, removed] {
        let mut case = Case::new(ORDERS, &json!([rule]));
        case.sync();
        case.at_source("DELETE FROM orders WHERE id = 10");
        case.sync();
        case.at_destination("VACUUM FULL orders");
        case.sync().says("incremental sync: from ");
    }
}

#[test]
fn a_rewritten_table_whose_key_is_of_another_type_is_copied_again() {
    let mut case = orders();
    case.at_destination("ALTER TABLE orders ALTER at TYPE text");
    case.sync().says("initial sync: ");
    case.assert_equal("public.orders");
}
