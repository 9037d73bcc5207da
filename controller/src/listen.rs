//! Sockets. Until peers prove who they are, only peers on the same machine are listened to.

use std::future::Future;
use std::net::SocketAddr;

use caisson_proto::server::{self, ServeError};
use tokio::net::TcpListener;

use crate::service::Service;

/// The controller cannot be reached at this address.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others than this machine could connect.
    #[error("listen on {0}: the connection would be neither encrypted nor authenticated; use a loopback address such as 127.0.0.1:7717")]
    Exposed(SocketAddr),
    /// The address is taken or is not there.
    #[error("listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// The connections broke.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ListenError::Exposed`] for anything but a loopback address; [`ListenError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Listener, ListenError> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::Exposed(address));
        }
        let failed = |error| ListenError::Bind(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listener { listener, address })
    }

    /// Where it can be reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`ListenError::Serve`].
    pub async fn serve(self, service: Service, shutdown: impl Future<Output = ()> + Send) -> Result<(), ListenError> {
        tracing::info!(address = %self.address, "listening");
        Ok(server::serve(service, self.listener, shutdown).await?)
    }
}

/// Offers the service at `address` until `shutdown`.
///
/// # Errors
/// [`ListenError`].
pub async fn serve(service: Service, address: SocketAddr, shutdown: impl Future<Output = ()> + Send) -> Result<(), ListenError> {
    Listener::bind(address).await?.serve(service, shutdown).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_listened_on() {
        for exposed in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7717", "[::ffff:192.0.2.1]:0"] {
            let refused = Listener::bind(exposed.parse().unwrap()).await;
            assert!(matches!(refused, Err(ListenError::Exposed(_))), "{exposed}");
        }
        assert!(Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().address().port() > 0);
    }
}
