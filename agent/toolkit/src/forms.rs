//! From the form that clients pack in to the one that the keeper has, and back. Entry by entry, nothing is unpacked; blocks.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use caisson_model::id::Digest;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::keeper::Packed;

/// The most entries of an archive.
const MOST_ENTRIES: usize = 2_000_000;
/// The longest path of an entry.
const LONGEST_PATH: usize = 4096;
/// The beginning of 1980: what zip archives can hold, and programs that write them expect.
const EARLIEST: u64 = 315_532_800;
/// How hard what is sent to a client is packed: it is unpacked once, a moment later.
const ZSTD_LEVEL: i32 = 1;

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It is no archive of its kind, or the disk does not work.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// It is no zip archive.
    #[error("this is no zip archive: {0}")]
    Zip(String),
    /// One of its entries is not taken.
    #[error("the entry {name:?} {reason}")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// It is more than there is room for.
    #[error("the archive unpacks to more than {0} bytes")]
    Large(u64),
    /// It is not what the client says that it sent.
    #[error("what was uploaded is not what its digest says")]
    Digest,
    /// It has too many entries.
    #[error("the archive has more than {MOST_ENTRIES} entries")]
    Many,
}

impl From<io::Error> for FormError {
    fn from(error: io::Error) -> FormError {
        FormError::Read(error)
    }
}

fn entry(name: &str, reason: &'static str) -> FormError {
    FormError::Entry { name: name.chars().take(200).collect(), reason }
}

/// How a cache archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// A zip archive.
    Zip,
    /// A tar archive, by zstd.
    Zstd,
    /// A tar archive, by gzip.
    Gzip,
}

/// Where a job's directories are, as steps see them.
#[derive(Clone, Debug)]
pub struct Places {
    /// The workspace: what relative paths begin at.
    pub workspace: String,
    /// The directories that a job keeps from step to step.
    pub kept: Vec<String>,
}

impl Places {
    /// The path of an entry from `/`, without dots; `None` when it does not lie below a directory that the job keeps.
    fn absolute(&self, name: &str) -> Option<String> {
        let whole = if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", self.workspace) };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = format!("/{}", parts.join("/"));
        self.is_kept(&path).then_some(path)
    }

