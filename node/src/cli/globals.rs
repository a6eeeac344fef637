//! The flags that every command has, and the node they describe.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use me_sync_node::config::{self, Config, parse_listen};
use me_sync_node::http::schema;
use me_sync_node::limit::Rate;
use me_sync_node::net::{ListenAddr, TransportPreference, Transports};
use me_sync_node::{Compression, Node, NodeConfig, NodeError, default_state_dir};
use me_sync_protocol::reason::Code;
use tracing_subscriber::EnvFilter;

use super::compress::Compress;
use super::exit::{CliError, Exit};
use super::human;
use super::limit::SessionLimit;
use super::node::LogFormat;
use super::out::Out;
use super::own::{Meet, Own};
use super::remote::Remote;
use super::stop::Stop;

/// How often, and how long, somebody waits for a command that only looks into the state directory.
const SHORT_TRIES: u32 = 10;
/// For one that is to be joined, or that is ending, longer than either takes.
const LOCK_TRIES: u32 = 80;
pub(crate) const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Commands that hints name for this device.
const HERE: [&str; 13] = [
    "resume",
    "retry",
    "receive",
    "sessions",
    "status",
    "failures",
    "abort",
    "rollback",
    "kept",
    "forget",
    "limit",
    "node",
    "dashboard",
];

/// Which transport to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// TCP first, QUIC after a short head start
    Auto,
    /// TCP only
    Tcp,
    /// QUIC only
    Quic,
    /// WebSocket only: for ways that let nothing but HTTP through. A device that listens so is
    /// reached by others with `auto`, too
    Ws,
}

/// Which protocol this device is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Archives only
    V3,
    /// All there is
    V4,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Identity and session records [default: the platform's place]
    #[arg(long, global = true, env = "ME_SYNC_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Settings [default: config.toml in the platform's place, if there is one]
    #[arg(long, global = true, env = "ME_SYNC_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What that file says.
    #[arg(skip)]
    pub(crate) file: Config,
    /// NDJSON on stdout, the last line is a "result"
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress and no explanations; `send` still says its ticket and its code
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log to stderr; repeat for more (ME_SYNC_LOG sets a filter)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Listen there only; repeatable
    #[arg(long, global = true, env = "ME_SYNC_LISTEN", hide_env_values = true, value_delimiter = ',',
        value_name = "IP[:PORT]", value_parser = parse_listen)]
    pub(crate) listen: Vec<ListenAddr>,
    /// Do not use the node that runs here. While one runs, --listen, --no-mdns and
    /// --device-name are its own
    #[arg(long, global = true)]
    pub(crate) no_node: bool,
    /// Neither find nor be found on the local network
    #[arg(long, global = true, env = "ME_SYNC_NO_MDNS", hide_env_values = true, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "true|false",
        value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_mdns: Option<bool>,
    /// Transport to listen on and to dial with
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        value_name = "auto|tcp|quic|ws"
    )]
    pub(crate) transport: Transport,
    /// As if this me-sync had nothing later
    #[arg(long, global = true, hide = true, value_enum, env = "ME_SYNC_PROTOCOL", hide_env = true)]
    pub(crate) protocol: Option<Only>,
    /// What the other device sees [default: the host name]
    #[arg(long, global = true, env = "ME_SYNC_NAME", hide_env_values = true, value_name = "NAME")]
    pub(crate) device_name: Option<String>,
}

impl Globals {
    /// A node that runs for long says more than a command, which shows its progress.
    pub(crate) fn start_tracing(&self, node: Option<LogFormat>) {
        let level = match self.verbose + u8::from(node.is_some()) {
            0 => "off",
            1 => "warn,me_sync_node=info",
            2 => "info,me_sync_node=debug",
            _ => "debug,me_sync_node=trace",
        };
        let filter = EnvFilter::try_from_env("ME_SYNC_LOG").unwrap_or_else(|_| EnvFilter::new(level));
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let made = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
        // only a second call can fail, and this is the first
        match node {
            Some(LogFormat::Json) => made.json().try_init().ok(),
            Some(LogFormat::Human) | None => made.try_init().ok(),
        };
    }

