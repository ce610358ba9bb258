//! Is the destination right, and who can tell?

use serde_json::{Value, json};

use crate::support::case::{Case, Run, by, with};
use crate::support::judge;

const SHOP: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN percent AS numeric(5,2);
    CREATE TABLE orders (id int PRIMARY KEY, customer int, total numeric(12,2), feeling mood, feelings mood[],
        share percent, place point, document jsonb, padded char(5), updated_at timestamptz);
    INSERT INTO orders SELECT n, n % 7, n, 'ok', '{sad,NULL}', 5, point(n, 1), '{\"a\": 1}', 'x', '2024-01-01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 300) n;
    CREATE TABLE lines (note text, amount int);
    INSERT INTO lines SELECT 'line', n / 2 FROM generate_series(1, 100) n;";

fn shop() -> Case {
    let rules = json!([by("orders", "updated_at"), {"name": "lines", "mode": "full-refresh"}]);
    let case = Case::new(SHOP, &rules);
    case.sync();
    case
}

#[test]
fn equal_tables_are_equal() {
    let case = shop();
    let run = case.run(&["verify"]);
    run.expect(0).says("orders: equal (300 rows;").says("lines: equal (100 rows;");
    assert_eq!(run.stderr, "");
    let document = case.verify(0);
    assert_eq!(document["status"], "equal");
    assert_eq!(document["tables"][0]["source_rows"], 300);
    let quiet = case.run(&["verify", "--quiet"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (Some(0), "", ""));
    let mut case = case;
    case.at_destination("DELETE FROM orders WHERE id = 1");
    let quiet = case.run(&["verify", "--quiet"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(1), ""));
    assert!(quiet.stderr.starts_with("error: `orders` differs: 1 missing"), "{}", quiet.stderr);
}

#[test]
fn the_source_itself_is_never_repaired() {
    let case = shop();
    case.write_env(&format!("DEST_PORT={}\nDEST_USERNAME=reader", case.source_port()));
    for command in [&["verify"][..], &["verify", "--repair"], &["plan"], &["sync"]] {
        case.run(command).expect(2).says("source and destination are the same");
    }
}

#[test]
fn what_may_be_no_copy_is_compared_and_not_repaired() {
    let mut case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.at_destination(
        "CREATE TABLE orders (id int NOT NULL, customer int, total numeric(12,2), feeling text,
            feelings text[], share numeric(5,2), place point, document jsonb, padded char(5), updated_at timestamptz);
         INSERT INTO orders (id) VALUES (5000)",
    );
    assert_eq!(case.verify(1)["tables"][0]["extra"], 1);
    let said = "is not repaired: there is no receipt at the destination; run";
    let run = case.run(&["verify"]);
    run.expect(1).says(said);
    assert!(!run.stdout.contains("--repair"), "{}", run.stdout);
    let run = case.run(&["verify", "--repair"]);
    run.expect(1).says("`public.orders` may be no copy of `orders`, and is not repaired");
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["1"]);
    case.sync();
    case.assert_equal("public.orders");
    // Nor is what is a copy of something else.
    case.at_source(
        "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO reader;
         CREATE TABLE other.orders (LIKE orders INCLUDING ALL); GRANT SELECT ON other.orders TO reader",
    );
    case.write_env("SOURCE_SCHEMA=other");
    let run = case.run(&["verify", "--repair"]);
    run.expect(1).says("is not repaired").says("the source is `other.orders`");
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["300"]);
}

#[test]
fn a_document_is_all_that_stdout_gets() {
    let case = shop();
    let run = case.run(&["-v", "verify", "--json"]);
    let document: Value = serde_json::from_str(&run.stdout).expect("nothing but JSON");
    assert_eq!((run.code, &document["status"]), (Some(0), &json!("equal")));
}

