//! What policy can say about a step. Words only: the controller decides, the agent's own rules are the floor, the sandbox enforces.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one step may do. The default is the closed one: no network, no secret, no raised limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// What the step may reach over the network.
    pub egress: Egress,
    /// Names of the secrets that the step names and policy lets it have.
    pub secrets: Vec<String>,
    /// Limits for the step's sandbox.
    pub limits: Limits,
    /// Names of additions to the system-call filter, such as `ptrace`.
    pub system_calls: Vec<String>,
    /// Whether the step is root of its own user namespace.
    pub identity: Identity,
}

/// The user that a step is, inside its sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// An ordinary user without any capability.
    #[default]
    User,
    /// Root of the step's own user namespace, with the few capabilities that a package manager needs.
    Root,
}

/// What a step may reach. Empty: nothing; attempts are refused by the kernel, and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Egress {
    /// Destinations by name.
    pub allow: Vec<Destination>,
    /// Groups of destinations that the agent's host resolves from its own configuration.
    pub presets: Vec<Preset>,
    /// Address ranges that an allowed name may resolve to although they are private. They allow no destination by themselves.
    pub ranges: Vec<AddressRange>,
    /// Package indexes answer as they stood before this moment; `None` for as they stand now.
    pub before: Option<crate::time::Timestamp>,
    /// The most bytes that the step may carry, both ways together; `None` for no limit.
    pub bytes: Option<u64>,
    /// The most connections that it may have open at once; `None` leaves it to the agent.
    pub connections: Option<u32>,
    /// Whether packages come from the store of the agent's host alone: what is not there fails, and nobody outside is asked.
    pub stored: bool,
    /// Whether a step fails that reaches for something which nothing allows.
    pub fail_on_new: bool,
    /// Whether everything public is allowed, to learn what the step wants.
    pub learn: bool,
    /// Why this was granted, for the ledger and for people: `default: installs packages`, `policy.toml rule 2`.
    pub reason: String,
}

impl Egress {
    /// Whether nothing at all is reachable.
    pub fn is_closed(&self) -> bool {
        self.allow.is_empty() && self.presets.is_empty() && !self.learn
    }
}

/// A group of destinations known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The Python package index that the agent's host is configured for, and where that index keeps its files.
    PythonPackages,
    /// The npm registry, or registries, that the agent's host is configured for.
    NodePackages,
    /// The Debian or Ubuntu archives that the agent's host is configured for.
    DebianPackages,
}

/// A host, exact or `*.example.com` (one or more whole labels in place of the star), and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Destination {
    /// The host in lower case: a name, a `*.` pattern or an address literal (IPv6 without brackets).
    pub host: String,
    /// The port; `None` allows 443 and 80.
    pub port: Option<u16>,
}

/// A text is not a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDestination {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not a destination: {}; write HOST or HOST:PORT, such as pypi.example.com:443", self.text, self.reason)
    }
}

impl std::error::Error for InvalidDestination {}

impl std::str::FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Destination, InvalidDestination> {
        let wrong = |reason| InvalidDestination { text: text.to_owned(), reason };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, tail) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("the brackets hold no IPv6 address"))?;
            match tail {
                "" => (host, None),
                _ => (host, Some(tail.strip_prefix(':').ok_or_else(|| wrong("a port is written after a colon"))?)),
            }
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
                Ok(port) => Some(port),
            },
        };
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        if host.parse::<IpAddr>().is_err() {
            let name = host.strip_prefix("*.").unwrap_or(&host);
            let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if name.len() > 253 || !name.split('.').all(label) {
                return Err(wrong("the host is neither a name, nor *. and a name, nor an address"));
            }
        }
        Ok(Destination { host, port })
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (_, None) => f.write_str(&self.host),
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> String {
        destination.to_string()
    }
}

impl TryFrom<String> for Destination {
    type Error = InvalidDestination;

    fn try_from(text: String) -> Result<Destination, InvalidDestination> {
        text.parse()
    }
}

impl Destination {
    /// Whether `host` (a name in any case, or an address literal without brackets) is meant by this, with some port.
    pub fn covers_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match self.host.strip_prefix("*.") {
            Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => host == self.host,
        }
    }

    /// Whether a connection to `host` (a name in any case, or an address literal without brackets) and `port` is meant by this.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.covers_host(host) && self.port.map_or(port == 443 || port == 80, |allowed| allowed == port)
    }
}

