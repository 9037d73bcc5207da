//! Secret bytes become `***` in a stream, wherever the stream is cut.
//!
//! Every byte that belongs to any occurrence of any needle is masked, also where occurrences overlap; each stretch of
//! masked bytes becomes one replacement. Only a suffix that may still grow into a needle is held back, so that a prompt
//! without a line feed shows at once. How the stream is cut into pushes never changes what comes out.
//!
//! Text that a tool wraps (base64, hexadecimal, in lines of at least 48 such characters) is searched as if the
//! line breaks were not there.
//!
//! Not here: where the bytes come from and where they go, and whether a step may have a secret at all.

mod encodings;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, StartKind, dfa::DFA};

/// Lines of encoded text that are at least this long may be wrapped ones. Tools wrap at 60, 64 or 76.
const WRAP: usize = 48;

/// The stretch of the stream before the held bytes that is kept to recognise wrapped lines: the line and a carriage return.
const CONTEXT: usize = WRAP + 1;

/// The most bytes of all values together. Searching for one byte of a value costs some hundred bytes of memory.
const MAX_VALUES: usize = 256 * 1024;

/// Needles of more bytes than this together are searched with a smaller, slower automaton.
const DFA_BYTES: usize = 64 * 1024;

/// A value cannot be masked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmaskable {
    /// After trimming so little is left that masking it would blank out half the log.
    #[error(
        "cannot mask a value of {length} bytes: it would hide ordinary output; use a secret of at least {} characters",
        encodings::SHORTEST
    )]
    TooShort {
        /// Bytes left of the value.
        length: usize,
    },
    /// All values together would cost more memory and time than one stream may.
    #[error("cannot mask another value of {length} bytes: all values together are limited to {MAX_VALUES} bytes")]
    TooMuch {
        /// Bytes of the value.
        length: usize,
    },
}

/// Masks one stream. `Debug` shows no value.
#[derive(Default)]
pub struct Masker {
    /// Needles that no search has yet.
    fresh: BTreeSet<Vec<u8>>,
    /// Each with much fewer needles than the one before it: adding a value builds the last ones anew and leaves the others.
    searches: Vec<Arc<Search>>,
    values: usize,
    replacement: Replacement,
    stream: Stream,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needles = self.fresh.len() + self.searches.iter().map(|search| search.needles.len()).sum::<usize>();
        f.debug_struct("Masker").field("needles", &needles).field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Masker {
    /// A masker for these values, each in all its encodings. [`Unmaskable`] for the first value that cannot be masked; to go on
    /// without it, [`Masker::add`] the values one by one.
    pub fn new<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Result<Masker, Unmaskable> {
        let mut masker = Masker::default();
        values.into_iter().try_for_each(|value| masker.add(value.as_ref()))?;
        Ok(masker)
    }

    /// Masks this value as well, from the bytes that are still held on. White space around the value does not count.
    /// Adding a value twice changes nothing.
    pub fn add(&mut self, value: &[u8]) -> Result<(), Unmaskable> {
        let value = value.trim_ascii();
        let length = value.len();
        if length < encodings::SHORTEST {
            return Err(Unmaskable::TooShort { length });
        }
        let mut needles = BTreeSet::new();
        // Looked up before anything is spelt, so that repeating a large value costs nothing.
        if self.knows(value) && length > encodings::LONG {
            return Ok(());
        }
        if length > MAX_VALUES - self.values {
            return Err(Unmaskable::TooMuch { length });
        }
        encodings::spell(value, &mut needles);
        needles.retain(|needle| !self.knows(needle));
        if !needles.is_empty() {
            self.values += length;
            self.fresh.append(&mut needles);
        }
        Ok(())
    }

    fn knows(&self, needle: &[u8]) -> bool {
        self.fresh.contains(needle) || self.searches.iter().any(|search| search.needles.contains(needle))
    }

    /// Bytes that were pushed and have not come out: they may be the beginning of a needle.
    pub fn held(&self) -> usize {
        self.stream.buffer.len() - self.stream.emitted
    }

    /// Takes the next bytes of the stream and appends to `out` all that is settled.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.refresh();
        if self.searches.is_empty() {
            return out.extend_from_slice(bytes);
        }
        self.stream.scan(bytes);
        let settled = self.stream.settle();
        self.stream.emit(settled, &self.replacement, out);
    }

