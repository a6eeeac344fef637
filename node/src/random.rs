//! Random ids, secrets and noise from the operating system.

/// Fills an array with random bytes.
///
/// The operating system's source does not fail once it is up; a machine on which it does cannot make
/// keys at all, so that is not an error anybody could handle.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

/// The same for a length that is no constant, or too much for a stack.
pub(crate) fn fill(out: &mut [u8]) {
    getrandom::fill(out).expect("the operating system gives random bytes");
}
