//! The controller's side of TLS: 1.3 only, nothing is resumed, and whoever shows a certificate has one that counts now.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caisson_proto::server::Accepted;
use futures_util::stream::{self, Stream};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::authority::ServerCertificate;
use crate::identity::peer::{Link, Peer};
use crate::identity::registry::{Registry, now};
use crate::identity::roll::Refusal;
use crate::identity::token::hex;
use crate::listen::guard::Guarded;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many handshakes may go on at once; more wait in the kernel.
const AT_ONCE: usize = 256;

/// TLS as it is spoken here.
pub(super) type Config = Arc<ServerConfig>;

/// TLS with this certificate, for the members of this registry and for those who have no certificate.
pub(super) fn config(registry: &Registry, certificate: ServerCertificate) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(registry.authority().certificate().to_vec()))?;
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build();
    let verifier = Members { inner: inner?, registry: registry.clone() };
    let chain = certificate.chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    // A resumed session would not show its certificate again: an expired or revoked one would count for ever.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The serial number of a certificate, in hexadecimal digits.
fn serial(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let bytes = parsed.tbs_certificate.raw_serial();
    // Positive numbers have a leading zero where their first bit is set.
    Some(hex(if bytes.first() == Some(&0) { &bytes[1..] } else { bytes }))
}

/// Accepts the members of a registry. The library checks chain, purpose, time and possession of the key; this adds whether
/// the certificate was issued here, is not revoked, and is no old one of an agent that has a newer one in use.
struct Members {
    inner: Arc<dyn ClientCertVerifier>,
    registry: Registry,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Members")
    }
}

impl ClientCertVerifier for Members {
    fn client_auth_mandatory(&self) -> bool {
        // Whoever joins has none yet, and clients have tokens.
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, at)?;
        let serial = serial(end_entity).ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let greeted = self.registry.roll().greet(&serial, now());
        match greeted {
            Ok(known) => {
                if !intermediates.is_empty() {
                    tracing::debug!(agent = %known.agent, "agent sent more certificates than its own");
                }
                Ok(verified)
            }
            // The key is not proven yet, so nothing follows from a copy here but that it is refused; see `proven`.
            Err(Refusal::Copied { .. }) => Ok(verified),
            Err(refusal) => {
                self.registry.deny(format!("certificate {serial}"), "handshake", &refusal.to_string());
                Err(rustls::Error::InvalidCertificate(CertificateError::Revoked))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

type Connection = Accepted<Guarded<TlsStream<TcpStream>>, Peer>;

/// Connections whose handshake succeeded. One that fails, or takes too long, holds up nobody.
pub(super) fn accept(listener: TcpListener, registry: Registry, config: Config) -> impl Stream<Item = io::Result<Connection>> + Send {
    let acceptor = TlsAcceptor::from(config);
    let handshakes: JoinSet<Option<Connection>> = JoinSet::new();
    stream::unfold((listener, registry, acceptor, handshakes), |(listener, registry, acceptor, mut handshakes)| async move {
        loop {
            tokio::select! {
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return Some((Ok(connection), (listener, registry, acceptor, handshakes)));
                    }
                }
                accepted = listener.accept(), if handshakes.len() < AT_ONCE => match accepted {
                    Ok((stream, address)) => drop(handshakes.spawn(handshake(stream, address, registry.clone(), acceptor.clone()))),
                    Err(error) => {
                        // Mostly too many open files; they are not fewer at once.
                        tracing::warn!(%error, "connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    })
}

async fn handshake(stream: TcpStream, address: SocketAddr, registry: Registry, acceptor: TlsAcceptor) -> Option<Connection> {
    // A connection that is gone by now fails at its first byte.
    let _gone = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "handshake failed");
            return None;
        }
        Err(_) => {
            tracing::info!(%address, "handshake took too long");
            return None;
        }
    };
    let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(serial);
    let serial = match presented {
        None => None,
        Some(None) => return None,
        Some(Some(serial)) => {
            proven(&registry, &serial, address)?;
            Some(serial)
        }
    };
    let io = match &serial {
        Some(serial) => Guarded::agent(stream, registry, serial.clone()),
        None => Guarded::open(stream),
    };
    Some(Accepted { io, peer: Peer { address, link: Link::Tls(serial) } })
}

/// The other end has the certificate's key. An old certificate is now a sign that there are two who have it.
fn proven(registry: &Registry, serial: &str, address: SocketAddr) -> Option<()> {
    let greeted = registry.roll().greet(serial, now());
    match greeted {
        Ok(known) => {
            if known.fresh {
                registry.confirm(known.agent, known.generation);
            }
            Some(())
        }
        Err(refusal) => {
            registry.copied(address.to_string(), &refusal);
            registry.deny(address.to_string(), "handshake", &refusal.to_string());
            None
        }
    }
}
