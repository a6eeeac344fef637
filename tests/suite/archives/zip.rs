//! ZIP files written by hand, so that every field can lie. Shares no code with the product, and none with the library that
//! writes its packages.

/// One entry: what its two headers, its content and what follows say.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// In the local header, if another one.
    pub(crate) local_name: Option<Vec<u8>>,
    pub(crate) content: Vec<u8>,
    /// What lies in the package, if not the content itself.
    pub(crate) packed: Option<Vec<u8>>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    /// In the local header, if another one.
    pub(crate) local_method: Option<u16>,
    pub(crate) needed: u16,
    pub(crate) crc: Option<u32>,
    pub(crate) local_crc: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) packed_size: Option<u32>,
    pub(crate) made_by: u16,
    pub(crate) external: u32,
    pub(crate) extra: Vec<u8>,
    pub(crate) local_extra: Vec<u8>,
    pub(crate) comment: Vec<u8>,
    pub(crate) disk: u16,
    /// Where the directory says that it is, if elsewhere.
    pub(crate) at: Option<u32>,
    /// Before its header, and behind its content.
    pub(crate) before: Vec<u8>,
    pub(crate) behind: Vec<u8>,
}

const UNIX: u16 = 3 << 8 | 20;

fn entry(name: &str, content: &[u8], external: u32) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        local_name: None,
        content: content.to_vec(),
        packed: None,
        flags: 0,
        method: 0,
        local_method: None,
        needed: 20,
        crc: None,
        local_crc: None,
        size: None,
        packed_size: None,
        made_by: UNIX,
        external,
        extra: Vec::new(),
        local_extra: Vec::new(),
        comment: Vec::new(),
        disk: 0,
        at: None,
        before: Vec::new(),
        behind: Vec::new(),
    }
}

pub(crate) fn file(name: &str, content: &[u8]) -> Entry {
    entry(name, content, 0o100_644 << 16)
}

pub(crate) fn dir(name: &str) -> Entry {
    entry(&format!("{name}/"), b"", 0o040_755 << 16)
}

/// With other type and permission bits.
pub(crate) fn with_mode(name: &str, content: &[u8], mode: u32) -> Entry {
    entry(name, content, mode << 16)
}

/// A deflated file, whatever it really holds.
pub(crate) fn deflated(name: &str, content: &[u8], packed: Vec<u8>) -> Entry {
    Entry { packed: Some(packed), method: 8, ..file(name, content) }
}

/// Deflated without packing anything: stored blocks (RFC 1951 §3.2.4).
pub(crate) fn stored_blocks(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut blocks = content.chunks(0xffff).peekable();
    if content.is_empty() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    out
}

/// So many zeros, deflated with fixed codes: a run of 258 in 13 bits (RFC 1951 §3.2.6).
pub(crate) fn zeros(len: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(1, 1);
    bits.put(1, 2);
    let mut left = len;
    if left > 0 {
        // the first zero as a letter: 0x30 in eight bits, the highest first
        bits.put_code(0x30, 8);
        left -= 1;
    }
    while left >= 258 {
        // length 258 is code 285: 11000101; distance 1 is code 0 in five bits
        bits.put_code(0b1100_0101, 8);
        bits.put_code(0, 5);
        left -= 258;
    }
    for _ in 0..left {
        bits.put_code(0x30, 8);
    }
    // the end
    bits.put_code(0, 7);
    bits.out
}

#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    used: u32,
}

impl Bits {
    fn bit(&mut self, bit: u32) {
        if self.used.is_multiple_of(8) {
            self.out.push(0);
        }
        if let Some(last) = self.out.last_mut() {
            *last |= (bit as u8 & 1) << (self.used % 8);
        }
        self.used += 1;
    }

    fn put(&mut self, value: u32, len: u32) {
        (0..len).for_each(|n| self.bit(value >> n));
    }

    fn put_code(&mut self, value: u32, len: u32) {
        (0..len).rev().for_each(|n| self.bit(value >> n));
    }
}

