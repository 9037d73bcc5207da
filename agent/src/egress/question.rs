//! Questions to a name server (RFC 1035), read as narrowly as a namespace needs, and answers to them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest name, in characters.
const LONGEST: usize = 253;
/// Seconds that an answer holds. The addresses stay the name's own, but nobody needs to remember that.
const LIFE: u32 = 60;

const ADDRESS: u16 = 1;
const ADDRESS_6: u16 = 28;
const INTERNET: u16 = 1;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The name: lower case, no trailing dot, letters, digits, `-`, `_` and dots only.
    pub name: String,
    kind: u16,
    head: [u8; 4],
    /// The question as it was sent.
    section: Vec<u8>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These addresses; questions for anything else than an address get an empty answer.
    Addresses(Ipv4Addr, Ipv6Addr),
    /// There is no such name.
    Unknown,
    /// Nothing more can be answered now.
    Failed,
}

/// Why bytes are no question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misread {
    /// Nothing is answered: it is no question at all.
    Silent,
    /// This is answered.
    Answered(Vec<u8>),
}

/// Reads one message.
pub(super) fn read(bytes: &[u8]) -> Result<Question, Misread> {
    const FORMAT_ERROR: u8 = 1;
    const NOT_IMPLEMENTED: u8 = 4;
    const NO_SUCH_NAME: u8 = 3;
    let Some((head, rest)) = bytes.split_at_checked(12) else { return Err(Misread::Silent) };
    // An answer, which nobody here asked for.
    if head[2] & 0x80 != 0 {
        return Err(Misread::Silent);
    }
    let head4 = [head[0], head[1], head[2], head[3]];
    let refuse = |code| Misread::Answered(message(head4, code, &[], &[]));
    if head[2] & 0x78 != 0 {
        return Err(refuse(NOT_IMPLEMENTED));
    }
    if head[4..6] != [0, 1] || head[6..10] != [0; 4] {
        return Err(refuse(FORMAT_ERROR));
    }
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = usize::from(*rest.get(at).ok_or_else(|| refuse(FORMAT_ERROR))?);
        at += 1;
        if length == 0 {
            break;
        }
        // Pointers among them: a question has nothing to point to.
        let label = (length <= 63).then(|| rest.get(at..at + length)).flatten().ok_or_else(|| refuse(FORMAT_ERROR))?;
        at += length;
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(refuse(NO_SUCH_NAME));
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        if name.len() > LONGEST {
            return Err(refuse(FORMAT_ERROR));
        }
    }
    let Some([kind_high, kind_low, class_high, class_low]) = rest.get(at..at + 4) else { return Err(refuse(FORMAT_ERROR)) };
    if u16::from_be_bytes([*class_high, *class_low]) != INTERNET || name.is_empty() {
        return Err(refuse(NO_SUCH_NAME));
    }
    let kind = u16::from_be_bytes([*kind_high, *kind_low]);
    Ok(Question { name, kind, head: head4, section: rest[..at + 4].to_vec() })
}

impl Question {
    /// The message that answers it; always shorter than 512 bytes, so that it fits every datagram.
    pub(super) fn answer(&self, answer: Answer) -> Vec<u8> {
        let record = |kind: u16, data: &[u8]| {
            let mut record = vec![0xc0, 12]; // the name of the question
            record.extend_from_slice(&kind.to_be_bytes());
            record.extend_from_slice(&INTERNET.to_be_bytes());
            record.extend_from_slice(&LIFE.to_be_bytes());
            record.extend_from_slice(&[0, data.len() as u8]);
            record.extend_from_slice(data);
            record
        };
        let (code, records) = match (answer, self.kind) {
            (Answer::Addresses(address, _), ADDRESS) => (0, record(ADDRESS, &address.octets())),
            (Answer::Addresses(_, address), ADDRESS_6) => (0, record(ADDRESS_6, &address.octets())),
            (Answer::Addresses(..), _) => (0, Vec::new()),
            (Answer::Unknown, _) => (3, Vec::new()),
            (Answer::Failed, _) => (2, Vec::new()),
        };
        message(self.head, code, &self.section, &records)
    }
}

fn message(head: [u8; 4], code: u8, question: &[u8], records: &[u8]) -> Vec<u8> {
    let [id_high, id_low, flags, _] = head;
    // An answer, recursion available; what was desired is repeated.
    let mut bytes = vec![id_high, id_low, 0x80 | (flags & 0x01), 0x80 | code];
    bytes.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, u8::from(!records.is_empty()), 0, 0, 0, 0]);
    bytes.extend_from_slice(question);
    bytes.extend_from_slice(records);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn question(labels: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    #[test]
    fn addresses_are_answered_and_other_kinds_have_none() {
        let both = Answer::Addresses(Ipv4Addr::new(198, 18, 0, 2), "fdca:155e::2".parse().unwrap());
        let asked = read(&question(&[b"Py", b"Example"], ADDRESS)).unwrap();
        assert_eq!(asked.name, "py.example");
        let bytes = asked.answer(both);
        assert_eq!((&bytes[..4], &bytes[4..8]), (&[7, 9, 0x81, 0x80][..], &[0, 1, 0, 1][..]));
        assert_eq!(bytes[bytes.len() - 4..], [198, 18, 0, 2]);
        assert_eq!(read(&question(&[b"a"], ADDRESS_6)).unwrap().answer(both).last(), Some(&2));
        // TXT, MX, NULL, ANY, HTTPS: a tunnel would like them.
        for kind in [16, 15, 10, 255, 65] {
            let bytes = read(&question(&[b"a"], kind)).unwrap().answer(both);
            assert_eq!((bytes[3] & 0xf, bytes[7]), (0, 0), "{kind}");
        }
        assert_eq!(read(&question(&[b"a"], ADDRESS)).unwrap().answer(Answer::Unknown)[3] & 0xf, 3);
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let code = |bytes: &[u8]| match read(bytes) {
            Err(Misread::Answered(answer)) => Some(answer[3] & 0xf),
            Err(Misread::Silent) => None,
            Ok(question) => panic!("{question:?}"),
        };
        let long = [b'x'; 63];
        assert_eq!(code(&question(&[&long, &long, &long, &long], ADDRESS)), Some(1), "255 characters");
        assert_eq!(code(&question(&[b"a\0b"], ADDRESS)), Some(3));
        assert_eq!(code(&question(&[b"a b", b"example"], ADDRESS)), Some(3));
        let mut pointer = question(&[b"a"], ADDRESS);
        pointer[12] = 0xc0;
        assert_eq!(code(&pointer), Some(1));
        let mut update = question(&[b"a"], ADDRESS);
        update[2] = 5 << 3;
        assert_eq!(code(&update), Some(4));
        let mut two = question(&[b"a"], ADDRESS);
        two[5] = 2;
        assert_eq!(code(&two), Some(1));
        let mut answer = question(&[b"a"], ADDRESS);
        answer[2] |= 0x80;
        assert_eq!(code(&answer), None);
        assert_eq!(code(&[0; 11]), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let answer = Answer::Addresses(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
            let length = read(&bytes).map(|question| question.answer(answer).len()).unwrap_or_default();
            assert!(length <= 512);
        }
    }
}
