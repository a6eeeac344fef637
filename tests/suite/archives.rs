//! Archives (SPEC §13) between real nodes, and from exporters that send what no honest one does.

mod corpus;
mod peer;
mod zip;

use std::path::Path;

use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{ArchiveOffer, ArchiveOptions, Compression, Consent, ImportOptions, JobHandle, Outcome, Protocol};
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::reason::Code;

use self::corpus::Case;
use self::peer::{Exporter, Sent};
use crate::support::tree::{file, image, noise};
use crate::support::world::{World, records};
use crate::support::{TestNode, completed, end, leftovers};

async fn offer(node: &TestNode, source: &Path, options: ArchiveOptions) -> ArchiveOffer {
    let source = Source::scan(source, &ScanOptions::default()).expect("the source is fine");
    node.node.handle().offer_archive(source, options).await.expect("offered")
}

async fn import(node: &TestNode, ticket: &ArchiveTicket, target: &Path) -> JobHandle {
    let options = ImportOptions { consent: Consent::Given, ..ImportOptions::new(target) };
    node.node.handle().import_archive(ticket.clone(), options).await.expect("started")
}

/// Nothing of an archive is left in a state directory.
fn spooled(node: &TestNode) -> usize {
    std::fs::read_dir(node.state_dir().join("archives")).map_or(0, Iterator::count)
}

/// What an archive keeps of a tree: times to the second.
fn to_the_second(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let images = image(root);
    let lines = images.keys().map(|path| {
        let meta = std::fs::symlink_metadata(root.join(path)).expect("there");
        let content = if meta.is_file() { std::fs::read(root.join(path)).expect("readable") } else { Vec::new() };
        format!("{path:?} {:o} {} {:?}", meta.mode(), meta.mtime(), me_sync_protocol::ids::Digest::of(&content))
    });
    lines.collect()
}

/// A tree that an archive holds, with much that is hard.
fn tree(root: &Path) {
    for (rel, len, mode) in [
        ("a.txt", 3, 0o644),
        ("empty", 0, 0o600),
        ("big.bin", 3 << 20, 0o640),
        ("dir/run", 70_000, 0o755),
        ("odd/naïve 文書", 5, 0o444),
        ("odd/a!", 5, 0o644),
        ("odd/-rf", 5, 0o644),
        ("dir!", 5, 0o644),
        ("12:30", 1, 0o644),
    ] {
        file(root, rel, len, mode);
    }
    std::fs::write(root.join("text"), "the same line again\n".repeat(50_000)).expect("written");
    std::fs::create_dir_all(root.join("void/inside")).expect("made");
    let deep = (0..30).map(|i| format!("d{i}")).collect::<Vec<_>>().join("/");
    file(root, &format!("{deep}/leaf"), 10, 0o644);
    std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o750)).expect("mode");
}