    fn is_kept(&self, path: &str) -> bool {
        self.kept.iter().any(|kept| path.strip_prefix(kept.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// Whether a path lies below a directory that the job keeps: those themselves have owners and modes of their own.
    fn is_below(&self, path: &str) -> bool {
        self.kept.iter().any(|kept| path.strip_prefix(kept.as_str()).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')))
    }
}

/// Writes into a file while the digest is taken.
struct Sealed<W: Write = File> {
    file: BufWriter<W>,
    hash: Sha256,
    bytes: u64,
}

impl Sealed {
    fn new(file: File) -> Sealed {
        Sealed { file: BufWriter::with_capacity(1 << 16, file), hash: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> io::Result<Packed> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Packed { file, digest: Digest(self.hash.finalize().into()), bytes: self.bytes })
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A zip archive of an artifact as the tar archive that the keeper has: regular files with relative paths; answers how many. At most
/// `most` bytes once unpacked. `into` is an empty file.
///
/// # Errors
/// [`FormError`].
pub fn tar_of_zip(archive: impl Read + Seek, into: File, most: u64) -> Result<(Packed, u32), FormError> {
    let mut archive = ZipArchive::new(BufReader::new(archive)).map_err(|error| FormError::Zip(error.to_string()))?;
    if archive.len() > MOST_ENTRIES {
        return Err(FormError::Many);
    }
    let mut builder = Builder::new(Sealed::new(into));
    let (mut total, mut files) = (0_u64, 0);
    for number in 0..archive.len() {
        let mut found = archive.by_index(number).map_err(|error| FormError::Zip(error.to_string()))?;
        let name = found.name().map_err(|error| FormError::Zip(error.to_string()))?.into_owned();
        if found.is_dir() {
            continue;
        }
        if let Some(reason) = refused(&name) {
            return Err(entry(&name, reason));
        }
        if found.is_symlink() {
            return Err(entry(&name, "is a link; artifacts hold files"));
        }
        let size = found.size();
        total = total.checked_add(size).filter(|total| *total <= most).ok_or(FormError::Large(most))?;
        let modified = found.last_modified().map_or(EARLIEST, seconds);
        let mut header = regular(size, modified, found.unix_mode().is_some_and(|mode| mode & 0o111 != 0));
        // The size is the archive's word: a longer entry is cut, and a shorter one refused below.
        let mut content = Counted { inner: (&mut found).take(size), bytes: 0 };
        builder.append_data(&mut header, &name, &mut content)?;
        let read = content.bytes;
        if read != size {
            return Err(entry(&name, "is shorter than the archive says"));
        }
        files += 1;
    }
    Ok((builder.into_inner()?.finish()?, files))
}

/// Holds what was uploaded against the digest that the client states (`sha256:` and hexadecimal digits), and goes back to its beginning.
///
/// # Errors
/// [`FormError::Digest`], or it cannot be read.
pub fn check(content: &mut (impl Read + Seek), stated: &str) -> Result<(), FormError> {
    let mut hash = Sealed { file: BufWriter::new(io::sink()), hash: Sha256::new(), bytes: 0 };
    io::copy(content, &mut hash)?;
    content.rewind()?;
    let found = Digest(hash.hash.finalize().into()).to_string();
    if stated.eq_ignore_ascii_case(&found) { Ok(()) } else { Err(FormError::Digest) }
}

/// One file as the tar archive that the keeper has.
///
/// # Errors
/// [`FormError`].
pub fn tar_of_file(name: &str, content: impl Read, size: u64, into: File) -> Result<Packed, FormError> {
    if let Some(reason) = refused(name) {
        return Err(entry(name, reason));
    }
    let mut builder = Builder::new(Sealed::new(into));
    builder.append_data(&mut regular(size, EARLIEST, false), name, BufReader::new(content))?;
    Ok(builder.into_inner()?.finish()?)
}

/// The tar archive of an artifact as the zip archive that clients want.
///
/// # Errors
/// [`FormError`].
pub fn zip_of_tar(archive: impl Read, into: File) -> Result<File, FormError> {
    let mut archive = Archive::new(BufReader::with_capacity(1 << 16, archive));
    let mut writer = ZipWriter::new(BufWriter::with_capacity(1 << 16, into));
    let broken = |error: zip::result::ZipError| FormError::Zip(error.to_string());
    for found in archive.entries()? {
        let mut found = found?;
        if found.header().entry_type() != EntryType::Regular {
            continue;
        }
        let name = text(&found.path_bytes())?;
        let name = name.trim_start_matches("./").to_owned();
        let mode = found.header().mode().unwrap_or(0o644) & 0o777;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(1))
            .unix_permissions(mode)
            .large_file(found.size() >= u64::from(u32::MAX));
        writer.start_file(name, options).map_err(broken)?;
        io::copy(&mut found, &mut writer)?;
    }
    let mut file = writer.finish().map_err(broken)?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// A cache archive of a client as the tar archive that the keeper has: paths from `/`, all of them below directories that the job
/// keeps. At most `most` bytes once unpacked. Answers how it was packed. `into` is an empty file.
///
/// # Errors
/// [`FormError`].
pub fn tar_of_cache(mut archive: impl Read + Seek, into: File, most: u64, places: &Places) -> Result<(Packed, Packing), FormError> {
    let mut magic = [0; 4];
    let read = archive.read(&mut magic)?;
    archive.rewind()?;
    let (packing, reader): (_, Box<dyn Read + '_>) = match &magic[..read] {
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(archive)?;
            // What a hostile archive may make this process hold while it is read.
            decoder.window_log_max(27)?;
            (Packing::Zstd, Box::new(decoder))
        }
        [0x1f, 0x8b, ..] => (Packing::Gzip, Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(archive)))),
        _ => return Err(FormError::Read(io::Error::new(io::ErrorKind::InvalidData, "it is neither packed by zstd nor by gzip"))),
    };
    // The archive's own padding counts too: it may be all that there is.
    let mut unpacked = Counted { inner: reader.take(most.saturating_add(1)), bytes: 0 };
    let mut builder = Builder::new(Sealed::new(into));
    let copied = copy_cache(&mut unpacked, &mut builder, places);
    if unpacked.bytes > most {
        return Err(FormError::Large(most));
    }
    copied?;
    Ok((builder.into_inner()?.finish()?, packing))
}

fn copy_cache(reader: impl Read, builder: &mut Builder<Sealed>, places: &Places) -> Result<(), FormError> {
    let mut archive = Archive::new(reader);
    for (number, found) in archive.entries()?.enumerate() {
        if number >= MOST_ENTRIES {
            return Err(FormError::Many);
        }
        let mut found = found?;
        let name = text(&found.path_bytes())?;
        let path = places.absolute(&name).ok_or_else(|| entry(&name, "lies outside of what a job keeps"))?;
        let mut header = Header::new_gnu();
        header.set_mode(found.header().mode().unwrap_or(0o644) & 0o777);
        header.set_mtime(found.header().mtime().unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let inside = path.trim_start_matches('/');
        match found.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(found.size());
                builder.append_data(&mut header, inside, &mut found)?;
            }
            EntryType::Directory => {
                if !places.is_below(&path) {
                    continue;
                }
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, format!("{inside}/"), io::empty())?;
            }
            EntryType::Symlink => {
                let target = found.link_name_bytes().ok_or_else(|| entry(&name, "is a link to nothing"))?;
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, inside, text(&target)?)?;
            }
            EntryType::Link => {
                let target = text(&found.link_name_bytes().ok_or_else(|| entry(&name, "is a link to nothing"))?)?;
                let target = places.absolute(&target).ok_or_else(|| entry(&name, "is a link to what lies outside of what a job keeps"))?;
                header.set_entry_type(EntryType::Link);
                builder.append_link(&mut header, inside, PathBuf::from(target.trim_start_matches('/')))?;
            }
            _ => return Err(entry(&name, "is neither a file, nor a directory, nor a link")),
        }
    }
    Ok(())
}

