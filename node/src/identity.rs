//! The node's identity: one ed25519 key in `<state>/identity.key`.
//!
//! The key *is* the device: peers know it by the id made from it, and tickets and sessions are bound to it.
//! So it is made once, whole or not at all, and never again: a file that is damaged, foreign or open to
//! others is refused by name and left as it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{KeyType, Keypair};
use me_sync_protocol::reason::Code;
use zeroize::Zeroizing;

/// Name of the key file in the state directory.
pub const KEY_FILE: &str = "identity.key";
/// A key takes 68 bytes.
const MAX_KEY_FILE: u64 = 1024;

/// The identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried: `open`, `create`, …
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file or directory belongs to another user.
    #[error("{path} belongs to another user: run as that user, or choose another --state-dir")]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// Others can read the key, or change the directory it is in.
    #[error("{path} is open to other users (mode {mode:04o}): if nobody has used that, run `chmod {wanted} {path}`")]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What `chmod` would make it safe.
        wanted: &'static str,
    },
    /// There is no key in it.
    #[error(
        "{path} is damaged: restore it from a backup; if you delete it, this device gets a new identity and \
         open tickets and sessions are lost"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

impl IdentityError {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::IoError,
            Self::NotOurs { .. } | Self::Exposed { .. } | Self::Damaged { .. } => Code::StateCorrupt,
        }
    }
}

/// Reads the key of a state directory; makes directory (0700) and key (0600) when there are none yet.
///
/// Safe to call from several processes at once: all get the same key. Blocks on the disk.
///
/// # Errors
/// See [`IdentityError`]. An existing file is never replaced.
pub fn load_or_create(state: &Path) -> Result<Keypair, IdentityError> {
    check_directory(state)?;
    let path = state.join(KEY_FILE);
    match load(&path)? {
        Some(key) => Ok(key),
        None => {
            create(state, &path)?;
            load(&path)?.ok_or(IdentityError::Damaged { path })
        }
    }
}

/// Whose key a state directory holds; none if it holds none yet. Makes nothing. Blocks on the disk.
///
/// # Errors
/// See [`IdentityError`].
pub fn known(state: &Path) -> Result<Option<PeerId>, IdentityError> {
    Ok(load(&state.join(KEY_FILE))?.map(|key| key.public().to_peer_id()))
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::Io { doing, path: path.to_owned(), source }
}

fn check_directory(state: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed("create the directory", state))?;
    let found = fs::metadata(state).map_err(failed("examine", state))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(IdentityError::NotOurs { path: state.to_owned() });
    }
    if found.mode() & 0o022 != 0 {
        return Err(IdentityError::Exposed { path: state.to_owned(), mode: found.mode() & 0o7777, wanted: "700" });
    }
    Ok(())
}

fn load(path: &Path) -> Result<Option<Keypair>, IdentityError> {
    // Neither a link is followed nor a pipe waited for.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let found = file.metadata().map_err(failed("examine", path))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(IdentityError::NotOurs { path: path.to_owned() });
    }
    if found.mode() & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode: found.mode() & 0o7777, wanted: "600" });
    }
    let damaged = || IdentityError::Damaged { path: path.to_owned() };
    if !found.is_file() {
        return Err(damaged());
    }
    // Room for all of it, so that no copy of the secret stays behind in a buffer that was too small.
    let mut raw = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE as usize + 1));
    file.take(MAX_KEY_FILE + 1).read_to_end(&mut raw).map_err(failed("read", path))?;
    let key = Keypair::from_protobuf_encoding(&raw).map_err(|_| damaged())?;
    if key.key_type() == KeyType::Ed25519 { Ok(Some(key)) } else { Err(damaged()) }
}

/// Writes a fresh key beside its place and links it there whole; if somebody was faster, theirs stays.
fn create(state: &Path, path: &Path) -> Result<(), IdentityError> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|e| failed("draw random bytes for", path)(e.into()))?;
    let temporary = state.join(format!(".{KEY_FILE}.{:016x}", u64::from_ne_bytes(random)));
    let result = write_key(&temporary).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    });
    if let Err(error) = fs::remove_file(&temporary) {
        tracing::debug!(%error, "a temporary key file is left");
    }
    result?;
    File::open(state).and_then(|directory| directory.sync_all()).map_err(failed("sync", state))
}

fn write_key(temporary: &Path) -> Result<(), IdentityError> {
    let key = Keypair::generate_ed25519();
    // Only other key types cannot be encoded.
    let raw = Zeroizing::new(key.to_protobuf_encoding().expect("an ed25519 key can be encoded"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed("create", temporary))?;
    file.write_all(&raw).and_then(|()| file.sync_all()).map_err(failed("write", temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_made_once_private_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        assert!(known(&state).unwrap().is_none() && !state.exists(), "who only asks makes none");
        let made = load_or_create(&state).unwrap();
        assert_eq!(load_or_create(&state).unwrap().public(), made.public());
        assert_eq!(known(&state).unwrap(), Some(made.public().to_peer_id()));
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(state.join(KEY_FILE)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let state = state.clone();
                std::thread::spawn(move || load_or_create(&state).unwrap().public().to_peer_id())
            })
            .collect();
        let ids: std::collections::HashSet<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        let whole = fs::read(&path).unwrap();
        let flipped = {
            let mut raw = whole.clone();
            raw[40] ^= 1;
            raw
        };
        for bad in [&whole[..0], &whole[..whole.len() - 1], &flipped[..], &[7; 5000][..]] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Damaged { .. })), "{} bytes", bad.len());
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_key_or_directory_open_to_others_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        set_mode(&path, 0o640);
        let error = load_or_create(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert_eq!(error.code(), Code::StateCorrupt);
        set_mode(&path, 0o600);
        set_mode(dir.path(), 0o770);
        assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Exposed { .. })));
    }

    #[test]
    fn a_link_or_a_pipe_in_place_of_the_key_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        load_or_create(elsewhere.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        symlink(elsewhere.path().join(KEY_FILE), &path).unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Io { doing: "open", .. })));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Damaged { .. })));
    }
}
