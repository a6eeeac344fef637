//! node
pub mod identity;
pub mod net;
