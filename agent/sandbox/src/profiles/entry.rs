//! What an entry of a list says.

/// One allowed call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub name: &'static str,
    pub rule: Rule,
    /// Why it is allowed.
    #[allow(dead_code, reason = "read by people, and by the test that demands one")]
    pub reason: &'static str,
}

/// With which arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Any.
    Always,
    /// `clone` without namespace flags.
    NoNamespaces,
    /// `socket` of local, internet and route families.
    Sockets,
    /// `socket` and `socketpair` of the local family.
    LocalSockets,
    /// `ioctl` but not TIOCSTI and TIOCLINUX.
    NoTerminalInjection,
    /// `personality` to ask, or for what changes nothing that protects.
    Personalities,
}