#[test]
fn a_repair_that_would_remove_most_of_a_table_is_not_recommended_blindly() {
    let mut case = shop();
    case.at_source("DELETE FROM orders");
    case.run(&["verify"]).expect(1).says(
        "look first whether `orders` is complete at the source, for 300 of 300 rows would be",
    );
    // A table that cannot be compared is no difference.
    let rules = json!([
        with(by("orders", "updated_at"), &json!({"destination_name": "Other Orders"})),
        by("nothing", "at")
    ]);
    case.write_tables(&rules);
    let document = case.verify(1);
    assert_eq!(
        (&document["status"], &document["tables"][1]["status"]),
        (&json!("error"), &json!("error"))
    );
}

#[test]
fn every_kind_of_damage_is_found_named_and_mended() {
    let mut case = shop();
    case.at_destination(
        "UPDATE orders SET total = total + 1 WHERE id = 1;
         DELETE FROM orders WHERE id IN (2, 3);
         INSERT INTO orders (id, customer) VALUES (1001, 1);
         UPDATE orders SET feeling = 'sad', place = NULL WHERE id = 4;
         UPDATE orders SET padded = '' WHERE id = 5;
         UPDATE orders SET id = 2001 WHERE id = 6;
         -- The sums of the columns are what they were.
         UPDATE orders SET customer = CASE id WHEN 10 THEN 4 ELSE 3 END WHERE id IN (10, 11);
         DELETE FROM lines WHERE amount = 7; INSERT INTO lines VALUES ('line', 9), ('other', 9)",
    );
    let document = case.verify(1);
    let orders = &document["tables"][0];
    let counts = |table: &Value| {
        ["missing", "extra", "different", "pending"]
            .map(|key| table[key].as_u64().expect("a number"))
    };
    assert_eq!(counts(orders), [3, 2, 5, 0]);
    assert_eq!(counts(&document["tables"][1]), [2, 2, 0, 0]);
    let examples = orders["examples"].as_array().expect("examples");
    let columns = |key: &str| {
        let example = examples.iter().find(|example| example["key"] == key).expect(key);
        (example["kind"].clone(), example["columns"].clone())
    };
    assert_eq!(columns("id=1"), (json!("different"), json!(["total"])));
    assert_eq!(columns("id=4"), (json!("different"), json!(["feeling", "place"])));
    assert_eq!(columns("id=2"), (json!("missing"), json!([])));
    assert_eq!(columns("id=2001"), (json!("extra"), json!([])));
    let run = case.run(&["verify"]);
    run.expect(1)
        .says("3 missing, 2 extra, 5 different (300 rows at the source, 299 at the destination;");
    run.says("hint: run `incremental-replication verify --repair`");
    let run = case.run(&["verify", "--repair"]);
    run.expect(0).says("repaired: 8 rows written, 2 removed or marked");
    case.run(&["verify"]).expect(0);
    case.assert_equal("public.orders");
    case.assert_equal("public.lines");
    case.assert_nothing_left();
}

#[test]
fn doubled_rows_are_found_where_no_index_forbids_them_and_the_index_is_made_again() {
    let mut case = shop();
    case.at_destination(
        "DROP INDEX orders_replicated_key;
         INSERT INTO orders SELECT * FROM orders WHERE id IN (1, 2);
         INSERT INTO orders (id) VALUES (3)",
    );
    let document = case.verify(1);
    assert_eq!(document["tables"][0]["extra"], 3);
    case.run(&["verify", "--table", "orders", "--repair"]).expect(0);
    case.run(&["verify"]).expect(0);
    case.assert_equal("public.orders");
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_replicated_key'";
    assert_eq!(case.ask(index), ["1"]);
}

