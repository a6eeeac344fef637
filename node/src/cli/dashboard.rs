//! `me-sync dashboard`: a link to the page of the node that runs.

use std::time::Duration;

use me_sync_node::http::schema::{LinkRequest, LinkResponse};

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::stop::Stop;

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync dashboard
  me-sync dashboard --expires 30s

Open the link in a browser on this device. It is good once; the browser tab
that opens it is logged in until 12 hours pass without use, until it logs out,
or until the node stops. The page may send and replace what lies below the
roots that the node was given, and nothing else: see `me-sync node --help`.";

const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the link is good, at most 10m
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_time)]
    expires: Duration,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    if globals.no_node {
        return Err(CliError::usage("the page is the running node's", "leave --no-node out"));
    }
    // a command that others may join has no page
    let Some(remote) = globals.remote(stop).await?.filter(|remote| !remote.health.passing) else {
        let message = "no node runs on this state directory, and the page is the node's";
        return Err(CliError::new(Exit::Node, message, "start one with `me-sync node`, then run `me-sync dashboard`"));
    };
    let ask = LinkRequest { ttl_secs: Some(args.expires.as_secs()) };
    let link: LinkResponse = stop.unless(remote.post("dashboard/link", ask)).await??;
    out.say(format_args!(
        "Open this in a browser on this device, once and within {} (keep it secret):",
        human::duration(args.expires)
    ));
    out.essential(&link.url)?;
    out.success(&link);
    Ok(())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match human::parse_duration(text)? {
        time if time > LONGEST => Err("at most 10m".to_owned()),
        time if time.as_secs() == 0 => Err("at least 1s".to_owned()),
        time => Ok(time),
    }
}
