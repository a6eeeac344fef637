//! Printing errors with their causes.

use std::error::Error;
use std::fmt;

/// Displays an error and, after colons, everything that caused it.
pub fn chain(error: &dyn Error) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        write!(f, "{error}")?;
        let mut source = error.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    })
}
