//! The token of the API: 256 random bits in `<state>/api.token`, 0600, made at the first start. Deleting the file makes
//! another one at the next.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::OFlags;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Name of its file in the state directory.
pub const TOKEN_FILE: &str = "api.token";
const BYTES: usize = 32;
/// As text.
const LEN: usize = 43;

/// The token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file system refuses.
    #[error("the token in {path} cannot be used", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It is a secret no more, or never was.
    #[error("{path} {why}", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong about it.
        why: &'static str,
    },
}

/// Never prints; wiped when dropped.
pub(super) struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Blocking.
    pub(super) fn load_or_create(state_dir: &Path) -> Result<Self, TokenError> {
        let path = state_dir.join(TOKEN_FILE);
        let io = |err| TokenError::Io { path: path.clone(), err };
        match create(&path) {
            Ok(token) => return Ok(token),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(io(err)),
        }
        let mut options = OpenOptions::new();
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = options.read(true).custom_flags(flags).open(&path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let refuse = |why| Err(TokenError::NotOurs { path: path.clone(), why });
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
            return refuse("is no file of this user");
        }
        if meta.mode() & 0o077 != 0 {
            return refuse("is open to others: delete it, and another one is made");
        }
        let mut text = Zeroizing::new(String::new());
        file.take(LEN as u64 + 2).read_to_string(&mut text).map_err(io)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if line.len() != LEN || URL_SAFE_NO_PAD.decode(line).is_err() {
            return refuse("holds no token: delete it, and another one is made");
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    /// One that is kept in memory only.
    pub(super) fn random() -> Self {
        let raw: Zeroizing<[u8; BYTES]> = Zeroizing::new(crate::random::bytes());
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(*raw)))
    }

    /// For whom it was made.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Takes as long for every wrong one of the same length.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

/// A crash leaves the whole file or none: a name of its own first, which nobody else can have made.
fn create(path: &Path) -> io::Result<Token> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let token = Token::random();
    let new = path.with_extension("new");
    // of a start that was cut short
    std::fs::remove_file(&new).ok();
    let mut file: File = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", token.text())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    // RELIABILITY A95
    #[test]
    fn a_token_stays_the_same_in_a_file_that_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(TOKEN_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(token.is(text.trim().as_bytes()));
        assert!(Token::load_or_create(dir.path()).unwrap().is(text.trim().as_bytes()));
        assert!(!token.is(b"") && !token.is(&text.as_bytes()[1..]) && !format!("{token:?}").contains(text.trim()));
        fs::remove_file(&path).unwrap();
        assert!(!Token::load_or_create(dir.path()).unwrap().is(text.trim().as_bytes()));
    }

    // RELIABILITY A95
    #[test]
    fn a_token_that_others_can_read_or_a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Token::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(TOKEN_FILE);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Token::load_or_create(dir.path()), Err(TokenError::NotOurs { .. })));
        fs::remove_file(&path).unwrap();
        fs::write(dir.path().join("planted"), "A".repeat(LEN)).unwrap();
        symlink("planted", &path).unwrap();
        assert!(Token::load_or_create(dir.path()).is_err());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "short\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Token::load_or_create(dir.path()), Err(TokenError::NotOurs { .. })));
    }
}
