//! `me-sync node`: one node in the foreground, with its HTTP API, until somebody stops it.

mod service;
mod unit;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use me_sync_node::config::DEFAULT_API_PORT;
use me_sync_node::errors::chain;
use me_sync_node::http::{Http, HttpConfig, HttpError, SOCKET_FILE, TOKEN_FILE};
use sd_notify::NotifyState;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::limit::SessionLimit;
use super::out::Out;
use super::post_apply::PostApplyArgs;
use super::stop::Stop;

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync node
  me-sync node --export-root ~/photos --import-root ~/copies
  me-sync node --log-format json --api-port 0
  me-sync node install              a user service of systemd, also: --print
  me-sync node status

Other commands on this device use it while it runs, and `me-sync dashboard`
prints a link to its page for a browser. Programs use its HTTP API
on 127.0.0.1 with the token in api.token of the state directory:
  curl -H \"Authorization: Bearer $(cat ~/.local/state/me-sync/api.token)\" \\
    http://127.0.0.1:7711/openapi.json

Over HTTP nothing can be read or replaced but what lies below a root, and there
is none until one is named, here or in config.toml. SIGTERM and Ctrl-C end it
within 5 seconds; sessions are kept, `me-sync resume` goes on with them.";

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Have a node run whenever you are logged in: a user unit of systemd
    ///
    /// Its settings are those in config.toml; --state-dir and --config are kept.
    Install {
        /// Show the service, and do nothing
        #[arg(long)]
        print: bool,
    },
    /// Stop that, and remove it; sessions and settings stay
    Uninstall,
    /// Say whether a node runs, which one, and what it may do
    Status,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One object a line
    Json,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Port of the API on 127.0.0.1; 0 takes a free one [default: 7711]
    #[arg(long, env = "ME_SYNC_API_PORT", hide_env_values = true, value_name = "PORT")]
    api_port: Option<u16>,
    /// What may be offered over HTTP, with all in it; repeatable
    #[arg(
        long = "export-root",
        env = "ME_SYNC_EXPORT_ROOTS",
        hide_env_values = true,
        value_delimiter = ':',
        value_name = "DIR"
    )]
    export_roots: Vec<PathBuf>,
    /// Where trees may be replaced over HTTP; repeatable
    #[arg(
        long = "import-root",
        env = "ME_SYNC_IMPORT_ROOTS",
        hide_env_values = true,
        value_delimiter = ':',
        value_name = "DIR"
    )]
    import_roots: Vec<PathBuf>,
    /// Of each session that is given none over HTTP, such as 20M; off for none
    #[arg(long, env = "ME_SYNC_LIMIT", hide_env_values = true, value_name = "RATE")]
    limit: Option<SessionLimit>,
    #[command(flatten)]
    post_apply: PostApplyArgs,
    /// How the log on stderr looks: human or json
    #[arg(long, value_enum, default_value = "human", hide_possible_values = true, value_name = "FORMAT")]
    log_format: LogFormat,
}

impl Args {
    /// Of a node that runs here; none for a command about one.
    pub(crate) fn log_format(&self) -> Option<LogFormat> {
        self.what.is_none().then_some(self.log_format)
    }
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    match args.what {
        Some(What::Install { print }) => return service::install(print, globals, out, stop).await,
        Some(What::Uninstall) => return service::uninstall(globals, out, stop).await,
        Some(What::Status) => return service::status(globals, out, stop).await,
        None => {}
    }
    let api = &globals.file.api;
    let http = HttpConfig {
        port: args.api_port.or(api.port).unwrap_or(DEFAULT_API_PORT),
        export_roots: roots(args.export_roots, api.export_roots.as_ref())?,
        import_roots: roots(args.import_roots, api.import_roots.as_ref())?,
        limit: globals.limit(args.limit),
        post_apply: args.post_apply.stay(globals, out)?,
    };
    let node = globals.spawn(out, stop).await?;
    let served = Http::serve(node.handle(), http).await;
    let http = match served {
        Ok(http) => http,
        Err(err) => {
            node.shutdown().await;
            return Err(err.into());
        }
    };
    let state = node.handle().state_dir().to_owned();
    let at = http.address().map(|at| format!("http://{at}")).unwrap_or_default();
    out.event(
        "node",
        json!({ "pid": std::process::id(), "peer_id": node.handle().peer_id(), "api": at,
            "socket": state.join(SOCKET_FILE).to_string_lossy(), "token_file": state.join(TOKEN_FILE).to_string_lossy() }),
    );
    out.say(format_args!("the node runs; its API is at {at}, the token in {}", human::path(&state.join(TOKEN_FILE))));
    tell_systemd(&[NotifyState::Ready]);
    loop {
        tokio::select! {
            () = stop.asked() => break,
            () = tokio::time::sleep(TIDY_EVERY) => if let Err(err) = node.handle().tidy(http.at_work()).await {
                tracing::warn!(error = %chain(&err), "what has expired is not gone yet");
            },
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    out.say("stopping; sessions are kept");
    // whoever follows a job hears of its end before the API goes
    node.shutdown().await;
    http.shutdown().await;
    out.success(json!({}));
    Ok(())
}

/// How often it is seen to what has expired.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// Directories as they were named, absolute.
fn roots(flags: Vec<PathBuf>, file: Option<&Vec<PathBuf>>) -> Result<Vec<PathBuf>, CliError> {
    let dirs = if flags.is_empty() { file.cloned().unwrap_or_default() } else { flags };
    let absolute = |dir: PathBuf| {
        let shown = human::path(&dir);
        match std::path::absolute(&dir) {
            Ok(dir) if dir.is_dir() => Ok(dir),
            // a disk may come later
            Ok(dir) => {
                tracing::warn!(path = %shown, "a root is no directory: nothing is allowed there");
                Ok(dir)
            }
            Err(err) => Err(CliError::usage(format!("{shown} is no directory: {err}"), "name one that is there")),
        }
    };
    dirs.into_iter().map(absolute).collect()
}

/// Does nothing where no systemd waits for it.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::warn!(error = %err, "systemd is not told");
    }
}

impl From<HttpError> for CliError {
    fn from(err: HttpError) -> Self {
        let hint = match &err {
            HttpError::Token(_) => "mend that file",
            HttpError::Port { .. } => "choose another port with --api-port, or 0 for a free one",
            HttpError::Socket { .. } => "choose another --state-dir",
        };
        Self::new(Exit::Node, chain(&err).to_string(), hint)
    }
}
