//! `me-sync node install`, `uninstall` and `status`: a node that is there whenever its user is.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use me_sync_node::http::schema::Health;
use me_sync_protocol::escape::escaped;
use serde_json::json;

use super::unit::{MARK, NAME, Service, agent_path, unit_path};
use crate::cli::exit::{CliError, Exit};
use crate::cli::globals::Globals;
use crate::cli::human;
use crate::cli::out::Out;
use crate::cli::remote::Remote;
use crate::cli::stop::{Stop, blocking};

/// What this platform starts services with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starter {
    Systemd,
    Launchd,
}

impl Starter {
    const HERE: Self = if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd };

    /// What a person types to start it, and to stop it.
    fn commands(self, file: &Path) -> [String; 2] {
        match self {
            Self::Systemd => {
                [format!("systemctl --user enable --now {NAME}"), format!("systemctl --user disable --now {NAME}")]
            }
            Self::Launchd => [
                format!("launchctl bootstrap gui/$(id -u) {}", human::shell(file)),
                format!("launchctl bootout gui/$(id -u)/{NAME}"),
            ],
        }
    }

    /// Does it; false if it cannot be reached from here.
    fn has(self, verb: &[&str]) -> Result<bool, String> {
        match self {
            Self::Systemd => {
                if !systemctl(&["show-environment"]).is_ok_and(|done| done.is_ok()) {
                    return Ok(false);
                }
                systemctl(&["daemon-reload"]).map_err(|err| err.to_string())??;
                systemctl(verb).map_err(|err| err.to_string())??;
                Ok(true)
            }
            // it starts what lies there at the next log-in
            Self::Launchd => Ok(false),
        }
    }
}

/// Runs it; an error inside is what it said.
fn systemctl(arguments: &[&str]) -> io::Result<Result<(), String>> {
    let mut command = Command::new("systemctl");
    let done = command.arg("--user").args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    let first = said.lines().next().unwrap_or("systemctl failed").to_owned();
    Ok(if done.status.success() { Ok(()) } else { Err(first) })
}

/// Writes the service and starts it; with `print` shows it and does nothing.
pub(crate) async fn install(print: bool, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let (service, file) = (service(globals)?, place()?);
    let text = match Starter::HERE {
        Starter::Systemd => service.unit(),
        #[cfg(target_os = "macos")]
        Starter::Launchd => service.agent(),
        #[cfg(not(target_os = "macos"))]
        Starter::Launchd => None,
    };
    let text = text.ok_or_else(|| {
        CliError::usage("a path in the service is not UTF-8, which no service can name", "move it elsewhere")
    })?;
    if print {
        return out.essential(text.trim_end());
    }
    stop.unless(blocking({
        let (file, text) = (file.clone(), text.clone());
        move || write(&file, &text)
    }))
    .await???;
    out.say(format_args!("written: {}", human::path(&file)));
    let [start, _] = Starter::HERE.commands(&file);
    let started = stop.unless(blocking(|| Starter::HERE.has(&["enable", "--now", NAME]))).await??;
    match &started {
        Ok(true) => out.say("the node runs now, and whenever you are logged in; `me-sync node status` looks at it"),
        Ok(false) => out.say(format_args!("to start it, now and whenever you are logged in: {start}")),
        Err(why) => {
            let message = format!("the service is written, and does not start: {why}");
            return Err(CliError::new(Exit::Node, message, format!("journalctl --user -u {NAME} says more")));
        }
    }
    if Starter::HERE == Starter::Systemd {
        out.say("to have it run while you are not logged in: loginctl enable-linger");
    }
    out.success(json!({ "file": file.to_string_lossy(), "started": started == Ok(true), "start": start }));
    Ok(())
}

/// Stops the service and removes its file; state and settings stay.
pub(crate) async fn uninstall(globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let file = place()?;
    if !is_ours(&file).map_err(|err| io_error("read", &file, &err))? {
        out.say(format_args!("there is no {}: nothing to remove", human::path(&file)));
        out.success(json!({ "file": file.to_string_lossy(), "removed": false }));
        return Ok(());
    }
    let [_, end] = Starter::HERE.commands(&file);
    match stop.unless(blocking(|| Starter::HERE.has(&["disable", "--now", NAME]))).await?? {
        Ok(true) => {}
        Ok(false) => out.say(format_args!("if it runs, stop it: {end}")),
        Err(why) => out.warn(format_args!("it was not stopped: {why}")),
    }
    std::fs::remove_file(&file).map_err(|err| io_error("remove", &file, &err))?;
    stop.unless(blocking(|| systemctl(&["daemon-reload"]).is_ok())).await??;
    out.say(format_args!("removed: {}; sessions and settings stay", human::path(&file)));
    if let Ok(state) = globals.state_dir() {
        out.say(format_args!("they are in {}", human::path(&state)));
    }
    out.success(json!({ "file": file.to_string_lossy(), "removed": true }));
    Ok(())
}

