//! Blobs in a folder.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use caisson_model::id::Digest;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::blobs::store::{BlobError, PIECE, Pieces, Store, Stored, path_below, stamp};

/// A folder of blobs, made when the first is taken in.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Folder {
        Folder { root }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, BlobError> + Send + 'static) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BlobError::Thread)?
}

impl Store for Folder {
    fn has(&self, digest: Digest) -> BoxFuture<'_, Result<bool, BlobError>> {
        let path = path_below(&self.root, digest);
        blocking(move || path.try_exists().map_err(|source| BlobError::Disk { act: "look for", digest, source })).boxed()
    }

    fn take<'s>(&'s self, digest: Digest, part: &'s Path) -> BoxFuture<'s, Result<(), BlobError>> {
        let (path, part) = (path_below(&self.root, digest), part.to_owned());
        let work = move || {
            let failed = |act| move |source| BlobError::Disk { act, digest, source };
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).map_err(failed("make room for"))?;
            fs::rename(&part, &path).map_err(failed("move"))?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync"))
        };
        blocking(work).boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<Pieces, BlobError>> {
        open(path_below(&self.root, digest), digest).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Stored>, BlobError>> {
        let root = self.root.join("sha256");
        blocking(move || list(&root).map_err(|error| BlobError::List(Box::new(error)))).boxed()
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        let path = path_below(&self.root, digest);
        let work = move || match fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(BlobError::Disk { act: "remove", digest, source }),
            _ => Ok(()),
        };
        blocking(work).boxed()
    }
}

fn list(root: &Path) -> io::Result<Vec<Stored>> {
    let mut found = Vec::new();
    let folders = match fs::read_dir(root) {
        Ok(folders) => folders,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?;
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let name = format!("sha256:{}{}", folder.file_name().display(), entry.file_name().display());
            // Something else in there is not ours to judge.
            let Ok(digest) = name.parse() else { continue };
            let data = match entry.metadata() {
                Ok(data) => data,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            found.push(Stored { digest, bytes: data.len(), at: stamp(data.modified()?) });
        }
    }
    Ok(found)
}

/// The bytes of a file.
pub(super) async fn open(path: PathBuf, digest: Digest) -> Result<Pieces, BlobError> {
    let opened = move || {
        File::open(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => BlobError::Missing(digest),
            _ => BlobError::Disk { act: "open", digest, source },
        })
    };
    let file = blocking(opened).await?;
    let (pieces, arrived) = mpsc::channel(4);
    // Ends by itself: at the end of the blob, or when nobody reads any more.
    drop(tokio::task::spawn_blocking(move || read_all(file, digest, &pieces)));
    Ok(ReceiverStream::new(arrived).boxed())
}

fn read_all(mut file: File, digest: Digest, pieces: &mpsc::Sender<Result<Vec<u8>, BlobError>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                piece.truncate(read);
                Ok(piece)
            }
            Err(source) if source.kind() == ErrorKind::Interrupted => continue,
            Err(source) => Err(BlobError::Disk { act: "read", digest, source }),
        };
        let ends = read.is_err();
        if pieces.blocking_send(read).is_err() || ends {
            return;
        }
    }
}
