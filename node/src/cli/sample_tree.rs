//! A small tree for the demo with what trees in the wild have: many files, odd names, links, modes, old times.

use std::fs::{self, DirBuilder, File, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of the one large file.
const LARGE: usize = 6 * 1024 * 1024 + 17;

/// Makes the tree at `root`, which must not exist.
pub(crate) fn make(root: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(root)?;
    let mut noise = Noise(0x6d65_2d73_796e_6321);
    for dir in 0..12 {
        let dir = root.join(format!("album {dir:02}"));
        fs::create_dir(&dir)?;
        for n in 0..25_usize {
            let size = n * n * 37 % 9000;
            file(&dir.join(format!("picture-{n:03}.raw")), &noise.bytes(size), 0o644, n as u64)?;
        }
    }
    let odd = root.join("odd names");
    fs::create_dir(&odd)?;
    let names = ["two  spaces ", "naïve café", "文書", "🗂", "-dash", "quote'\"", "semi;colon&$HOME", ".hidden"];
    for (n, name) in names.iter().enumerate() {
        file(&odd.join(name), name.as_bytes(), 0o600, 1000 + n as u64)?;
    }
    fs::create_dir_all(root.join("empty/inside/of/empty"))?;
    file(&root.join("large.bin"), &noise.bytes(LARGE), 0o640, 7)?;
    file(&root.join("nothing"), b"", 0o444, 8)?;
    file(&root.join("run.sh"), b"#!/bin/sh\necho hello\n", 0o755, 9)?;
    symlink("large.bin", root.join("link to large"))?;
    symlink("../outside/and/nowhere", root.join("dangling link"))?;
    symlink("album 00", root.join("link to album"))?;
    fs::set_permissions(root.join("empty/inside"), Permissions::from_mode(0o700))?;
    // last, since every entry made inside moves it
    let old = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(&odd)?.set_times(FileTimes::new().set_modified(old))
}

fn file(path: &Path, content: &[u8], mode: u32, age: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    let then = UNIX_EPOCH + Duration::new(1_500_000_000 + age * 86_400, 987_654_321 - u32::try_from(age).unwrap_or(0));
    file.set_times(FileTimes::new().set_modified(then))?;
    file.set_permissions(Permissions::from_mode(mode))
}

/// Bytes that do not compress and are the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out.truncate(len);
        out
    }
}
