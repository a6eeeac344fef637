//! `me-sync config`: whether `config.toml` can be used, and where it is.

use clap::Subcommand;
use me_sync_node::config::Config;
use serde_json::json;

use super::exit::CliError;
use super::globals::Globals;
use super::out::Out;
use super::{human, post_apply};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync config path
  me-sync config check
  me-sync --config new.toml config check

A flag counts more than the environment (ME_SYNC_NAME, _LISTEN, _NO_MDNS,
_LIMIT, _COMPRESS, _POST_APPLY, _API_PORT, _EXPORT_ROOTS, _IMPORT_ROOTS), that
more than the file, and the file more than the default. All keys, none of which is needed:

  name = \"attic\"                  what other devices see
  listen = [\"192.168.1.5:4001\"]   where this device listens
  mdns = true                     find and be found on the local network
  probe = true                    other devices may measure how fast this one sends
  limit = \"20M\"                   of each session that is given none
  compress = \"auto\"               or never, or always
  post_apply = [\"systemctl\", \"--user\", \"restart\", \"photos\"]
                                  runs once a tree is in place; see `receive`
  post_apply_timeout = 60         seconds that it may take
  [api]                           of `me-sync node`
  port = 7711                     on 127.0.0.1
  export_roots = [\"/srv/photos\"]  what may be offered over HTTP
  import_roots = [\"/srv/copies\"]  where trees may be replaced over HTTP";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum What {
    /// Read the file and name the first thing that is wrong
    Check,
    /// Print where it is, or would be
    Path,
}

pub(crate) fn run(args: &Args, globals: &Globals, out: Out) -> Result<(), CliError> {
    let path = globals.config_path()?;
    let shown = human::path(&path);
    match args.what {
        What::Path => {
            out.data(&shown);
            let exists = path.exists();
            if !exists {
                out.say("there is no such file: all settings are the defaults");
            }
            out.success(json!({ "path": path.to_string_lossy(), "exists": exists }));
        }
        What::Check => {
            let found = Config::find(&path)?;
            if found.is_none() && globals.config.is_some() {
                // the one that was named is wanted
                Config::read(&path)?;
            }
            let roots = found.iter().flat_map(|file| file.api.export_roots.iter().chain(&file.api.import_roots));
            for root in roots.flatten().filter(|root| !root.is_dir()) {
                out.warn(format_args!("{} is no directory: nothing is allowed there", human::path(root)));
            }
            if let Some(command) = found.as_ref().and_then(|file| file.post_apply(None).ok().flatten()) {
                post_apply::found(command).map_err(|err| CliError {
                    message: format!("{shown}: {}", err.message),
                    ..post_apply::in_file(err, globals)
                })?;
            }
            match &found {
                Some(_) => out.say(format_args!("{shown} is fine")),
                None => out.say(format_args!("there is no {shown}: all settings are the defaults")),
            }
            out.success(json!({ "path": path.to_string_lossy(), "exists": found.is_some() }));
        }
    }
    Ok(())
}
