//! What an attack must leave as it is, and an honest session that has to live through it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use me_sync_node::JobHandle;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use super::peer::{Exporting, Line, Peer, begin, chunk, end, phase_end};
use super::raw::{self, Listing};
use super::tree::{Image, assert_images, file, image, noise};
use super::{TestNode, completed, failed, leftovers};

/// A target with an old tree in it, and what lies around it: its parent, a home directory, a source.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for path in ["parent/target/old", "parent/neighbour", "home/.ssh/authorized_keys", "source/secret"] {
            file(dir.path(), path, 100, 0o600);
        }
        Self { dir }
    }

    pub(crate) fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("parent/target")
    }

    /// Everything but the times of the target's parent, in which a staging tree comes and goes.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Image> {
        let mut all = image(self.dir.path());
        all.remove("parent");
        all
    }
}

/// Session records in a node's state directory.
pub(crate) fn records(state: &Path) -> Vec<PathBuf> {
    let sessions = state.join("sessions");
    let Ok(entries) = std::fs::read_dir(sessions) else { return Vec::new() };
    entries.map(|e| e.expect("an entry").path()).collect()
}

/// Plays one attack on a real importer: it has to refuse it by this code, on the wire and in its own view,
/// with nothing changed and nothing left.
pub(crate) async fn refused(
    importer: &TestNode,
    world: &World,
    what: &str,
    expected: Code,
    attack: impl AsyncFnOnce(&mut Exporting),
) {
    let before = world.snapshot();
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    attack(&mut session).await;
    assert_eq!(session.control.aborted().await, Some(expected), "{what}: on the wire");
    drop(session);
    assert_eq!(failed(&job).await, expected, "{what}: the outcome");
    assert_images(&before, &world.snapshot());
    assert!(leftovers(&world.path("parent")).is_empty(), "{what}: leftovers");
}

/// The same for a manifest; when the refusal is heard, not even staging exists.
pub(crate) async fn manifest_refused(
    importer: &TestNode,
    world: &World,
    what: &str,
    expected: Code,
    listing: &Listing,
) {
    let before = records(importer.state_dir());
    refused(importer, world, what, expected, async |session| {
        session.offer(listing).await;
        assert!(leftovers(&world.path("parent")).is_empty(), "{what}: staging of a refused manifest");
    })
    .await;
    assert_eq!(records(importer.state_dir()), before, "{what}: state");
}

/// An honest exporter in the middle of its bulk, at the same importer.
pub(crate) struct Bystander {
    _peer: Peer,
    session: Exporting,
    lane: Line,
    listing: Listing,
    content: Vec<u8>,
    sent: usize,
    job: JobHandle,
    world: World,
}

impl Bystander {
    pub(crate) async fn start(importer: &TestNode) -> Self {
        let world = World::new();
        let content = noise(77, 3 << 20);
        let listing = Listing::of(&[raw::file("honest", &content)], content.len() as u64);
        let mut peer = Peer::listen().await;
        let job = importer.import(&peer.ticket(), &world.target()).await;
        let mut session = peer.exporting().await;
        session.agreed(&listing).await;
        let mut lane = session.lane(0).await.expect("the lane is taken");
        lane.send(&begin(0, &content)).await;
        assert_eq!(records(importer.state_dir()).len(), 1, "a session that is under way has a record");
        Self { _peer: peer, session, lane, listing, content, sent: 0, job, world }
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.session.session_id
    }

    /// One more piece of its file.
    pub(crate) async fn step(&mut self) {
        let to = (self.sent + 1000).min(self.content.len());
        self.lane.send(&chunk(&self.content[self.sent..to])).await;
        self.sent = to;
    }

    /// Sends the rest; the tree has to be applied.
    pub(crate) async fn finish(mut self) {
        for rest in self.content[self.sent..].chunks(200_000) {
            self.lane.send(&chunk(rest)).await;
        }
        self.lane.send(&end(0)).await;
        self.session.control.send(&phase_end(1, self.content.len() as u64)).await;
        assert_eq!(self.session.finalize(&self.listing).await, None);
        drop((self.session, self.lane));
        completed(&self.job).await;
        let got = std::fs::read(self.world.target().join("honest")).expect("it is there");
        assert!(got == self.content, "the honest file differs");
    }
}

/// Plays a whole honest session by hand, and gives the world with the new tree.
pub(crate) async fn accepted(importer: &TestNode, listing: &Listing, files: &[(u32, &[u8])]) -> World {
    let world = World::new();
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(listing).await;
    let mut lane = session.lane(0).await.expect("the lane is taken");
    for (index, content) in files {
        lane.send(&begin(*index, content)).await;
        if !content.is_empty() {
            lane.send(&chunk(content)).await;
        }
        lane.send(&end(*index)).await;
    }
    session.control.send(&phase_end(files.len() as u64, listing.total)).await;
    assert_eq!(session.finalize(listing).await, None);
    drop((session, lane));
    completed(&job).await;
    world
}
