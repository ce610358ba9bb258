//! Tells the webhook how a sync ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::config::Secret;

/// How long one attempt may take, from the name's look-up to the last byte of the answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses before the second and each further attempt.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Posts the body, and tries again where that can help. Returns why it could not be done, without
/// the URL, which may hold a token.
pub fn post(url: &Secret, body: &Value) -> Result<(), String> {
    let agent = agent();
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = agent.post(url.reveal()).send_json(body);
        // What redirects has not taken the report, and may make a GET without it of the request.
        let failure = match answer.map(|answer| answer.status()) {
            Ok(status) if status.is_redirection() => ureq::Error::StatusCode(status.as_u16()),
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        match pauses.next().filter(|_| may_pass(&failure)) {
            Some(pause) => std::thread::sleep(pause),
            None => return Err(described(&failure)),
        }
    }
}

fn agent() -> Agent {
    // The system's certificates, so that a company's own authority is trusted as it is by curl.
    let trusted = rustls_native_certs::load_native_certs();
    let roots: Vec<_> = trusted
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    Agent::config_builder()
        .timeout_global(Some(ATTEMPT_TIMEOUT))
        .max_redirects(0)
        .tls_config(TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(roots))).build())
        .user_agent(concat!("incremental-replication/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A server that answered "no" answers the same the next time; one that is overloaded may not.
fn may_pass(failure: &ureq::Error) -> bool {
    match failure {
        ureq::Error::StatusCode(code) => *code == 408 || *code == 429 || *code >= 500,
        ureq::Error::BadUri(_) => false,
        _ => true,
    }
}

/// Whether a webhook's URL can be understood.
#[must_use]
pub fn understands(url: &str) -> bool {
    let Ok(url) = url.parse::<ureq::http::Uri>() else { return false };
    let Some(there) = url.authority() else { return false };
    let port = there.as_str().rsplit_once(':').map_or("", |(_, port)| port);
    let no_port = port.is_empty() || port.ends_with(']');
    !there.host().is_empty() && (no_port || port.parse::<u16>().is_ok())
}

/// The failure in words. What the library says of a URL may repeat it, so that is left out.
fn described(failure: &ureq::Error) -> String {
    match failure {
        ureq::Error::StatusCode(code @ 300..=399) => {
            format!("the server answered {code}, a redirect: WEBHOOK_URL must be where it leads to")
        }
        ureq::Error::StatusCode(code) => format!("the server answered {code}"),
        ureq::Error::Timeout(_) => format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
        ureq::Error::HostNotFound => "the host's name cannot be found".to_owned(),
        ureq::Error::ConnectionFailed => "the host cannot be reached".to_owned(),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            "WEBHOOK_URL is not a usable URL".to_owned()
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Tls(what) => format!("TLS failed: {what}"),
        ureq::Error::Rustls(error) => format!("TLS failed: {error}"),
        _ => "the request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::understands;

    #[test]
    fn a_url_has_a_host_and_perhaps_a_port() {
        for good in ["http://h", "HTTPS://h:443/x?y=z", "http://[::1]/x", "http://[::1]:80/x"] {
            assert!(understands(good), "{good}");
        }
        for bad in ["http://exa mple/", "http://[::1", "https://h:99999/", "https:///x"] {
            assert!(!understands(bad), "{bad}");
        }
    }
}
