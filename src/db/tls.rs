//! TLS as libpq's `sslmode` describes it, with rustls.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Endpoint, SYSTEM, Tls, TlsMode};
use crate::error::{Error, Result};

/// What the postgres crate makes TLS connections with.
pub(super) fn connector(endpoint: &Endpoint) -> Result<MakeRustlsConnect> {
    let cannot = |error: Error| error.within(format!("cannot use TLS for the {}", endpoint.side));
    configuration(&endpoint.tls).map(MakeRustlsConnect::new).map_err(cannot)
}

fn configuration(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    // As libpq has it, no file is looked at where nothing will be encrypted.
    let (roots, own) = match tls.mode {
        TlsMode::Disable => (None, None),
        _ => (roots(tls)?, client_certificate(tls)),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (tls.mode, roots) {
        // As libpq has it, `require` verifies the chain where a root certificate is at hand.
        (TlsMode::VerifyFull | TlsMode::VerifyCa | TlsMode::Require, Some(roots)) => {
            Arc::new(Trusting::new(roots, tls.mode == TlsMode::VerifyFull, &provider)?)
        }
        (TlsMode::VerifyCa | TlsMode::VerifyFull, None) => {
            return Err(Error::configuration(format!(
                "sslmode `{}` needs trusted certificates",
                tls.mode.name()
            ))
            .hint(
                "name a file in SOURCE_SSLROOTCERT or DEST_SSLROOTCERT, or write `system` there",
            ));
        }
        _ => Arc::new(Anybody(Arc::clone(&provider))),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug("TLS has no protocol version").caused_by(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = own else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&certificate)?;
    let key_file = key.display().to_string();
    guarded(&key)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
        Error::configuration(format!("cannot read the key `{key_file}`")).caused_by(&error)
    })?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        Error::configuration(format!(
            "the key `{key_file}` does not serve the certificate `{}`",
            certificate.display()
        ))
        .caused_by(&error)
    })
}

/// Fails as libpq does, and with it pg_dump, where others may read a key.
fn guarded(key: &Path) -> Result<()> {
    let Ok(found) = key.metadata() else { return Ok(()) };
    let others = if found.uid() == 0 { 0o037 } else { 0o077 };
    if !found.is_file() || found.mode() & others == 0 {
        return Ok(());
    }
    let key = key.display();
    Err(Error::configuration(format!("others than its owner may read the key `{key}`")).hint(
        format!("chmod 600 '{key}'; one that belongs to root may also be read by its group (640)"),
    ))
}

/// What is trusted: authorities, and those certificates among them that a server may show itself.
struct Roots {
    store: RootCertStore,
    own: Vec<CertificateDer<'static>>,
}

fn roots(tls: &Tls) -> Result<Option<Roots>> {
    let file = match tls.root_certificate.as_deref() {
        Some(SYSTEM) => return Ok(Some(system_roots())),
        Some(file) => PathBuf::from(file),
        None => match default_file("root.crt") {
            Some(file) => file,
            None => return Ok(None),
        },
    };
    let mut roots = Roots { store: RootCertStore::empty(), own: certificates(&file)? };
    for certificate in &roots.own {
        roots.store.add(certificate.clone()).map_err(|error| {
            Error::configuration(format!("`{}` holds a bad certificate", file.display()))
                .caused_by(&error)
        })?;
    }
    Ok(Some(roots))
}

fn system_roots() -> Roots {
    let mut roots = Roots { store: RootCertStore::empty(), own: Vec::new() };
    roots.store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let cannot = |error: &dyn std::fmt::Display| {
        Error::configuration(format!("cannot read certificates from `{}`", file.display()))
            .because(error.to_string())
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(|error| cannot(&error))?
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| cannot(&error))?;
    if certificates.is_empty() {
        return Err(cannot(&"there is none in it"));
    }
    Ok(certificates)
}

fn client_certificate(tls: &Tls) -> Option<(PathBuf, PathBuf)> {
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        _ => default_file("postgresql.crt").zip(default_file("postgresql.key")),
    }
}

/// A file where libpq looks when nothing is said.
fn default_file(name: &str) -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".postgresql").join(name);
    file.is_file().then_some(file)
}

/// `verify-full`, and `verify-ca`, for which a certificate may name any host.
#[derive(Debug)]
struct Trusting {
    authorities: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
    name_counts: bool,
}

impl Trusting {
    fn new(roots: Roots, name_counts: bool, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let Roots { store, own } = roots;
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .map_err(|error| {
                    Error::configuration("no trusted certificates").caused_by(&error)
                })?;
        Ok(Self { authorities, own, name_counts })
    }

    /// Whether a server shows a certificate that is trusted itself: one that signed itself, as
    /// PostgreSQL's manual has it made. Only that it may also sign others is held against it, which
    /// is looked at after its dates.
    fn is_trusted_itself(&self, shown: &CertificateDer<'_>, error: &rustls::Error) -> bool {
        self.own.iter().any(|own| own == shown)
            && format!("{error:?}").contains("CaUsedAsEndEntity")
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let verified = self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) if !self.name_counts => Ok(ServerCertVerified::assertion()),
            Err(error) if self.is_trusted_itself(end_entity, &error) => {
                if self.name_counts {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// `prefer` and `require`: TLS keeps listeners out, whoever answers. Signatures are not looked at
/// either, since nobody knows whose they should be.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client with this configuration says of a server that shows a certificate and holds a key.
    fn greeted(
        client: ClientConfig,
        version: &'static rustls::SupportedProtocolVersion,
        (certificate, key): (&rcgen::Certificate, &rcgen::KeyPair),
    ) -> std::result::Result<(), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], key);
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let host = ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), host).unwrap();
        while client.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut there).unwrap();
            }
            server.read_tls(&mut &*there).unwrap();
            server.process_new_packets()?;
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            client.read_tls(&mut &*back).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn who_shows_a_certificate_and_has_not_its_key_is_not_trusted() {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuers = rcgen::KeyPair::generate().unwrap();
        let root = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(root.path(), authority.self_signed(&issuers).unwrap().pem()).unwrap();
        let issuer = rcgen::Issuer::new(authority, issuers);
        let (own, others) =
            (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
                let root_certificate = Some(root.path().display().to_string());
                let tls = Tls { mode, root_certificate, ..Tls::default() };
                let greeted =
                    |key| greeted(configuration(&tls).unwrap(), version, (&certificate, key));
                assert_eq!(greeted(&own), Ok(()), "{mode:?} {version:?}");
                let error = greeted(&others).expect_err("no proof of the key");
                assert!(
                    matches!(
                        error,
                        rustls::Error::InvalidCertificate(CertificateError::BadSignature)
                    ),
                    "{mode:?} {version:?}: {error:?}"
                );
            }
        }
    }

    #[test]
    fn no_file_is_looked_at_where_nothing_will_be_encrypted() {
        let absent = || Some("/absent/file".to_owned());
        let configured = |mode| {
            let (root_certificate, certificate) = (absent(), absent());
            configuration(&Tls { mode, root_certificate, certificate, key: absent() })
        };
        assert!(configured(TlsMode::Disable).is_ok());
        let error = configured(TlsMode::Require).unwrap_err();
        assert!(error.one_line().contains("/absent/file"), "{error:?}");
    }
}
