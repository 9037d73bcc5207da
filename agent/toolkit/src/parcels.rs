//! Parcels: what clients send piece by piece, in any order, and what is made ready for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_model::id::Digest;
use tokio::sync::OnceCell;

use crate::answer::Refusal;
use crate::forms::Packing;
use crate::token::{self, NoChance};

/// The most parcels of a step.
const MOST: usize = 2000;
/// The most pieces of a parcel, as blob stores have it.
const MOST_PIECES: usize = 50_000;
/// The longest name of a piece.
const LONGEST_NAME: usize = 128;

/// What a parcel is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// An artifact of this name.
    Artifact {
        /// Its name.
        name: String,
        /// Whether the client packs several files into an archive; else it sends one as it is.
        archive: bool,
    },
    /// A cache entry.
    Cache {
        /// Its key.
        key: String,
        /// Its version, as clients have it.
        version: String,
    },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) packing: Packing,
}

/// A file with its bytes, once it was made ready for whoever asks first.
pub(crate) type Ready = Arc<OnceCell<(Arc<File>, u64)>>;

enum Parcel {
    Coming(Coming),
    Going { signature: String, wanted: Wanted, ready: Ready },
}

struct Coming {
    signature: String,
    purpose: Purpose,
    file: Arc<File>,
    /// Where the next piece goes.
    end: u64,
    /// Offset and length of each piece, by the name that the client gave it.
    pieces: HashMap<String, (u64, u64)>,
    /// The pieces in their order, once the client has said it.
    order: Option<Vec<(u64, u64)>>,
}

/// Room for a piece that is being received.
pub(crate) struct Room {
    pub(crate) file: Arc<File>,
    pub(crate) at: u64,
}

/// All parcels of a desk.
pub(crate) struct Parcels {
    spool: PathBuf,
    most: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    serial: u64,
    used: u64,
    parcels: HashMap<u64, Parcel>,
}

impl Parcels {
    /// Parcels in files without a name in `spool`, of at most `most` bytes together.
    pub(crate) fn new(spool: PathBuf, most: u64) -> Parcels {
        Parcels { spool, most, state: Mutex::default() }
    }

