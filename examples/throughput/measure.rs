//! What a run costs this process, and so both ends: CPU time and memory, from `/proc/self`.

use std::fs;

use crate::Outcome;

/// The kernel counts CPU time for programs in hundredths of a second, whatever its own clock is.
const TICKS_A_SECOND: f64 = 100.0;

/// CPU time so far, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    /// All threads of this process, those that ended included.
    pub(crate) fn now() -> Outcome<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // the second field is a name in parentheses that may hold anything
        let after_name = stat.rsplit_once(')').ok_or("/proc/self/stat has no name in it")?.1;
        let mut fields = after_name.split_ascii_whitespace().skip(11);
        let mut ticks = || -> Outcome<f64> { Ok(fields.next().ok_or("/proc/self/stat is too short")?.parse()?) };
        Ok(Self { user: ticks()? / TICKS_A_SECOND, system: ticks()? / TICKS_A_SECOND })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// Forgets the highest memory use so far, where the kernel lets us; else the peak is that of all runs.
pub(crate) fn reset_peak_memory() {
    // an older kernel or a sandbox: the report says what the peak is of
    fs::write("/proc/self/clear_refs", "5").ok();
}

/// Highest resident memory since the last reset, in bytes.
pub(crate) fn peak_memory() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("/proc/self/status has no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
