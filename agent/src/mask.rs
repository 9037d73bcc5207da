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

/// Needles of more bytes than this together are searched with a smaller, slower automaton.
const DFA_BYTES: usize = 64 * 1024;

/// A value cannot be masked: after trimming it has fewer than three bytes and would blank out half the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot mask a value of {length} bytes: it would hide ordinary output; use a secret of at least {} characters",
    encodings::SHORTEST
)]
pub struct Unmaskable {
    /// Bytes left of the value after trimming.
    pub length: usize,
}

/// Masks one stream. `Debug` shows no value.
pub struct Masker {
    needles: BTreeSet<Vec<u8>>,
    search: Option<Arc<Search>>,
    /// Whether `needles` has grown since `search` was built.
    stale: bool,
    replacement: Vec<u8>,
    stream: Stream,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("needles", &self.needles.len()).field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Default for Masker {
    /// Masks nothing until a value is added.
    fn default() -> Masker {
        Masker { needles: BTreeSet::new(), search: None, stale: false, replacement: b"***".to_vec(), stream: Stream::default() }
    }
}

impl Masker {
    /// A masker for these values, each in all its encodings. [`Unmaskable`] for the first value that is too short; to go on
    /// without it, [`Masker::add`] the values one by one.
    pub fn new<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Result<Masker, Unmaskable> {
        let mut masker = Masker::default();
        values.into_iter().try_for_each(|value| masker.add(value.as_ref()))?;
        Ok(masker)
    }

    /// Masks this value as well, from the bytes that are still held on. White space around the value does not count.
    /// Adding a value twice changes nothing.
    pub fn add(&mut self, value: &[u8]) -> Result<(), Unmaskable> {
        let trimmed = value.trim_ascii();
        if trimmed.len() < encodings::SHORTEST {
            return Err(Unmaskable { length: trimmed.len() });
        }
        let known = self.needles.len();
        encodings::spell(trimmed, &mut self.needles);
        self.stale |= self.needles.len() > known;
        Ok(())
    }

    /// Bytes that were pushed and have not come out: they may be the beginning of a needle.
    pub fn held(&self) -> usize {
        self.stream.buffer.len() - self.stream.emitted
    }

    /// Takes the next bytes of the stream and appends to `out` all that is settled.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.refresh();
        match &self.search {
            None => out.extend_from_slice(bytes),
            Some(search) => {
                let search = Arc::clone(search);
                self.stream.scan(&search, bytes);
                let settled = self.stream.settled(&search);
                self.stream.emit(settled, &self.replacement, out);
            }
        }
    }

    /// Ends the stream: what was held did not become a needle. The masker is then ready for another stream.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.refresh();
        self.stream.emit(self.stream.buffer.len(), &self.replacement, out);
        self.stream = Stream::default();
    }

    /// Masks a text that is not part of the stream, such as a summary or an annotation.
    pub fn mask(&mut self, text: &[u8]) -> Vec<u8> {
        // The stream's place is a state of the automaton: a new one must be in use before the stream is set aside.
        self.refresh();
        let stream = std::mem::take(&mut self.stream);
        let mut out = Vec::with_capacity(text.len());
        self.push(text, &mut out);
        self.finish(&mut out);
        self.stream = stream;
        out
    }

    fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        self.replacement = replacement(&self.needles);
        let search = Arc::new(Search::new(&self.needles));
        self.stream.rescan(&search);
        self.search = Some(search);
    }
}

/// A text of three equal characters that no needle can share a byte with, so that what is put in never completes a needle:
/// no needle begins or ends with the character or has three of them in a row.
fn replacement(needles: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let fits = |c: &u8| needles.iter().all(|n| n.first() != Some(c) && n.last() != Some(c) && !n.windows(3).any(|w| w == [*c; 3]));
    let candidates = b"*#~=_".iter().copied().chain(b'!'..=b'~').chain(128..=255);
    // With needles for every character there is nothing that cannot be mistaken for a part of one; stars then tell as little as anything.
    vec![candidates.into_iter().find(fits).unwrap_or(b'*'); 3]
}