    pub(crate) fn state_dir(&self) -> Result<PathBuf, CliError> {
        self.state_dir.clone().or_else(default_state_dir).ok_or_else(|| {
            CliError::new(
                Exit::Node,
                "there is no home directory to keep state in",
                "name a place with --state-dir DIR",
            )
        })
    }

    /// Where the settings are, whether or not there is such a file.
    pub(crate) fn config_path(&self) -> Result<PathBuf, CliError> {
        self.config.clone().or_else(config::default_path).ok_or_else(|| {
            CliError::new(
                Exit::Node,
                "there is no home directory to keep settings in",
                "name a file with --config FILE",
            )
        })
    }

    /// Reads the settings. A file that was named must be there.
    pub(crate) fn read_config(&mut self) -> Result<(), CliError> {
        self.file = match (&self.config, config::default_path()) {
            (Some(named), _) => Config::read(named)?,
            (None, Some(path)) => Config::find(&path)?.unwrap_or_default(),
            (None, None) => Config::default(),
        };
        Ok(())
    }

    /// This device has archives (v3) and nothing later.
    pub(crate) fn only_v3(&self) -> bool {
        self.protocol == Some(Only::V3)
    }

    pub(crate) fn mdns(&self) -> bool {
        self.no_mdns.map(|off| !off).or(self.file.mdns).unwrap_or(true)
    }

    /// The limit of a session, by its flag or else the settings.
    pub(crate) fn limit(&self, flag: Option<SessionLimit>) -> Option<Rate> {
        flag.map_or(self.file.limit, |SessionLimit(rate)| rate)
    }

    /// When files are packed, by the flag or else the settings.
    pub(crate) fn compression(&self, flag: Option<Compress>) -> Compression {
        flag.map(Compression::from).or(self.file.compress).unwrap_or_default()
    }

    /// The same for a node that runs, which has its own settings.
    pub(crate) fn compress(&self, flag: Option<Compress>) -> Option<schema::Compress> {
        let compression = flag.map(Compression::from).or(self.file.compress)?;
        Some(match compression {
            Compression::Auto => schema::Compress::Auto,
            Compression::Never => schema::Compress::Never,
            Compression::Always => schema::Compress::Always,
        })
    }

    pub(crate) fn node_config(&self) -> Result<NodeConfig, CliError> {
        let mut config = NodeConfig::new(self.state_dir()?);
        let file = &self.file;
        if let Some(listen) = Some(&self.listen).filter(|listen| !listen.is_empty()).or(file.listen.as_ref()) {
            config.listen.clone_from(listen);
        }
        if let Some(name) = self.device_name.as_ref().or(file.name.as_ref()) {
            config.device_name.clone_from(name);
        }
        config.mdns = self.mdns();
        config.probe = file.probe.unwrap_or(true);
        config.compression = self.compression(None);
        config.transports = match self.transport {
            Transport::Auto => Transports::default(),
            Transport::Tcp => Transports { tcp: true, quic: false, ws: false },
            Transport::Quic => Transports { tcp: false, quic: true, ws: false },
            Transport::Ws => Transports { tcp: false, quic: false, ws: true },
        };
        Ok(config)
    }

    /// The same for a node that runs.
    pub(crate) fn transport(&self) -> schema::Transport {
        match self.transport {
            Transport::Auto => schema::Transport::Auto,
            Transport::Tcp => schema::Transport::Tcp,
            Transport::Quic => schema::Transport::Quic,
            Transport::Ws => schema::Transport::Ws,
        }
    }

    /// The node that has the state directory, unless it is not to be used.
    pub(crate) async fn remote(&self, stop: &Stop) -> Result<Option<Remote>, CliError> {
        if self.no_node {
            return Ok(None);
        }
        stop.unless(Remote::find(&self.state_dir()?)).await?
    }

    pub(crate) fn preference(&self) -> TransportPreference {
        match self.transport {
            Transport::Auto => TransportPreference::Auto,
            Transport::Tcp => TransportPreference::Tcp,
            Transport::Quic => TransportPreference::Quic,
            Transport::Ws => TransportPreference::Ws,
        }
    }

    /// Where a command works: through the node or the command that has the state directory, or in its own process.
    pub(crate) async fn meet(&self, out: Out, stop: &Stop) -> Result<Meet, CliError> {
        self.meet_with(|_| {}, out, stop).await
    }