/// The tar archive of a cache entry as the packed one that clients want, with paths from `/`: they unpack those as they stand.
///
/// # Errors
/// [`FormError`].
pub fn cache_of_tar(archive: impl Read, into: File, packing: Packing, places: &Places) -> Result<File, FormError> {
    let writer = BufWriter::with_capacity(1 << 16, into);
    let mut file = match packing {
        Packing::Gzip => {
            let packed = flate2::write::GzEncoder::new(writer, flate2::Compression::fast());
            copy_out(archive, packed, places)?.finish()?
        }
        Packing::Zstd | Packing::Zip => {
            let packed = zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?;
            copy_out(archive, packed, places)?.finish()?
        }
    }
    .into_inner()
    .map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

fn copy_out<W: Write>(archive: impl Read, writer: W, places: &Places) -> Result<W, FormError> {
    let mut archive = Archive::new(BufReader::with_capacity(1 << 16, archive));
    let mut builder = Builder::new(writer);
    builder.preserve_absolute(true);
    for found in archive.entries()? {
        let mut found = found?;
        let name = text(&found.path_bytes())?;
        let path = format!("/{}", name.trim_start_matches("./").trim_matches('/'));
        if !places.is_below(&path) {
            continue;
        }
        let mut header = found.header().clone();
        let kind = header.entry_type();
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            let target = text(&found.link_name_bytes().unwrap_or_default())?;
            let target =
                if kind == EntryType::Link { format!("/{}", target.trim_start_matches("./").trim_start_matches('/')) } else { target };
            builder.append_link(&mut header, path, target)?;
        } else {
            let mut plain = Header::new_gnu();
            plain.set_entry_type(kind);
            plain.set_mode(header.mode().unwrap_or(0o644));
            plain.set_mtime(header.mtime().unwrap_or(0));
            plain.set_size(found.size());
            let path = if kind == EntryType::Directory { format!("{path}/") } else { path };
            builder.append_data(&mut plain, path, &mut found)?;
        }
    }
    Ok(builder.into_inner()?)
}

/// When a file of a zip archive was changed; archives do not say in which zone.
fn seconds(at: zip::DateTime) -> u64 {
    let small = |number: u8| i8::try_from(number).unwrap_or(0);
    let year = i16::try_from(at.year()).unwrap_or(1980);
    let moment =
        jiff::civil::DateTime::new(year, small(at.month()), small(at.day()), small(at.hour()), small(at.minute()), small(at.second()), 0);
    let moment = moment.ok().and_then(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC).ok());
    moment.and_then(|moment| u64::try_from(moment.timestamp().as_second()).ok()).map_or(EARLIEST, |at| at.max(EARLIEST))
}

fn regular(size: u64, modified: u64, executable: bool) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_size(size);
    header.set_mtime(modified);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn text(bytes: &[u8]) -> Result<String, FormError> {
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| entry(&String::from_utf8_lossy(bytes), "is not UTF-8"))?;
    if text.len() > LONGEST_PATH {
        return Err(entry(&text, "is too long"));
    }
    Ok(text)
}

/// Why a path cannot be one of an artifact: it becomes one below a directory of somebody else.
fn refused(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > LONGEST_PATH {
        return Some("is empty or too long");
    }
    if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("is no path below a directory");
    }
    name.chars().any(|c| c.is_control() || c == '\\').then_some("has control characters or a backslash")
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
