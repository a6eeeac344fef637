//! The importer's way to a manifest: chunks in, a checked manifest out (SPEC §4.5). Trusts no count,
//! allocates for bytes that arrived only, and refuses at the first entry that breaks a rule.

use super::build::{EntryBlock, entry_error};
use super::{Manifest, ManifestError, ManifestHeader, SCHEMA_VERSION, canonical};
use crate::ids::Digest;
use crate::limits::{MAX_CHUNK_ENTRIES, MAX_ENTRIES, MAX_MANIFEST_BYTES, MAX_SIZE};

/// A manifest on its way in.
#[derive(Debug)]
pub struct ManifestAssembler {
    header: ManifestHeader,
    entries: EntryBlock,
    scratch: Vec<u8>,
}

impl ManifestAssembler {
    /// Starts with the body of `manifest_begin`.
    ///
    /// # Errors
    /// The header is malformed, of another version, or declares more than the limits allow.
    pub fn begin(body: &[u8]) -> Result<Self, ManifestError> {
        let (version, header) = canonical::decode_header(body).map_err(|why| entry_error(0, why))?;
        if version != SCHEMA_VERSION {
            return Err(ManifestError::Version(version));
        }
        if header.entry_count > u64::from(MAX_ENTRIES) {
            return Err(ManifestError::Limit { what: "entries" });
        }
        if header.total_bytes > MAX_SIZE {
            return Err(ManifestError::Limit { what: "total size" });
        }
        Ok(Self { header, entries: EntryBlock::default(), scratch: Vec::new() })
    }

    /// The declared figures.
    pub fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// Entries that arrived and were accepted.
    pub fn received(&self) -> u64 {
        self.entries.len()
    }

    /// Takes the body of one `manifest_chunk`: one or more whole entries.
    ///
    /// # Errors
    /// The first entry that breaks a rule; the assembler is then of no use.
    pub fn chunk(&mut self, body: &[u8]) -> Result<(), ManifestError> {
        if self.entries.bytes.len() as u64 + body.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Limit { what: "manifest bytes" });
        }
        let mut rest = body;
        let mut taken = 0;
        while !rest.is_empty() {
            taken += 1;
            if taken > MAX_CHUNK_ENTRIES {
                return Err(ManifestError::Limit { what: "entries of a chunk" });
            }
            rest = self.entry(rest)?;
        }
        match taken {
            0 => Err(ManifestError::NotCanonical { index: self.entries.len(), why: "an empty chunk" }),
            _ => Ok(()),
        }
    }

    fn entry<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], ManifestError> {
        let index = self.entries.len();
        if index >= self.header.entry_count {
            return Err(ManifestError::Mismatch { what: "entry_count" });
        }
        let (entry, used) = canonical::next_entry(rest, &mut self.scratch).map_err(|why| entry_error(index, why))?;
        self.entries.check(&entry, self.header.outline)?;
        let (raw, rest) = rest.split_at(used);
        self.entries.bytes.extend_from_slice(raw);
        self.entries.commit(&entry)?;
        if self.entries.total_bytes > self.header.total_bytes {
            return Err(ManifestError::Mismatch { what: "total_bytes" });
        }
        Ok(rest)
    }

    /// Ends with the hash from `manifest_end`.
    ///
    /// # Errors
    /// Count, total or hash are not what was declared.
    pub fn end(self, sha256: Digest) -> Result<Manifest, ManifestError> {
        if self.entries.len() != self.header.entry_count {
            return Err(ManifestError::Mismatch { what: "entry_count" });
        }
        if self.entries.total_bytes != self.header.total_bytes {
            return Err(ManifestError::Mismatch { what: "total_bytes" });
        }
        let manifest = self.entries.seal(self.header)?;
        if manifest.sha256() != sha256 {
            return Err(ManifestError::Mismatch { what: "manifest_sha256" });
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// The body of `manifest_begin`: the header as the canonical bytes have it.
    pub fn header_bytes(&self) -> bytes::Bytes {
        if self.late.is_some() {
            let mut sealed = Vec::new();
            canonical::encode_header(&self.header, &mut sealed);
            return sealed.into();
        }
        self.bytes.slice(..self.starts.first().map_or(0, |s| *s as usize))
    }
}
