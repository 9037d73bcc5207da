//! Blobs on their way to the controller and from it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use caisson_model::id::Digest;
use caisson_model::outcome::Fault;
use caisson_proto::api::{AgentApi, ApiError};
use futures_util::stream;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_stream::StreamExt;

use crate::kept::Blob;
use crate::program::Halt;
use crate::retry;
use crate::stop::Stop;

/// What is sent at once of a blob.
const PIECE: usize = 64 << 10;

/// Hands a file to the controller, unless it has its content.
pub(super) async fn hand_over<A: AgentApi>(api: &Arc<A>, orders: &watch::Receiver<Stop>, blob: Blob, file: File) -> Result<(), ApiError> {
    let missing = retry::until_answered(orders, || api.find_missing_blobs(vec![blob.digest])).await?;
    if missing.is_empty() {
        return Ok(());
    }
    retry::until_answered(orders, || {
        let api = Arc::clone(api);
        let file = file.try_clone();
        async move {
            let local = |error: std::io::Error| ApiError::Broken(format!("the file of a blob could not be read: {error}"));
            let mut file = file.map_err(local)?;
            // What came through before a connection broke is not sent again.
            let held = api.held_of_blob(blob.digest).await?;
            file.seek(SeekFrom::Start(held)).map_err(local)?;
            // Small pieces of what was just written: they come from memory.
            let pieces = stream::unfold(file, |mut file| async move {
                let mut piece = vec![0; PIECE];
                match file.read(&mut piece) {
                    Ok(0) => None,
                    Ok(count) => {
                        piece.truncate(count);
                        Some((piece, file))
                    }
                    Err(error) => {
                        // The digest refuses what is cut short.
                        tracing::error!(%error, "a blob could not be read back");
                        None
                    }
                }
            });
            match api.put_blob_from(blob.digest, held, Box::pin(pieces)).await {
                // What was held was not the beginning of this: it is forgotten now.
                Err(ApiError::Invalid(what)) if held > 0 => Err(ApiError::Unavailable(what)),
                put => put,
            }
        }
    })
    .await
}

/// Writes a blob into the pipe, resuming where a broken connection left off, and holds its digest against its name.
pub(super) async fn feed_blob(api: &impl AgentApi, source: Digest, what: &str, mut input: pipe::Sender) -> Result<(), Halt> {
    let failed = |error: ApiError| Halt::faulted(format!("{what} could not be fetched: {error}"), error.fault());
    let mut whole = Sha256::new();
    let mut offset = 0;
    let mut backoff = retry::Backoff::new();
    'connection: loop {
        let mut pieces = match api.get_blob(source, offset).await {
            Ok(pieces) => pieces,
            Err(error) if error.is_transient() => {
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(backoff.pause()).await;
                    continue 'connection;
                }
                Err(error) => return Err(failed(error)),
            };
            whole.update(&piece);
            offset += piece.len() as u64;
            if let Err(error) = input.write_all(&piece).await {
                if error.kind() == std::io::ErrorKind::BrokenPipe {
                    return Ok(());
                }
                return Err(Halt::faulted(format!("{what} could not be unpacked: {error}"), Fault::Environment));
            }
        }
        break;
    }
    let digest = Digest(whole.finalize().into());
    if digest != source {
        return Err(Halt::faulted(format!("{what} is {digest}, but {source} was announced"), Fault::Ours));
    }
    Ok(())
}
