//! TLS on the way to the database.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// Makes connections secure, by one configuration.
#[derive(Clone)]
pub(super) struct Secure(Arc<ClientConfig>);

impl Secure {
    pub(super) fn new(config: ClientConfig) -> Secure {
        Secure(Arc::new(config))
    }
}

/// Makes one connection secure.
pub(super) struct Connect {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A secure connection.
pub(super) struct Line(Box<tokio_rustls::client::TlsStream<Socket>>);

impl MakeTlsConnect<Socket> for Secure {
    type Stream = Line;
    type TlsConnect = Connect;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        // A socket of this machine has no name that a certificate could hold.
        let host = if host.is_empty() || host.starts_with('/') { "localhost" } else { host };
        Ok(Connect { config: self.0.clone(), name: ServerName::try_from(host)?.to_owned() })
    }
}

impl TlsConnect<Socket> for Connect {
    type Stream = Line;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Line>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { Ok(Line(Box::new(TlsConnector::from(self.config).connect(self.name, socket).await?))) })
    }
}

impl TlsStream for Line {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is what the server is known by; without `tls-server-end-point` SCRAM works all the same.
        ChannelBinding::none()
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