/// The end of a package, where it does not say what is so.
#[derive(Clone, Default)]
pub(crate) struct End {
    pub(crate) entries: Option<u16>,
    pub(crate) here: Option<u16>,
    pub(crate) size: Option<u32>,
    pub(crate) at: Option<u32>,
    pub(crate) disk: u16,
    pub(crate) comment: Vec<u8>,
    /// Between the entries and the directory, the directory and the end, and behind all.
    pub(crate) gap: Vec<u8>,
    pub(crate) behind_directory: Vec<u8>,
    pub(crate) behind: Vec<u8>,
    /// With a 64-bit end record: what that says of entries, size, place, and where the locator says that it is.
    pub(crate) wide: Option<Wide>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Wide {
    pub(crate) entries: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) at: Option<u64>,
    pub(crate) record_at: Option<u64>,
    pub(crate) record_size: Option<u64>,
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (0..8).fold(crc, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
    !bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ step((crc ^ u32::from(*byte)) & 0xff))
}

/// The 64-bit extra field with these values.
pub(crate) fn wide_field(values: &[u64]) -> Vec<u8> {
    let mut field = vec![1, 0];
    field.extend((values.len() as u16 * 8).to_le_bytes());
    values.iter().for_each(|value| field.extend(value.to_le_bytes()));
    field
}

pub(crate) fn package(entries: &[Entry]) -> Vec<u8> {
    package_with(entries, End::default())
}

pub(crate) fn package_with(entries: &[Entry], end: End) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        out.extend(&entry.before);
        let at = entry.at.unwrap_or(out.len() as u32);
        let packed = entry.packed.as_ref().unwrap_or(&entry.content);
        let crc = entry.crc.unwrap_or_else(|| crc32(&entry.content));
        let sizes = [
            entry.packed_size.unwrap_or(packed.len() as u32).to_le_bytes(),
            entry.size.unwrap_or(entry.content.len() as u32).to_le_bytes(),
        ]
        .concat();
        let common = |crc: u32, method: u16| -> Vec<u8> {
            let head = [entry.needed, entry.flags, method, 0, 0x21].map(u16::to_le_bytes).concat();
            [head, crc.to_le_bytes().to_vec(), sizes.clone()].concat()
        };
        let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
        out.extend(0x0403_4b50_u32.to_le_bytes());
        out.extend(common(entry.local_crc.unwrap_or(crc), entry.local_method.unwrap_or(entry.method)));
        out.extend((local_name.len() as u16).to_le_bytes());
        out.extend((entry.local_extra.len() as u16).to_le_bytes());
        out.extend(local_name);
        out.extend(&entry.local_extra);
        out.extend(packed);
        out.extend(&entry.behind);

        directory.extend(0x0201_4b50_u32.to_le_bytes());
        directory.extend(entry.made_by.to_le_bytes());
        directory.extend(common(crc, entry.method));
        for len in [entry.name.len(), entry.extra.len(), entry.comment.len()] {
            directory.extend((len as u16).to_le_bytes());
        }
        directory.extend(entry.disk.to_le_bytes());
        directory.extend([0; 2]);
        directory.extend(entry.external.to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(&entry.name);
        directory.extend(&entry.extra);
        directory.extend(&entry.comment);
    }
    out.extend(&end.gap);
    let at = out.len() as u64;
    let size = directory.len() as u64;
    out.extend(directory);
    out.extend(&end.behind_directory);
    if let Some(wide) = end.wide {
        let record_at = out.len() as u64;
        let count = wide.entries.unwrap_or(entries.len() as u64).to_le_bytes();
        out.extend(0x0606_4b50_u32.to_le_bytes());
        out.extend(wide.record_size.unwrap_or(44).to_le_bytes());
        out.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend(count);
        out.extend(count);
        out.extend(wide.size.unwrap_or(size).to_le_bytes());
        out.extend(wide.at.unwrap_or(at).to_le_bytes());
        out.extend(0x0706_4b50_u32.to_le_bytes());
        out.extend([0; 4]);
        out.extend(wide.record_at.unwrap_or(record_at).to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    let count = end.entries.unwrap_or(entries.len() as u16);
    out.extend(0x0605_4b50_u32.to_le_bytes());
    out.extend([end.disk, end.disk, end.here.unwrap_or(count), count].map(u16::to_le_bytes).concat());
    out.extend(end.size.unwrap_or(size as u32).to_le_bytes());
    out.extend(end.at.unwrap_or(at as u32).to_le_bytes());
    out.extend((end.comment.len() as u16).to_le_bytes());
    out.extend(&end.comment);
    out.extend(&end.behind);
    out
}
