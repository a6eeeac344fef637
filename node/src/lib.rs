//! node

pub mod staging;