// SPEC §13.4, §13.6
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_comes_as_an_archive_is_the_same_to_the_second_packed_or_not() {
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    let dir = tempfile::tempdir().expect("a place");
    tree(&dir.path().join("src"));
    for (n, compression) in [Compression::Auto, Compression::Never, Compression::Always].into_iter().enumerate() {
        let target = dir.path().join(format!("dst{n}"));
        let options = ArchiveOptions { compression: Some(compression), ..ArchiveOptions::default() };
        let offer = offer(&exporter, &dir.path().join("src"), options).await;
        let job = import(&importer, &offer.ticket, &target).await;
        let done = completed(&job).await;
        assert_eq!((done.protocol, done.files), (Protocol::V3, 11));
        let sent = completed(&offer.job).await;
        assert_eq!((sent.protocol, sent.wire_bytes), (Protocol::V3, done.wire_bytes));
        assert_eq!(done.wire_bytes < 4_000_000, compression != Compression::Never, "{compression:?} {done:?}");
        assert_eq!(to_the_second(&dir.path().join("src")), to_the_second(&target), "{compression:?}");
        assert_eq!(spooled(&importer), 0);
    }
    assert_eq!(leftovers(dir.path()), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_replaces_is_kept_and_comes_back() {
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    let dir = tempfile::tempdir().expect("a place");
    tree(&dir.path().join("src"));
    let target = dir.path().join("dst");
    file(&target, "old", 100, 0o644);
    let before = image(&target);
    let offer = offer(&exporter, &dir.path().join("src"), ArchiveOptions::default()).await;
    let options = ImportOptions::new(&target);
    let job = importer.node.handle().import_archive(offer.ticket, options).await.expect("started");
    let review = job.review().await.expect("a question, as there is something");
    assert_eq!((review.protocol, review.files, review.top_names.len()), (Protocol::V3, 11, 10));
    assert_eq!(image(&target), before, "nothing before the answer");
    job.accept().await;
    let done = completed(&job).await;
    assert!(done.retained.is_some());
    assert_eq!(to_the_second(&dir.path().join("src")), to_the_second(&target));
    let state = me_sync_node::staging::StateDir::open(importer.state_dir()).expect("opened");
    me_sync_node::staging::rollback(&state, &target).expect("rolled back");
    assert_eq!(image(&target), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_declines_changes_nothing_and_the_exporter_hears_of_it() {
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    let dir = tempfile::tempdir().expect("a place");
    tree(&dir.path().join("src"));
    file(dir.path(), "dst/old", 100, 0o644);
    let offer = offer(&exporter, &dir.path().join("src"), ArchiveOptions::default()).await;
    let options = ImportOptions::new(dir.path().join("dst"));
    let job = importer.node.handle().import_archive(offer.ticket, options).await.expect("started");
    job.review().await.expect("a question");
    job.decline().await;
    assert_eq!(code_of(&job).await.0, Code::Declined);
    assert_eq!(code_of(&offer.job).await.0, Code::Declined);
    assert_eq!(image(&dir.path().join("dst")).len(), 2);
}

// SPEC §13.2, §13.3
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_in_its_time_and_with_its_key() {
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    let dir = tempfile::tempdir().expect("a place");
    tree(&dir.path().join("src"));
    let offer = offer(&exporter, &dir.path().join("src"), ArchiveOptions::default()).await;
    let key = me_sync_protocol::ids::Secret::from_bytes([9; 32]);
    let forged = ArchiveTicket { session_nonce: key, ..offer.ticket.clone() };
    let job = import(&importer, &forged, &dir.path().join("forged")).await;
    assert_eq!(code_of(&job).await.0, Code::TicketInvalid, "another key");
    let job = import(&importer, &offer.ticket, &dir.path().join("dst")).await;
    completed(&job).await;
    completed(&offer.job).await;
    let job = import(&importer, &offer.ticket, &dir.path().join("again")).await;
    assert_eq!(code_of(&job).await.0, Code::TicketInvalid, "used");
    let options = ArchiveOptions { ttl: std::time::Duration::from_millis(1), ..ArchiveOptions::default() };
    let late = self::offer(&exporter, &dir.path().join("src"), options).await;
    assert_eq!(code_of(&late.job).await.0, Code::SessionExpired);
    let job = import(&importer, &late.ticket, &dir.path().join("late")).await;
    assert_eq!(code_of(&job).await.0, Code::TicketInvalid, "too late");
    let made: Vec<_> = ["forged", "again", "late"].iter().filter(|name| dir.path().join(name).exists()).collect();
    assert!(made.is_empty(), "{made:?}");
}

async fn code_of(job: &JobHandle) -> (Code, String) {
    match end(job).await {
        Outcome::Failed { code, message, .. } => (code, message),
        Outcome::Completed(done) => panic!("completed: {done:?}"),
    }
}

/// Every case is refused for its reason, with nothing changed and nothing left.
async fn all_refused(cases: Vec<Case>) {
    let importer = TestNode::start().await;
    let world = World::new();
    let before = world.snapshot();
    for case in cases {
        let mut exporter = Exporter::listen().await;
        let job = import(&importer, &exporter.ticket(), &world.target()).await;
        let sent = Sent { package: case.package.clone(), counts: case.counts, ..Sent::default() };
        let heard = exporter.serve(&sent).await;
        let (code, message) = code_of(&job).await;
        let what = case.what;
        assert_eq!((code, heard), (case.code, Some(case.code)), "{what}: {message}");
        assert!(message.contains(case.says), "{what}: {message}");
        assert_eq!(world.snapshot(), before, "{what}: something changed");
        assert_eq!(leftovers(&world.path("parent")), [""; 0].map(std::path::PathBuf::from), "{what}");
        assert_eq!(spooled(&importer), 0, "{what}");
        assert_eq!(records(importer.state_dir()).len(), 0, "{what}: not even a record");
    }
}

// SPEC §13.5
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_a_hostile_name_leaves_the_target_as_it_is() {
    all_refused(corpus::names()).await;
}

// SPEC §13.5
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_links_and_other_kinds_leaves_the_target_as_it_is() {
    all_refused(corpus::kinds()).await;
}

// SPEC §13.5
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_bombs_or_wrong_contents_leaves_the_target_as_it_is() {
    all_refused(corpus::contents()).await;
}

// SPEC §13.5
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_form_lies_leaves_the_target_as_it_is() {
    all_refused(corpus::forms()).await;
}

/// What the corpus changes, unchanged: else a case could be refused for what all of them have in common.
#[tokio::test(flavor = "multi_thread")]
async fn the_archives_that_the_hostile_ones_are_made_from_are_taken() {
    let importer = TestNode::start().await;
    let world = World::new();
    let mib = vec![0; 1 << 20];
    let whole = |wide| {
        let entries = [
            zip::file("a", b"alpha"),
            zip::dir("d"),
            zip::deflated("d/x", &mib, zip::zeros(1 << 20)),
            zip::deflated("d/y", b"alpha", zip::stored_blocks(b"alpha")),
            zip::deflated("d/z", b"", zip::zeros(0)),
            zip::Entry {
                size: Some(u32::MAX),
                packed_size: Some(u32::MAX),
                extra: zip::wide_field(&[5, 5]),
                local_extra: zip::wide_field(&[5, 5]),
                ..zip::file("wide", b"12345")
            },
        ];
        zip::package_with(&entries, zip::End { wide, ..zip::End::default() })
    };
    for wide in [None, Some(zip::Wide::default())] {
        let mut exporter = Exporter::listen().await;
        let job = import(&importer, &exporter.ticket(), &world.target()).await;
        let sent = Sent { package: whole(wide), counts: (5, 1, (1 << 20) + 15), ..Sent::default() };
        let heard = exporter.serve(&sent).await;
        completed(&job).await;
        assert_eq!(heard, None);
        assert_eq!(std::fs::read(world.path("parent/target/d/x")).expect("there"), mib);
    }
}

// SPEC §13.4
#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_breaks_off_at_any_byte_leaves_the_target_as_it_is() {
    let importer = TestNode::start().await;
    let world = World::new();
    let before = world.snapshot();
    let entries = [zip::dir("d"), zip::file("d/a", b"alpha"), zip::file("d/b", &noise(5, 2000))];
    let package = zip::package(&entries);
    let sent = Sent { package: package.clone(), counts: (2, 1, 2005), ..Sent::default() };
    for cut in (0..package.len()).step_by(61).chain([package.len() - 1]) {
        let mut exporter = Exporter::listen().await;
        let job = import(&importer, &exporter.ticket(), &world.target()).await;
        exporter.serve_until(&sent, cut).await;
        let (code, message) = code_of(&job).await;
        assert_eq!(code, Code::PeerGone, "cut at {cut}: {message}");
        assert_eq!(world.snapshot(), before, "cut at {cut}");
        assert_eq!((spooled(&importer), leftovers(&world.path("parent")).len()), (0, 0), "cut at {cut}");
    }
}

// SPEC §13.3, §13.4
#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_the_announced_one_leaves_the_target_as_it_is() {
    let importer = TestNode::start().await;
    let world = World::new();
    let before = world.snapshot();
    let package = zip::package(&[zip::file("a", b"alpha")]);
    let good = Sent { package, counts: (1, 0, 5), ..Sent::default() };
    let len = good.package.len() as u64;
    let free = rustix::fs::statvfs(importer.state_dir()).expect("looked at");
    let free = free.f_bavail * free.f_frsize;
    for (what, sent, expected) in [
        ("another hash", Sent { sha256: Some([7; 32]), ..good.clone() }, Code::HashMismatch),
        ("a byte too many", Sent { len: Some(len - 1), ..good.clone() }, Code::SizeMismatch),
        ("more than there is room for", Sent { len: Some(free * 2), ..good.clone() }, Code::NoSpace),
        ("a tree that there is no room for", Sent { counts: (1, 0, 1 << 60), ..good.clone() }, Code::NoSpace),
        ("more than any archive", Sent { len: Some(u64::MAX), ..good.clone() }, Code::ManifestLimit),
        ("more entries than any tree", Sent { counts: (1_000_001, 0, 5), ..good.clone() }, Code::ManifestLimit),
        ("a proof with another key", Sent { key: Some([1; 32]), ..good.clone() }, Code::PeerMismatch),
        ("a piece before it was asked for", Sent { is_early: true, ..good.clone() }, Code::FrameUnexpected),
    ] {
        let mut exporter = Exporter::listen().await;
        let job = import(&importer, &exporter.ticket(), &world.target()).await;
        exporter.serve(&sent).await;
        let (code, message) = code_of(&job).await;
        assert_eq!(code, expected, "{what}: {message}");
        assert_eq!(world.snapshot(), before, "{what}");
        assert_eq!((spooled(&importer), leftovers(&world.path("parent")).len()), (0, 0), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_while_it_is_packed_is_not_sent() {
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    let dir = tempfile::tempdir().expect("a place");
    tree(&dir.path().join("src"));
    file(dir.path(), "dst/old", 100, 0o644);
    let before = image(&dir.path().join("dst"));
    let offer = offer(&exporter, &dir.path().join("src"), ArchiveOptions::default()).await;
    let options = ImportOptions::new(dir.path().join("dst"));
    let job = importer.node.handle().import_archive(offer.ticket, options).await.expect("started");
    // by then the package is measured
    job.review().await.expect("a question");
    std::fs::write(dir.path().join("src/dir/run"), "something else").expect("written");
    job.accept().await;
    assert_eq!(code_of(&job).await.0, Code::SourceChanged);
    assert_eq!(code_of(&offer.job).await.0, Code::SourceChanged);
    assert_eq!(image(&dir.path().join("dst")), before);
}
