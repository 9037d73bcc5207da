//! Blobs in a bucket, against a real server that speaks S3.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bucket_server;

use std::collections::HashSet;
use std::process::Command;

use bucket_server::BucketServer;
use caisson_controller::blobs::Blobs;
use caisson_controller::blobs::bucket::{Bucket, BucketPlace};
use caisson_controller::blobs::store::BlobError;
use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

/// Credentials come from the environment, which a test cannot change for itself: it runs itself again with what it needs.
fn again(name: &str) -> bool {
    if std::env::var_os("CAISSON_TEST_BUCKET").is_some() {
        return true;
    }
    let Some(server) = BucketServer::start() else { return false };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).envs(server.environment()).env("CAISSON_TEST_BUCKET", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    false
}

fn place(bucket: &str) -> BucketPlace {
    let endpoint = std::env::var("AWS_ENDPOINT_URL_S3").ok();
    BucketPlace { endpoint, ..BucketPlace::parse(&format!("s3://{bucket}/some/where")).unwrap() }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

async fn all(blobs: &Blobs, digest: Digest, offset: u64) -> Result<Vec<u8>, BlobError> {
    let pieces: Vec<_> = blobs.read(digest, offset).await?.collect().await;
    Ok(pieces.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

fn pieces(content: &[u8]) -> impl futures_util::Stream<Item = Vec<u8>> + Send + Unpin + use<> {
    futures_util::stream::iter(content.chunks(70_001).map(<[u8]>::to_vec).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_blobs_as_a_folder_does() {
    if !again("a_bucket_keeps_blobs_as_a_folder_does") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = || async { Blobs::in_bucket(Bucket::open(&place("blobs")).await.unwrap(), dir.path().join("parts")) };
    let blobs = open().await;
    // More than one part of an upload, and one that is smaller.
    let large: Vec<u8> = (0..20_000_000u32).map(|i| (i / 11) as u8).collect();
    let (name, small) = (digest(&large), digest(b"small"));
    assert!(matches!(all(&blobs, name, 0).await, Err(BlobError::Missing(_))));
    assert!(matches!(blobs.put(name, 0, pieces(&large).take(100)).await, Err(BlobError::Mismatch { .. })));
    let held = blobs.held(name).await.unwrap();
    assert_eq!(held, 7_000_100);
    assert_eq!(blobs.missing(vec![name, small]).await.unwrap(), [name, small]);
    blobs.put(name, held, pieces(&large[held as usize..])).await.unwrap();
    blobs.put(small, 0, pieces(b"small")).await.unwrap();
    let other = open().await;
    assert!(other.missing(vec![small, name]).await.unwrap().is_empty(), "another controller sees them");
    assert!(all(&other, name, 0).await.unwrap() == large);
    assert!(all(&other, name, 19_999_999).await.unwrap() == large[19_999_999..]);
    assert!(dir.path().join("parts").read_dir().unwrap().next().is_none(), "no part stays");

    // What was changed behind its back is seen by whoever reads.
    let hex = small.to_string().replace("sha256:", "");
    let server = std::env::var("AWS_ENDPOINT_URL_S3").unwrap();
    let address = server.trim_start_matches("http://").to_owned();
    tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        // The server looks at who signs, and not at the signature.
        let signed =
            "Authorization: AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";
        let path = format!("/blobs/some/where/sha256/{hex}");
        write!(stream, "PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5\r\n{signed}Connection: close\r\n\r\nsmell").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    })
    .await
    .unwrap();
    assert!(matches!(all(&blobs, small, 0).await, Err(BlobError::Damaged(_))));

    let later = Timestamp(u64::MAX);
    let done = blobs.collect(&HashSet::from([name]), later).await.unwrap();
    assert_eq!((done.blobs, done.left), (1, 20_000_000));
    assert_eq!(blobs.missing(vec![name, small]).await.unwrap(), [small]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_told_at_once() {
    if !again("a_bucket_that_is_not_there_is_told_at_once") {
        return;
    }
    let error = Bucket::open(&place("elsewhere")).await.unwrap_err();
    assert_eq!(error.to_string(), "use the bucket elsewhere for blobs");
}