#[test]
fn what_is_newer_than_the_last_sync_is_pending_and_not_wrong() {
    let mut case = shop();
    case.at_source("INSERT INTO orders (id, updated_at) VALUES (500, now())");
    case.at_source("UPDATE orders SET updated_at = now(), total = 0 WHERE id IN (1, 2)");
    let document = case.verify(0);
    assert_eq!(document["tables"][0]["pending"], 3);
    case.run(&["verify"]).expect(0).says("3 pending");
    // An update that a cursor cannot see is wrong, and stays wrong until somebody repairs it.
    case.at_source("UPDATE orders SET total = 99 WHERE id = 3");
    assert_eq!(case.verify(1)["tables"][0]["different"], 1);
    case.sync();
    let document = case.verify(1);
    assert_eq!(document["tables"][0]["different"], 1);
    assert_eq!(document["tables"][0]["pending"], 0);
    case.run(&["verify", "--repair"]).expect(0);
    case.verify(0);
}

#[test]
fn a_sync_verifies_in_its_own_snapshot() {
    let mut case = shop();
    case.run(&["sync", "--verify"]).expect(0).says("orders: verified: 300 rows are equal");
    case.at_destination("UPDATE orders SET total = 0 WHERE id = 1");
    let run = case.run(&["sync", "--verify"]);
    run.expect(1).says("the copy is not right: 1 different").says("verify --table orders");
    case.at_source("INSERT INTO orders (id, updated_at) VALUES (501, now())");
    case.run(&["sync", "--verify"]).expect(1);
    // What was merged stays merged.
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["301"]);
    case.run(&["sync", "--full-refresh", "--verify"]).expect(0).says("301 rows are equal");
    case.assert_nothing_left();
}

#[test]
fn what_cannot_be_compared_is_an_error_with_a_remedy() {
    let mut case = shop();
    case.at_source("ALTER TABLE orders ADD COLUMN more int");
    let run = case.run(&["verify"]);
    run.expect(1).says("cannot verify `orders`").says("the destination has no column `more`");
    run.says("sync --table orders` first").says("lines: equal");
    case.at_destination("DROP TABLE lines");
    case.run(&["verify", "--table", "lines"]).expect(1).says("there is no table `public.lines`");
    case.run(&["verify", "--table", "line"]).expect(2).says("did you mean `lines`?");
}

