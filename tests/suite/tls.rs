//! TLS as libpq has it: for our own sessions, and for pg_dump's.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::json;

use crate::support::case::{Case, by, create_roles};
use crate::support::server::Servers;

/// An authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The certificate and key of a server, or of the role that it names.
    pub fn sign(&self, host: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, host);
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A certificate of a server that is its own authority, as PostgreSQL's manual has it made.
fn alone(host: &str, expired: bool) -> (String, String) {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, host);
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn each_mode_trusts_what_libpq_would_trust() {
    let servers = Servers::start();
    create_roles(&servers);
    let ours = Authority::new("our authority");
    let theirs = Authority::new("somebody else");
    let mut case = Case::on(
        &servers,
        "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders VALUES (1, 1)",
        &json!([by("orders", "at")]),
    );
    // Where libpq finds files of its own accord.
    let home = tempfile::tempdir().expect("a folder");
    case.set("HOME", &home.path().display().to_string());
    let trusted = case.path().join("trusted.pem");
    let (alone_good, alone_expired) = (alone("localhost", false), alone("localhost", true));
    let alone_foreign = alone("localhost", false);
    let all = [&*ours.pem, &alone_good.0, &alone_expired.0].concat();
    fs::write(&trusted, all).expect("a file");
    let good = ours.sign("localhost", false);
    let expired = ours.sign("localhost", true);
    let foreign = theirs.sign("localhost", false);
    let tells = |what: &str| format!("invalid peer certificate: {what}");
    // The certificate, the host we ask for, the mode, whether we trust our authority, and what
    // goes wrong.
    let cases = [
        (&good, "localhost", "disable", false, None),
        (&good, "localhost", "prefer", false, None),
        (&good, "localhost", "require", false, None),
        (&good, "localhost", "verify-ca", true, None),
        (&good, "localhost", "verify-full", true, None),
        (&good, "127.0.0.1", "verify-ca", true, None),
        (&good, "127.0.0.1", "verify-full", true, Some(tells("certificate not valid for name"))),
        (&foreign, "localhost", "require", false, None),
        (&foreign, "localhost", "require", true, Some(tells("UnknownIssuer"))),
        (&foreign, "localhost", "verify-ca", true, Some(tells("UnknownIssuer"))),
        (&expired, "localhost", "require", false, None),
        (&expired, "localhost", "verify-full", true, Some(tells("certificate expired"))),
        (&alone_good, "localhost", "verify-full", true, None),
        (&alone_good, "127.0.0.1", "verify-ca", true, None),
        (
            &alone_good,
            "127.0.0.1",
            "verify-full",
            true,
            Some(tells("certificate not valid for name")),
        ),
        (&alone_expired, "localhost", "verify-full", true, Some(tells("certificate expired"))),
        (
            &alone_foreign,
            "localhost",
            "verify-ca",
            true,
            Some("invalid peer certificate".to_owned()),
        ),
    ];
    let mut served: Option<&(String, String)> = None;
    for (certificate, host, mode, trust, failure) in cases {
        if served != Some(certificate) {
            servers.source.serve_tls(&certificate.0, &certificate.1);
            served = Some(certificate);
        }
        let root =
            if trust { format!("SOURCE_SSLROOTCERT={}", trusted.display()) } else { String::new() };
        case.write_env(&format!("SOURCE_HOST={host}\nSOURCE_SSLMODE={mode}\n{root}"));
        let run = case.run(&["sync", "--full-refresh"]);
        let what = format!("{host} {mode} {trust} {failure:?}\n{}\n{}", run.stdout, run.stderr);
        match failure {
            None => {
                assert_eq!(run.code, Some(0), "{what}");
                assert!(!run.stdout.contains("instead of pg_dump"), "{what}");
            }
            Some(words) => {
                assert_eq!(run.code, Some(3), "{what}");
                assert!(run.stderr.contains(&words), "{what}");
            }
        }
    }
    servers.stop();
}

#[test]
fn what_the_system_trusts_is_verified_with_its_name_and_pg_dump_reads_or_is_done_without() {
    let servers = Servers::start();
    create_roles(&servers);
    let (ours, theirs) = (Authority::new("our authority"), Authority::new("somebody else"));
    let mut case = Case::on(
        &servers,
        "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders VALUES (1, 1)",
        &json!([by("orders", "at")]),
    );
    let trusted = case.path().join("trusted.pem");
    fs::write(&trusted, &ours.pem).expect("a file");
    // Where both OpenSSL and we look for what the system trusts.
    case.set("SSL_CERT_FILE", &trusted.display().to_string());
    let env = |host: &str| format!("SOURCE_HOST={host}\nSOURCE_SSLROOTCERT=system");
    let (certificate, key) = ours.sign("localhost", false);
    servers.source.serve_tls(&certificate, &key);
    case.write_env(&env("localhost"));
    case.sync();
    case.assert_equal("public.orders");
    case.write_env(&env("127.0.0.1"));
    case.sync_fails(3).says("certificate not valid for name");
    let (certificate, key) = theirs.sign("localhost", false);
    servers.source.serve_tls(&certificate, &key);
    case.write_env(&env("localhost"));
    case.sync_fails(3).says("UnknownIssuer");
    case.write_env("SOURCE_HOST=localhost\nSOURCE_SSLROOTCERT=system\nSOURCE_SSLMODE=require");
    case.sync_fails(2).says("too weak");
    servers.stop();
}
