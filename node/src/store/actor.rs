//! The store's own thread and the handle to it.
//!
//! One thread takes the calls in the order in which they were sent, so a read sees every write sent before it. Writes
//! that wait together share one transaction. The queue is bounded: who awaits a call waits for room in it, who only
//! submits one is told when there is none.

use std::future::Future;
use std::thread;

use me_sync_protocol::ids::{EntryIndex, SessionId, TicketId};
use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};

use super::error::Fault;
use super::{ExportRecord, FailureRecord, ImportRecord, LastSeen, ListenPort, Store, StoreError, Swept, durable};

/// Calls that wait for the store's thread.
pub(super) const QUEUE: usize = 256;

/// A change to the store.
#[derive(Debug, Clone)]
pub enum Write {
    /// As [`Store::put_import`].
    PutImport(Box<ImportRecord>),
    /// As [`Store::remove_import`].
    RemoveImport(SessionId),
    /// As [`Store::put_export`].
    PutExport(Box<ExportRecord>),
    /// As [`Store::remove_export`].
    RemoveExport(TicketId),
    /// As [`Store::mark_durable`].
    MarkDurable(SessionId, Vec<(EntryIndex, [u8; 16])>),
    /// As [`Store::forget_durable`].
    ForgetDurable(SessionId, Vec<EntryIndex>),
    /// As [`Store::put_failures`].
    PutFailures(SessionId, Vec<FailureRecord>),
    /// As [`Store::put_ports`].
    PutPorts(Vec<ListenPort>),
}

impl Write {
    fn apply(&self, txn: &WriteTransaction) -> Result<(), Fault> {
        match self {
            Self::PutImport(record) => super::put_import(txn, record),
            Self::RemoveImport(session) => super::remove_import(txn, *session),
            Self::PutExport(record) => super::put_export(txn, record),
            Self::RemoveExport(ticket) => super::remove_export(txn, *ticket),
            Self::MarkDurable(session, entries) => durable::mark(txn, *session, entries),
            Self::ForgetDurable(session, entries) => durable::forget(txn, *session, entries),
            Self::PutFailures(session, failures) => super::put_failures(txn, *session, failures),
            Self::PutPorts(ports) => super::put_ports(txn, ports),
        }
    }
}

type Reply = oneshot::Sender<Result<(), StoreError>>;
/// A call that is no write of its own; it answers by itself.
type Call = Box<dyn FnOnce(&Store) + Send>;

enum Command {
    /// Who does not wait for the answer finds a failure in the log.
    Write(Write, Option<Reply>),
    Call(Call),
    Close(Reply),
}

/// Talks to the store's thread. Cheap to clone; a store that is closed answers [`StoreError::Closed`].
#[derive(Debug, Clone)]
pub struct StoreHandle {
    commands: mpsc::Sender<Command>,
}

