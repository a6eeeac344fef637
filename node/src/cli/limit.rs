//! `me-sync limit`: how fast this device may send and receive, for a me-sync at work and for later ones.

use me_sync_node::limit::{self, LimitFileError, Rate, RateError};
use serde_json::json;

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::out::Out;
use super::stop::{Stop, blocking};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync limit                     what it is now
  me-sync limit 5M                  5,000,000 bytes a second
  me-sync limit 100Mbit             100,000,000 bits a second
  me-sync limit off

It counts for all sessions of this device together, at once if me-sync runs,
and stays for later. `--limit` of send, receive, resume and retry is for one
session; of two limits the lower one counts.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The new limit, such as 500K, 1.5M or 100Mbit; off lifts it
    #[arg(value_name = "RATE|off|show", default_value = "show")]
    what: What,
}

/// What `--limit` of a session takes: a rate, or `off` for none though the settings have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionLimit(pub(crate) Option<Rate>);

impl std::str::FromStr for SessionLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(rate) => Ok(Self(Some(rate))),
            Err(_) if text == "off" => Ok(Self(None)),
            Err(err @ RateError::Text) => Err(format!("{err}; off for no limit")),
            Err(err) => Err(err.to_string()),
        }
    }
}

/// What is to become of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Show,
    Set(Option<Rate>),
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "show" => Ok(Self::Show),
            "off" => Ok(Self::Set(None)),
            rate => match rate.parse() {
                Ok(rate) => Ok(Self::Set(Some(rate))),
                Err(err @ RateError::Text) => Err(format!("{err}; off lifts the limit")),
                Err(err @ RateError::Zero) => Err(format!("{err}; if no limit is meant: off")),
                Err(err @ RateError::TooLow) => Err(err.to_string()),
            },
        }
    }
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let state_dir = globals.state_dir()?;
    let work = move || match args.what {
        What::Show => limit::load(&state_dir),
        What::Set(rate) => limit::store(&state_dir, rate).map(|()| rate),
    };
    let rate = stop.unless(blocking(work)).await???;
    let shown = rate.map_or_else(|| "off".to_owned(), |rate| rate.to_string());
    match (args.what, rate) {
        (What::Show, _) => out.data(&shown),
        (What::Set(_), Some(rate)) => {
            out.say(format_args!("this device sends and receives at most {rate} from now on"))
        }
        (What::Set(_), None) => out.say("there is no limit any more"),
    }
    out.success(json!({ "limit_bps": rate.map(Rate::bytes_per_second), "changed": args.what != What::Show }));
    Ok(())
}

impl From<LimitFileError> for CliError {
    fn from(err: LimitFileError) -> Self {
        let hint = "`me-sync limit RATE` or `me-sync limit off` replaces it";
        Self::coded(err.code(), me_sync_node::errors::chain(&err).to_string(), hint).exit(Exit::Node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_off_and_show_are_understood_and_nothing_else() {
        assert_eq!("show".parse(), Ok(What::Show));
        assert_eq!("off".parse(), Ok(What::Set(None)));
        assert_eq!("5M".parse(), Ok(What::Set(Some("5MB/s".parse().unwrap()))));
        for (wrong, says) in [("fast", "off lifts"), ("5", "K is 1000"), ("0K", "if no limit is meant: off")] {
            assert!(wrong.parse::<What>().unwrap_err().contains(says), "{wrong}");
        }
    }
}
