//! Writing the package of a snapshot, entry by entry in the manifest's order, to something that cannot be wound back.
//!
//! It is written twice: once into nothing, for its length and SHA-256, which have to be known before a byte is sent, and once
//! onto the stream. The same snapshot gives the same bytes, and a file that changed in between is noticed.

use std::io::{self, Write};
use std::sync::Arc;

use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{Entry, Mtime, Node};
use zip::write::{FullFileOptions, StreamWriter};
use zip::{CompressionMethod, System, ZipWriter};

use super::error::PackError;
use super::{BLOCK, Watch};
use crate::source::{Snapshot, SourceFile};
use crate::transfer::Compression;

/// Files from this size on get the 64-bit form: what does not shrink may grow a little.
const LARGE: u64 = 0xf000_0000;
/// Deflating is for text and the like: fast, and thorough enough.
const LEVEL: i64 = 3;

/// Less is not worth asking whether it shrinks.
const WORTH_IT: usize = 256;

/// What a package is, before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) len: u64,
    pub(crate) sha256: Digest,
}

/// The length and hash of the package. Blocking; reads every file.
///
/// # Errors
/// A file changed or cannot be read, or somebody wants it to stop.
pub(crate) fn measure(snapshot: &Arc<Snapshot>, compression: Compression, watch: &Watch) -> Result<Packed, PackError> {
    write(snapshot, compression, io::sink(), watch)
}

/// Writes the package. Blocking; reads every file.
///
/// # Errors
/// As [`measure`], or `out` takes no more.
pub(crate) fn write(
    snapshot: &Arc<Snapshot>,
    compression: Compression,
    out: impl Write,
    watch: &Watch,
) -> Result<Packed, PackError> {
    let out = Counted { out, len: 0, hash: Hasher::new() };
    let mut package = ZipWriter::new_stream(out);
    let mut reader = snapshot.reader();
    let mut block = vec![0; BLOCK];
    for (index, entry) in snapshot.manifest().entries() {
        match entry.node {
            Node::Dir => package.add_directory(entry.path.as_str(), options(&entry)?).map_err(written)?,
            Node::File { .. } => {
                let file = reader.open(index)?;
                write_file(&mut package, file, &entry, compression, &mut block, watch)?;
            }
            Node::Symlink { .. } => return Err(PackError::Unfit),
        }
        if watch.is_stopped() {
            return Err(PackError::Stopped);
        }
    }
    let Counted { mut out, len, hash } = package.finish().map_err(written)?.into_inner();
    out.flush().map_err(PackError::Write)?;
    Ok(Packed { len, sha256: hash.finish() })
}

fn write_file<W: Write>(
    package: &mut ZipWriter<StreamWriter<Counted<W>>>,
    mut file: SourceFile,
    entry: &Entry<'_>,
    compression: Compression,
    block: &mut [u8],
    watch: &Watch,
) -> Result<(), PackError> {
    let mut filled = file.read(block)?;
    let deflated = match compression {
        Compression::Never => false,
        Compression::Always => filled > 0,
        Compression::Auto => shrinks(&block[..filled]),
    };
    let options = options(entry)?.large_file(file.size() >= LARGE);
    let options = match deflated {
        true => options.compression_method(CompressionMethod::Deflated).compression_level(Some(LEVEL)),
        false => options.compression_method(CompressionMethod::Stored),
    };
    package.start_file(entry.path.as_str(), options).map_err(written)?;
    while filled > 0 {
        package.write_all(&block[..filled]).map_err(PackError::Write)?;
        watch.add(filled);
        if watch.is_stopped() {
            return Err(PackError::Stopped);
        }
        filled = file.read(block)?;
    }
    Ok(file.finish()?)
}

/// Is what a file begins with worth deflating?
fn shrinks(beginning: &[u8]) -> bool {
    if beginning.len() < WORTH_IT {
        return false;
    }
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let done = packed.write_all(beginning).and_then(|()| packed.finish());
    done.is_ok_and(|packed| packed.len() < beginning.len() - beginning.len() / 8)
}

/// Mode and time of an entry. Times that 32 bits do not hold, and nanoseconds, stay behind.
fn options(entry: &Entry<'_>) -> Result<FullFileOptions<'static, 'static>, PackError> {
    let default = if entry.node == Node::Dir { 0o755 } else { 0o644 };
    let options = FullFileOptions::default().system(System::Unix).unix_permissions(entry.mode.unwrap_or(default));
    match entry.mtime.and_then(seconds) {
        Some(time) => options.with_extended_timestamp(Some(time.cast_unsigned()), None, None).map_err(written),
        None => Ok(options),
    }
}

fn seconds(mtime: Mtime) -> Option<i32> {
    i32::try_from(mtime.to_unix().0).ok()
}

fn written(err: zip::result::ZipError) -> PackError {
    PackError::Write(match err {
        zip::result::ZipError::Io(err) => err,
        other => io::Error::other(other),
    })
}

/// Counts and hashes what passes.
#[derive(Debug)]
struct Counted<W> {
    out: W,
    len: u64,
    hash: Hasher,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