/// Addresses that share their first bits: `10.0.0.0/8`, `fd00::/8`. A single address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AddressRange {
    base: IpAddr,
    bits: u8,
}

/// A text is not an address range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddressRange {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidAddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not an address range: {}; write ADDRESS or ADDRESS/BITS, such as 10.0.0.0/8", self.text, self.reason)
    }
}

impl std::error::Error for InvalidAddressRange {}

impl AddressRange {
    /// The range of one address.
    pub fn single(address: IpAddr) -> AddressRange {
        let base = address.to_canonical();
        AddressRange { base, bits: width(base) }
    }

    /// Whether `address` lies in the range. An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) counts as the IPv4 address that it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.base) && masked(address, self.bits) == self.base
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with all but its first `bits` bits cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

impl std::str::FromStr for AddressRange {
    type Err = InvalidAddressRange;

    fn from_str(text: &str) -> Result<AddressRange, InvalidAddressRange> {
        let wrong = |reason| InvalidAddressRange { text: text.to_owned(), reason };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| wrong("what stands before the slash is no IP address"))?;
        if base.to_canonical() != base {
            return Err(wrong("it is an IPv4 address in IPv6 form; write the IPv4 address"));
        }
        let bits = match bits {
            None => width(base),
            Some(bits) if bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= width(base)).ok_or_else(|| wrong("the number of bits is too large"))?
            }
            Some(_) => return Err(wrong("the number of bits is not a number")),
        };
        if masked(base, bits) != base {
            return Err(wrong("bits are set after the prefix"));
        }
        Ok(AddressRange { base, bits })
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

impl TryFrom<String> for AddressRange {
    type Error = InvalidAddressRange;

    fn try_from(text: String) -> Result<AddressRange, InvalidAddressRange> {
        text.parse()
    }
}

/// Limits of one step. `None` means that policy has no opinion and the agent's own default holds; an agent may lower, never raise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory of all processes of the step together, with its tmpfs, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time per wall time, in thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Share of the processors when others want them too, from 1 to 10000; 100 is everybody's.
    pub cpu_weight: Option<u32>,
    /// Processes and threads alive at once.
    pub pids: Option<u32>,
    /// Bytes on everything that the step's job can write.
    pub disk_bytes: Option<u64>,
    /// Files and directories likewise.
    pub inodes: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// The longest a step may take, whatever its `timeout-minutes` says.
    pub wall: Option<Duration>,
    /// Bytes that the step's log keeps before it is elided.
    pub log_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn destinations_cover_what_they_name_and_nothing_else() {
        let table = [
            ("pypi.org", "pypi.org", 443, true),
            ("pypi.org", "PyPI.org.", 80, true),
            ("pypi.org", "pypi.org", 22, false),
            ("pypi.org:8080", "pypi.org", 8080, true),
            ("pypi.org:8080", "pypi.org", 443, false),
            ("pypi.org", "evilpypi.org", 443, false),
            ("pypi.org", "a.pypi.org", 443, false),
            ("*.pypi.org", "a.pypi.org", 443, true),
            ("*.pypi.org", "a.b.pypi.org", 443, true),
            ("*.pypi.org", "pypi.org", 443, false),
            ("*.pypi.org", ".pypi.org", 443, false),
            ("*.pypi.org", "evilpypi.org", 443, false),
            ("127.0.0.1:9", "127.0.0.1", 9, true),
            ("[::1]:9", "::1", 9, true),
        ];
        for (rule, host, port, expected) in table {
            let destination: Destination = rule.parse().unwrap();
            assert_eq!(destination.covers(host, port), expected, "{rule} {host}:{port}");
            assert_eq!(destination.to_string().parse::<Destination>().unwrap(), destination);
        }
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for text in ["", ":443", "a b", "host:0", "host:99999", "host:x", "*", "a.*.b", "[::1", "[nope]:1", "http://x", "x/y"] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_hold_what_shares_their_prefix() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
        ];
        for (range, address, expected) in table {
            let range: AddressRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{range} {address}");
            assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
        }
        assert!(AddressRange::single("::ffff:10.0.0.1".parse().unwrap()).contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0/8",
            "::/129",
            "::/+1",
            "::ffff:10.0.0.0/104",
            "host/8",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
