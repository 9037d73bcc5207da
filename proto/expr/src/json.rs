//! JSON text to a value, as the language's own implementation reads it: numbers beyond the range of doubles are infinite, halves of
//! surrogate pairs stand for nothing, of equal keys the last counts, and of keys that differ only in case the first.

use std::collections::HashMap;

use crate::value::{Array, Object, Value};

/// How deep arrays and objects may lie inside each other: far beyond any workflow, and little enough for every later walk.
const MAX_DEPTH: usize = 1000;

/// Reads the one value of a text.
///
/// # Errors
/// What is wrong, and the byte at which.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
    let value = reader.value(0)?;
    reader.blanks();
    if reader.at < text.len() { Err(reader.wrong("trailing characters")) } else { Ok(value) }
}

struct Reader<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("{what} at character {}", self.text.get(..self.at).map_or(self.at, |before| before.chars().count()) + 1)
    }

    fn blanks(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("nested too deeply"));
        }
        self.blanks();
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::string(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.takes("null") => Ok(Value::Null),
            _ if self.takes("true") => Ok(Value::Bool(true)),
            _ if self.takes("false") => Ok(Value::Bool(false)),
            _ => Err(self.wrong("a value was expected")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks();
        if self.takes("]") {
            return Ok(Value::Array(Array::new(items)));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.takes("]") {
                return Ok(Value::Array(Array::new(items)));
            }
            if !self.takes(",") {
                return Err(self.wrong("`,` or `]` was expected"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        self.blanks();
        if self.takes("}") {
            return Ok(Value::Object(Object::new()));
        }
        loop {
            self.blanks();
            if self.bytes.get(self.at) != Some(&b'"') {
                return Err(self.wrong("a key was expected"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.takes(":") {
                return Err(self.wrong("`:` was expected"));
            }
            let value = self.value(depth + 1)?;
            match places.get(&key) {
                Some(place) => entries[*place].1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
            self.blanks();
            if self.takes("}") {
                return Ok(Value::Object(entries.into_iter().collect()));
            }
            if !self.takes(",") {
                return Err(self.wrong("`,` or `}` was expected"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), String> {
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == from { Err(self.wrong("a digit was expected")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, String> {
        let from = self.at;
        self.takes("-");
        if !self.takes("0") {
            self.digits()?;
        }
        if self.takes(".") {
            self.digits()?;
        }
        if self.takes("e") || self.takes("E") {
            let _sign = self.takes("+") || self.takes("-");
            self.digits()?;
        }
        // Rounds to the nearest double, and to infinity beyond all of them.
        self.text[from..self.at].parse().map(Value::Number).map_err(|_| self.wrong("a number was expected"))
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
            text.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(self.wrong("a control character must be escaped")),
                None => return Err(self.wrong("the text does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let letter = self.bytes.get(self.at + 1).copied();
        self.at += 2;
        Ok(match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.unit()?;
                // A half without its other half is no character.
                match unit {
                    0xd800..=0xdbff => {
                        let before = self.at;
                        let low = if self.takes("\\u") { self.unit()? } else { 0 };
                        if (0xdc00..=0xdfff).contains(&low) {
                            char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).unwrap_or(char::REPLACEMENT_CHARACTER)
                        } else {
                            self.at = before;
                            char::REPLACEMENT_CHARACTER
                        }
                    }
                    unit => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => {
                self.at -= 2;
                return Err(self.wrong("this escape is none"));
            }
        })
    }

    fn unit(&mut self) -> Result<u32, String> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or_else(|| self.wrong("four digits were expected"))?;
        self.at += 4;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_reads_what_a_well_kept_reader_reads() {
        for text in [
            "null",
            " true ",
            "-0",
            "1.5e3",
            "[]",
            "{}",
            "[1,[2,{\"a\":[null]}]]",
            "{\"a\":1,\"b\":{\"c\":\"d\"}}",
            "\"\\u00e9\\ud83d\\ude00\\n\\/\"",
            "{\"a\":1,\"a\":2}",
            "\"é😀\"",
            "[1 , 2]",
            "9007199254740993",
            "5e-324",
            "1e-400",
        ] {
            let expected = Value::from_json(&serde_json::from_str(text).unwrap());
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            " ",
            "nope",
            "[1,]",
            "{a:1}",
            "01",
            "[1]x",
            "-",
            "1.",
            "1e",
            ".5",
            "+1",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"",
            "[",
            "{\"a\"",
            "{\"a\":}",
            "{,}",
            "NaN",
            "\u{feff}1",
        ] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err() && read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn it_reads_what_the_language_reads_beyond_that() {
        assert_eq!(
            read("[1e400, -1e400]").unwrap(),
            Value::Array(Array::new(vec![Value::Number(f64::INFINITY), Value::Number(f64::NEG_INFINITY)]))
        );
        assert_eq!(read("\"a\\ud800b\\udc00\""), Ok(Value::string("a\u{fffd}b\u{fffd}")));
        assert_eq!(read("\"\\ud800\\ud83d\\ude00\""), Ok(Value::string("\u{fffd}😀")));
        assert!(read(&format!("{}{}", "[".repeat(900), "]".repeat(900))).is_ok());
        assert!(read(&"[".repeat(1_000_000)).is_err());
    }
}
