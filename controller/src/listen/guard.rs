//! A connection that ends when its agent's certificate stops to count: revoked, or expired.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::identity::registry::{Registry, now};

/// A connection and its end.
pub(super) struct Guarded<IO> {
    io: IO,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    over: bool,
}

impl<IO> Guarded<IO> {
    /// One that nothing ends but its ends.
    pub(super) fn open(io: IO) -> Guarded<IO> {
        Guarded { io, end: None, over: false }
    }

    /// One of an agent with this certificate.
    pub(super) fn agent(io: IO, registry: Registry, serial: String) -> Guarded<IO> {
        Guarded { io, end: Some(Box::pin(end(registry, serial))), over: false }
    }

    /// Whoever serves a connection always reads from it, so reading is where the end is noticed without delay.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.over {
            let ready = self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready());
            if !ready {
                return Poll::Pending;
            }
            self.end = None;
            self.over = true;
        }
        Poll::Ready(io::Error::new(io::ErrorKind::PermissionDenied, "the agent's certificate does not count any more"))
    }
}

async fn end(registry: Registry, serial: String) {
    let mut changes = registry.changes();
    loop {
        let known = registry.roll().recognise(&serial, now());
        let Ok(known) = known else {
            tracing::info!(serial, "connection ended: its certificate does not count any more");
            return;
        };
        // A millisecond more, so that the certificate has expired when it is looked at again.
        let left = known.ends.since(now()) + Duration::from_millis(1);
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.over {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
