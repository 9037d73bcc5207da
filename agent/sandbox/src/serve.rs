//! The launcher process.
pub(crate) fn entry() -> Option<i32> {
    None
}
