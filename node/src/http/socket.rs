//! The Unix socket of a node, `<state>/api.sock`, 0600. Reached through a descriptor of the state directory, since the name
//! of a socket may have 107 bytes only, and a state directory can lie deeper than that.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::{UnixListener, UnixStream};

/// Name of the socket in the state directory.
pub const SOCKET_FILE: &str = "api.sock";

/// The directory, and its name that is short enough.
fn short(state_dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let dir = openat(CWD, state_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Listens, in place of a socket that an earlier run left: whoever holds the state directory's lock may. Needs a runtime.
pub(super) fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, short) = short(state_dir)?;
    let new = short.join(format!("{SOCKET_FILE}.new"));
    std::fs::remove_file(&new).or_else(absent)?;
    let listener = UnixListener::bind(&new)?;
    // nobody finds it before it is closed to others
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, short.join(SOCKET_FILE))?;
    Ok(listener)
}

/// Takes the socket away.
pub(super) fn remove(state_dir: &Path) {
    std::fs::remove_file(state_dir.join(SOCKET_FILE)).ok();
}

fn absent(err: io::Error) -> io::Result<()> {
    if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) }
}

/// Connects to the node that has this state directory; none if there is none. A socket of another user is none.
///
/// # Errors
/// It is there and cannot be reached.
pub async fn connect(state_dir: &Path) -> io::Result<Option<UnixStream>> {
    let gone = |err: &io::Error| matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    let (_dir, short) = match short(state_dir) {
        Err(err) if gone(&err) => return Ok(None),
        opened => opened?,
    };
    let path = short.join(SOCKET_FILE);
    let me = rustix::process::geteuid().as_raw();
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.uid() != me => return Ok(None),
        Err(err) if gone(&err) => return Ok(None),
        looked => looked?,
    };
    match UnixStream::connect(&path).await {
        Ok(stream) if stream.peer_cred()?.uid() == me => Ok(Some(stream)),
        Ok(_) => Ok(None),
        Err(err) if gone(&err) => Ok(None),
        Err(err) => Err(err),
    }
}