/// The automaton, and for each of its states how many bytes of a needle it stands for.
struct Search {
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
    fn new(needles: &BTreeSet<Vec<u8>>) -> Search {
        let total: usize = needles.iter().map(Vec::len).sum();
        let dfa = || DFA::builder().start_kind(StartKind::Unanchored).prefilter(false).build(needles).ok();
        let nfa = || NFA::builder().prefilter(false).build(needles).ok();
        let automaton = (total <= DFA_BYTES).then(dfa).flatten().map(Either::Dfa).or_else(|| nfa().map(Either::Nfa));
        match automaton {
            Some(Either::Dfa(dfa)) => {
                let (start, depths) = depths(&dfa, needles);
                Search { automaton: Either::Dfa(dfa), start, depths }
            }
            Some(Either::Nfa(nfa)) => {
                let (start, depths) = depths(&nfa, needles);
                Search { automaton: Either::Nfa(nfa), start, depths }
            }
            _ => Search { automaton: Either::Closed, start: StateID::ZERO, depths: Vec::new() },
        }
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
    plain: Option<StateID>,
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

impl Stream {
    fn scan(&mut self, search: &Search, bytes: &[u8]) {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        self.search(search, from);
    }

    fn search(&mut self, search: &Search, from: usize) {
        match &search.automaton {
            Either::Dfa(dfa) => self.walk(dfa, search, from),
            Either::Nfa(nfa) => self.walk(nfa, search, from),
            Either::Closed => self.cover(from, self.buffer.len()),
        }
    }

    fn walk(&mut self, automaton: &impl Automaton, search: &Search, from: usize) {
        let mut state = self.plain.unwrap_or(search.start);
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = from;
        while at < buffer.len() {
            if self.wrapped.is_none() {
                // Nearly all bytes are read here: one step each, and nothing to look up but matches.
                let line = buffer[at..].iter().take_while(|&&byte| byte != b'\n' && byte != b'\r');
                for &byte in line {
                    state = automaton.next_state(Anchored::No, state, byte);
                    at += 1;
                    if automaton.is_special(state) && automaton.is_match(state) {
                        self.cover(at - longest(automaton, state), at);
                    }
                }
            }
            let Some(&byte) = buffer.get(at) else { break };
            self.step_wrapped(automaton, search, &buffer[..at], state, byte);
            state = automaton.next_state(Anchored::No, state, byte);
            at += 1;
            if automaton.is_special(state) && automaton.is_match(state) {
                self.cover(at - longest(automaton, state), at);
            }
        }
        self.buffer = buffer;
        self.plain = Some(state);
    }

    /// Takes one byte in the second reading. `plain` is the first reading's state before that byte.
    fn step_wrapped(&mut self, automaton: &impl Automaton, search: &Search, before: &[u8], plain: StateID, byte: u8) {
        if (byte == b'\n' || byte == b'\r') && wrapped_line(before) {
            if self.wrapped.is_none() && plain != search.start {
                self.wrapped = Some(Wrapped { state: plain, skipped: Vec::new() });
            }
            if let Some(wrapped) = &mut self.wrapped {
                wrapped.skipped.push(before.len());
            }
        } else if let Some(mut wrapped) = self.wrapped.take() {
            wrapped.state = automaton.next_state(Anchored::No, wrapped.state, byte);
            let end = before.len() + 1;
            if automaton.is_special(wrapped.state) && automaton.is_match(wrapped.state) {
                self.cover(wrapped.begin(end, longest(automaton, wrapped.state)), end);
            }
            self.wrapped = Some(wrapped).filter(|wrapped| wrapped.state != search.start);
        }
    }

    /// Marks a stretch. Ends never go back, so only the last stretches can be touched. What is out already stays out.
    fn cover(&mut self, begin: usize, end: usize) {
        let mut begin = begin.max(self.emitted);
        if begin >= end {
            return;
        }
        while let Some(&(last, _)) = self.covered.last().filter(|(_, last_end)| *last_end >= begin) {
            begin = begin.min(last);
            self.covered.pop();
        }
        self.covered.push((begin, end));
    }

    /// The position before which everything is decided.
    fn settled(&mut self, search: &Search) -> usize {
        let end = self.buffer.len();
        let plain = self.plain.map_or(end, |state| end - search.depth(state));
        let wrapped = self.wrapped.as_ref().map_or(end, |wrapped| wrapped.begin(end, search.depth(wrapped.state)));
        self.open = plain.min(wrapped);
        let decided = self.open.max(self.emitted);
        // What is masked already stays masked, whatever follows.
        self.covered.iter().find(|&&(begin, end)| begin <= decided && decided < end).map_or(decided, |&(_, end)| end)
    }

    fn emit(&mut self, until: usize, replacement: &[u8], out: &mut Vec<u8>) {
        let mut done = 0;
        for &(begin, end) in &self.covered {
            if begin >= until {
                break;
            }
            out.extend_from_slice(&self.buffer[self.emitted..begin]);
            if begin > self.emitted || !self.masking {
                out.extend_from_slice(replacement);
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
        if let Some(wrapped) = &mut self.wrapped {
            wrapped.skipped.retain_mut(|at| {
                let kept = *at >= gone;
                *at = at.saturating_sub(gone);
                kept
            });
        }
    }

    /// Reads again what is still open with another automaton. No needle of the old one can begin before that.
    fn rescan(&mut self, search: &Search) {
        self.plain = None;
        self.wrapped = None;
        let covered = std::mem::take(&mut self.covered);
        self.search(search, self.open);
        for (begin, end) in covered {
            self.recover(begin, end);
        }
    }

    /// As `cover`, for stretches in any order.
    fn recover(&mut self, begin: usize, end: usize) {
        let (mut begin, mut end) = (begin, end);
        self.covered.retain(|&(b, e)| {
            let apart = e < begin || b > end;
            if !apart {
                begin = begin.min(b);
                end = end.max(e);
            }
            apart
        });
        let at = self.covered.partition_point(|&(b, _)| b < begin);
        self.covered.insert(at, (begin, end));
    }
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
