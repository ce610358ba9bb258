//! The ways to a server: passwords, certificates, sockets, addresses.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use postgres::{Client, NoTls};
use serde_json::json;
use tempfile::TempDir;

use crate::support::case::{Case, READER, ROLE_PASSWORD, WRITER, by, create_roles, with};
use crate::support::judge;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Servers, is_root};
use crate::tls::Authority;

const ORDERS: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders VALUES (1, 1)";

/// Both ways of the first copy, for pg_dump connects on its own.
fn copies(case: &Case) {
    for initial in ["copy", "pg_dump"] {
        case.write_tables(&json!([with(by("orders", "at"), &json!({"initial": initial}))]));
        let run = case.run(&["sync", "--full-refresh"]);
        run.expect(0);
        assert!(!run.stdout.contains("instead of pg_dump"), "{}", run.stdout);
    }
}

#[test]
fn passwords_are_taken_as_md5_and_as_scram() {
    let servers = Servers::start();
    create_roles(&servers);
    let case = Case::on(&servers, ORDERS, &json!([by("orders", "at")]));
    let mut source = servers.source.connect("postgres");
    for encryption in ["md5", "scram-sha-256"] {
        servers.source.admit(&format!("host all {READER} all {encryption}"));
        let again = format!(
            "SET password_encryption = '{encryption}'; ALTER ROLE {READER} PASSWORD '{ROLE_PASSWORD}'"
        );
        source.batch_execute(&again).unwrap();
        case.write_env("");
        copies(&case);
        case.write_env("SOURCE_PASSWORD=wrong");
        case.run(&["sync"])
            .expect(3)
            .says("password authentication failed")
            .says("check SOURCE_USERNAME");
        case.write_env("SOURCE_PASSWORD=");
        case.run(&["sync"])
            .expect(3)
            .says("set SOURCE_PASSWORD, or put the password into ~/.pgpass");
    }
    servers.stop();
}

#[test]
fn a_clients_certificate_is_enough_and_a_wrong_one_is_not() {
    let servers = Servers::start();
    create_roles(&servers);
    let (ours, theirs) = (Authority::new("our authority"), Authority::new("somebody else"));
    let case = Case::on(&servers, ORDERS, &json!([by("orders", "at")]));
    servers.source.trust_authority(&ours.pem);
    let (certificate, key) = ours.sign("localhost", false);
    servers.source.serve_tls(&certificate, &key);
    servers.source.admit(&format!("hostssl all {READER} all cert"));
    let show = |name: &str, (certificate, key): (String, String)| {
        let write = |end: &str, text: &str| {
            let path = case.path().join(format!("{name}.{end}"));
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let (certificate, key) = (write("crt", &certificate), write("key", &key));
        case.write_env(&format!(
            "SOURCE_PASSWORD=\nSOURCE_SSLMODE=require\nSOURCE_SSLCERT={certificate}\nSOURCE_SSLKEY={key}"
        ));
    };
    show("reader", ours.sign(READER, false));
    copies(&case);
    for (name, pair) in [
        ("another", ours.sign("another", false)),
        ("foreign", theirs.sign(READER, false)),
        ("expired", ours.sign(READER, true)),
    ] {
        show(name, pair);
        case.run(&["sync"]).expect(3).says("cannot connect to the source");
    }
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(case.path().join("expired.key"), open).expect("rights");
    case.sync_fails(2).says("others than its owner may read the key");
    case.write_env("SOURCE_SSLMODE=require\nSOURCE_SSLCERT=/nowhere\nSOURCE_SSLKEY=/nowhere");
    case.run(&["sync"]).expect(2).says("/nowhere");
    servers.stop();
}

#[test]
fn a_unix_socket_is_a_way_for_both_sides() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, ORDERS, &json!([by("orders", "at")]));
    let folders = [&servers.source, &servers.destination].map(Server::socket_folder);
    // As libpq has it, TLS is for networks.
    case.write_env(&format!(
        "SOURCE_HOST={}\nDEST_HOST={}\nSOURCE_SSLMODE=require\nDEST_SSLMODE=verify-full",
        folders[0].display(),
        folders[1].display()
    ));
    copies(&case);
    case.assert_equal("public.orders");
    let encoded = folders[0].display().to_string().replace('/', "%2F");
    case.write(
        ".env",
        &format!(
            "SOURCE_URL=postgresql://{READER}@{encoded}:{}/{}\nSOURCE_PASSWORD='{ROLE_PASSWORD}'\n\
             DEST_URL=postgresql://writer@127.0.0.1:{}/{}\nDEST_PASSWORD='{ROLE_PASSWORD}'\n",
            case.source_port(),
            case.database,
            case.destination_port(),
            case.database,
        ),
    );
    copies(&case);
    servers.stop();
}

