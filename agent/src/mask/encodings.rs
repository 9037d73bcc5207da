//! The shapes in which a value shows up in a build log: as it is, and as the usual tools encode it.
//!
//! Not here: searching. A step that wants to print a secret can always invent an encoding that is not listed; masking guards
//! against accidents, and the sandbox and the grants against intent.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The shortest value, after trimming, that can be masked. Anything shorter occurs everywhere and would make logs unreadable.
pub(super) const SHORTEST: usize = 3;

/// The shortest encoded form that is searched for, for the same reason: a fragment of a base64 text can be shorter than its value.
const SHORTEST_ENCODED: usize = 4;

/// Values longer than this are keys and whole files. They are searched for only as they are and as tools usually embed files, since
/// each further encoding of them costs as much as dozens of passwords.
pub(super) const LONG: usize = 1024;

/// Values longer than this are not searched for behind the colon of a basic-auth pair: they are keys, not passwords.
const LONGEST_PASSWORD: usize = 256;

/// Adds every shape of `value` to `needles`. `value` is trimmed already.
pub(super) fn spell(value: &[u8], needles: &mut BTreeSet<Vec<u8>>) {
    needles.insert(value.to_vec());
    for line in value.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.len() >= SHORTEST) {
        needles.insert(line.to_vec());
    }
    let mut add = |needle: Vec<u8>| {
        if needle.len() >= SHORTEST_ENCODED {
            needles.insert(needle);
        }
    };
    base64(value, &mut add);
    if value.len() <= LONGEST_PASSWORD {
        // `Authorization: Basic` encodes `user:password`: with the colon one more character is certain than without.
        base64(&[b":", value].concat(), &mut add);
    }
    if value.len() > LONG {
        if let Ok(text) = std::str::from_utf8(value) {
            json(text, &[(false, false)], &["/"], &mut add);
        }
        return;
    }
    hex(value, &mut add);
    percent(value, &mut add);
    if let Ok(text) = std::str::from_utf8(value) {
        json(text, &[(false, false), (true, false), (false, true), (true, true)], &["/", "\\/"], &mut add);
        xml(text, &mut add);
        shell(text, &mut add);
    }
    python(value, &mut add);
}

/// The part of a base64 text that `value` alone decides, wherever in the encoded data it begins, in both alphabets; and the
/// same up to the end of the text for a value that ends it, with and without the line feed that `echo` adds.
fn base64(value: &[u8], add: &mut impl FnMut(Vec<u8>)) {
    let ended = [value, b"\n"].concat();
    for before in 0..3_usize {
        // Characters that hold bits of what stands before the value are left out.
        let first = (before * 8).div_ceil(6);
        let certain = (before + value.len()) * 8 / 6;
        let shared = ((before + value.len()) * 8).div_ceil(6);
        let padded = |content: &[u8]| [&[0; 3][..before], content].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let alone = engine.encode(padded(value)).into_bytes();
            let line = engine.encode(padded(&ended)).into_bytes();
            for text in [alone.get(first..certain), alone.get(first..), line.get(first..shared)].into_iter().flatten() {
                add(text.to_vec());
            }
        }
    }
}

fn hex(value: &[u8], add: &mut impl FnMut(Vec<u8>)) {
    let lower: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    add(lower.to_ascii_uppercase().into_bytes());
    add(lower.into_bytes());
}

/// Percent encoding as the usual libraries do it: they differ in what they leave alone, in the space and in the case of digits.
fn percent(value: &[u8], add: &mut impl FnMut(Vec<u8>)) {
    for (kept, space) in [("-._~", "%20"), ("-._~/", "%20"), ("-._~!'()*", "%20"), ("-._~", "+"), ("-._*", "+")] {
        for upper in [true, false] {
            let mut text = String::new();
            for &byte in value {
                match byte {
                    b' ' => text.push_str(space),
                    _ if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) => text.push(char::from(byte)),
                    _ if upper => text.push_str(&format!("%{byte:02X}")),
                    _ => text.push_str(&format!("%{byte:02x}")),
                }
            }
            add(text.into_bytes());
        }
    }
}

/// JSON strings: plain, with only ASCII left, and safe to stand in HTML; with and without an escaped slash.
fn json(text: &str, forms: &[(bool, bool)], slashes: &[&str], add: &mut impl FnMut(Vec<u8>)) {
    for &(ascii, html) in forms {
        for slash in slashes {
            let mut out = String::new();
            for c in text.chars() {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\u{8}' => out.push_str("\\b"),
                    '\u{c}' => out.push_str("\\f"),
                    '/' => out.push_str(slash),
                    '<' | '>' | '&' if html => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    c if c < ' ' || c == '\u{7f}' && ascii => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    c if ascii && !c.is_ascii() => {
                        let mut units = [0; 2];
                        c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                    }
                    c => out.push(c),
                }
            }
            add(out.into_bytes());
        }
    }
}

fn xml(text: &str, add: &mut impl FnMut(Vec<u8>)) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    for quote in ["\"", "&quot;", "&#34;"] {
        for apostrophe in ["'", "&#39;", "&#x27;", "&apos;"] {
            add(text.replace('"', quote).replace('\'', apostrophe).into_bytes());
        }
    }
}

/// Words of a shell: in single quotes in both ways to write a single quote, in double quotes, with backslashes, and as `$'...'`.
fn shell(text: &str, add: &mut impl FnMut(Vec<u8>)) {
    add(text.replace('\'', "'\\''").into_bytes());
    add(text.replace('\'', "'\"'\"'").into_bytes());
    let escaped = |special: &dyn Fn(char) -> bool| {
        let mut out = String::new();
        for c in text.chars() {
            if special(c) {
                out.push('\\');
            }
            out.push(c);
        }
        out.into_bytes()
    };
    add(escaped(&|c| matches!(c, '\\' | '"' | '$' | '`')));
    add(escaped(&|c| matches!(c, '\\' | '"' | '$' | '`' | '!')));
    add(escaped(&|c| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | '=' | '\n')
    }));
    let ansi = text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    add(ansi.into_bytes());
}

/// What `repr` shows of a `str` and of `bytes`. It picks its quote by what else stands in the string, so both are spelt.
fn python(value: &[u8], add: &mut impl FnMut(Vec<u8>)) {
    let escape = |out: &mut String, c: char, quoted: bool| match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\'' if quoted => out.push_str("\\'"),
        c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => out.push(c),
    };
    for quoted in [true, false] {
        let mut bytes = String::new();
        for &byte in value {
            if byte.is_ascii() {
                escape(&mut bytes, char::from(byte), quoted);
            } else {
                bytes.push_str(&format!("\\x{byte:02x}"));
            }
        }
        add(bytes.into_bytes());
        if let Ok(text) = std::str::from_utf8(value) {
            let mut shown = String::new();
            text.chars().for_each(|c| escape(&mut shown, c, quoted));
            add(shown.into_bytes());
        }
    }
}