    pub(crate) fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.spool)
    }

    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, parcel: Parcel) -> Result<u64, Refusal> {
        let mut state = self.state();
        if state.parcels.len() >= MOST {
            return Err(Refusal::too_much(format!("a step keeps and fetches at most {MOST} things")));
        }
        state.serial += 1;
        let number = state.serial;
        state.parcels.insert(number, parcel);
        Ok(number)
    }

    /// Begins one; answers its number and signature.
    pub(crate) fn begin(&self, purpose: Purpose) -> Result<(u64, String), Refusal> {
        let signature = secret()?;
        let file = Arc::new(self.file()?);
        let coming = Coming { signature: signature.clone(), purpose, file, end: 0, pieces: HashMap::new(), order: None };
        Ok((self.add(Parcel::Coming(coming))?, signature))
    }

    /// Promises one; answers its number and signature.
    pub(crate) fn promise(&self, wanted: Wanted) -> Result<(u64, String), Refusal> {
        let signature = secret()?;
        Ok((self.add(Parcel::Going { signature: signature.clone(), wanted, ready: Arc::default() })?, signature))
    }

    /// Whether `signature` opens this parcel.
    pub(crate) fn opens(&self, number: u64, signature: &str) -> bool {
        self.state().parcels.get(&number).is_some_and(|parcel| match parcel {
            Parcel::Coming(Coming { signature: own, .. }) | Parcel::Going { signature: own, .. } => token::same(own, signature),
        })
    }

    /// What is to be sent.
    pub(crate) fn going(&self, number: u64) -> Option<(Wanted, Ready)> {
        match self.state().parcels.get(&number) {
            Some(Parcel::Going { wanted, ready, .. }) => Some((wanted.clone(), Arc::clone(ready))),
            _ => None,
        }
    }

    fn with<T>(&self, number: u64, change: impl FnOnce(&mut Coming, &mut u64) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let state = &mut *self.state();
        match state.parcels.get_mut(&number) {
            Some(Parcel::Coming(coming)) => change(coming, &mut state.used),
            _ => Err(Refusal::missing("there is no such upload")),
        }
    }

    /// Room for a piece of `length` bytes: at `at`, or behind all others.
    pub(crate) fn room(&self, number: u64, at: Option<u64>, length: u64) -> Result<Room, Refusal> {
        let most = self.most;
        self.with(number, |coming, used| {
            let at = at.unwrap_or(coming.end);
            let end = at.checked_add(length).filter(|end| *end <= most);
            let end = end.ok_or_else(|| Refusal::too_much(format!("an upload has at most {most} bytes")))?;
            let more = end.saturating_sub(coming.end);
            // Everything that was sent counts, also what was sent again: it lies on this machine's disk.
            if used.saturating_add(more) > most {
                return Err(Refusal::too_much(format!("a step uploads at most {most} bytes")));
            }
            *used += more;
            coming.end = coming.end.max(end);
            Ok(Room { file: Arc::clone(&coming.file), at })
        })
    }

    /// A piece is there.
    pub(crate) fn arrived(&self, number: u64, name: &str, at: u64, length: u64) -> Result<(), Refusal> {
        self.with(number, |coming, _| {
            if name.len() > LONGEST_NAME || coming.pieces.len() >= MOST_PIECES {
                return Err(Refusal::too_much(format!("an upload has at most {MOST_PIECES} blocks")));
            }
            coming.pieces.insert(name.to_owned(), (at, length));
            Ok(())
        })
    }

    /// These pieces, in this order, are the whole.
    pub(crate) fn order(&self, number: u64, names: &[String]) -> Result<(), Refusal> {
        self.with(number, |coming, _| {
            let found: Option<Vec<(u64, u64)>> = names.iter().map(|name| coming.pieces.get(name).copied()).collect();
            let order = found.ok_or_else(|| Refusal::malformed("the list names a block that was not sent"))?;
            if order.len() > MOST_PIECES || order.iter().map(|(_, length)| length).sum::<u64>() > self.most {
                return Err(Refusal::too_much(format!("an upload has at most {} bytes", self.most)));
            }
            coming.order = Some(order);
            Ok(())
        })
    }

    /// The file up to its end is the whole: for clients that say themselves where each piece belongs.
    pub(crate) fn settle(&self, number: u64, size: u64) -> Result<(), Refusal> {
        self.with(number, |coming, _| {
            // Every byte must have come: what was never sent would read as zeros.
            let mut spans: Vec<(u64, u64)> = coming.pieces.values().copied().collect();
            spans.sort_unstable();
            let mut reached = 0;
            for (at, length) in spans {
                if at > reached {
                    break;
                }
                reached = reached.max(at + length);
            }
            if reached != size {
                return Err(Refusal::malformed(format!("the upload has {reached} bytes without a gap, and {size} were announced")));
            }
            coming.order = Some(vec![(0, size)]);
            Ok(())
        })
    }

    /// Ends the newest upload of this purpose, or the one of a number: answers its purpose and content.
    pub(crate) fn take(&self, is_it: impl Fn(u64, &Purpose) -> bool) -> Result<(Purpose, Assembled), Refusal> {
        let mut state = self.state();
        let found =
            state.parcels.iter().filter(|(number, parcel)| matches!(parcel, Parcel::Coming(coming) if is_it(**number, &coming.purpose)));
        let number = found.map(|(number, _)| *number).max().ok_or_else(|| Refusal::missing("there is no such upload"))?;
        match state.parcels.remove(&number) {
            Some(Parcel::Coming(Coming { purpose, file, order: Some(order), .. })) => Ok((purpose, Assembled::new(file, order))),
            _ => Err(Refusal::malformed("nothing was uploaded")),
        }
    }

    /// Forgets the uploads that `is_it` names.
    pub(crate) fn forget(&self, is_it: impl Fn(&Purpose) -> bool) {
        self.state().parcels.retain(|_, parcel| !matches!(parcel, Parcel::Coming(coming) if is_it(&coming.purpose)));
    }
}

