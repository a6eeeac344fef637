//! The node of a command's own process, which other commands on the same state directory join through its socket while
//! it is there: two at once need neither a node that stays nor a lock.

use std::path::Path;
use std::time::Duration;

use me_sync_node::errors::chain;
use me_sync_node::http::Http;
use me_sync_node::{JobHandle, Node, NodeHandle};
use me_sync_protocol::ids::TicketId;

use super::exit::CliError;
use super::human;
use super::out::Out;
use super::remote::Remote;
use super::stop::Stop;

/// Who has asked something a moment ago may be about to ask for more.
const GRACE: Duration = Duration::from_secs(1);

/// Where a command works: through a node that is there already, or in its own process.
pub(crate) enum Meet {
    There(Remote),
    Here(Own),
}

/// See the module.
pub(crate) struct Own {
    node: Node,
    /// None where there can be no socket; others then have to wait.
    socket: Option<Http>,
    out: Out,
    stop: Stop,
}

impl Own {
    pub(crate) fn new(node: Node, out: Out, stop: &Stop) -> Self {
        let served = Http::serve_user(node.handle());
        let socket = served.inspect_err(|err| tracing::warn!(error = %chain(err), "no other command can join")).ok();
        Self { node, socket, out, stop: stop.clone() }
    }

    pub(crate) fn handle(&self) -> NodeHandle {
        self.node.handle()
    }

    /// Lets other commands see this command's own job, and end it, or follow it if it is an import with the same ticket.
    pub(crate) fn show(&self, job: &JobHandle, path: &Path, ticket: Option<TicketId>) {
        if let Some(socket) = &self.socket {
            socket.show(job.clone(), std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), ticket);
        }
    }

    /// Ends, once the commands that have joined have ended. A stop that was asked for ends them too: what they are at is
    /// kept.
    pub(crate) async fn shutdown(self, failed: Option<&CliError>) {
        if let Some(socket) = &self.socket {
            // a stop ends the waiting, and with it the jobs
            self.stop.unless(self.last(socket, failed)).await.ok();
        }
        self.node.shutdown().await;
        if let Some(socket) = self.socket {
            socket.shutdown().await;
        }
    }

    async fn last(&self, socket: &Http, failed: Option<&CliError>) {
        let mut told = false;
        let mut changes = socket.changes();
        loop {
            changes.mark_unchanged();
            let joined = socket.running();
            if joined > 0 {
                if !std::mem::replace(&mut told, true) {
                    let (others, need) = match joined {
                        1 => ("1 other command".to_owned(), "needs"),
                        n => (human::count(n as u64, "other command"), "need"),
                    };
                    let here = failed.map_or_else(|| "done here".to_owned(), ToString::to_string);
                    self.out.say(format_args!(
                        "{here}; {others} {need} this process until the end (Ctrl-C stops that too, and keeps what arrived)"
                    ));
                }
                // it is told of the end of every job
                changes.changed().await.ok();
                continue;
            }
            let Some(left) = socket.idle().and_then(|idle| GRACE.checked_sub(idle)) else {
                // from now on nobody finds it, and the next command has a node of its own
                socket.hide();
                return;
            };
            tokio::time::sleep(left).await;
        }
    }
}
