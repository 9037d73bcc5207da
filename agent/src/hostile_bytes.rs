//! Bytes of hostile making, many of them: mutates examples of each format that a step or its programs write and the agent
//! reads, and keeps what made a reader answer in a new way. For a short time with every test run; `FUZZ_SECONDS=600` gives
//! each reader that long, `FUZZ_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::command_files;
use crate::commands::{Commands, Item};
use crate::hash_files;
use crate::mask::Masker;

/// Longest input that is made.
const LONGEST: usize = 4096;

/// A small generator of numbers (xorshift64*), so that a seed repeats a run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What a reader answered, without what varies from input to input: digits and letters in quotes are all alike.
pub(crate) fn shape(answer: &impl Debug) -> u64 {
    let text = format!("{answer:?}");
    let mut hasher = DefaultHasher::new();
    let mut quoted = false;
    for c in text.chars().take(400) {
        quoted ^= c == '"';
        if !quoted && !c.is_ascii_digit() {
            c.hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Lets `read` look at mutations of the examples; fails, with the input, when it panics.
pub(crate) fn fuzz(name: &str, examples: &[&[u8]], words: &[&[u8]], read: impl Fn(&[u8]) -> u64) {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = asked("FUZZ_SECONDS").map_or(Duration::from_millis(300), Duration::from_secs);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = asked("FUZZ_SEED").unwrap_or(clock) | 1;
    let mut numbers = Numbers(seed);
    let mut kept: Vec<Vec<u8>> = examples.iter().map(|example| example.to_vec()).collect();
    let mut shapes = HashSet::new();
    let mut tried = 0_u64;
    let until = Instant::now() + time;
    while Instant::now() < until {
        for _ in 0..64 {
            let mut input = kept[numbers.below(kept.len())].clone();
            for _ in 0..=numbers.below(6) {
                mutate(&mut input, &kept, words, &mut numbers);
            }
            input.truncate(LONGEST);
            tried += 1;
            match catch_unwind(AssertUnwindSafe(|| read(&input))) {
                Ok(shape) if shapes.insert(shape) && kept.len() < 5000 => kept.push(input),
                Ok(_) => {}
                Err(_) => panic!("{name}: seed {seed}: {:?}", String::from_utf8_lossy(&input)),
            }
        }
    }
    eprintln!("{name}: {tried} inputs, {} ways to answer, seed {seed}", shapes.len());
}

fn mutate(input: &mut Vec<u8>, kept: &[Vec<u8>], words: &[&[u8]], numbers: &mut Numbers) {
    let at = numbers.below(input.len() + 1);
    match numbers.below(8) {
        0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\r', b' '][numbers.below(8)],
        2 if at < input.len() => {
            let end = at + numbers.below(input.len() - at + 1);
            drop(input.drain(at..end));
        }
        3 => input.insert(at, numbers.next() as u8),
        4 if !words.is_empty() => {
            let word = words[numbers.below(words.len())];
            drop(input.splice(at..at, word.iter().copied()));
        }
        5 => {
            let other = &kept[numbers.below(kept.len())];
            let from = numbers.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 if at < input.len() => {
            let end = at + numbers.below((input.len() - at).min(64) + 1);
            let copy = input[at..end].to_vec();
            drop(input.splice(at..at, copy));
        }
        _ => input.truncate(at),
    }
}

#[test]
fn command_files_are_read_whatever_they_hold() {
    let examples: [&[u8]; 4] = [b"A=1\nB<<E\nx\ny\nE\n", b"\xef\xbb\xbfNAME=v\r\n", b"A<<EOF\r\nEOF\r\n", b"/a\n/b c\n"];
    fuzz("command files", &examples, &[b"<<", b"=", b"EOF\n", b"\r\n", b"\0", b"\xff"], |bytes| {
        let entries = command_files::entries(bytes);
        if let Ok(entries) = &entries {
            assert!(entries.iter().all(|(name, value)| !name.is_empty() && !name.contains('\n') && !value.contains('\0')));
        }
        shape(&(entries, command_files::lines(bytes)))
    });
}

#[test]
fn workflow_commands_mean_the_same_however_the_stream_is_cut() {
    let examples: [&[u8]; 5] = [
        b"text\n::group::a\n::endgroup::\n",
        b"::stop-commands::t\n::add-mask::x\n::t::\n",
        b"::error file=a,line=1,col=2::m%0A\n",
        b"::set-output name=a::b\n##[group]x\n",
        b" \t::debug::x\r\n",
    ];
    let words: [&[u8]; 8] = [b"::", b"stop-commands", b"add-mask", b"%25", b"\n", b"##[", b"save-state name=", b","];
    let split = |bytes: &[u8], cuts: usize| {
        let mut splitter = Commands::new();
        let mut items = Vec::new();
        for part in bytes.chunks(cuts.max(1)) {
            splitter.feed(part, &mut items);
        }
        splitter.finish(&mut items);
        let mut text = Vec::new();
        let mut commands = Vec::new();
        for item in items {
            match item {
                Item::Text(bytes) => text.extend_from_slice(&bytes),
                Item::Command(command, line) => commands.push((format!("{command:?}"), line)),
            }
        }
        (text, commands)
    };
    fuzz("workflow commands", &examples, &words, |bytes| {
        let whole = split(bytes, bytes.len());
        assert_eq!(whole, split(bytes, 1));
        assert_eq!(whole, split(bytes, 7));
        shape(&whole.1)
    });
}

#[test]
fn masks_hold_however_the_stream_is_cut() {
    let secret = b"s3cret-Value\nsecond line of it";
    let examples: [&[u8]; 3] = [secret, b"a s3cret-Value b", b"czNjcmV0LVZhbHVl second line of it"];
    // One for all streams: it is ready for the next when one is finished, and making it costs more than a stream does.
    let masker = std::cell::RefCell::new(Masker::new([&secret[..]]).unwrap());
    fuzz("masks", &examples, &[secret, b"s3cret-Value", b"s3cret-", b"second line of it", b"%0A"], |bytes| {
        let masked = |cuts: usize| {
            let mut masker = masker.borrow_mut();
            let mut out = Vec::new();
            for part in bytes.chunks(cuts.max(1)) {
                masker.push(part, &mut out);
            }
            masker.finish(&mut out);
            out
        };
        let whole = masked(bytes.len());
        assert!(!whole.windows(12).any(|window| window == b"s3cret-Value"));
        assert_eq!(whole, masked(1));
        shape(&whole.len().min(bytes.len()))
    });
}

#[test]
fn lists_and_digests_of_files_are_read_whatever_they_hold() {
    let line = format!("{}  ./a\0", "0f".repeat(32));
    let patterns = hash_files::Patterns::of(&["**/*.txt".to_owned(), "!b/**".to_owned()], "/workspace").unwrap();
    fuzz("hashFiles", &[line.as_bytes(), b"./a.txt\0./b/c.txt\0"], &[b"\0", b"./", b".txt", b"  "], |bytes| {
        let selected = hash_files::select(bytes, &patterns).len();
        shape(&(hash_files::combine(bytes, 1).is_ok(), hash_files::combine(bytes, 2).err(), selected.min(3)))
    });
}
