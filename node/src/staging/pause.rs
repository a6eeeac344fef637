//! A place to stand still, compiled only with the feature `test-hooks`: a tracer can then be attached to the one
//! thread that does what comes next, and its system calls are counted from there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nobody waits at one place twice.
static WAITED: AtomicBool = AtomicBool::new(false);
const STEP: Duration = Duration::from_millis(2);

/// With `ME_SYNC_TEST_PAUSE=POINT:FILE` in the environment: writes the thread's id to FILE and waits until the
/// file is gone. Once in the life of a process.
pub(super) fn at(point: &str) {
    let Some(wanted) = std::env::var_os("ME_SYNC_TEST_PAUSE") else { return };
    let bytes = wanted.as_bytes();
    let Some(file) = bytes.strip_prefix(point.as_bytes()).and_then(|rest| rest.strip_prefix(b":")) else { return };
    if WAITED.swap(true, Ordering::SeqCst) {
        return;
    }
    let file = Path::new(OsStr::from_bytes(file));
    let ready = file.with_extension("part");
    let tid = rustix::thread::gettid().as_raw_nonzero().to_string();
    if std::fs::write(&ready, tid).and_then(|()| std::fs::rename(&ready, file)).is_err() {
        return;
    }
    while file.exists() {
        std::thread::sleep(STEP);
    }
}