#[test]
fn a_table_that_another_run_holds_is_left_to_it() {
    let case = shop();
    let mut blocker = case.another_source();
    blocker.batch_execute("BEGIN; LOCK TABLE lines IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let mut syncing = case.start(&["sync", "--table", "lines"]);
    let locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
                  (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut session = case.destination_superuser();
    while crate::support::judge::column(&mut session, locked) == ["0"] {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    case.run(&["verify", "--table", "lines"]).expect(4).says("another run holds");
    blocker.batch_execute("COMMIT").expect("an end");
    assert!(syncing.wait().expect("a child").success());
}

#[test]
fn rows_are_compared_by_their_text_whatever_the_encodings() {
    let mut case = shop();
    let latin = "CREATE DATABASE latin_shop ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    case.source_at("postgres").batch_execute(latin).expect("a database");
    let mut source = case.source_at("latin_shop");
    source
        .batch_execute(
            "CREATE TABLE words (id text PRIMARY KEY, word text, letter char(3));
             INSERT INTO words VALUES ('ü', 'größe', 'é'), ('u', NULL, ''), ('', 'ÿ', 'x');
             GRANT SELECT ON words TO reader",
        )
        .expect("a table");
    case.set("SOURCE_DB", "latin_shop");
    case.write_tables(&json!([{"name": "words", "mode": "diff"}]));
    case.sync();
    case.sync().says("incremental sync done: 0 rows in");
    case.run(&["verify"]).expect(0).says("words: equal (3 rows;");
    case.at_destination("UPDATE words SET word = 'grösse' WHERE id = 'ü'");
    case.run(&["verify", "--repair"]).expect(0).says("1 different");
    case.run(&["verify"]).expect(0);
}

#[test]
fn rows_that_a_trigger_keeps_from_being_removed_are_not_pending() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, at int); INSERT INTO t SELECT n, n FROM generate_series(1, 9) n";
    let rule = json!({"name": "t", "replication_key": "at", "deletes": "remove"});
    let mut case = Case::new(setup, &json!([rule]));
    case.sync();
    case.at_destination(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    case.at_source("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (10, 10)");
    case.sync();
    case.at_source("INSERT INTO t VALUES (11, 11)");
    case.sync();
    case.run(&["verify"]).expect(1).says("1 extra");
}

#[test]
fn an_enum_is_compared_by_its_labels_whatever_cast_a_user_has_made() {
    let mut case = Case::new(
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE FUNCTION told(mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'cast ' || enum_out($1)::text$$;
         CREATE CAST (mood AS text) WITH FUNCTION told(mood) AS ASSIGNMENT;
         CREATE TABLE t (id int PRIMARY KEY, m mood, at int); INSERT INTO t VALUES (1, 'sad', 1), (2, NULL, 2)",
        &json!([by("t", "at")]),
    );
    case.sync();
    assert_eq!(case.ask("SELECT m FROM t WHERE id = 1"), ["sad"]);
    case.run(&["sync", "--verify"]).expect(0);
    case.run(&["verify"]).expect(0);
}

/// A parallel worker sends text in the encoding of its database.
#[test]
fn no_rows_are_removed_where_workers_digest_text_of_another_encoding() {
    let mut case = shop();
    let latin = "CREATE DATABASE latin_workers ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    case.source_at("postgres").batch_execute(latin).expect("a database");
    let mut source = case.source_at("latin_workers");
    source
        .batch_execute(
            "CREATE TABLE words (id text PRIMARY KEY, at timestamptz DEFAULT now());
             INSERT INTO words SELECT 'Müller ' || n FROM generate_series(1, 5000) n;
             ANALYZE words; GRANT SELECT ON words TO reader;
             ALTER DATABASE latin_workers SET min_parallel_table_scan_size = 0;
             ALTER DATABASE latin_workers SET parallel_setup_cost = 0;
             ALTER DATABASE latin_workers SET parallel_leader_participation = off;",
        )
        .expect("a table");
    case.set("SOURCE_DB", "latin_workers");
    let rule = json!({"name": "words", "replication_key": "at", "deletes": "remove", "max_delete_percent": 100});
    case.write_tables(&json!([rule]));
    case.sync();
    source.batch_execute("DELETE FROM words WHERE id = 'Müller 7'").expect("a deletion");
    case.sync().says("0 rows, 1 deleted");
    assert_eq!(case.ask("SELECT count(*) FROM words"), ["4999"]);
    case.run(&["sync", "--verify"]).expect(0);
}

#[test]
fn a_signal_ends_a_comparison_at_once_and_leaves_nothing() {
    let setup = "CREATE TABLE numbers (id int PRIMARY KEY); INSERT INTO numbers VALUES (1);
                 CREATE FUNCTION slow() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(60)';
                 CREATE VIEW wait AS SELECT id, CASE WHEN id > 1 THEN slow() END AS pause FROM numbers;";
    let rules = json!([{"name": "wait", "mode": "full-refresh", "unique_cols": ["id"]}]);
    let mut case = Case::new(setup, &rules);
    case.sync();
    case.at_source("INSERT INTO numbers VALUES (2)");
    let mut verifying = case.start(&["verify"]);
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                AND datname = current_database()";
    let mut session = case.another_source();
    while crate::support::judge::column(&mut session, busy) == ["0"] {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let started = std::time::Instant::now();
    let id = verifying.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &id]).status().expect("a signal");
    assert_eq!(verifying.wait().expect("a child").code(), Some(143));
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
    case.wait_until_alone();
    case.assert_nothing_left();
}

#[test]
fn a_destination_that_forbids_temporary_tables_is_told_apart() {
    let mut case = shop();
    let database = case.database.clone();
    let mut superuser = case.destination_superuser();
    let own = format!(
        "ALTER DATABASE {database} OWNER TO postgres; REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC; GRANT CREATE, CONNECT ON DATABASE {database} TO writer"
    );
    superuser.batch_execute(&own).expect("privileges");
    case.run(&["verify"]).expect(0);
    case.at_destination("UPDATE orders SET total = 0 WHERE id = 1");
    let run = case.run(&["verify", "--table", "orders"]);
    run.expect(1).says("grant the destination's user TEMPORARY");
}

#[test]
fn without_receipts_nothing_counts_as_pending() {
    let mut case = shop();
    case.at_destination("DROP TABLE _sync_state");
    case.run(&["verify"]).expect(0);
    case.at_source("INSERT INTO orders (id, updated_at) VALUES (500, now())");
    // The next sync goes on from the state file.
    assert_eq!(case.verify(0)["tables"][0]["pending"], 1);
    std::fs::remove_dir_all(case.path().join("sync-state")).unwrap();
    assert_eq!(case.verify(1)["tables"][0]["missing"], 1);
}

#[test]
fn values_that_two_rows_have_exchanged_are_found_in_a_bucket_of_their_own() {
    let setup =
        "CREATE TABLE ranks (id int PRIMARY KEY, name text, rank int, score bigint, price numeric);
                 INSERT INTO ranks SELECT n, 'name ' || n, n, n, n FROM generate_series(1, 100) n";
    let mut case = Case::new(setup, &json!([{"name": "ranks", "mode": "full-refresh"}]));
    case.sync();
    for column in ["name", "rank", "score", "price"] {
        case.at_destination(&format!(
            "UPDATE ranks AS r SET {column} = o.{column} FROM ranks AS o WHERE r.id + o.id = 3"
        ));
        let document = case.verify(1);
        assert_eq!(document["tables"][0]["different"], 2, "{column}");
        case.run(&["verify", "--repair", "-q"]).expect(0);
    }
    // What a weaker hash would take for the same.
    for (column, one, other) in [
        ("score", "-1", "4294967295"),
        ("score", "1", "4294967296"),
        ("price", "5", "-5"),
        ("price", "'NaN'", "NULL"),
    ] {
        case.at_source(&format!("UPDATE ranks SET {column} = {one} WHERE id = 7"));
        case.sync();
        case.at_destination(&format!("UPDATE ranks SET {column} = {other} WHERE id = 7"));
        assert_eq!(case.verify(1)["tables"][0]["different"], 1, "{column}: {one}, {other}");
    }
}

#[test]
fn a_repair_that_something_undoes_is_undone_whole() {
    let mut case = shop();
    case.at_destination(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.total = 0; RETURN NEW; END';
         UPDATE orders SET total = 0 WHERE id IN (1, 2);
         CREATE TRIGGER meddling BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION meddle()",
    );
    let run = case.run(&["verify", "--table", "orders", "--repair"]);
    run.expect(1).says("the repair was undone, for it left 2 different").says("look for a trigger");
}

#[test]
fn a_sync_that_keeps_deleted_rows_verifies_what_it_promises() {
    let mut case = shop();
    case.at_source("DELETE FROM orders WHERE id = 1");
    case.run(&["sync", "--verify"]).expect(0).says("verified: 299 rows are equal");
    case.run(&["verify"]).expect(1).says("1 extra");
}

#[test]
fn each_table_is_compared_in_a_snapshot_of_its_own() {
    for arguments in [&["verify"][..], &["sync", "--verify"]] {
        let make = |name| {
            format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, at int); INSERT INTO {name} VALUES (1, 1);"
            )
        };
        let case = Case::new(
            &["first", "second"].map(make).concat(),
            &json!([by("first", "at"), by("second", "at")]),
        );
        case.sync();
        let mut holder = case.another_source();
        holder.batch_execute("BEGIN; LOCK TABLE second IN ACCESS EXCLUSIVE MODE").expect("a lock");
        let child = case.start(arguments);
        case.until(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%LOCK TABLE%' \
             AND datname = current_database()",
        );
        let held = "SELECT mode FROM pg_locks WHERE relation = 'first'::regclass";
        let held = [case.another_source(), case.destination_superuser()]
            .map(|mut at| judge::column(&mut at, held));
        holder.batch_execute("COMMIT").expect("an end");
        Run::from(child.wait_with_output().expect("a run")).expect(0);
        assert_eq!(held, [Vec::<String>::new(), Vec::new()], "{arguments:?}");
    }
}