impl StoreHandle {
    /// Moves a store to a thread of its own. The thread ends with [`Self::close`], or when the last handle is gone
    /// and everything sent is done.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(store: Store) -> Result<Self, StoreError> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let path = store.path().to_owned();
        let thread = thread::Builder::new().name("session store".to_owned());
        thread.spawn(move || run(store, queue)).map_err(StoreError::io("start a thread for", &path))?;
        Ok(Self { commands })
    }

    /// Sends a write at once, without waiting for room; its place in the order is that of this call. The answer may
    /// be awaited; it comes when the write is on the disk. The write happens also if the answer is dropped.
    ///
    /// # Errors
    /// The queue is full or the store is closed; nothing is sent.
    pub fn submit(&self, write: Write) -> Result<Pending, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.try_send(Command::Write(write, Some(reply)))?;
        Ok(Pending(answer))
    }

    /// As [`Self::submit`] for a write whose answer nobody waits for: a failure goes to the log.
    ///
    /// # Errors
    /// The queue is full or the store is closed; nothing is sent.
    pub fn post(&self, write: Write) -> Result<(), StoreError> {
        self.try_send(Command::Write(write, None))
    }

    /// Sends a write, waiting for room, and comes back when it is on the disk.
    ///
    /// # Errors
    /// Writing failed and nothing of it is stored, or the store is closed.
    pub async fn write(&self, write: Write) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Write(write, Some(reply))).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// As [`Store::put_import`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn put_import(&self, record: ImportRecord) -> Result<(), StoreError> {
        self.write(Write::PutImport(Box::new(record))).await
    }

    /// As [`Store::import`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn import(&self, session: SessionId) -> Result<Option<ImportRecord>, StoreError> {
        self.call(move |store| store.import(session)).await
    }

    /// As [`Store::imports`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        self.call(Store::imports).await
    }

    /// As [`Store::remove_import`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn remove_import(&self, session: SessionId) -> Result<(), StoreError> {
        self.write(Write::RemoveImport(session)).await
    }

    /// As [`Store::put_export`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn put_export(&self, record: ExportRecord) -> Result<(), StoreError> {
        self.write(Write::PutExport(Box::new(record))).await
    }

    /// As [`Store::export`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn export(&self, ticket: TicketId) -> Result<Option<ExportRecord>, StoreError> {
        self.call(move |store| store.export(ticket)).await
    }

    /// As [`Store::export_of`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn export_of(&self, session: SessionId) -> Result<Option<ExportRecord>, StoreError> {
        self.call(move |store| store.export_of(session)).await
    }

    /// As [`Store::exports`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn exports(&self) -> Result<Vec<ExportRecord>, StoreError> {
        self.call(Store::exports).await
    }

    /// As [`Store::remove_export`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn remove_export(&self, ticket: TicketId) -> Result<(), StoreError> {
        self.write(Write::RemoveExport(ticket)).await
    }

    /// As [`Store::mark_durable`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn mark_durable(
        &self,
        session: SessionId,
        entries: Vec<(EntryIndex, [u8; 16])>,
    ) -> Result<(), StoreError> {
        self.write(Write::MarkDurable(session, entries)).await
    }

    /// As [`Store::durable`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn durable(&self, session: SessionId) -> Result<Vec<(EntryIndex, [u8; 16])>, StoreError> {
        self.call(move |store| store.durable(session)).await
    }

    /// As [`Store::forget_durable`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn forget_durable(&self, session: SessionId, entries: Vec<EntryIndex>) -> Result<(), StoreError> {
        self.write(Write::ForgetDurable(session, entries)).await
    }

    /// As [`Store::put_failures`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn put_failures(&self, session: SessionId, failures: Vec<FailureRecord>) -> Result<(), StoreError> {
        self.write(Write::PutFailures(session, failures)).await
    }

    /// As [`Store::failures`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn failures(&self, session: SessionId) -> Result<Vec<FailureRecord>, StoreError> {
        self.call(move |store| store.failures(session)).await
    }

    /// As [`Store::put_ports`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn put_ports(&self, ports: Vec<ListenPort>) -> Result<(), StoreError> {
        self.write(Write::PutPorts(ports)).await
    }

    /// As [`Store::ports`].
    ///
    /// # Errors
    /// Reading failed, or the store is closed.
    pub async fn ports(&self) -> Result<Vec<ListenPort>, StoreError> {
        self.call(Store::ports).await
    }

    /// As [`Store::sweep`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn sweep(&self, now: LastSeen, live: Vec<SessionId>) -> Result<Swept, StoreError> {
        self.call(move |store| store.sweep(&now, &live)).await
    }

    /// Does everything that was sent before, closes the file and ends the thread. Other handles are told
    /// [`StoreError::Closed`] from then on.
    ///
    /// # Errors
    /// The last write failed, or it was closed before.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Close(reply)).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |store| {
            // nobody to answer: the caller was dropped
            reply.send(act(store)).ok();
        });
        self.send(Command::Call(call)).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        self.commands.send(command).await.map_err(|_| StoreError::Closed)
    }

    fn try_send(&self, command: Command) -> Result<(), StoreError> {
        self.commands.try_send(command).map_err(|err| match err {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })
    }
}

/// The answer to a write that was sent. Comes when the write is on the disk.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<(), StoreError>>);

impl Future for Pending {
    type Output = Result<(), StoreError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// The thread's life.
fn run(store: Store, mut queue: mpsc::Receiver<Command>) {
    let mut next = None;
    while let Some(command) = next.take().or_else(|| queue.blocking_recv()) {
        match command {
            Command::Write(write, reply) => {
                let mut batch = vec![(write, reply)];
                while batch.len() < QUEUE
                    && let Ok(command) = queue.try_recv()
                {
                    match command {
                        Command::Write(write, reply) => batch.push((write, reply)),
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                commit(&store, batch);
            }
            Command::Call(call) => call(&store),
            Command::Close(reply) => {
                queue.close();
                // nobody to answer: the caller was dropped
                reply.send(store.close()).ok();
                return;
            }
        }
    }
}

/// All of it in one transaction, as one that fails means a disk that fails, for all of them.
fn commit(store: &Store, batch: Vec<(Write, Option<Reply>)>) {
    let result = store.write(|txn| batch.iter().try_for_each(|(write, _)| write.apply(txn)));
    if let Err(error) = &result
        && batch.iter().any(|(_, reply)| reply.is_none())
    {
        tracing::error!(%error, code = %error.code(), "the state of sessions could not be written");
    }
    for reply in batch.into_iter().filter_map(|(_, reply)| reply) {
        // nobody to answer: the caller does not wait
        reply.send(result.clone()).ok();
    }
}
