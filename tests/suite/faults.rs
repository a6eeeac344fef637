//! Connections that break in every way a network can break them: the session goes on, nothing is sent twice, and
//! what comes out is the tree that went in.

mod cuts;
mod silence;
mod weather;
