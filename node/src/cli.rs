//! The command line: what can be typed, and which room does it.
//!
//! stdout is data only, stderr is for people. Every way out goes through [`exit::Exit`]; whatever came from
//! a peer or a file system is escaped before it is printed. Knows the library only by its public face.

mod abort;
mod book;
mod completions;
mod compress;
mod config;
mod dashboard;
mod demo;
mod doctor;
mod exit;
mod failures;
mod follow;
mod globals;
mod human;
mod import;
mod job;
mod kept;
mod limit;
mod live;
mod node;
mod offered;
mod out;
mod own;
mod peer_address;
mod peers;
mod post_apply;
mod prompt;
mod qr;
mod receive;
mod remote;
mod render;
mod resume;
mod rollback;
mod sample_tree;
mod send;
mod send_many;
mod sessions;
mod status;
mod stop;
mod ticket_input;
mod tree_compare;

use clap::{Parser, Subcommand};

use exit::{CliError, Exit};
use globals::Globals;
use out::Out;
use resume::Verb;
use stop::Stop;

const ABOUT: &str = "Moves a whole directory tree from one device to another: verified, and applied in \
                     one atomic step.";

const AFTER_HELP: &str = "\
Examples:
  me-sync send ~/photos             on the device that has the tree
  me-sync receive ~/photos          on the other one; asks for the ticket
  me-sync resume                    goes on with what was interrupted
  me-sync rollback ~/photos         puts back what was there before
  me-sync demo                      both devices in one process

Exit codes:
  0 applied, in place  5 declined           10 apply failed, old tree is back
  2 usage              6 incomplete         11 rollback failed
  3 peer not found     7 source             12 command after the swap failed
  4 ticket refused     8 target preflight   13 timed out
                       9 target drifted     14 other version
 15 node or state     16 locked            130 interrupted, can be resumed";

#[derive(Debug, Parser)]
#[command(name = "me-sync", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 80)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Offer a directory or file: prints a ticket and waits for the other device
    #[command(visible_aliases = ["export", "tx"], after_help = send::EXAMPLES)]
    Send(send::Args),
    /// Make a directory what the other device offers
    #[command(
        visible_aliases = ["import", "rx"],
        allow_missing_positional = true,
        override_usage = "me-sync receive [OPTIONS] [TICKET] DIR",
        after_help = receive::EXAMPLES
    )]
    Receive(receive::Args),
    /// Go on with a session that was interrupted, on either device
    #[command(after_help = resume::EXAMPLES)]
    Resume(resume::Args),
    /// Try the files again that failed in every round
    #[command(after_help = resume::RETRY_EXAMPLES)]
    Retry(resume::Args),
    /// End an unfinished session for good
    #[command(after_help = abort::EXAMPLES)]
    Abort(abort::Args),
    /// Show or set how fast this device sends and receives, also while it runs
    #[command(after_help = limit::EXAMPLES)]
    Limit(limit::Args),
    /// List devices on this network that run me-sync
    #[command(after_help = peers::EXAMPLES)]
    Peers(peers::Args),
    /// Put back the tree that the last migration into a directory replaced
    #[command(after_help = rollback::EXAMPLES)]
    Rollback(rollback::Args),
    /// List the trees that are kept for a rollback, with their size
    #[command(after_help = kept::EXAMPLES)]
    Kept(kept::Args),
    /// Delete a tree that is kept for a rollback, before its time is over
    #[command(after_help = kept::FORGET_EXAMPLES)]
    Forget(kept::ForgetArgs),
    /// List migrations of this device: unfinished ones first, then the newest
    #[command(after_help = sessions::EXAMPLES)]
    Sessions(sessions::Args),
    /// Show all that is known of one session
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// List the files of a session that failed, and why
    #[command(after_help = failures::EXAMPLES)]
    Failures(failures::Args),
    /// Run a node in the foreground: for other commands, and for programs over HTTP
    #[command(after_help = node::EXAMPLES)]
    Node(node::Args),
    /// Print a link to the page of the node that runs, for a browser on this device
    #[command(after_help = dashboard::EXAMPLES)]
    Dashboard(dashboard::Args),
    /// Say what is heard and reached from here, and what will be slowest
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Args),
    /// Show it all in one process: two nodes on 127.0.0.1 move a tree and compare it
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Args),
    /// Check the settings in config.toml, or say where they are
    #[command(after_help = config::EXAMPLES)]
    Config(config::Args),
    /// Print a completion script for a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Args),
}