    /// Ends the stream: what was held did not become a needle. The masker is then ready for another stream.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.refresh();
        self.stream.emit(self.stream.buffer.len(), &self.replacement, out);
        self.stream = Stream::new(&self.searches);
    }

    /// Masks a text that is not part of the stream, such as a summary or an annotation.
    pub fn mask(&mut self, text: &[u8]) -> Vec<u8> {
        self.refresh();
        let stream = std::mem::replace(&mut self.stream, Stream::new(&self.searches));
        let mut out = Vec::with_capacity(text.len());
        self.push(text, &mut out);
        self.finish(&mut out);
        self.stream = stream;
        out
    }

    /// Brings fresh needles into use. A search takes over those before it that are not much larger, so that after any number
    /// of additions there are few searches, and each needle was built into few of them.
    fn refresh(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let mut needles = std::mem::take(&mut self.fresh);
        if !self.replacement.fits(&needles) {
            let all = self.searches.iter().flat_map(|search| &search.needles).chain(&needles);
            self.replacement = Replacement::for_needles(&all.cloned().collect());
        }
        let size = |needles: &BTreeSet<Vec<u8>>| needles.iter().map(Vec::len).sum::<usize>();
        while let Some(last) = self.searches.pop_if(|last| size(&last.needles) <= 2 * size(&needles)) {
            needles.extend(last.needles.iter().cloned());
        }
        self.searches.push(Arc::new(Search::new(needles)));
        self.stream.adopt(&self.searches);
    }
}

/// What stands for a masked stretch: three equal characters that no needle can share a byte with, so that what is put in
/// never completes a needle: no needle begins or ends with the character or has three of them in a row.
struct Replacement([u8; 3]);

impl Default for Replacement {
    fn default() -> Replacement {
        Replacement(*b"***")
    }
}

impl Replacement {
    fn for_needles(needles: &BTreeSet<Vec<u8>>) -> Replacement {
        let candidates = b"*#~=_".iter().copied().chain(b'!'..=b'~').chain(128..=255);
        // With needles for every character there is nothing that cannot be mistaken for a part of one; stars then tell as little as anything.
        candidates.map(|c| Replacement([c; 3])).find(|replacement| replacement.fits(needles)).unwrap_or_default()
    }

    fn fits(&self, needles: &BTreeSet<Vec<u8>>) -> bool {
        let c = self.0.first();
        needles.iter().all(|n| n.first() != c && n.last() != c && !n.windows(3).any(|w| w == self.0))
    }
}

/// Some needles, their automaton, and for each of its states how many bytes of a needle it stands for.
struct Search {
    needles: BTreeSet<Vec<u8>>,
    automaton: Either,
    start: StateID,
    /// Sorted by state.
    depths: Vec<(StateID, u32)>,
}

enum Either {
    Dfa(DFA),
    Nfa(NFA),
    /// The automaton could not be built (needles beyond its limits). Nothing is let out then: the whole stream is masked.
    Closed,
}

impl Search {
    fn new(needles: BTreeSet<Vec<u8>>) -> Search {
        let total: usize = needles.iter().map(Vec::len).sum();
        let dfa = || DFA::builder().start_kind(StartKind::Unanchored).prefilter(false).build(&needles).ok();
        let nfa = || NFA::builder().prefilter(false).build(&needles).ok();
        let automaton = (total <= DFA_BYTES).then(dfa).flatten().map(Either::Dfa).or_else(|| nfa().map(Either::Nfa));
        let automaton = automaton.unwrap_or(Either::Closed);
        let (start, depths) = match &automaton {
            Either::Dfa(dfa) => depths(dfa, &needles),
            Either::Nfa(nfa) => depths(nfa, &needles),
            Either::Closed => (StateID::ZERO, Vec::new()),
        };
        Search { needles, automaton, start, depths }
    }

    fn depth(&self, state: StateID) -> usize {
        let found = self.depths.binary_search_by_key(&state, |(id, _)| *id);
        found.map_or(0, |at| self.depths[at].1 as usize)
    }
}

/// Walking each needle from the start visits every state by the one path that spells it, so the number of steps is the
/// state's depth: the longest suffix of what was read that begins a needle.
fn depths(automaton: &impl Automaton, needles: &BTreeSet<Vec<u8>>) -> (StateID, Vec<(StateID, u32)>) {
    let start = automaton.start_state(Anchored::No).unwrap_or(StateID::ZERO);
    let mut depths = Vec::new();
    for needle in needles {
        let mut state = start;
        for (depth, &byte) in (1..).zip(needle) {
            state = automaton.next_state(Anchored::No, state, byte);
            depths.push((state, depth));
        }
    }
    depths.sort_unstable();
    depths.dedup();
    (start, depths)
}