#[test]
fn a_sync_that_removes_deleted_rows_verifies_that_they_are_gone() {
    for deletes in ["remove", "mark"] {
        let rule = with(by("orders", "updated_at"), &json!({"deletes": deletes}));
        let mut case = Case::new(SHOP, &json!([rule]));
        case.sync();
        case.at_destination(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER keep BEFORE DELETE OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep()",
        );
        case.at_source("DELETE FROM orders WHERE id = 5");
        case.run(&["sync", "--verify"]).expect(1).says("the copy is not right: 1 extra");
        case.at_destination("DROP TRIGGER keep ON orders");
        case.run(&["sync", "--verify"]).expect(0).says("verified: 299 rows are equal");
    }
}

#[test]
fn rows_written_late_within_the_lookback_are_pending() {
    let setup = "CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz);
                 INSERT INTO orders VALUES (1, now())";
    let mut case = Case::new(setup, &json!([by("orders", "updated_at")]));
    case.sync();
    case.at_source("INSERT INTO orders VALUES (2, now() - interval '2 minutes')");
    assert_eq!(case.verify(0)["tables"][0]["pending"], 1);
}

#[test]
fn a_table_without_columns_and_a_strange_char_can_be_compared() {
    let setup = "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
                 CREATE TABLE letters (id int PRIMARY KEY, letter \"char\"); INSERT INTO letters VALUES (1, (-56)::int::\"char\")";
    let rules = json!([{"name": "nothing", "mode": "full-refresh"}, {"name": "letters", "mode": "full-refresh"}]);
    let mut case = Case::new(setup, &rules);
    case.run(&["sync", "--verify"]).expect(0);
    case.at_destination("INSERT INTO nothing DEFAULT VALUES");
    assert_eq!(case.verify(1)["tables"][0]["extra"], 1);
    case.run(&["verify", "--repair", "-q"]).expect(0);
    case.run(&["verify", "-q"]).expect(0);
}

#[test]
fn rows_deleted_since_the_last_sync_are_pending_where_the_next_one_removes_them() {
    for rule in [
        json!({"name": "orders", "replication_key": "updated_at", "deletes": "remove"}),
        json!({"name": "orders", "replication_key": "updated_at", "deletes": "mark"}),
        json!({"name": "orders", "mode": "diff"}),
        json!({"name": "orders", "mode": "full-refresh"}),
    ] {
        let mut case = Case::new(SHOP, &json!([rule]));
        case.sync();
        case.at_source("DELETE FROM orders WHERE id <= 3");
        case.at_destination("INSERT INTO orders (id) VALUES (1000)");
        let document = case.verify(1);
        let table = &document["tables"][0];
        assert_eq!((&table["pending"], &table["extra"]), (&json!(3), &json!(1)), "{table}");
        case.run(&["verify", "--repair"]).expect(0);
        assert_eq!(case.verify(0)["tables"][0]["pending"], 3);
        case.sync();
        assert_eq!(case.verify(0)["tables"][0]["pending"], 0);
    }
}

#[test]
fn a_repair_leaves_to_the_next_sync_what_is_newer_and_mends_the_rest() {
    let mut case = shop();
    case.at_source("UPDATE lines SET note = note WHERE amount = 2");
    case.at_destination("INSERT INTO lines VALUES ('line', 2), ('other', 9)");
    let document = case.verify(1);
    let lines = &document["tables"][1];
    assert_eq!((&lines["extra"], &lines["pending"]), (&json!(1), &json!(3)), "{lines}");
    case.run(&["verify", "--repair"]).expect(0).says("repaired: 0 rows written, 1 removed");
    case.sync();
    case.run(&["verify"]).expect(0);
    case.assert_equal("public.lines");
}

#[test]
fn an_emptied_source_is_not_merely_pending() {
    let rule = json!({"name": "orders", "replication_key": "updated_at", "deletes": "remove"});
    let mut case = Case::new(SHOP, &json!([rule]));
    case.sync();
    case.at_source("DELETE FROM orders WHERE id > 100");
    assert_eq!(case.verify(1)["tables"][0]["extra"], 200);
    case.sync_fails(1).says("would be removed");
}

#[test]
fn doubled_rows_are_removed_and_not_marked_where_deleted_rows_are_marked() {
    let rule = json!({"name": "orders", "replication_key": "updated_at", "deletes": "mark"});
    let mut case = Case::new(SHOP, &json!([rule]));
    case.sync();
    case.at_destination(
        "DROP INDEX orders_replicated_key;
         INSERT INTO orders SELECT * FROM orders WHERE id IN (1, 2);
         INSERT INTO orders (id) VALUES (1000)",
    );
    assert_eq!(case.verify(1)["tables"][0]["extra"], 3);
    case.run(&["verify", "--repair"]).expect(0);
    assert_eq!(case.ask("SELECT id FROM orders WHERE _deleted_at IS NOT NULL"), ["1000"]);
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["301"]);
    assert_eq!(case.verify(0)["tables"][0]["destination_rows"], 300);
}