/// Says whether a node runs, and which.
pub(crate) async fn status(globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let file = place().ok().filter(|file| is_ours(file).unwrap_or(false));
    let installed = file.as_ref().map(|file| file.to_string_lossy().into_owned());
    let Some(remote) = stop.unless(Remote::find(&globals.state_dir()?)).await?? else {
        let start =
            file.map_or_else(|| "me-sync node install".to_owned(), |file| Starter::HERE.commands(&file)[0].clone());
        let error = CliError::new(Exit::Node, "no node runs", format!("`{start}` starts one, `me-sync node` one here"));
        return Err(CliError { extra: json!({ "running": false, "service": installed }), ..error });
    };
    let sessions = stop.unless(remote.sessions()).await??;
    let unfinished = sessions.iter().filter(|known| known.unfinished).count() as u64;
    let health = &remote.health;
    show(health, unfinished, sessions.len() as u64, out);
    match &installed {
        Some(file) => out.data(format_args!("service    {}", human::path(Path::new(file)))),
        None => out.data("service    none; `me-sync node install` makes one"),
    }
    let mut result = serde_json::to_value(health).unwrap_or_default();
    if let Some(fields) = result.as_object_mut() {
        fields.extend([
            ("running".to_owned(), json!(true)),
            ("service".to_owned(), json!(installed)),
            ("sessions_unfinished".to_owned(), json!(unfinished)),
            ("sessions".to_owned(), json!(sessions.len())),
        ]);
    }
    out.success(result);
    Ok(())
}

fn show(health: &Health, unfinished: u64, all: u64, out: Out) {
    let what = if health.passing { "a command is at work, which others can join" } else { "the node runs" };
    let uptime = human::duration(std::time::Duration::from_secs(health.uptime_secs));
    let lines = [
        ("state", format!("{what}: process {}, for {uptime}", health.pid)),
        ("version", health.version.clone()),
        ("device", escaped(&health.device_name).to_string()),
        ("PeerId", health.peer_id.clone()),
        ("mDNS", if health.mdns { "on" } else { "off" }.to_owned()),
        ("listens", or_none(&health.addresses)),
        ("API", health.api.clone().unwrap_or_else(|| "over its Unix socket only".to_owned())),
        ("offers", or_none(&health.export_roots)),
        ("replaces", or_none(&health.import_roots)),
        ("sessions", format!("{} at work, {unfinished} unfinished, {all} on record", health.jobs)),
    ];
    for (name, text) in lines {
        out.data(format_args!("{name:<10} {text}"));
    }
}

fn or_none(all: &[String]) -> String {
    if all.is_empty() { "nothing".to_owned() } else { all.join(" ") }
}

/// This program with the flags that say which node it is; everything else is in config.toml.
fn service(globals: &Globals) -> Result<Service, CliError> {
    let program = std::env::current_exe().map_err(|err| {
        CliError::new(
            Exit::Node,
            format!("where this program lies cannot be told: {err}"),
            "start it by its whole path",
        )
    })?;
    let mut arguments = Vec::new();
    for (flag, path) in [("--state-dir", &globals.state_dir), ("--config", &globals.config)] {
        if let Some(path) = path {
            arguments.extend([flag.to_owned(), crate::cli::remote::absolute(path)?]);
        }
    }
    arguments.push("node".to_owned());
    Ok(Service { program, arguments, state_dir: globals.state_dir()? })
}

fn place() -> Result<PathBuf, CliError> {
    let dirs = directories::BaseDirs::new().ok_or_else(|| {
        CliError::new(
            Exit::Node,
            "there is no home directory for a service",
            "set HOME, or run `me-sync node` yourself",
        )
    })?;
    Ok(match Starter::HERE {
        Starter::Systemd => unit_path(dirs.config_dir()),
        Starter::Launchd => agent_path(dirs.home_dir()),
    })
}

/// Is there a file, and written by this program?
fn is_ours(file: &Path) -> io::Result<bool> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.lines().take(2).any(|line| line.contains(MARK)) => Ok(true),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it was not written by `me-sync node install`")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Writes it whole, in place of one of ours only.
fn write(file: &Path, text: &str) -> Result<(), CliError> {
    is_ours(file).map_err(|err| io_error("replace", file, &err))?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    let made = std::fs::create_dir_all(dir).and_then(|()| {
        let new = file.with_extension("new");
        std::fs::remove_file(&new)
            .or_else(|err| if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) })?;
        std::fs::File::create_new(&new)?.write_all(text.as_bytes())?;
        std::fs::rename(&new, file)
    });
    made.map_err(|err| io_error("write", file, &err))
}

fn io_error(what: &str, file: &Path, err: &io::Error) -> CliError {
    let hint = "look at that file and move it away; `me-sync node install --print` shows what would be written";
    CliError::new(Exit::Node, format!("cannot {what} {}: {err}", human::path(file)), hint)
}