/// One stream under way. Positions are indices into `buffer`.
#[derive(Default)]
struct Stream {
    /// Some bytes that are out already, the held ones, and what was just pushed.
    buffer: Vec<u8>,
    /// Where the bytes begin that are not out.
    emitted: usize,
    /// Where the longest needle begins that may still become whole; before `emitted` when its first bytes are masked anyhow.
    open: usize,
    /// Whether the last byte that went out was masked: the replacement stands there already.
    masking: bool,
    /// Stretches to mask: in order, apart from each other, none ending before `emitted`.
    covered: Vec<(usize, usize)>,
    readers: Vec<Reader>,
}

/// Where one search stands in the stream.
struct Reader {
    search: Arc<Search>,
    plain: StateID,
    wrapped: Option<Wrapped>,
}

/// A second reading of the stream that skips the line breaks of wrapped text. It lives only while it stands within a needle.
struct Wrapped {
    state: StateID,
    /// Where the skipped bytes stand, ascending.
    skipped: Vec<usize>,
}

impl Wrapped {
    /// Where a stretch of `length` bytes that were not skipped begins, when it ends before `end`.
    fn begin(&self, end: usize, length: usize) -> usize {
        self.skipped.iter().rev().filter(|at| **at < end).fold(end - length, |begin, &at| begin - usize::from(at >= begin))
    }
}

impl Reader {
    fn new(search: &Arc<Search>) -> Reader {
        Reader { search: Arc::clone(search), plain: search.start, wrapped: None }
    }

    /// Reads on from `from` and tells each stretch to mask.
    fn read(&mut self, buffer: &[u8], from: usize, cover: &mut impl FnMut(usize, usize)) {
        let search = Arc::clone(&self.search);
        match &search.automaton {
            Either::Dfa(dfa) => self.walk(dfa, buffer, from, cover),
            Either::Nfa(nfa) => self.walk(nfa, buffer, from, cover),
            Either::Closed => cover(from, buffer.len()),
        }
    }

    fn walk(&mut self, automaton: &impl Automaton, buffer: &[u8], from: usize, cover: &mut impl FnMut(usize, usize)) {
        let mut state = self.plain;
        let mut at = from;
        while at < buffer.len() {
            if self.wrapped.is_none() {
                // Nearly all bytes are read here: one step each, and nothing to look up but matches.
                let line = buffer[at..].iter().take_while(|&&byte| byte != b'\n' && byte != b'\r');
                for &byte in line {
                    state = automaton.next_state(Anchored::No, state, byte);
                    at += 1;
                    if automaton.is_special(state) && automaton.is_match(state) {
                        cover(at - longest(automaton, state), at);
                    }
                }
            }
            let Some(&byte) = buffer.get(at) else { break };
            self.step_wrapped(automaton, &buffer[..at], state, byte, cover);
            state = automaton.next_state(Anchored::No, state, byte);
            at += 1;
            if automaton.is_special(state) && automaton.is_match(state) {
                cover(at - longest(automaton, state), at);
            }
        }
        self.plain = state;
    }

    /// Takes one byte in the second reading. `plain` is the first reading's state before that byte.
    fn step_wrapped(&mut self, automaton: &impl Automaton, before: &[u8], plain: StateID, byte: u8, cover: &mut impl FnMut(usize, usize)) {
        if (byte == b'\n' || byte == b'\r') && wrapped_line(before) {
            if self.wrapped.is_none() && plain != self.search.start {
                self.wrapped = Some(Wrapped { state: plain, skipped: Vec::new() });
            }
            if let Some(wrapped) = &mut self.wrapped {
                wrapped.skipped.push(before.len());
            }
        } else if let Some(mut wrapped) = self.wrapped.take() {
            wrapped.state = automaton.next_state(Anchored::No, wrapped.state, byte);
            let end = before.len() + 1;
            if automaton.is_special(wrapped.state) && automaton.is_match(wrapped.state) {
                cover(wrapped.begin(end, longest(automaton, wrapped.state)), end);
            }
            self.wrapped = Some(wrapped).filter(|wrapped| wrapped.state != self.search.start);
        }
    }

    /// Where the longest needle begins that may still become whole, when `end` bytes were read.
    fn open(&self, end: usize) -> usize {
        let plain = end - self.search.depth(self.plain);
        let wrapped = self.wrapped.as_ref().map_or(end, |wrapped| wrapped.begin(end, self.search.depth(wrapped.state)));
        plain.min(wrapped)
    }

    fn forget(&mut self, gone: usize) {
        if let Some(wrapped) = &mut self.wrapped {
            wrapped.skipped.retain_mut(|at| {
                let kept = *at >= gone;
                *at = at.saturating_sub(gone);
                kept
            });
        }
    }
}

