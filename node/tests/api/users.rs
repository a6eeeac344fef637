//! Another user of the same machine: RELIABILITY A95. Needs root, to become one.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::client::Node;
use crate::support::{Place, assert_code, make_tree, stderr, stdout};

/// Runs as nobody; none without root, which CI has.
fn as_another(program: &str, args: &[&str]) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        #[allow(clippy::print_stderr, reason = "a test that does not run says so")]
        {
            eprintln!("left out: it needs root");
        }
        return None;
    }
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups", program];
    Some(Command::new("setpriv").args(ids).args(args).output().unwrap())
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

// RELIABILITY A95
#[test]
fn another_user_gets_nothing_even_if_the_state_directory_can_be_entered() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    make_tree(&place.path("out/tree"), "s");
    open_to_all(node.state.parent().unwrap());
    assert_eq!(fs::metadata(&node.state).unwrap().permissions().mode() & 0o777, 0o700);
    open_to_all(&node.state);
    for file in ["api.token", "identity.key", "sessions.redb", "node.lock"] {
        let path = node.state.join(file);
        let Some(read) = as_another("cat", &[path.to_str().unwrap()]) else { return };
        assert!(!read.status.success() && read.stdout.is_empty(), "{file}");
    }
    let socket = node.state.join("api.sock");
    let knock = r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "denied: $!";
        print $s "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"; local $/; print length(<$s> // "")"#;
    let at_socket = ["-e", knock, socket.to_str().unwrap()];
    let denied = as_another("perl", &at_socket).unwrap();
    assert!(stderr(&denied).contains("Permission denied"), "{}", stderr(&denied));
    // and should the socket be opened by mistake, the kernel still says who knocks
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    let turned_away = as_another("perl", &at_socket).unwrap();
    assert!(["0", ""].contains(&&*stdout(&turned_away)), "{}", stdout(&turned_away));
    let mine = Command::new("perl").args(at_socket).output().unwrap();
    assert!(stdout(&mine).parse::<u64>().unwrap() > 100, "the same knock of the owner is answered");
    let link = r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "denied: $!";
        print $s "POST /me/sync/v4/dashboard/link HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" .
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"; local $/; print <$s> // """#;
    let at_socket = ["-e", link, socket.to_str().unwrap()];
    assert_eq!(stdout(&as_another("perl", &at_socket).unwrap()), "", "no link to the page for another user");
    let mine = Command::new("perl").args(at_socket).output().unwrap();
    assert!(stdout(&mine).contains("/#login="), "{}", stdout(&mine));
    let by_port = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new("127.0.0.1:$ARGV[0]") or die "denied: $!";
        print $s "GET /me/sync/v4/sessions HTTP/1.1\r\nhost: 127.0.0.1:$ARGV[0]\r\nconnection: close\r\n\r\n"; print <$s>"#;
    let refused = as_another("perl", &["-e", by_port, &node.port.to_string()]).unwrap();
    assert!(stdout(&refused).starts_with("HTTP/1.1 401 "), "{}", stdout(&refused));
}

// RELIABILITY A95
#[test]
fn a_port_that_somebody_else_has_is_no_port_of_the_node_and_the_command_line_never_asks_there() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = place.run("d", &["node", "--api-port", &port]);
    assert_code(&refused, 15);
    assert!(stderr(&refused).contains(&port) && stderr(&refused).contains("--api-port"), "{}", stderr(&refused));
    // without a node the command line asks nobody
    let mut listed = place.command("d", &["sessions"]);
    assert_code(&listed.env("ME_SYNC_API_PORT", &port).output().unwrap(), 0);
    taken.set_nonblocking(true).unwrap();
    assert_eq!(taken.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

// RELIABILITY A95
#[test]
fn a_token_or_a_configuration_that_others_can_change_is_refused() {
    let place = Place::new();
    Node::start(&place, "d").stop();
    let token = place.path("d/api.token");
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let refused = place.run("d", &["node", "--api-port", "0"]);
    assert_code(&refused, 15);
    assert!(stderr(&refused).contains("open to others"), "{}", stderr(&refused));
    fs::write(place.path("c.toml"), "").unwrap();
    fs::set_permissions(place.path("c.toml"), Permissions::from_mode(0o666)).unwrap();
    let refused = place.run("d", &["--config", "c.toml", "node"]);
    assert_code(&refused, 2);
}