#[test]
fn doubled_rows_that_the_source_never_had_are_marked_once() {
    let rule = json!({"name": "orders", "replication_key": "updated_at", "deletes": "mark"});
    let mut case = Case::new(SHOP, &json!([rule]));
    case.sync();
    case.at_source("DELETE FROM orders WHERE id = 3");
    case.sync();
    case.at_destination(
        "DROP INDEX orders_replicated_key;
         INSERT INTO orders (id) VALUES (1000), (1000);
         INSERT INTO orders (id) VALUES (3)",
    );
    case.run(&["verify", "--repair"]).expect(0);
    let marked = case.ask("SELECT id FROM orders WHERE _deleted_at IS NOT NULL ORDER BY id");
    assert_eq!(marked, ["3", "1000"]);
    assert_eq!(case.verify(0)["tables"][0]["destination_rows"], 299);
    case.sync();
}

#[test]
fn a_repair_of_more_rows_than_one_query_can_name_adds_none_that_was_there() {
    let setup = "CREATE TABLE numbers (n int); INSERT INTO numbers SELECT n / 2 FROM generate_series(1, 260000) n";
    let mut case = Case::new(setup, &json!([{"name": "numbers", "mode": "full-refresh"}]));
    case.sync();
    case.at_destination("DELETE FROM numbers WHERE n > 20000");
    assert_eq!(case.verify(1)["tables"][0]["missing"], 219_999);
    case.run(&["verify", "--repair"]).expect(0).says("repaired: 219999 rows written");
    case.assert_equal("public.numbers");
}

