//! The files through which a step speaks to later ones: `GITHUB_ENV`, `GITHUB_OUTPUT`, `GITHUB_STATE`, `GITHUB_PATH`. Text in,
//! entries out; whoever calls has bounded the text and knows that no process can change it any more.

use std::fmt;

/// The most bytes of one file.
pub const MAX_FILE: usize = 1 << 20;

/// A line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCommandFile {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong: lower case, no full stop.
    pub reason: String,
}

impl fmt::Display for InvalidCommandFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for InvalidCommandFile {}

/// Entries `NAME=VALUE` and `NAME<<DELIMITER`, lines, `DELIMITER`; in order, empty lines left out.
///
/// # Errors
/// The first line that is neither, an entry without a name, a delimiter that does not return, bytes that are no UTF-8.
pub fn entries(bytes: &[u8]) -> Result<Vec<(String, String)>, InvalidCommandFile> {
    let text = utf8(bytes)?;
    let mut lines = text.split_inclusive('\n').enumerate();
    let mut found = Vec::new();
    while let Some((at, raw)) = lines.next() {
        let line = without_end(raw);
        if line.is_empty() {
            continue;
        }
        let wrong = |reason: String| InvalidCommandFile { line: at + 1, reason };
        let equals = line.find('=');
        let heredoc = line.find("<<");
        match (equals, heredoc) {
            (Some(equals), heredoc) if heredoc.is_none_or(|heredoc| equals < heredoc) => {
                let name = &line[..equals];
                if name.is_empty() {
                    return Err(wrong("there is no name before '='".to_owned()));
                }
                found.push((name.to_owned(), line[equals + 1..].to_owned()));
            }
            (_, Some(heredoc)) => {
                let (name, delimiter) = (&line[..heredoc], &line[heredoc + 2..]);
                if name.is_empty() || delimiter.is_empty() {
                    return Err(wrong("a value over several lines is written NAME<<DELIMITER".to_owned()));
                }
                let mut value = String::new();
                loop {
                    let Some((_, raw)) = lines.next() else {
                        return Err(wrong(format!("the delimiter '{}' of '{}' does not return", shorten(delimiter), shorten(name))));
                    };
                    if without_end(raw) == delimiter {
                        break;
                    }
                    value.push_str(raw);
                }
                // The end of the last line belongs to the delimiter.
                value.truncate(without_end(&value).len());
                found.push((name.to_owned(), value));
            }
            _ => return Err(wrong(format!("'{}' is neither NAME=VALUE nor NAME<<DELIMITER", shorten(line)))),
        }
    }
    Ok(found)
}

/// Lines that are not empty: the directories of `GITHUB_PATH`.
///
/// # Errors
/// Bytes that are no UTF-8, or a NUL.
pub fn lines(bytes: &[u8]) -> Result<Vec<String>, InvalidCommandFile> {
    let text = utf8(bytes)?;
    Ok(text.split('\n').map(without_end).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn utf8(bytes: &[u8]) -> Result<&str, InvalidCommandFile> {
    let line = |upto: usize| bytes[..upto].iter().filter(|byte| **byte == b'\n').count() + 1;
    let bytes_without_mark = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(InvalidCommandFile { line: line(at), reason: "there is a NUL byte".to_owned() });
    }
    std::str::from_utf8(bytes_without_mark)
        .map_err(|error| InvalidCommandFile { line: line(error.valid_up_to()), reason: "it is not UTF-8 text".to_owned() })
}

fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_read_in_both_forms() {
        let table: [(&str, &[(&str, &str)]); 9] = [
            ("", &[]),
            ("A=1\nB=2", &[("A", "1"), ("B", "2")]),
            ("A=\n\n", &[("A", "")]),
            ("A=b=c\r\n", &[("A", "b=c")]),
            ("A=x<<y\n", &[("A", "x<<y")]),
            ("A<<EOF\none\ntwo\nEOF\nB=3\n", &[("A", "one\ntwo"), ("B", "3")]),
            ("A<<E=F\nx\nE=F\n", &[("A", "x")]),
            ("A<<EOF\nEOF\n", &[("A", "")]),
            ("A<<EOF\r\none\r\ntwo\r\nEOF\r\n", &[("A", "one\r\ntwo")]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(entries(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_malformed_names_its_line() {
        for (text, line) in [("A=1\nnope\n", 2), ("=1", 1), ("A<<EOF\nx\n", 1), ("\n\nA<<\n", 3), ("<<E\nE\n", 1), ("A=1\nB=\0", 2)] {
            assert_eq!(entries(text.as_bytes()).unwrap_err().line, line, "{text:?}");
        }
        assert_eq!(entries(b"A=1\nB=\xff").unwrap_err().line, 2);
    }

    #[test]
    fn paths_are_lines() {
        assert_eq!(lines(b"/a b\r\n\n/c").unwrap(), ["/a b", "/c"]);
        assert!(lines(b"/a\0").is_err());
    }
}
