//! A step's bytes as lines that are safe to show: whoever wrote them must not move the cursor, set the title or fill the clipboard.

use std::collections::HashMap;

use caisson_model::log::{LogKey, LogRead};

/// A longer line is shown in pieces.
const LONGEST: usize = 16 * 1024;

/// What a line of a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Output.
    Plain(String),
    /// A group begins.
    Group(String),
    /// A group ends.
    EndGroup,
    /// `::error::` and its kin: the word and the text.
    Remark(&'static str, String),
    /// A stretch that was not kept.
    Gap(String),
}

/// Bytes that are no whole line yet, by log.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    open: HashMap<LogKey, Vec<u8>>,
}

impl Splitter {
    /// Takes some of a log and gives the lines that are whole now.
    pub(crate) fn take(&mut self, key: LogKey, read: &LogRead) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        match read {
            LogRead::Chunk(chunk) => {
                let open = self.open.entry(key).or_default();
                for piece in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
                    open.extend_from_slice(piece);
                    if open.ends_with(b"\n") || open.len() >= LONGEST {
                        let mut line = std::mem::take(open);
                        if line.ends_with(b"\n") {
                            line.pop();
                        }
                        lines.push(line);
                    }
                }
            }
            LogRead::Seal(_) => lines.extend(self.open.remove(&key).filter(|line| !line.is_empty())),
        }
        lines
    }

    /// Whether a line of this log has begun that is not whole yet.
    pub(crate) fn has_begun(&self, key: LogKey) -> bool {
        self.open.get(&key).is_some_and(|open| !open.is_empty())
    }
}

/// The lines that a sealed log lacks, said aloud.
pub(crate) fn gaps(read: &LogRead) -> Vec<Line> {
    match read {
        LogRead::Seal(seal) => {
            let text = |gap: &caisson_model::log::LogGap| format!("{} bytes are missing here: {}", gap.bytes, gap.reason);
            seal.gaps.iter().map(|gap| Line::Gap(text(gap))).collect()
        }
        LogRead::Chunk(_) => Vec::new(),
    }
}

/// Reads a line. With `colours`, those that it sets are kept.
pub(crate) fn read(bytes: &[u8], colours: bool) -> Line {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    // A progress bar draws over itself: what stood there last is what a terminal would show.
    let text = text.rsplit('\r').next().unwrap_or(text);
    let shown = clean(text, colours);
    let marks = [("##[error]", "error"), ("##[warning]", "warning"), ("##[notice]", "notice"), ("##[debug]", "debug")];
    if let Some(title) = shown.strip_prefix("##[group]") {
        return Line::Group(title.to_owned());
    }
    if shown == "##[endgroup]" {
        return Line::EndGroup;
    }
    for (mark, word) in marks {
        if let Some(rest) = shown.strip_prefix(mark) {
            return Line::Remark(word, rest.to_owned());
        }
    }
    Line::Plain(shown)
}

/// A text without control characters. Only colours (SGR, ECMA-48) stay, and only if asked for; a text that sets one ends by
/// resetting it.
pub(crate) fn clean(text: &str, colours: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.peek() {
                Some('[') => {
                    rest.next();
                    let mut parameters = String::new();
                    let mut end = None;
                    for c in rest.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            end = Some(c);
                            break;
                        }
                        parameters.push(c);
                    }
                    let plain = parameters.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':');
                    if colours && end == Some('m') && plain {
                        out.push_str("\u{1b}[");
                        out.push_str(&parameters);
                        out.push('m');
                        coloured = true;
                    }
                }
                // A string for the terminal itself (title, clipboard, hyperlink) ends with BEL or ESC \.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    rest.next();
                    let mut escape = false;
                    for c in rest.by_ref() {
                        if c == '\u{7}' || c == '\u{9c}' || (escape && c == '\\') {
                            break;
                        }
                        escape = c == '\u{1b}';
                    }
                }
                _ => {
                    rest.next();
                }
            },
            '\t' => out.push('\t'),
            // Directions that make text read other than it is written (the "trojan source" characters).
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    if coloured {
        out.push_str("\u{1b}[0m");
    }
    out
}

#[cfg(test)]
mod tests {
    use caisson_model::id::{AttemptId, Digest, JobId, RunId, StepIndex};
    use caisson_model::log::{LogChunk, LogSeal};
    use caisson_model::time::Timestamp;

    use super::*;

    #[test]
    fn nothing_but_colours_reaches_the_terminal() {
        let table = [
            ("plain\ttext", "plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red", "\u{1b}[31mred\u{1b}[0m\u{1b}[0m"),
            ("a\u{1b}[2Jb\u{1b}[1;1Hc", "abc", "abc"),
            ("\u{1b}]0;title\u{7}x\u{1b}]52;c;aGk=\u{1b}\\y", "xy", "xy"),
            ("\u{1b}[?1049hx\u{1b}cy\u{8}\u{7}z", "xyz", "xyz"),
            ("\u{9b}31mx", "31mx", "31mx"),
            ("\u{1b}[", "", ""),
            ("\u{1b}]never ends", "", ""),
            ("a\u{202e}b", "a\u{fffd}b", "a\u{fffd}b"),
        ];
        for (text, plain, coloured) in table {
            assert_eq!(clean(text, false), plain, "{text:?}");
            assert_eq!(clean(text, true), coloured, "{text:?}");
        }
    }

    #[test]
    fn lines_are_read_as_what_they_are() {
        assert_eq!(read(b"##[group]Install", false), Line::Group("Install".into()));
        assert_eq!(read(b"##[endgroup]", false), Line::EndGroup);
        assert_eq!(read(b"##[error]no", false), Line::Remark("error", "no".into()));
        assert_eq!(read(b"10%\r50%\r100%\r", false), Line::Plain("100%".into()));
        assert_eq!(read(b"\xff", false), Line::Plain("\u{fffd}".into()));
    }

    #[test]
    fn bytes_become_lines_however_they_are_cut() {
        let key = LogKey { attempt: AttemptId { job: JobId { run: RunId(1), index: 1 }, number: 1 }, step: StepIndex(0) };
        let chunk = |bytes: &[u8]| LogRead::Chunk(LogChunk { offset: 0, at: Timestamp(0), bytes: bytes.to_vec() });
        let mut splitter = Splitter::default();
        assert_eq!(splitter.take(key, &chunk(b"a\nb")), [b"a".to_vec()]);
        assert_eq!(splitter.take(key, &chunk(b"c\n\nd")), [b"bc".to_vec(), b"".to_vec()]);
        let seal = LogRead::Seal(LogSeal { total: 6, digest: Digest([0; 32]), chain: None, gaps: Vec::new() });
        assert_eq!(splitter.take(key, &seal), [b"d".to_vec()]);
        assert!(splitter.take(key, &seal).is_empty());
        assert_eq!(splitter.take(key, &chunk(&vec![b'x'; 2 * LONGEST])).len(), 1);
    }
}