#[test]
fn a_key_that_becomes_one_equal_to_it_is_the_same_row() {
    let types = [
        ("numeric", "1.0", "1.00"),
        ("price", "7.5", "7.50"),
        ("float4", "0", "-0"),
        ("float8", "0", "-0"),
        ("interval", "1 day", "24 hours"),
        ("bpchar", "x", "x  "),
        ("jsonb", "{\"a\": 1.0}", "{\"a\": 1.00}"),
    ];
    let mut create = "CREATE DOMAIN price AS numeric;".to_owned();
    let (mut change, mut rules) = (String::new(), Vec::new());
    for (at, (data_type, one, other)) in types.iter().enumerate() {
        create += &format!(
            "CREATE TABLE t{at} (k {data_type} PRIMARY KEY, at timestamptz DEFAULT now());
             INSERT INTO t{at} VALUES ('{one}');"
        );
        change += &format!("UPDATE t{at} SET k = '{other}', at = now();");
        rules.push(with(by(&format!("t{at}"), "at"), &json!({"deletes": "remove"})));
    }
    let mut case = Case::new(&create, &json!(rules));
    case.sync();
    case.at_source(&change);
    let pending = case.verify(0);
    for table in pending["tables"].as_array().expect("tables") {
        assert_eq!((&table["pending"], &table["extra"]), (&json!(1), &json!(0)), "{table}");
    }
    let run = case.run(&["sync", "--verify"]);
    run.expect(0);
    assert!(!run.stdout.contains("removed"), "{}", run.stdout);
    for at in 0..types.len() {
        case.assert_equal(&format!("public.t{at}"));
    }
}

