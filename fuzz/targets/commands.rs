//! Workflow commands in a step's output: the same, however the stream is cut.
#![no_main]

#[path = "../../agent/src/commands.rs"]
#[allow(dead_code)]
mod commands;

use commands::{Commands, Item};

fn split(bytes: &[u8], cut: usize) -> (Vec<u8>, Vec<String>) {
    let mut splitter = Commands::new();
    let mut items = Vec::new();
    for part in bytes.chunks(cut.max(1)) {
        splitter.feed(part, &mut items);
    }
    splitter.finish(&mut items);
    let (mut text, mut commands) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Text(bytes) => text.extend_from_slice(&bytes),
            Item::Command(command, line) => commands.push(format!("{command:?} {line:?}")),
        }
    }
    (text, commands)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = split(bytes, bytes.len());
    assert_eq!(whole, split(bytes, usize::from(*cut)));
    assert_eq!(whole, split(bytes, 1));
});
