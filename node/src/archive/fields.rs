//! Numbers, extra fields and sizes as headers of a package have them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;

use super::error::PackageRefused;

/// Extra fields: 64-bit sizes, times, and one that says the name again.
const WIDE: u16 = 0x0001;
const TIMES: u16 = 0x5455;
const UNICODE_PATH: u16 = 0x7075;

/// What the extra fields of a header say.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) wide: Option<Vec<u64>>,
    pub(super) mtime: Option<i32>,
}

impl Extra {
    pub(super) fn read(mut raw: &[u8]) -> Result<Self, &'static str> {
        let mut extra = Self::default();
        while !raw.is_empty() {
            let Some((head, rest)) = raw.split_first_chunk::<4>() else {
                return Err("has extra fields that are cut off");
            };
            let (id, len) = (u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]]));
            let Some((field, rest)) = rest.split_at_checked(len.into()) else {
                return Err("has extra fields that are cut off");
            };
            match id {
                WIDE if extra.wide.is_some() => return Err("says its sizes twice"),
                WIDE => {
                    let (values, rest) = field.as_chunks::<8>();
                    if !rest.is_empty() {
                        return Err("says its sizes in another form");
                    }
                    extra.wide = Some(values.iter().map(|value| u64::from_le_bytes(*value)).collect());
                }
                UNICODE_PATH => return Err("has a second name"),
                TIMES => {
                    if let [flags, a, b, c, d, ..] = *field
                        && flags & 1 != 0
                    {
                        extra.mtime = Some(i32::from_le_bytes([a, b, c, d]));
                    }
                }
                // whose it is, and what else other systems note
                _ => {}
            }
            raw = rest;
        }
        Ok(extra)
    }
}

/// Sizes and place of an entry; the place is in the directory only.
pub(super) struct Wide {
    pub(super) size: u64,
    pub(super) packed: u64,
    pub(super) at: Option<u64>,
}

impl Wide {
    /// With what the 64-bit field says of those that 32 bits do not hold. One that says another thing of the others lies.
    pub(super) fn with(mut self, field: Option<Vec<u64>>) -> Result<Self, &'static str> {
        let most = u64::from(u32::MAX);
        let mut ours = vec![&mut self.size, &mut self.packed];
        ours.extend(self.at.as_mut());
        let missing = ours.iter().filter(|value| ***value == most).count();
        let field = field.unwrap_or_default();
        if field.len() == missing {
            ours.into_iter().filter(|value| **value == most).zip(field).for_each(|(ours, wide)| *ours = wide);
            return Ok(self);
        }
        if field.len() < missing {
            return Err("does not say its 64-bit sizes");
        }
        // some say both sizes as soon as one is large, or may have been
        if !(2..=3).contains(&field.len()) {
            return Err("says its sizes in another form");
        }
        for (ours, wide) in ours.into_iter().zip(field) {
            if *ours != most && *ours != wide {
                return Err("says different sizes at once");
            }
            *ours = wide;
        }
        Ok(self)
    }
}

/// Numbers of a header, in order.
pub(super) struct Fields {
    raw: Vec<u8>,
    at: usize,
}

impl Fields {
    pub(super) fn at<const N: usize>(file: &File, at: u64) -> Result<Self, PackageRefused> {
        let mut raw = vec![0; N];
        file.read_exact_at(&mut raw, at).map_err(unread)?;
        Ok(Self { raw, at: 0 })
    }

    pub(super) fn of<const N: usize>(from: &mut impl Read) -> Result<Self, PackageRefused> {
        let mut raw = vec![0; N];
        from.read_exact(&mut raw).map_err(unread)?;
        Ok(Self { raw, at: 0 })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.raw.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        self.at += N;
        // a header is as long as its fields
        taken.unwrap_or([0; N])
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

pub(super) fn bytes(from: &mut impl Read, len: u16) -> Result<Vec<u8>, PackageRefused> {
    let mut raw = vec![0; len.into()];
    from.read_exact(&mut raw).map_err(unread)?;
    Ok(raw)
}

/// What ends too early is a rule broken; what cannot be read is this device's.
pub(super) fn unread(err: std::io::Error) -> PackageRefused {
    match err.kind() {
        std::io::ErrorKind::UnexpectedEof => PackageRefused::form("something in it ends too early"),
        _ => PackageRefused::Spool { what: "read", err },
    }
}

/// A part of a file.
pub(super) struct Section<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut into[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