#[test]
fn rows_that_a_policy_at_the_destination_hides_are_not_taken_for_none() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, tenant int, at timestamptz DEFAULT clock_timestamp());
         INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 6) n",
        &json!([{"name": "t", "replication_key": "at", "deletes": "remove"}]),
    );
    case.sync();
    case.at_destination(
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE POLICY p ON t USING (tenant = 1) WITH CHECK (true)",
    );
    case.at_source("DELETE FROM t WHERE tenant = 0; INSERT INTO t VALUES (7, 1)");
    case.run(&["sync", "--verify"]).expect(1).says("NO FORCE ROW LEVEL SECURITY");
    assert!(case.verify(1)["tables"][0]["error"].to_string().contains("hides rows of"));
    case.at_destination("ALTER TABLE t NO FORCE ROW LEVEL SECURITY");
    case.sync().says("3 deleted");
    case.assert_equal("public.t");
}

#[test]
fn what_people_put_on_a_table_may_write_to_tables_with_policies() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
         INSERT INTO t SELECT n FROM generate_series(1, 3) n",
        &json!([{"name": "t", "replication_key": "at"}]),
    );
    case.sync();
    let mut superuser = case.destination_superuser();
    superuser
        .batch_execute(
            "CREATE TABLE audit (id int); ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON audit WITH CHECK (id > 0); GRANT INSERT ON audit TO PUBLIC;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END';
             CREATE TRIGGER audited AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .expect("a trigger");
    case.at_source("INSERT INTO t VALUES (4)");
    case.sync();
    case.assert_equal("public.t");
    let noted = superuser.query_one("SELECT min(id) FROM audit", &[]).expect("a note");
    assert_eq!(noted.get::<_, i32>(0), 4);
}

/// A view whose rows have no key is read whole in every sync, and what a trigger alters stays altered.
#[test]
fn a_difference_that_no_sync_will_find_is_not_pending() {
    let mut case = Case::new(
        "CREATE TABLE below (id int PRIMARY KEY, at timestamptz, note text);
         INSERT INTO below SELECT n, NULL, 'note' FROM generate_series(1, 3) n;
         CREATE VIEW v AS SELECT * FROM below",
        &json!([{"name": "v", "replication_key": "at", "unique_cols": ["id"]}]),
    );
    case.sync();
    case.at_destination(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note = ''no''; RETURN NEW; END';
         CREATE TRIGGER meddling BEFORE INSERT OR UPDATE ON v FOR EACH ROW EXECUTE FUNCTION meddle()",
    );
    case.at_source("UPDATE below SET note = 'new' WHERE id = 1");
    case.sync();
    assert_eq!(case.verify(1)["tables"][0]["different"], 3);
}

#[test]
fn the_first_rows_of_a_view_are_pending_until_a_sync_has_read_them() {
    let mut case = Case::new(
        "CREATE TABLE below (id int PRIMARY KEY, at timestamptz DEFAULT now());
         CREATE VIEW v AS SELECT * FROM below",
        &json!([{"name": "v", "replication_key": "at", "unique_cols": ["id"]}]),
    );
    case.sync();
    case.at_source("INSERT INTO below VALUES (1), (2)");
    assert_eq!(case.verify(0)["tables"][0]["pending"], 2);
    case.sync();
    assert_eq!(case.verify(0)["tables"][0]["pending"], 0);
    case.assert_equal("public.v");
}