fn secret() -> Result<String, Refusal> {
    token::secret().map_err(|NoChance| Refusal::from(io::Error::other("no randomness")))
}

/// The pieces of a file in their order, read as one.
#[derive(Debug)]
pub(crate) struct Assembled {
    file: Arc<File>,
    order: Vec<(u64, u64)>,
    /// Where each piece ends in the whole.
    ends: Vec<u64>,
    length: u64,
    at: u64,
}

impl Assembled {
    fn new(file: Arc<File>, mut order: Vec<(u64, u64)>) -> Assembled {
        order.retain(|(_, length)| *length > 0);
        let mut length = 0;
        let ends = order.iter().map(|(_, piece)| {
            length += piece;
            length
        });
        Assembled { file, ends: ends.collect(), order, length, at: 0 }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

impl Read for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.ends.partition_point(|end| *end <= self.at);
        let (Some((start, length)), Some(end)) = (self.order.get(piece), self.ends.get(piece)) else { return Ok(0) };
        let left = end - self.at;
        let room = left.min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..room], start + length - left)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Assembled {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= self.length).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parcels(most: u64) -> (tempfile::TempDir, Parcels) {
        let dir = tempfile::tempdir().unwrap();
        let parcels = Parcels::new(dir.path().to_owned(), most);
        (dir, parcels)
    }

    fn purpose() -> Purpose {
        Purpose::Artifact { name: "a".to_owned(), archive: true }
    }

    fn send(parcels: &Parcels, number: u64, name: &str, at: Option<u64>, bytes: &[u8]) -> Result<(), Refusal> {
        let room = parcels.room(number, at, bytes.len() as u64)?;
        room.file.write_all_at(bytes, room.at).unwrap();
        parcels.arrived(number, name, room.at, bytes.len() as u64)
    }

    #[test]
    fn blocks_are_put_in_the_order_that_the_client_says() {
        let (_dir, parcels) = parcels(1000);
        let (number, signature) = parcels.begin(purpose()).unwrap();
        assert!(parcels.opens(number, &signature) && !parcels.opens(number, "x") && !parcels.opens(number + 1, &signature));
        for (name, text) in [("b", "world"), ("a", "hello "), ("b", "World"), ("c", "never named")] {
            send(&parcels, number, name, None, text.as_bytes()).unwrap();
        }
        assert!(parcels.order(number, &["a".to_owned(), "z".to_owned()]).is_err());
        parcels.order(number, &["a".to_owned(), "b".to_owned()]).unwrap();
        let (_, mut whole) = parcels.take(|_, found| *found == purpose()).unwrap();
        let mut text = String::new();
        whole.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello World");
        whole.seek(SeekFrom::End(-5)).unwrap();
        text.clear();
        whole.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), whole.length()), ("World", 11));
        assert!(parcels.take(|_, found| *found == purpose()).is_err(), "it is taken once");
    }

    #[test]
    fn an_upload_with_a_gap_is_none() {
        let (_dir, parcels) = parcels(1000);
        let (number, _) = parcels.begin(purpose()).unwrap();
        send(&parcels, number, "5", Some(5), b"56789").unwrap();
        assert!(parcels.settle(number, 10).is_err());
        send(&parcels, number, "0", Some(0), b"01234").unwrap();
        assert!(parcels.settle(number, 11).is_err());
        parcels.settle(number, 10).unwrap();
        let (_, mut whole) = parcels.take(|found, _| found == number).unwrap();
        let mut text = String::new();
        whole.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789");
    }

    #[test]
    fn bytes_are_bounded_over_all_uploads() {
        let (_dir, parcels) = parcels(10);
        let (one, _) = parcels.begin(purpose()).unwrap();
        let (two, _) = parcels.begin(purpose()).unwrap();
        send(&parcels, one, "a", None, b"123456").unwrap();
        assert!(send(&parcels, two, "a", None, b"12345").is_err());
        assert!(send(&parcels, two, "a", Some(u64::MAX), b"1").is_err());
        send(&parcels, two, "a", None, b"1234").unwrap();
        assert!(send(&parcels, one, "b", None, b"1").is_err());
    }
}
