//! The hash chain over a log. Its links are stretches of 64 KiB; each is bound to the one before it, so that the head stands
//! for every byte and its place, and whoever reads can say in which stretch something was changed.

use caisson_model::id::Digest;
use sha2::{Digest as _, Sha256};

/// The bytes of a link.
pub const LINK: usize = 64 * 1024;

/// A chain over the bytes that it was shown, however they were cut. The one over nothing has a head of zeros.
#[derive(Clone, Debug)]
pub struct Chain {
    head: [u8; 32],
    link: Sha256,
    filled: usize,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::after([0; 32])
    }
}

impl Chain {
    fn after(head: [u8; 32]) -> Chain {
        Chain { head, link: Sha256::new_with_prefix(head), filled: 0 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LINK - self.filled));
            self.link.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == LINK {
                *self = Chain::after(self.link.clone().finalize().into());
            }
        }
    }

    /// What stands for all bytes so far; the last link may be short.
    pub fn head(&self) -> Digest {
        Digest(if self.filled == 0 { self.head } else { self.link.clone().finalize().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pieces: &[&[u8]]) -> Digest {
        let mut chain = Chain::default();
        pieces.iter().for_each(|piece| chain.update(piece));
        chain.head()
    }

    #[test]
    fn how_the_bytes_are_cut_does_not_matter_and_where_they_stand_does() {
        let bytes: Vec<u8> = (0..3 * LINK + 17).map(|i| (i / 3) as u8).collect();
        let whole = head(&[&bytes]);
        for cut in [1, 7, LINK - 1, LINK, LINK + 1, 3 * LINK + 16] {
            assert_eq!(head(&[&bytes[..cut], &[], &bytes[cut..]]), whole);
        }
        assert_eq!(head(&[]), Digest([0; 32]));
        let mut swapped = bytes.clone();
        swapped.rotate_left(LINK);
        assert_ne!(head(&[&swapped]), whole);
        assert_ne!(head(&[&bytes[..LINK]]), head(&[&bytes[..LINK + 1]]));
        let first: [u8; 32] = Sha256::new_with_prefix([0; 32]).chain_update(b"ab").finalize().into();
        assert_eq!(head(&[b"a", b"b"]), Digest(first));
    }
}
