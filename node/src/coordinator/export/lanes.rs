//! The offer's connections: the control stream, the lanes it opens, and how both are let go.

use std::sync::Arc;

use me_sync_protocol::frame::{Frame, PartialFile, Role, StreamHello};
use me_sync_protocol::ids::EntryIndex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ExportJob;
use crate::coordinator::control::ControlLink;
use crate::coordinator::{Shared, streams};
use crate::transfer::send_lane::{SendLane, WORK_QUEUE, WorkList};
use crate::transfer::{Compression, LaneEvent, Reports};

/// One control stream with its lanes.
#[derive(Debug)]
pub(super) struct Connection {
    control: ControlLink,
    lanes: Vec<mpsc::Sender<Arc<WorkList>>>,
    stop: CancellationToken,
    release: CancellationToken,
    tasks: JoinSet<()>,
}

impl Connection {
    pub(super) fn new(control: ControlLink) -> Self {
        let (stop, release) = (CancellationToken::new(), CancellationToken::new());
        Self { control, lanes: Vec::new(), stop, release, tasks: JoinSet::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.control.has_room()
    }

    pub(super) fn send(&self, frame: Frame) {
        self.control.send(frame);
    }

    /// Lets what is queued go out, then closes everything; in a task of its own.
    pub(super) fn let_go(self) {
        tokio::spawn(self.close());
    }

    /// Lets what is queued go out and waits until everything is closed.
    pub(super) async fn close(self) {
        let Self { control, lanes, stop, release, mut tasks } = self;
        stop.cancel();
        drop(lanes);
        // whether the peer has read it all does not matter here
        control.close().await.ok();
        release.cancel();
        while tasks.join_next().await.is_some() {}
    }

    /// Drops what is queued; the streams are broken.
    fn cut(self) {
        self.stop.cancel();
        self.release.cancel();
        self.control.cut();
        let mut tasks = self.tasks;
        tokio::spawn(async move { while tasks.join_next().await.is_some() {} });
    }
}

impl ExportJob {
    /// The core let go of its connection.
    pub(super) fn disconnected(&mut self, reset: bool, shared: &Shared) {
        let now = shared.clock.now();
        self.note_counters();
        let Some(session) = &mut self.session else { return };
        let Some(connection) = session.connection.take() else { return };
        tracing::info!(session = %session.id.short(), reset, "the connection is lost; waiting for the importer");
        session.lost = Some(now);
        connection.cut();
        if reset {
            let (net, peer) = (shared.net.clone(), session.peer);
            tokio::spawn(async move { net.disconnect(peer).await });
        }
        // an outline is good for one conversation
        self.withdraw_outline(shared);
    }

    /// A round is asked for.
    pub(super) fn send_files(&mut self, entries: Vec<EntryIndex>, partial: &[PartialFile], shared: &Shared) {
        if !self.rescan_instead(&entries, shared) {
            self.send_round(entries, partial, shared);
        }
    }

    /// Hands a round to the lanes; the first round opens them.
    pub(super) fn send_round(&mut self, entries: Vec<EntryIndex>, partial: &[PartialFile], shared: &Shared) {
        let Some(snapshot) = self.snapshot().cloned() else { return };
        let Some(session) = &mut self.session else { return };
        let Some(connection) = &mut session.connection else { return };
        if session.core.counters().retry_round > 0 {
            let hashes = shared.hashes.clone();
            // a remembered hash may be what is wrong with them; the next offer reads these files again
            let (snapshot, entries) = (snapshot.clone(), entries.clone());
            tokio::task::spawn_blocking(move || {
                if let Some(Err(e)) = hashes.open().map(|cache| cache.forget(&snapshot, &entries)) {
                    tracing::warn!(error = %crate::errors::chain(&e), "hashes of failed files stay remembered");
                }
            });
        }
        let keeper = snapshot.manifest().is_outline().then(|| shared.hashes.keeper());
        let work = WorkList::new(entries, partial);
        for number in 0..session.granted.lanes {
            if usize::from(number) == connection.lanes.len() {
                let (queue, inbox) = mpsc::channel(WORK_QUEUE);
                connection.lanes.push(queue);
                let lane = SendLane {
                    manifest: snapshot.manifest().clone(),
                    reader: snapshot.reader(),
                    chunk: session.granted.max_chunk as usize,
                    compression: if session.granted.zstd { self.compression } else { Compression::Never },
                    sends_holes: session.granted.holes,
                    meter: session.meter.clone(),
                    keeper: keeper.clone(),
                    stop: connection.stop.clone(),
                    release: connection.release.clone(),
                    #[cfg(feature = "test-hooks")]
                    faults: shared.faults.resolve(snapshot.manifest()),
                };
                // not when sending stops: an importer that sees a lane vanish takes that for a lost connection
                let (net, peer, release) = (shared.net.clone(), session.peer, connection.release.clone());
                let hello = StreamHello { session_id: session.id, role: Role::Lane(number) };
                let conversation = session.conversation;
                let reports = Reports { job: self.id, conversation, to: shared.lanes.clone() };
                connection.tasks.spawn(async move {
                    let opened = tokio::select! {
                        () = release.cancelled() => return,
                        opened = streams::open(&net, peer, hello) => opened,
                    };
                    match opened {
                        Ok(opened) => {
                            let hello = StreamHello { role: Role::Strand(number), ..hello };
                            // a pipe has nothing beside it
                            let strand =
                                async move { streams::open_beside(&net, peer, opened.connection?, hello).await };
                            lane.run(opened.stream, strand, inbox, reports).await;
                        }
                        Err(code) => {
                            tracing::debug!(%code, "a lane was not opened");
                            reports.send(LaneEvent::Closed).await;
                        }
                    }
                });
            }
            // rounds come one after the other: a lane that has not taken the last one is a lane that broke
            if let Some(lane) = connection.lanes.get(usize::from(number))
                && lane.try_send(work.clone()).is_err()
            {
                tracing::debug!("a lane takes no more work");
            }
        }
    }
}
