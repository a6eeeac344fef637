//! A process that a later process of ours can recognise: by its id, when it began, and in which run of the device.

use std::io;
use std::process::Child;
use std::time::Duration;

use minicbor::{Decode, Encode};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock::LastSeen;

/// How long a process that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(5);

/// Of a process that leads a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ProcessMark {
    #[n(0)]
    pid: u32,
    /// Clock ticks since the device was started.
    #[n(1)]
    began: u64,
    #[cbor(n(2), with = "minicbor::bytes")]
    boot_id: [u8; 16],
}

impl ProcessMark {
    pub(crate) fn of(child: &Child) -> io::Result<Self> {
        // it may have ended already; as long as nobody has waited for it, it is there
        let (_, began) = stat(child.id())?;
        Ok(Self { pid: child.id(), began, boot_id: LastSeen::now().boot_id })
    }

    /// Ends it with its group, if it runs still: its own parent is gone. Blocking, for a moment.
    pub(crate) fn end(&self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        if !self.runs() {
            return;
        }
        tracing::warn!(pid = self.pid, "a command after a swap has outlived its node; it is ended");
        // gone by itself meanwhile is as good
        kill_process_group(pid, Signal::KILL).ok();
        let mut waited = Duration::ZERO;
        while self.runs() && waited < GONE {
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    fn runs(&self) -> bool {
        self.boot_id == LastSeen::now().boot_id && stat(self.pid).is_ok_and(|now| now == (true, self.began))
    }
}

/// Whether a process runs, which one that nobody has waited for yet does not, and when it began; an error if it is gone.
fn stat(pid: u32) -> io::Result<(bool, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name before may hold anything
    let (_, rest) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().ok_or(io::ErrorKind::InvalidData)?;
    let began = fields.nth(18).and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((!matches!(state, "Z" | "X"), began))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_runs_still_is_ended_and_another_with_its_id_is_not() {
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let mark = ProcessMark::of(&child).unwrap();
        ProcessMark { began: mark.began + 1, ..mark }.end();
        ProcessMark { boot_id: [1; 16], ..mark }.end();
        assert!(mark.runs() && child.try_wait().unwrap().is_none());
        mark.end();
        assert!(!mark.runs());
        child.wait().unwrap();
    }
}
