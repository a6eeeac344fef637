//! Which mounts exist, and which file systems need a warning.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fstatfs;

use super::inode::Inode;

const OVERLAYFS: u64 = 0x794c_7630;
const BTRFS: u64 = 0x9123_683e;
/// The inode number every btrfs subvolume's root has.
const BTRFS_SUBVOLUME_ROOT: u64 = 256;
const NETWORK: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x517b, "SMB"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
];
const FUSE: u64 = 0x6573_5546;

/// The first mount point strictly below `path`, which must be resolved.
pub(crate) fn mount_below(path: &Path) -> Option<PathBuf> {
    // without /proc the walk over the old tree still compares mounts
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    table.split(|b| *b == b'\n').filter_map(mount_point).find(|mount| mount != path && mount.starts_with(path))
}

/// `path` itself is a mount point by the mount table.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    std::fs::read("/proc/self/mountinfo")
        .is_ok_and(|table| table.split(|b| *b == b'\n').filter_map(mount_point).any(|mount| mount == path))
}

/// The fifth field, with the kernel's octal escapes undone.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|b| *b == b' ').nth(4)?;
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escape = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        out.push(escape.unwrap_or(first));
        rest = if escape.is_some() { &tail[3..] } else { tail };
    }
    Some(PathBuf::from(OsString::from_vec(out)))
}

/// The root of a btrfs subvolume: it renames like a mount.
pub(crate) fn is_subvolume_root(fd: impl AsFd, inode: &Inode) -> bool {
    inode.ino() == BTRFS_SUBVOLUME_ROOT && magic(fd) == Some(BTRFS)
}

/// What people should know about the file system, if anything.
pub(crate) fn warning(fd: impl AsFd) -> Option<String> {
    let magic = magic(fd)?;
    if magic == OVERLAYFS {
        return Some(
            "the target is on overlayfs: a directory from a lower layer cannot be swapped; use a volume if it fails"
                .to_owned(),
        );
    }
    if magic == FUSE {
        return Some("the target is on a FUSE file system: what it promises about power cuts is unknown".to_owned());
    }
    let (_, name) = NETWORK.iter().find(|(m, _)| *m == magic)?;
    Some(format!("the target is on a network file system ({name}): atomicity and durability depend on its server"))
}

fn magic(fd: impl AsFd) -> Option<u64> {
    // the type is signed on some architectures; the magic numbers are 32 bits wide
    fstatfs(fd).ok().map(|s| s.f_type as u64 & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_points_are_read() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402/a\134b rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt 2/a\b")));
        assert_eq!(mount_point(b""), None);
        assert!(is_mount_point(Path::new("/")));
    }
}
