//! A blob while a program prints it.

use std::fs::File;
use std::io::Write;

use caisson_model::id::Digest;
use caisson_proto::api::ApiError;
use sha2::{Digest as _, Sha256};

use crate::kept::Blob;
use crate::program::Halt;

/// A file that grows while its digest is taken; without a name on the disk.
pub(super) struct Growing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Growing {
    pub(super) fn new(directory: &std::path::Path) -> std::io::Result<Growing> {
        Ok(Growing { file: tempfile::tempfile_in(directory)?, hash: Sha256::new(), bytes: 0 })
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn blob(&self) -> Blob {
        Blob { digest: Digest(self.hash.clone().finalize().into()), bytes: self.bytes }
    }
}

/// What a failed call means for its step.
pub(super) fn refused(act: &str, error: &ApiError) -> Halt {
    Halt::faulted(format!("{act}: {error}"), error.fault())
}
