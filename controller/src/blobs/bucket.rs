//! Blobs in a bucket of an S3-compatible store, which several controllers of several machines may share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart};
use tokio::io::AsyncReadExt;

use crate::blobs::store::{BlobError, PIECE, Pieces, Store, Stored};

/// From this size on a blob is sent in several parts, this large.
const CHUNK: usize = 8 << 20;
/// How many parts are on their way at once.
const ON_THE_WAY: usize = 4;
/// How long one call may take, and how long a failing one is repeated.
const CALL: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(60);

/// Where a bucket is. Whoever may use it is said by the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_SESSION_TOKEN`, or what the machine or its container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketPlace {
    /// Its name.
    pub bucket: String,
    /// What all keys begin with; empty for nothing.
    pub prefix: String,
    /// The server, if it is not Amazon's: `https://HOST[:PORT]`; `http://` to a loopback address only.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` or the environment's without one.
    pub region: Option<String>,
}

impl BucketPlace {
    /// Reads `s3://BUCKET[/PREFIX]`; `None` when it is something else.
    pub fn parse(text: &str) -> Option<BucketPlace> {
        let rest = text.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let usable = !bucket.is_empty() && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        let prefix = prefix.trim_matches('/').to_owned();
        usable.then(|| BucketPlace { bucket: bucket.to_owned(), prefix, endpoint: None, region: None })
    }
}

/// Where a controller keeps its blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobsPlace {
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket.
    Bucket(BucketPlace),
}

/// A bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use the bucket {bucket} for blobs")]
pub struct BucketError {
    bucket: String,
    #[source]
    source: Box<object_store::Error>,
}

/// The bucket.
#[derive(Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Bucket {
    /// Prepares to use it, and looks whether it can be.
    ///
    /// # Errors
    /// [`BucketError`] when it is not there, or the credentials do not open it.
    pub async fn open(place: &BucketPlace) -> Result<Bucket, BucketError> {
        let failed = |source| BucketError { bucket: place.bucket.clone(), source: Box::new(source) };
        let retry = RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() };
        let options = ClientOptions::new().with_timeout(CALL).with_connect_timeout(Duration::from_secs(10));
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&place.bucket).with_retry(retry);
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        if let Some(region) = &place.region {
            builder = builder.with_region(region);
        }
        let plain = place.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store = builder.with_client_options(options.with_allow_http(plain)).build().map_err(failed)?;
        let bucket = Bucket { store: Arc::new(store), prefix: place.prefix.clone() };
        match bucket.store.list(Some(&bucket.key("probe"))).next().await {
            Some(Err(error)) => Err(failed(error)),
            _ => Ok(bucket),
        }
    }

    fn key(&self, name: &str) -> Key {
        match self.prefix.as_str() {
            "" => Key::from(name),
            prefix => Key::from(format!("{prefix}/{name}")),
        }
    }

    fn blob(&self, digest: Digest) -> Key {
        let text = digest.to_string();
        self.key(&format!("sha256/{}", text.trim_start_matches("sha256:")))
    }

    async fn send(&self, digest: Digest, part: &Path) -> Result<(), BlobError> {
        let disk = |source| BlobError::Disk { act: "read a part of", digest, source };
        let failed = |source| BlobError::Bucket { act: "put", digest, source: Box::new(source) };
        let key = self.blob(digest);
        let mut file = tokio::fs::File::open(part).await.map_err(disk)?;
        let length = file.metadata().await.map_err(disk)?.len();
        if length <= CHUNK as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            file.read_to_end(&mut bytes).await.map_err(disk)?;
            return self.store.put(&key, PutPayload::from(bytes)).await.map(drop).map_err(failed);
        }
        let upload = self.store.put_multipart(&key).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, CHUNK);
        let mut piece = vec![0; PIECE];
        loop {
            let read = match file.read(&mut piece).await {
                Ok(read) => read,
                Err(error) => {
                    // What was sent is of no use; the disk's word is the one to tell.
                    let _aborted = upload.abort().await.is_ok();
                    return Err(disk(error));
                }
            };
            if read == 0 {
                return upload.finish().await.map(drop).map_err(failed);
            }
            upload.wait_for_capacity(ON_THE_WAY).await.map_err(failed)?;
            upload.write(&piece[..read]);
        }
    }
}

impl Store for Bucket {
    fn has(&self, digest: Digest) -> BoxFuture<'_, Result<bool, BlobError>> {
        async move {
            match self.store.head(&self.blob(digest)).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(source) => Err(BlobError::Bucket { act: "look for", digest, source: Box::new(source) }),
            }
        }
        .boxed()
    }

    fn take<'s>(&'s self, digest: Digest, part: &'s Path) -> BoxFuture<'s, Result<(), BlobError>> {
        self.send(digest, part).boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<Pieces, BlobError>> {
        async move {
            let failed = move |source| match source {
                object_store::Error::NotFound { .. } => BlobError::Missing(digest),
                source => BlobError::Bucket { act: "read", digest, source: Box::new(source) },
            };
            let bytes = self.store.get(&self.blob(digest)).await.map_err(failed)?.into_stream();
            let pieces = bytes.map(move |bytes| bytes.map_err(failed)).flat_map(|bytes| {
                let pieces: Vec<_> = match bytes {
                    Ok(bytes) => bytes.chunks(PIECE).map(|piece| Ok(piece.to_vec())).collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(pieces)
            });
            Ok(pieces.boxed())
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Stored>, BlobError>> {
        let stored = self.store.list(Some(&self.key("sha256"))).try_filter_map(|object| {
            let digest = object.location.filename().and_then(|name| format!("sha256:{name}").parse().ok());
            let at = Timestamp(u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default());
            std::future::ready(Ok(digest.map(|digest| Stored { digest, bytes: object.size, at })))
        });
        async move { stored.try_collect().await.map_err(|error| BlobError::List(Box::new(error))) }.boxed()
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            match self.store.delete(&self.blob(digest)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(source) => Err(BlobError::Bucket { act: "remove", digest, source: Box::new(source) }),
            }
        }
        .boxed()
    }
}
