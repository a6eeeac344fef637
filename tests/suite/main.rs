//! Several nodes in one process, on real sockets (127.0.0.1, mDNS off) and real files.

mod retry;
mod support;
mod transfer;
