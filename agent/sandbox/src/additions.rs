//! Which system calls may be allowed beyond a profile: looked up where a policy is read, long before a sandbox is made.

use crate::profiles;

/// A name that cannot be added to a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdditionError {
    /// No call has this name.
    #[error("`{name}` is no system call of this machine")]
    Unknown {
        /// What was written.
        name: String,
    },
    /// It would open the sandbox itself.
    #[error("the system call `{name}` is never allowed: {reason}")]
    Never {
        /// What was written.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

/// Whether a call can be named in [`crate::spec::Filter::additions`].
///
/// # Errors
/// [`AdditionError`] says why not.
pub fn check(name: &str) -> Result<(), AdditionError> {
    if profiles::number(name).is_none() {
        return Err(AdditionError::Unknown { name: name.to_owned() });
    }
    match profiles::NEVER.iter().find(|(never, _)| *never == name) {
        Some((_, reason)) => Err(AdditionError::Never { name: name.to_owned(), reason }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debuggers_call_may_be_added_and_what_opens_the_sandbox_may_not() {
        assert_eq!(check("ptrace"), Ok(()));
        assert!(matches!(check("ptarce"), Err(AdditionError::Unknown { .. })));
        for name in ["unshare", "clone", "clone3", "mount", "io_uring_setup", "socket", "open_by_handle_at", "bpf"] {
            assert!(matches!(check(name), Err(AdditionError::Never { .. })), "{name}");
        }
    }
}