impl Stream {
    fn new(searches: &[Arc<Search>]) -> Stream {
        Stream { readers: searches.iter().map(Reader::new).collect(), ..Stream::default() }
    }

    fn scan(&mut self, bytes: &[u8]) {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let mut readers = std::mem::take(&mut self.readers);
        for reader in &mut readers {
            let mut found = Vec::new();
            reader.read(&self.buffer, from, &mut |begin, end| join(&mut found, begin, end));
            found.into_iter().for_each(|(begin, end)| self.cover(begin, end));
        }
        self.readers = readers;
    }

    /// Lets new searches, which stand at the end, take the place of those that are gone. No needle of the latter can begin
    /// before what is open, so the new ones begin there.
    fn adopt(&mut self, searches: &[Arc<Search>]) {
        let same = self.readers.iter().zip(searches).take_while(|(reader, search)| Arc::ptr_eq(&reader.search, search)).count();
        self.readers.truncate(same);
        for search in &searches[same..] {
            let mut reader = Reader::new(search);
            let mut found = Vec::new();
            reader.read(&self.buffer, self.open, &mut |begin, end| join(&mut found, begin, end));
            found.into_iter().for_each(|(begin, end)| self.cover(begin, end));
            self.readers.push(reader);
        }
    }

    /// Marks a stretch, but for what is out already.
    fn cover(&mut self, begin: usize, end: usize) {
        let (mut begin, mut end) = (begin.max(self.emitted), end);
        if begin >= end {
            return;
        }
        let first = self.covered.partition_point(|&(_, e)| e < begin);
        let last = self.covered.partition_point(|&(b, _)| b <= end);
        if let Some(&[(b, _), ..]) = self.covered.get(first..last) {
            begin = begin.min(b);
            end = end.max(self.covered[last - 1].1);
        }
        self.covered.splice(first..last, [(begin, end)]);
    }

    /// The position before which everything is decided.
    fn settle(&mut self) -> usize {
        let end = self.buffer.len();
        self.open = self.readers.iter().map(|reader| reader.open(end)).min().unwrap_or(end);
        let decided = self.open.max(self.emitted);
        // What is masked already stays masked, whatever follows.
        self.covered.iter().find(|&&(begin, end)| begin <= decided && decided < end).map_or(decided, |&(_, end)| end)
    }

    fn emit(&mut self, until: usize, replacement: &Replacement, out: &mut Vec<u8>) {
        let mut done = 0;
        for &(begin, end) in &self.covered {
            if begin >= until {
                break;
            }
            out.extend_from_slice(&self.buffer[self.emitted..begin]);
            if begin > self.emitted || !self.masking {
                out.extend_from_slice(&replacement.0);
            }
            self.masking = true;
            self.emitted = end.min(until);
            done += usize::from(end <= until);
        }
        self.covered.drain(..done);
        if self.emitted < until {
            out.extend_from_slice(&self.buffer[self.emitted..until]);
            self.masking = false;
            self.emitted = until;
        }
        self.forget();
    }

    /// Drops bytes that are out and no longer needed to recognise a wrapped line.
    fn forget(&mut self) {
        let gone = self.emitted.min(self.open).saturating_sub(CONTEXT);
        self.buffer.drain(..gone);
        self.emitted -= gone;
        self.open -= gone;
        for (begin, end) in &mut self.covered {
            *begin = begin.saturating_sub(gone);
            *end -= gone;
        }
        if let Some((begin, _)) = self.covered.first_mut() {
            *begin = (*begin).max(self.emitted);
        }
        self.readers.iter_mut().for_each(|reader| reader.forget(gone));
    }
}

/// Adds a stretch to ones with ascending ends; those that it touches become one.
fn join(stretches: &mut Vec<(usize, usize)>, mut begin: usize, end: usize) {
    while let Some((last, _)) = stretches.pop_if(|(_, last_end)| *last_end >= begin) {
        begin = begin.min(last);
    }
    stretches.push((begin, end));
}

fn longest(automaton: &impl Automaton, state: StateID) -> usize {
    (0..automaton.match_len(state)).map(|i| automaton.pattern_len(automaton.match_pattern(state, i))).max().unwrap_or(0)
}

/// Whether `before` ends with a line of encoded text that is long enough to have been wrapped, or with such a line and a carriage return.
fn wrapped_line(before: &[u8]) -> bool {
    let line = before.strip_suffix(b"\r").unwrap_or(before);
    let encoded = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
    line.len() >= WRAP && line[line.len() - WRAP..].iter().all(encoded)
}

#[cfg(test)]
mod tests;