    /// The same; `change` makes the node of its own process other than the flags say.
    pub(crate) async fn meet_with(
        &self,
        change: impl FnOnce(&mut NodeConfig),
        out: Out,
        stop: &Stop,
    ) -> Result<Meet, CliError> {
        let mut config = self.node_config()?;
        change(&mut config);
        let mut tries = 1;
        loop {
            if let Some(remote) = self.remote(stop).await? {
                return Ok(Meet::There(remote));
            }
            // who has the lock and no socket is about to make one, only looks at something, or is about to end
            match stop.unless(Node::spawn(config.clone())).await? {
                Err(err) if err.code() == Code::StateLocked && tries < self.lock_tries() => {
                    tries += 1;
                    stop.unless(tokio::time::sleep(LOCK_PAUSE)).await?;
                }
                Err(err) => return Err(self.not_spawned(err)),
                Ok(node) => {
                    out.recovered(node.recovered());
                    return Ok(Meet::Here(Own::new(node, out, stop)));
                }
            }
        }
    }

    /// A node that stays, which joins nobody.
    pub(crate) async fn spawn(&self, out: Out, stop: &Stop) -> Result<Node, CliError> {
        let config = self.node_config()?;
        let mut tries = 1;
        loop {
            match stop.unless(Node::spawn(config.clone())).await? {
                Err(err) if err.code() == Code::StateLocked && tries < SHORT_TRIES => {
                    tries += 1;
                    stop.unless(tokio::time::sleep(LOCK_PAUSE)).await?;
                }
                Err(err) => return Err(self.not_spawned(err)),
                Ok(node) => {
                    out.recovered(node.recovered());
                    return Ok(node);
                }
            }
        }
    }

    /// How often the state directory's lock is tried for.
    pub(crate) fn lock_tries(&self) -> u32 {
        if self.no_node { SHORT_TRIES } else { LOCK_TRIES }
    }

    fn not_spawned(&self, err: NodeError) -> CliError {
        if err.code() == Code::StateLocked && self.no_node {
            let hint = "if a node runs there, leave --no-node out: it does this too; or stop it first".to_owned();
            return CliError { hint, ..err.into() };
        }
        err.into()
    }

    /// A command on the same state directory, as it can be typed.
    pub(crate) fn command(&self, rest: &str) -> String {
        // whoever types it may be in another directory by then
        let absolute = |dir: &std::path::Path| std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let state = self.state_dir.as_deref().map(absolute);
        let state = state.map(|dir| format!("--state-dir {} ", human::shell(&dir))).unwrap_or_default();
        format!("me-sync {state}{rest}")
    }

    /// A hint with its commands as they are to be typed on this device: those of the library know of no state directory.
    pub(crate) fn here(&self, hint: &str) -> String {
        if self.state_dir.is_none() {
            return hint.to_owned();
        }
        let mut parts = hint.split("`me-sync ");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (command, after) = part.split_once('`').unwrap_or((part, ""));
            let is_elsewhere = [" there", " on the other device"].iter().any(|place| after.starts_with(place));
            let verb = command.split(' ').next().unwrap_or_default();
            // the other device's state directory is its own business
            let is_here = HERE.contains(&verb) && !is_elsewhere;
            text += "`";
            text += &if is_here { self.command(part) } else { format!("me-sync {part}") };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        globals: Globals,
    }

    #[test]
    fn a_command_in_a_hint_names_the_state_directory_that_was_given_if_it_is_for_this_device() {
        let globals = |args: &[&str]| Line::try_parse_from([&["x"], args].concat()).unwrap().globals;
        let given = globals(&["--state-dir", "a b"]);
        // from whatever directory it is typed
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            given.here("kept: `me-sync resume ab12` goes on"),
            format!("kept: `me-sync --state-dir '{}/a b' resume ab12` goes on", here.display())
        );
        for elsewhere in ["run `me-sync send` there again", "and `me-sync retry` on the other device: x", "nothing"] {
            assert_eq!(given.here(elsewhere), elsewhere);
        }
        if std::env::var_os("ME_SYNC_STATE_DIR").is_none() {
            assert_eq!(globals(&[]).here("`me-sync resume`"), "`me-sync resume`");
        }
    }
}
