//! `config.toml`: what a node and the command line do where neither a flag nor the environment says so.
//!
//! Owns the file's keys, their types, and what is said about a wrong one: which line, and which key was meant. Refuses a
//! file that others can write, since it says what the API may read and replace.

mod keys;

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::limit::Rate;
use crate::net::ListenAddr;
use crate::post_apply::{PostApply, PostApplyRefused};
use crate::transfer::Compression;

/// More than anybody writes by hand.
const MAX_FILE: u64 = 64 << 10;

/// Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `name`: what other devices see. Default: the host name.
    #[serde(deserialize_with = "keys::name")]
    pub name: Option<String>,
    /// `listen`: addresses such as `192.168.1.5` or `[::1]:4001`. Default: all, on ports that are kept.
    #[serde(deserialize_with = "keys::listen")]
    pub listen: Option<Vec<ListenAddr>>,
    /// `mdns`: find and be found on the local network. Default: true.
    pub mdns: Option<bool>,
    /// `probe`: other devices may measure how fast this one sends (`me-sync doctor --peer`). Default: true.
    pub probe: Option<bool>,
    /// `limit`: a rate for each session that is given none, such as `20M` or `100Mbit`. Default: none.
    #[serde(deserialize_with = "keys::limit")]
    pub limit: Option<Rate>,
    /// `compress`: `auto`, `never` or `always`. Default: `auto`.
    #[serde(deserialize_with = "keys::compress")]
    pub compress: Option<Compression>,
    /// `post_apply`: the program and its arguments that run once a tree is in place; if it fails, the old tree comes
    /// back. Default: none.
    #[serde(deserialize_with = "keys::words")]
    pub post_apply: Option<Vec<String>>,
    /// `post_apply_timeout`: seconds that it may take, 1 to 3600. Default: 60.
    pub post_apply_timeout: Option<u32>,
    /// `[api]`: the HTTP interface of `me-sync node`.
    pub api: ApiConfig,
}

/// The table `[api]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// `port`: on 127.0.0.1; 0 lets the system choose. Default: [`DEFAULT_API_PORT`].
    pub port: Option<u16>,
    /// `export_roots`: directories that may be offered over HTTP, with all in them. Default: none.
    #[serde(deserialize_with = "keys::roots")]
    pub export_roots: Option<Vec<PathBuf>>,
    /// `import_roots`: directories in which trees may be replaced over HTTP. Default: none.
    #[serde(deserialize_with = "keys::roots")]
    pub import_roots: Option<Vec<PathBuf>>,
}

/// Where the API listens unless told otherwise.
pub const DEFAULT_API_PORT: u16 = 7711;

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file, and somebody named it.
    #[error("there is no {path}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{path} cannot be read", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Others may write it.
    #[error("{path} {why}", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong about it.
        why: &'static str,
    },
    /// A key that there is none of.
    #[error("{path}, line {line}: there is no key {key:?}", path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// As it is written, with its table.
        key: String,
        /// The one that was meant, perhaps.
        nearest: Option<&'static str>,
    },
    /// It is no TOML, or a value is not what its key takes.
    #[error("{path}, line {line}: {of}{why}", path = path.display(), of = key.map(|key| format!("{key}: ")).unwrap_or_default())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Whose value it is, with its table; none where the text is no TOML.
        key: Option<&'static str>,
        /// What is wrong.
        why: String,
    },
}

impl ConfigError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing { .. } => "check --config and ME_SYNC_CONFIG".to_owned(),
            Self::Io { .. } => "check its permissions".to_owned(),
            Self::NotOurs { .. } => "make it yours alone: chown and chmod go-w".to_owned(),
            Self::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean {nearest:?}?"),
            Self::UnknownKey { nearest: None, .. } => format!("the keys are {}", keys::ALL.join(", ")),
            Self::Value { key: Some(key), .. } => format!("write it like this: {}", keys::example(key)),
            Self::Value { key: None, .. } => "`me-sync config --help` shows an example".to_owned(),
        }
    }
}

/// The platform's place for the file; none if the user has no home directory.
pub fn default_path() -> Option<PathBuf> {
    let dirs = directories::ProjectDirs::from("", "", "me-sync")?;
    Some(dirs.config_dir().join("config.toml"))
}

