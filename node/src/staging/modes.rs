//! The receiver's mapping of permission bits: what a peer declares is a wish, not an order (RELIABILITY A33).

use me_sync_protocol::manifest::{Entry, Manifest, Mtime, Node};
use rustix::fs::{Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

const WORLD_WRITABLE: u32 = 0o002;
const SPECIAL: u32 = 0o7000;
const FILE_DEFAULT: u32 = 0o644;
const DIR_DEFAULT: u32 = 0o755;

/// How many entries do not get exactly the bits they had at the exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModeReport {
    /// Files and directories whose world-writable bit was dropped.
    pub world_writable: u64,
    /// Files and directories whose setuid, setgid or sticky bit was dropped.
    pub special: u64,
}

/// Which bits are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModePolicy {
    pub(crate) keep_world_writable: bool,
}

impl ModePolicy {
    /// The bits an entry gets here.
    pub(crate) fn mode(self, wanted: Option<u32>, is_dir: bool) -> Mode {
        let wanted = wanted.unwrap_or(if is_dir { DIR_DEFAULT } else { FILE_DEFAULT });
        let kept = if self.keep_world_writable { 0o777 } else { 0o777 & !WORLD_WRITABLE };
        Mode::from_raw_mode(wanted & kept)
    }

    /// Counts what the mapping drops in a whole manifest.
    pub(crate) fn report(self, manifest: &Manifest) -> ModeReport {
        let mut report = ModeReport::default();
        let mut count = |mode: u32| {
            report.world_writable += u64::from(!self.keep_world_writable && mode & WORLD_WRITABLE != 0);
            report.special += u64::from(mode & SPECIAL != 0);
        };
        manifest.header().root_mode.into_iter().for_each(&mut count);
        manifest.entries().filter_map(|(_, e)| e.mode).for_each(count);
        report
    }

    /// The bits of a manifest's entry.
    pub(crate) fn of(self, entry: &Entry<'_>) -> Mode {
        self.mode(entry.mode, matches!(entry.node, Node::Dir))
    }
}

/// Times for `futimens`: access time now, modification time as declared or untouched.
pub(crate) fn times(mtime: Option<Mtime>) -> Timestamps {
    let last_modification = match mtime {
        Some(mtime) => {
            let (tv_sec, nanos) = mtime.to_unix();
            Timespec { tv_sec, tv_nsec: nanos.into() }
        }
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, last_modification }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RELIABILITY A33
    #[test]
    fn only_permission_bits_survive_and_world_write_only_on_request() {
        let strict = ModePolicy { keep_world_writable: false };
        for (wanted, kept) in [
            (0o4755, 0o755),
            (0o2755, 0o755),
            (0o1777, 0o775),
            (0o100_644, 0o644),
            (0o177_777, 0o775),
            (u32::MAX, 0o775),
            (0, 0),
        ] {
            assert_eq!(strict.mode(Some(wanted), false).as_raw_mode(), kept, "{wanted:o}");
        }
        assert_eq!(ModePolicy { keep_world_writable: true }.mode(Some(0o1777), true).as_raw_mode(), 0o777);
        assert_eq!((strict.mode(None, true).as_raw_mode(), strict.mode(None, false).as_raw_mode()), (0o755, 0o644));
    }
}
