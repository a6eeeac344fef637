//! node

pub mod source;