impl Config {
    /// The command after a swap, if there is one; it may take `timeout` if that is said.
    ///
    /// # Errors
    /// Its time is none.
    pub fn post_apply(&self, timeout: Option<Duration>) -> Result<Option<PostApply>, PostApplyRefused> {
        let by_file = self.post_apply_timeout.map(|secs| Duration::from_secs(secs.into()));
        let timeout = timeout.or(by_file).unwrap_or(PostApply::TIMEOUT);
        self.post_apply.clone().map(|argv| PostApply::new(argv, timeout)).transpose()
    }

    /// Reads a file that somebody named.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::find(path)?.ok_or_else(|| match path.symlink_metadata() {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => ConfigError::Io { path: path.to_owned(), err },
            Ok(_) | Err(_) => ConfigError::Missing { path: path.to_owned() },
        })
    }

    /// Reads a file if it is there. In a directory where this user may not look there is none for him.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn find(path: &Path) -> Result<Option<Self>, ConfigError> {
        let io = |err| ConfigError::Io { path: path.to_owned(), err };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied && path.symlink_metadata().is_err() => {
                tracing::warn!(path = %path.display(), "whether there are settings cannot be seen: none are used");
                return Ok(None);
            }
            Err(err) => return Err(io(err)),
        };
        let meta = file.metadata().map_err(io)?;
        let refuse = |why| Err(ConfigError::NotOurs { path: path.to_owned(), why });
        if !meta.is_file() {
            return refuse("is no regular file");
        }
        if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
            return refuse("belongs to another user");
        }
        if meta.mode() & 0o022 != 0 {
            return refuse("can be written by others");
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_FILE {
            return refuse("is too long for a configuration");
        }
        Self::parse(&text, path).map(Some)
    }

    /// Reads a text; `path` is for what is said about it.
    ///
    /// # Errors
    /// A key is unknown, or a value is not what its key takes.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |err: toml::de::Error| ConfigError::Value {
            path: path.to_owned(),
            line: keys::line(text, err.span().map_or(0, |span| span.start)),
            key: err.span().and_then(|span| keys::at(text, span.start)),
            why: err.message().to_owned(),
        };
        keys::check(text).map_err(wrong)?.map_or(Ok(()), |unknown| {
            let keys::Unknown { line, key, nearest } = unknown;
            Err(ConfigError::UnknownKey { path: path.to_owned(), line, key, nearest })
        })?;
        let config: Self = toml::from_str(text).map_err(wrong)?;
        // a time without a command is looked at too
        let argv = config.post_apply.clone().or_else(|| Some(vec!["true".to_owned()]));
        let command = Self { post_apply: argv, ..config.clone() }.post_apply(None);
        let refused = |err: PostApplyRefused| {
            let key = if err == PostApplyRefused::Timeout { "post_apply_timeout" } else { "post_apply" };
            let line = keys::line_of(text, key);
            ConfigError::Value { path: path.to_owned(), line, key: Some(key), why: err.to_string() }
        };
        command.map_err(refused)?;
        Ok(config)
    }
}

