//! The address of a database, and how far its server is believed. `sslmode` means what it means to libpq, with one
//! difference: to another machine, an address that says nothing about it is `verify-full`, and never a connection in the clear.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::store::journal::StoreError;
use crate::store::postgres::secure::Secure;

/// An address that was understood.
pub(super) struct Address {
    pub(super) config: Config,
    /// None for a connection in the clear.
    pub(super) tls: Option<Secure>,
}

/// How far a server is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Server and database, without the password.
pub(super) fn place(config: &Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    format!("{} at {}", config.get_dbname().unwrap_or("postgres"), hosts.join(","))
}

fn is_here(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => caisson_proto::client::is_loopback(name),
    })
}

/// Takes what the client library does not know out of an address.
fn split(url: &str) -> Result<(String, Option<Mode>, Option<PathBuf>), StoreError> {
    let (mut mode, mut roots) = (None, None);
    let Some((address, query)) = url.split_once('?') else { return Ok((url.to_owned(), None, None)) };
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", "disable")) => mode = Some(Mode::Disable),
            Some(("sslmode", "require")) => mode = Some(Mode::Require),
            Some(("sslmode", "verify-ca")) => mode = Some(Mode::VerifyCa),
            Some(("sslmode", "verify-full")) => mode = Some(Mode::VerifyFull),
            Some(("sslmode", other)) => return Err(StoreError::Mode(other.to_owned())),
            Some(("sslrootcert", path)) => roots = Some(PathBuf::from(path.replace("%2F", "/").replace("%2f", "/").replace("%20", " "))),
            _ => rest.push(pair),
        }
    }
    let address = if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
    Ok((address, mode, roots))
}

impl Address {
    /// Reads `postgres://...`. Reads the certificates that it names.
    pub(super) fn parse(url: &str) -> Result<Address, StoreError> {
        let (address, mode, roots) = split(url)?;
        let mut config: Config = address.parse().map_err(StoreError::Address)?;
        let mode = mode.unwrap_or(if is_here(&config) && roots.is_none() { Mode::Disable } else { Mode::VerifyFull });
        if mode == Mode::Disable {
            config.ssl_mode(SslMode::Disable);
            return Ok(Address { config, tls: None });
        }
        config.ssl_mode(SslMode::Require);
        // As libpq: `require` believes anybody, unless it is told whom to believe.
        let mode = if mode == Mode::Require && roots.is_some() { Mode::VerifyCa } else { mode };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match mode {
            Mode::Disable | Mode::Require => Arc::new(Any(provider.clone())),
            Mode::VerifyCa => Arc::new(AnyName(chain(roots, &provider)?)),
            Mode::VerifyFull => chain(roots, &provider)?,
        };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = builder.map_err(StoreError::Tls)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Address { config, tls: Some(Secure::new(tls)) })
    }
}

fn chain(roots: Option<PathBuf>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, StoreError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let failed = |source: std::io::Error| StoreError::Roots { path: path.clone(), source };
            let text = fs::read(&path).map_err(failed)?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|error| failed(std::io::Error::other(error)))?;
                store.add(certificate).map_err(StoreError::Tls)?;
            }
        }
        // What cannot be parsed of the system's is passed over: others may do.
        None => drop(store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
    built.map_err(|error| StoreError::Tls(rustls::Error::General(error.to_string())))
}

/// Believes anybody: what goes over the line is hidden from whoever only listens.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

/// Believes whoever the authorities vouch for, under any name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, between, name, ocsp, now) {
            // The name is looked at last: everything else was right.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })) => {
                let parsed = ParsedCertificate::try_from(certificate)?;
                debug_assert!(verify_server_name(&parsed, name).is_err());
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
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_address_says_about_tls() {
        let table = [
            ("postgres://u@localhost/d", Ok(false)),
            ("postgres://u@%2Frun%2Fpg/d", Ok(false)),
            ("postgres://u@db.example.com/d", Ok(true)),
            ("postgres://u@db.example.com/d?sslmode=disable", Ok(false)),
            ("postgres://u@localhost/d?sslmode=require&connect_timeout=3", Ok(true)),
            ("postgres://u@localhost/d?sslmode=verify-full", Ok(true)),
            ("postgres://u@localhost/d?sslmode=prefer", Err(())),
            ("postgres://u@localhost/d?sslmode=verify-ca&sslrootcert=/nowhere.pem", Err(())),
        ];
        for (url, expected) in table {
            assert_eq!(Address::parse(url).map(|address| address.tls.is_some()).map_err(drop), expected, "{url}");
        }
    }
}