#[test]
fn an_address_of_version_six_is_a_way() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "at")]));
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        println!("this machine has no IPv6");
        return;
    };
    let proxy = Proxy::between(listener, case.source_port());
    case.write_env(&format!("SOURCE_HOST=::1\nSOURCE_PORT={}", proxy.port));
    copies(&case);
    case.assert_equal("public.orders");
}

/// A PgBouncer before a server, where one is installed.
struct Pooler {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    fn before(port: u16, mode: &str, user: &str) -> Option<Self> {
        let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={port} user={user} password={ROLE_PASSWORD}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n"
        );
        let folder = TempDir::new().unwrap();
        // It does not want to be root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        let user = if is_root() { &["-u", "nobody"][..] } else { &[] };
        let child =
            Command::new("pgbouncer").args(user).arg(&file).stderr(Stdio::null()).spawn().ok()?;
        let pooler = Self { child, port: own, _folder: folder };
        let listens = || TcpStream::connect(("127.0.0.1", own)).is_ok();
        assert!((0..100).any(|_| listens() || {
            sleep(Duration::from_millis(50));
            false
        }));
        Some(pooler)
    }

    fn client(&self, database: &str) -> Client {
        let url = format!("host=127.0.0.1 port={} user={WRITER} dbname={database}", self.port);
        Client::connect(&url, NoTls).expect("a session by the pooler")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_pooler_may_keep_sessions_and_must_not_lend_them() {
    let mut case =
        Case::new(ORDERS, &json!([with(by("orders", "at"), &json!({"initial": "copy"}))]));
    for (mode, code) in [("session", 0), ("transaction", 2)] {
        let Some(pooler) = Pooler::before(case.destination_port(), mode, WRITER) else {
            println!("not tried: there is no PgBouncer");
            return;
        };
        case.set("DEST_PORT", &pooler.port.to_string());
        // A new process of the server's and an old one.
        for command in ["sync", "check", "sync"] {
            let run = case.run(&[command]);
            run.expect(code);
            if code == 2 {
                run.says("is a pooler").says("pool_mode = session");
            }
            sleep(Duration::from_millis(1500));
        }
        // Nobody who comes after us finds what we have set.
        let mut other = pooler.client(&case.database);
        if code == 2 {
            let setting =
                |name: &str| format!("SELECT setting FROM pg_settings WHERE name = '{name}'");
            assert_ne!(judge::column(&mut other, &setting("search_path")), [""]);
        }
    }
    let direct = case.destination_port().to_string();
    case.set("DEST_PORT", &direct);
    case.sync();
    case.assert_equal("public.orders");
    // pg_dump's session would not begin as it has to.
    let Some(pooler) = Pooler::before(case.source_port(), "session", READER) else { return };
    case.set("SOURCE_PORT", &pooler.port.to_string());
    case.write_tables(&json!([by("orders", "at")]));
    let said = "COPY reads it instead of pg_dump: a pooler keeps to itself";
    case.run(&["sync", "--full-refresh"]).expect(0).says(said);
    case.assert_equal("public.orders");
    case.run(&["check"]).expect(0).says("let SOURCE_HOST and SOURCE_PORT be the");
}