/// Reads `192.168.1.5`, `127.0.0.1:4001` or `[::1]:4001`.
///
/// # Errors
/// What is needed instead.
pub fn parse_listen(text: &str) -> Result<ListenAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ListenAddr { ip, port: None });
    }
    let wrong = |_| "an IP address is needed, such as 192.168.1.5, 127.0.0.1:4001 or [::1]:4001".to_owned();
    let at: SocketAddr = text.parse().map_err(wrong)?;
    Ok(ListenAddr { ip: at.ip(), port: Some(at.port()).filter(|p| *p != 0) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn every_key_is_read_and_none_is_needed() {
        assert_eq!(parse("").unwrap(), Config::default());
        let all = parse(
            "name = 'attic'\nlisten = ['127.0.0.1', '[::1]:4001']\nmdns = false\nprobe = false\nlimit = '1.5M'\n\
             compress = 'never'\npost_apply = ['systemctl', 'reload', 'x']\npost_apply_timeout = 5\n[api]\nport = 0\nexport_roots = ['/srv/a']\nimport_roots = ['/srv/b', '/srv/c']\n",
        )
        .unwrap();
        let command = all.post_apply(None).unwrap().unwrap();
        assert_eq!((all.name.as_deref(), all.mdns, all.probe), (Some("attic"), Some(false), Some(false)));
        assert_eq!(all.listen.unwrap()[1].port, Some(4001));
        assert_eq!((all.limit.unwrap().bytes_per_second(), all.compress), (1_500_000, Some(Compression::Never)));
        assert_eq!((command.argv().len(), command.timeout().as_secs()), (3, 5));
        assert_eq!((all.api.port, all.api.import_roots.unwrap().len()), (Some(0), 2));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
        for (text, key, line, nearest) in [
            ("\nlisen = []\n", "lisen", 2, Some("listen")),
            ("mdsn = false", "mdsn", 1, Some("mdns")),
            ("[api]\nprot = 1", "api.prot", 2, Some("api.port")),
            ("[api]\nexport_root = []", "api.export_root", 2, Some("api.export_roots")),
            ("port = 7711", "port", 1, Some("api.port")),
            ("[apy]\nport = 1", "apy", 1, Some("api")),
            ("colour = 'blue'", "colour", 1, None),
        ] {
            let refused = parse(text).unwrap_err();
            let hint = refused.hint();
            let ConfigError::UnknownKey { key: found, line: at, nearest: near, .. } = refused else {
                panic!("{text}: {refused}");
            };
            assert_eq!((&*found, at, near), (key, line, nearest), "{text}");
            assert!(hint.contains(nearest.unwrap_or("export_roots")), "{hint}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_line() {
        for text in [
            "name = ''",
            "name = 5",
            "listen = '127.0.0.1'",
            "listen = ['nowhere']",
            "mdns = 'no'",
            "probe = 'no'",
            "limit = '5'",
            "compress = 'often'",
            "post_apply = 'reload'",
            "post_apply = []",
            "post_apply = ['bin/reload']",
            "post_apply_timeout = 0",
            "post_apply_timeout = 3601",
            "api = 5",
            "[api]\nport = 70000",
            "[api]\nimport_roots = ['relative']",
            "[api]\nimport_roots = ['/a/../b']",
            "name = ",
        ] {
            let refused = parse(&format!("# a comment\n{text}")).unwrap_err();
            let ConfigError::Value { line, .. } = refused else { panic!("{text}: {refused}") };
            assert!(line >= 2, "{text}: {refused}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_its_key_and_how_it_is_written() {
        for (text, key, form) in [
            ("limit = 5", "limit", "limit = \"20M\""),
            ("limit = '5'", "limit", "limit = \"20M\""),
            ("compress = true", "compress", "compress = \"auto\""),
            ("name = 5", "name", "name = \"attic\""),
            ("listen = '127.0.0.1'", "listen", "listen = [\"192.168.1.5:4001\"]"),
            ("listen = ['nowhere']", "listen", "listen = ["),
            ("mdns = 'no'", "mdns", "mdns = true"),
            ("post_apply = 'reload'", "post_apply", "post_apply = [\"systemctl\""),
            ("post_apply = []", "post_apply", "post_apply = [\"systemctl\""),
            ("post_apply_timeout = '1m'", "post_apply_timeout", "post_apply_timeout = 60"),
            ("[api]\nport = 70000", "api.port", "port = 7711"),
            ("[api]\nimport_roots = ['relative']", "api.import_roots", "import_roots = [\"/srv/copies\"]"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.to_string().contains(&format!(" {key}: ")), "{text}: {refused}");
            assert!(refused.hint().contains(form), "{text}: {}", refused.hint());
        }
        assert!(parse("name = ").unwrap_err().hint().contains("config --help"));
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_and_one_that_is_missing_only_if_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(Config::find(&path).unwrap(), None);
        assert!(matches!(Config::read(&path), Err(ConfigError::Missing { .. })));
        std::fs::write(&path, "mdns = false").unwrap();
        assert_eq!(Config::read(&path).unwrap().mdns, Some(false));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(Config::read(&path), Err(ConfigError::NotOurs { .. })));
    }
}
