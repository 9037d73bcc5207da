//! The files of a checkout that are looked into.

use std::io::Read as _;
use std::path::Path;

/// A file longer than this is not looked into.
const LONGEST: u64 = 1 << 20;

/// The text of a file that is short enough; `None` for anything else.
pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    crate::regular::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}
