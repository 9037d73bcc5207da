//! Messages to the kernel's netlink sockets (netlink(7)), written by hand: the few that a network namespace of ours needs.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// NLM_F_REQUEST and NLM_F_ACK: a request whose outcome is told.
pub(crate) const ACKNOWLEDGED: u16 = 0x1 | 0x4;
/// NLM_F_REQUEST alone.
pub(crate) const UNACKNOWLEDGED: u16 = 0x1;
/// NLM_F_CREATE.
pub(crate) const CREATE: u16 = 0x400;
/// NLM_F_EXCL.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// NLM_F_APPEND.
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLMSG_ERROR.
const ERROR: u16 = 2;

/// Messages one after another, as one datagram.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    acknowledged: usize,
    sequence: u32,
}

impl Batch {
    /// Adds one message: what stands between its header and its attributes, then the attributes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fixed: &[u8], attributes: impl FnOnce(&mut Attributes)) {
        self.sequence += 1;
        if flags & ACKNOWLEDGED == ACKNOWLEDGED {
            self.acknowledged += 1;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        let mut writer = Attributes { bytes: std::mem::take(&mut self.bytes) };
        writer.pad();
        attributes(&mut writer);
        self.bytes = writer.bytes;
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends everything, and waits for nothing.
    pub(crate) fn tell(self, socket: &OwnedFd) -> Result<(), Errno> {
        send(socket.as_raw_fd(), &self.bytes, MsgFlags::empty()).map(drop)
    }

    /// Sends everything and waits until each acknowledged message is. The first refusal is the error.
    pub(crate) fn send(self, socket: &OwnedFd) -> Result<(), Errno> {
        send(socket.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        let mut left = self.acknowledged;
        let mut buffer = vec![0; 32 * 1024];
        while left > 0 {
            let read = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(read) => read,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            let mut rest = &buffer[..read];
            while let Some((kind, body, next)) = split(rest) {
                if let (ERROR, Some(code)) = (kind, number(body)) {
                    if code != 0 {
                        return Err(Errno::from_raw(-code));
                    }
                    left = left.saturating_sub(1);
                }
                rest = next;
            }
        }
        Ok(())
    }
}

/// The first message of a datagram: its kind, what follows its header, and the rest.
pub(crate) fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of an attribute, by its kind.
pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(body: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(body.get(..4)?.try_into().ok()?))
}

/// Writes the attributes of a message.
#[derive(Debug)]
pub(crate) struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// One attribute with these bytes.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A text with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.put(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A number in network order, as netfilter wants all of its own.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }
}

/// A netlink socket in the caller's network namespace.
pub(crate) fn open(protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
}

/// What follows the header of the one answer to a batch of one request, over a socket of its own.
pub(crate) fn answer(protocol: SockProtocol, batch: Batch) -> Result<Vec<u8>, Errno> {
    let socket = open(protocol)?;
    send(socket.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
    let mut buffer = vec![0; 4096];
    // The kernel has answered when send returns.
    let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    match split(&buffer[..read]) {
        Some((ERROR, body, _)) => Err(number(body).map_or(Errno::EBADMSG, |code| Errno::from_raw(-code))),
        Some((_, body, _)) => Ok(body.to_vec()),
        None => Err(Errno::EBADMSG),
    }
}

/// Sends one batch over a socket of its own.
pub(crate) fn ask(protocol: SockProtocol, batch: Batch) -> Result<(), Errno> {
    batch.send(&open(protocol)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_lengths() {
        let mut batch = Batch::default();
        batch.message(0x10, ACKNOWLEDGED, &[7; 3], |attributes| {
            attributes.text(1, "ab");
            attributes.nest(2, |inner| inner.number(3, 0x0102_0304));
        });
        let bytes = &batch.bytes;
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize, bytes.len());
        assert_eq!(&bytes[16..20], [7, 7, 7, 0]);
        assert_eq!(&bytes[20..28], [7, 0, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(&bytes[28..40], [12, 0, 2, 0x80, 8, 0, 3, 0, 1, 2, 3, 4]);
        assert_eq!(batch.acknowledged, 1);
    }
}