/// Parses, runs, reports.
pub(crate) fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let out = Out::new(cli.globals.json, cli.globals.quiet);
    let node = match &cli.command {
        Command::Node(args) => args.log_format(),
        _ => None,
    };
    cli.globals.start_tracing(node);
    let globals = cli.globals.clone();
    match run(cli, out) {
        Ok(()) => Exit::Applied,
        Err(error) => {
            let error = CliError { hint: globals.here(&error.hint), ..error };
            out.failure(&error);
            error.exit
        }
    }
}

fn run(cli: Cli, out: Out) -> Result<(), CliError> {
    let mut globals = cli.globals;
    match &cli.command {
        Command::Completions(args) => return completions::run(args, out),
        Command::Config(args) => return config::run(args, &globals, out),
        _ => globals.read_config()?,
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|err| {
        CliError::new(Exit::Node, format!("the program cannot start its threads: {err}"), "free some memory, try again")
    })?;
    let result = runtime.block_on(async {
        let stop = Stop::listen()?;
        match cli.command {
            Command::Send(args) => send::run(args, &globals, out, &stop).await,
            Command::Receive(args) => receive::run(args, &globals, out, &stop).await,
            Command::Resume(args) => resume::run(args, Verb::Resume, &globals, out, &stop).await,
            Command::Retry(args) => resume::run(args, Verb::Retry, &globals, out, &stop).await,
            Command::Abort(args) => abort::run(args, &globals, out, &stop).await,
            Command::Status(args) => status::run(args, &globals, out, &stop).await,
            Command::Failures(args) => failures::run(args, &globals, out, &stop).await,
            Command::Limit(args) => limit::run(args, &globals, out, &stop).await,
            Command::Peers(args) => peers::run(args, &globals, out, &stop).await,
            Command::Rollback(args) => rollback::run(args, &globals, out, &stop).await,
            Command::Kept(args) => kept::run(args, &globals, out, &stop).await,
            Command::Forget(args) => kept::forget(args, &globals, out, &stop).await,
            Command::Sessions(args) => sessions::run(args, &globals, out, &stop).await,
            Command::Node(args) => node::run(args, &globals, out, &stop).await,
            Command::Dashboard(args) => dashboard::run(args, &globals, out, &stop).await,
            Command::Doctor(args) => doctor::run(args, &globals, out, &stop).await,
            Command::Demo(args) => demo::run(args, &globals, out, &stop).await,
            Command::Completions(args) => completions::run(&args, out),
            Command::Config(args) => config::run(&args, &globals, out),
        }
    });
    // a read from the terminal that nobody answers must not keep the process
    runtime.shutdown_background();
    result
}

/// Help and version are no errors; anything else is a usage error, which a program reads as a result too.
fn unparsed(error: &clap::Error) -> Exit {
    // a closed pipe is the reader's decision
    error.print().ok();
    if !error.use_stderr() {
        return Exit::Applied;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        let error = CliError::usage(first, "see --help");
        Out::new(true, true).failure(&error);
    }
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_teaches_by_example_within_80_columns() {
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands_mut() {
            if command.get_name() == "help" {
                continue;
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            let wide: Vec<_> = help.lines().filter(|l| l.chars().count() > 80).collect();
            assert!(wide.is_empty(), "{}: {wide:?}", command.get_name());
        }
    }

    #[test]
    fn one_positional_of_receive_is_the_directory() {
        let parse = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Receive(args) => (args.ticket, args.dir),
            other => panic!("{other:?}"),
        };
        assert_eq!(parse(&["me-sync", "receive", "d"]), (None, "d".into()));
        assert_eq!(parse(&["me-sync", "rx", "-", "d"]), (Some("-".into()), "d".into()));
    }
}
