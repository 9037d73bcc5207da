//! The caller's side of TLS: 1.3 only, no resumption, one private authority. Public authorities are never believed.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api::ApiError;

/// SHA-256 of something, for pinning an authority.
pub type Sha256 = fn(&[u8]) -> [u8; 32];

/// Whom to believe, and who we are.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authorities: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<RootCertStore, ApiError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| ApiError::Invalid(format!("the authority's certificate is not usable: {error}")))?;
    }
    Ok(roots)
}

impl Tls {
    /// Believes the authorities of a PEM text.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it holds none.
    pub fn of_authority(pem: &[u8], identity: Option<Identity>) -> Result<Tls, ApiError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| ApiError::Invalid(format!("the authority's certificate is not PEM: {error}")))?;
        if found.is_empty() {
            return Err(ApiError::Invalid("there is no certificate in the authority's file".to_owned()));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(found)?), provider());
        let verifier =
            verifier.build().map_err(|error| ApiError::Invalid(format!("the authority's certificate is not usable: {error}")))?;
        Tls::with(verifier, identity)
    }

    /// Believes the one authority whose certificate has this SHA-256 digest; the other side sends the certificate along.
    ///
    /// # Errors
    /// [`ApiError::Broken`] when the TLS library does not work.
    pub fn of_pin(pin: [u8; 32], sha256: Sha256, identity: Option<Identity>) -> Result<Tls, ApiError> {
        Tls::with(Arc::new(Pinned { pin, sha256, provider: provider() }), identity)
    }

    fn with(verifier: Arc<dyn ServerCertVerifier>, identity: Option<Identity>) -> Result<Tls, ApiError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ApiError::Broken(format!("set up TLS: {error}")))?
            // Not dangerous: both verifiers check the whole chain, the name and the time.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Tls { config: Arc::new(config) })
    }

    /// Makes connections to one controller.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when `host` is neither a name nor an address.
    pub(crate) fn connector(&self, host: &str, port: u16) -> Result<Connector, ApiError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| ApiError::Invalid(format!("controller address: {host:?} is no host")))?;
        Ok(Connector { tls: TlsConnector::from(self.config.clone()), name, host: host.to_owned(), port })
    }
}

/// A certificate and its key, which may be replaced while connections are open. Clones share it.
#[derive(Clone)]
pub struct Identity(Arc<RwLock<Arc<CertifiedKey>>>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

fn certified(certificate: Vec<u8>, key_pem: &str) -> Result<Arc<CertifiedKey>, ApiError> {
    let wrong = |why: String| ApiError::Invalid(format!("the certificate's key is not usable: {why}"));
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let key =
        CertifiedKey::from_der(vec![CertificateDer::from(certificate)], key, &provider()).map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(key))
}

impl Identity {
    /// From a DER certificate and a PEM key.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when they are not usable or do not belong together.
    pub fn new(certificate: Vec<u8>, key_pem: &str) -> Result<Identity, ApiError> {
        Ok(Identity(Arc::new(RwLock::new(certified(certificate, key_pem)?))))
    }

    /// The next connection uses these.
    ///
    /// # Errors
    /// As [`Identity::new`]; nothing has changed then.
    pub fn replace(&self, certificate: Vec<u8>, key_pem: &str) -> Result<(), ApiError> {
        let new = certified(certificate, key_pem)?;
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes one authority by its digest.
struct Pinned {
    pin: [u8; 32],
    sha256: Sha256,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|certificate| (self.sha256)(certificate) == self.pin);
        let Some(authority) = authority else {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The alerts that say that a certificate is not believed, by the names under which the library writes them.
pub(crate) const DISTRUST: [&str; 7] = [
    "BadCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "UnsupportedCertificate",
    "UnknownCA",
    "AccessDenied",
];

/// Whether an error of a connection means that one side does not believe the other.
pub(crate) fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let of = |error: &rustls::Error| match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => DISTRUST.contains(&format!("{alert:?}").as_str()),
        _ => false,
    };
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return of(error);
    }
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(of)
}

/// How long a server's first word is waited for.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Makes connections to one controller, each resolved anew.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

impl<U> tower_service::Service<U> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: U) -> Connecting {
        let Connector { tls, name, host, port } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let mut stream = tls.connect(name, stream).await?;
            // Whether our certificate counts is judged after our half of the handshake, and what we had sent by then would reset a
            // connection that is refused, and the reason with it. A server of HTTP/2 speaks unasked (RFC 9113, 3.4); one behind
            // something that does not is spoken to all the same.
            if let Ok(begun) = tokio::time::timeout(FIRST_WORD, stream.fill_buf()).await {
                begun?;
            }
            Ok(TokioIo::new(stream))
        })
    }
}
