//! A real tree that nobody made for a test. Takes long without optimisation: run it by hand with `--release -- --ignored`.

use std::path::Path;

use crate::place::{Place, is_root, picture};

fn usr_share(transport: &str) {
    let place = Place::new();
    let flags = ["--transport", transport];
    let (exporter, ticket) = place.exporter().with(&flags).send(Path::new("/usr/share"));
    let target = place.path("share");
    place.importer().with(&flags).receive(&ticket, &target).end().is_applied();
    exporter.end().is_applied();
    let (is, want) = (picture(&target), picture(Path::new("/usr/share")));
    assert_eq!(is.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let differing: Vec<_> = want.iter().filter(|(path, what)| is[*path] != **what).take(10).collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

#[test]
#[ignore = "moves all of /usr/share"]
fn usr_share_arrives_identical_over_tcp() {
    if is_root() {
        usr_share("tcp");
    }
}

#[test]
#[ignore = "moves all of /usr/share"]
fn usr_share_arrives_identical_over_quic() {
    if is_root() {
        usr_share("quic");
    }
}
