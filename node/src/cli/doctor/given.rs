//! Which device is meant by `--peer`.

use std::net::IpAddr;

use libp2p::PeerId;
use me_sync_node::net::PeerView;
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;

use crate::cli::exit::CliError;
use crate::cli::peer_address::{PeerAddress, not_a_peer_id};

/// What is typed by somebody who knows where the device is.
const FORM: &str = "PEERID@IP:PORT is needed; `me-sync doctor` there shows its PeerId, whose 52 characters begin with 12D3KooW, \
                    and where it listens";

/// The device that is meant.
#[derive(Debug)]
pub(super) enum Given {
    /// By its key, and perhaps where it is.
    Key(PeerId, Option<PeerAddress>),
    /// By what it calls itself, or the end of its key.
    Name(String),
}

impl Given {
    pub(super) fn parse(text: &str) -> Result<Self, CliError> {
        if let Ok(peer) = text.parse() {
            return Ok(Self::Key(peer, None));
        }
        let why = match text.parse::<PeerAddress>() {
            Ok(address) => match address.peer {
                Some(peer) => return Ok(Self::Key(peer, Some(address))),
                None => "an address alone says not which device is meant".to_owned(),
            },
            Err(why) => why,
        };
        if is_address(text) || is_near_key(text) {
            let why = if is_near_key(text) && !text.contains('@') { not_a_peer_id(text) } else { why };
            return Err(CliError::usage(format!("--peer: {why}"), FORM));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// Nobody calls a device so.
fn is_near_key(text: &str) -> bool {
    text.starts_with("12D3K")
}

/// That was to be an address, whatever is wrong with it.
fn is_address(text: &str) -> bool {
    let is_place = |text: &str| text.parse::<PeerAddress>().is_ok() || text.parse::<IpAddr>().is_ok();
    let place = text.split_once('@').map_or(text, |(_, place)| place);
    text.starts_with('/') || is_place(place)
}

/// The one of that name among those that were heard, if there was any listening.
pub(super) fn named(name: &str, heard: Option<&[PeerView]>) -> Result<PeerId, CliError> {
    let Some(heard) = heard else {
        let message = format!("mDNS is off, so no device {} was looked for", escaped(name));
        let hint = "name it by PEERID@IP:PORT, which `me-sync doctor` there shows, or leave --no-mdns out; \
                    `--no-mdns=false` counts more than config.toml";
        return Err(CliError::coded(Code::PeerNotFound, message, hint));
    };
    let fits = |peer: &&PeerView| peer.device_name == name || peer.peer_id.to_string().ends_with(name);
    let all: Vec<_> = heard.iter().filter(fits).collect();
    match all.as_slice() {
        [one] => Ok(one.peer_id),
        [] => {
            let hint = "let it send, receive or look for others meanwhile, or name it by PEERID@IP:PORT";
            Err(CliError::coded(Code::PeerNotFound, format!("no device {} was heard", escaped(name)), hint))
        }
        _ => Err(CliError::usage(format!("several devices are called {}", escaped(name)), "name it by its PeerId")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    const PEER: &str = "12D3KooWGzBpL8cnzCYAHa6PsvYKCUfDZwkAH8bRjN7ryr9fnGr7";

    #[test]
    fn a_mistyped_key_or_address_is_no_name() {
        let short = &PEER[..50];
        for wrong in [
            short.to_owned(),
            format!("{short}@192.0.2.7:1"),
            format!("{}@192.0.2.7:1", PEER.replace('z', "0")),
            format!("{PEER}@192.0.2.7"),
            format!("{PEER}@"),
            format!("/ip4/192.0.2.7/tcp/0/p2p/{PEER}"),
            "@192.0.2.7:1".to_owned(),
            "attic@192.0.2.7:1".to_owned(),
            "192.0.2.7".to_owned(),
            "192.0.2.7:1".to_owned(),
        ] {
            let refused = Given::parse(&wrong).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage, "{wrong}");
            assert!(refused.hint.contains("PEERID@IP:PORT"), "{wrong}: {}", refused.hint);
        }
        for name in ["attic", "anna@laptop", "fnGr7", "the attic"] {
            assert!(matches!(Given::parse(name), Ok(Given::Name(same)) if same == name), "{name}");
        }
        for key in [PEER.to_owned(), format!("{PEER}@192.0.2.7:1"), format!("/ip4/192.0.2.7/tcp/1/p2p/{PEER}")] {
            assert!(matches!(Given::parse(&key), Ok(Given::Key(..))), "{key}");
        }
    }

    #[test]
    fn a_name_that_was_not_listened_for_is_not_said_to_be_unheard() {
        let off = named("attic", None).unwrap_err();
        let on = named("attic", Some(&[])).unwrap_err();
        assert!(off.message.contains("mDNS is off") && on.message.contains("was heard"), "{off} {on}");
        assert_eq!((off.exit, on.exit), (Exit::PeerNotFound, Exit::PeerNotFound));
    }
}
