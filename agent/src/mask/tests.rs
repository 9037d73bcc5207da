#![allow(clippy::unwrap_used, clippy::panic)]
use proptest::prelude::*;

use super::*;

fn masked(masker: &mut Masker, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| masker.push(piece, &mut out));
    masker.finish(&mut out);
    out
}

fn check(values: &[&str], text: &str, expected: &str) {
    let mut masker = Masker::new(values).unwrap();
    let out = masked(&mut masker, &[text.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&out), expected, "{values:?} in {text:?}");
}

fn needles(masker: &Masker) -> BTreeSet<Vec<u8>> {
    masker.searches.iter().flat_map(|search| &search.needles).chain(&masker.fresh).cloned().collect()
}

/// Masking by definition: every byte of every occurrence, found by trying each needle at each place.
fn by_definition(needles: &BTreeSet<Vec<u8>>, text: &[u8]) -> Vec<u8> {
    let mut hidden = vec![false; text.len()];
    for needle in needles {
        for at in 0..text.len() {
            if text[at..].starts_with(needle) {
                hidden[at..at + needle.len()].fill(true);
            }
        }
    }
    let mut out = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        match (hidden[at], at > 0 && hidden[at - 1]) {
            (true, false) => out.extend(Replacement::for_needles(needles).0),
            (true, true) => {}
            (false, _) => out.push(byte),
        }
    }
    out
}

#[test]
fn values_are_masked_as_they_are() {
    check(&["hunter22"], "user hunter22!", "user ***!");
    check(&[" hunter22\n"], "hunter22\n", "***\n");
    check(&["abcdef", "defghi"], "xabcdefghix", "x***x");
    check(&["abcdef"], "abcdefabcdef abcdef", "*** ***");
    check(&["first line\n\nx\nsecond line"], "second line, x, first line", "***, x, ***");
    check(&["abc"], "ab", "ab");
}

#[test]
fn usual_encodings_are_masked() {
    let value = "p&ss 'w\"rd/é$";
    let table: &[(&str, &str)] = &[
        ("curl -u ci:{} ", "Y2k6cCZzcyAndyJyZC/DqSQ="),
        ("hex ", "702673732027772272642fc3a924"),
        ("HEX ", "702673732027772272642FC3A924"),
        ("quote ", "p%26ss%20%27w%22rd/%C3%A9%24"),
        ("quote all ", "p%26ss%20%27w%22rd%2F%C3%A9%24"),
        ("form ", "p%26ss+%27w%22rd%2F%C3%A9%24"),
        ("form lower ", "p%26ss+%27w%22rd%2f%c3%a9%24"),
        ("component ", "p%26ss%20'w%22rd%2F%C3%A9%24"),
        ("json ", r#"p&ss 'w\"rd/é$"#),
        ("json ascii ", r#"p&ss 'w\"rd/\u00e9$"#),
        ("json html ", r#"p\u0026ss 'w\"rd/é$"#),
        ("xml ", "p&amp;ss 'w\"rd/é$"),
        ("html ", "p&amp;ss &#x27;w&quot;rd/é$"),
        ("shell ", r#"p&ss '\''w"rd/é$"#),
        ("shlex ", r#"p&ss '"'"'w"rd/é$"#),
        ("double ", r#"p&ss 'w\"rd/é\$"#),
        ("printf %q ", r#"p\&ss\ \'w\"rd/é\$"#),
        ("repr ", r#"p&ss \'w"rd/é$"#),
        ("bytes ", r#"p&ss \'w"rd/\xc3\xa9$"#),
    ];
    for (before, encoded) in table {
        let mut masker = Masker::new([value]).unwrap();
        let out = masked(&mut masker, &[before.as_bytes(), encoded.as_bytes(), b" end"]);
        let out = String::from_utf8(out).unwrap();
        let left = out.strip_prefix(before).and_then(|rest| rest.strip_suffix(" end")).unwrap_or_else(|| panic!("{before}: {out}"));
        // Of a base64 text the characters that the value shares with its neighbours stay.
        assert!(left == "***" || before.starts_with("curl") && left == "Y2k***=", "{before}: {left}");
    }
}

#[test]
fn base64_is_masked_at_every_offset_and_wrapped_anywhere() {
    use base64::Engine;
    let value = "correct horse battery staple, and a pass phrase that is long enough to be wrapped more than once by any of the tools";
    for before in 0..6 {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{}{value} tail", "-".repeat(before)));
        let mut masker = Masker::new([value]).unwrap();
        for (width, line_break) in [(60, "\n"), (64, "\n"), (76, "\n"), (76, "\r\n"), (1000, "\n")] {
            let wrapped = text.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join(line_break);
            let whole = masked(&mut masker, &[wrapped.as_bytes()]);
            assert!(whole.len() < 24, "{before} {width}: {}", String::from_utf8_lossy(&whole));
            for cut in 0..wrapped.len() {
                let (left, right) = wrapped.as_bytes().split_at(cut);
                assert_eq!(masked(&mut masker, &[left, right]), whole, "cut at {cut}");
            }
        }
    }
}

#[test]
fn real_tools_encode_what_is_masked() {
    let value = "S3cr3t/with+odd=chars&more \u{fc}ber'quoted\"";
    let script = "import sys,json,html,urllib.parse,base64,shlex,binascii\nv=sys.argv[1]\n\
        print(json.dumps(v),json.dumps(v,ensure_ascii=False),html.escape(v),urllib.parse.quote(v),urllib.parse.quote_plus(v),\
        urllib.parse.quote(v,safe=''),shlex.quote(v),repr(v),repr(v.encode()),v.encode().hex(),\
        base64.urlsafe_b64encode(v.encode()).decode(),base64.encodebytes((v*3).encode()).decode(),sep='\\n')";
    let output = std::process::Command::new("python3").args(["-c", script, value]).env("PYTHONUTF8", "1").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.lines().count() >= 12, "python3 printed {text:?}");
    let out = String::from_utf8(Masker::new([value]).unwrap().mask(text.as_bytes())).unwrap();
    for line in out.lines().filter(|line| !line.is_empty()) {
        assert!(line.len() <= 16 && line.contains("***"), "{line:?} is left of {text}");
    }
}

#[test]
fn nothing_is_held_that_cannot_become_a_needle() {
    let mut masker = Masker::new(["token-123456"]).unwrap();
    let mut out = Vec::new();
    masker.push(b"Password: ", &mut out);
    assert_eq!((out.as_slice(), masker.held()), (b"Password: ".as_slice(), 0));
    masker.push(b"tok", &mut out);
    assert_eq!((out.as_slice(), masker.held()), (b"Password: ".as_slice(), 3));
    masker.push(b"yo\n", &mut out);
    assert_eq!((out.as_slice(), masker.held()), (b"Password: tokyo\n".as_slice(), 0));
}

#[test]
fn values_may_be_added_in_the_middle() {
    let mut masker = Masker::new(["abcdef"]).unwrap();
    let mut out = Vec::new();
    masker.push(b"xyz123 abc", &mut out);
    masker.add(b"xyz123").unwrap();
    masker.add(b"bcd!!").unwrap();
    masker.push(b"d!! xyz", &mut out);
    assert_eq!(masker.mask(b"xyz123 ab"), b"*** ab");
    masker.push(b"123 abcdef.", &mut out);
    masker.finish(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "xyz123 a*** *** ***.");

    let mut masker = Masker::new(["abc", "abcdef"]).unwrap();
    let mut out = Vec::new();
    masker.push(b"abcd", &mut out);
    assert_eq!(out, b"***");
    masker.add(b"xyz").unwrap();
    masker.push(b"ef def", &mut out);
    assert_eq!(out, b"*** def");
}

#[test]
fn short_values_are_refused() {
    for value in ["", "  ", "ab", " a\n"] {
        assert_eq!(Masker::default().add(value.as_bytes()), Err(Unmaskable::TooShort { length: value.trim().len() }));
    }
    assert!(Masker::new(["long enough", "no"]).is_err());
}

#[test]
fn many_added_values_cost_few_searches_and_are_all_masked() {
    let mut masker = Masker::default();
    let mut out = Vec::new();
    let value = |i: u32| format!("value-{:08x}", i.wrapping_mul(2_654_435_761));
    for i in 0..200 {
        masker.add(value(i).as_bytes()).unwrap();
        masker.push(format!("{} val", value(i)).as_bytes(), &mut out);
        assert!(masker.searches.len() <= 12, "{} searches", masker.searches.len());
    }
    masker.finish(&mut out);
    assert_eq!(out, b"*** val".repeat(200));
    for i in 0..200 {
        assert_eq!(masker.mask(value(i).as_bytes()), b"***", "{i}");
    }
}

#[test]
fn values_without_end_are_refused() {
    let mut masker = Masker::default();
    let large = |c: u8| vec![c; 100 << 10];
    masker.add(&large(b'a')).unwrap();
    masker.add(&large(b'a')).unwrap();
    masker.add(&large(b'b')).unwrap();
    assert_eq!(masker.add(&large(b'c')), Err(Unmaskable::TooMuch { length: 100 << 10 }));
    masker.add(b"small").unwrap();
}

#[test]
fn a_replacement_never_completes_a_needle() {
    for values in [&["abc***d", "xyz"][..], &["***", "xyz"], &["*bc", "xyz"], &["ab*", "#ab", "xyz"]] {
        let text = "abcxyzd xyzbc abxyz *** ab*bc #xyz";
        let mut masker = Masker::new(values).unwrap();
        let out = masked(&mut masker, &[text.as_bytes()]);
        for value in values {
            assert!(!out.windows(value.len()).any(|w| w == value.as_bytes()), "{value} in {}", String::from_utf8_lossy(&out));
        }
    }
}

#[test]
fn a_large_key_is_masked_with_the_small_automaton() {
    let key: String = (0..6000_u32).map(|i| format!("{:08x}\n", i.wrapping_mul(2_654_435_761))).collect();
    let mut masker = Masker::new([&key]).unwrap();
    assert_eq!(masker.mask(format!("<{key}>").as_bytes()), b"<***\n>");
}

#[test]
fn debug_shows_no_value() {
    let mut masker = Masker::new(["hunter22"]).unwrap();
    masker.push(b"hunter", &mut Vec::new());
    assert!(!format!("{masker:?}").contains("hunt"));
}

proptest! {
    #[test]
    fn any_split_masks_like_the_whole(
        values in prop::collection::vec("[ab*]{3,7}", 1..5),
        pieces in prop::collection::vec("[ab*]{0,9}", 0..12),
    ) {
        let mut masker = Masker::new(&values).unwrap();
        let text = pieces.concat();
        let expected = by_definition(&needles(&masker), text.as_bytes());
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let out = masked(&mut masker, &pieces);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn what_comes_out_is_final_and_comes_at_once(
        values in prop::collection::vec("[abc]{3,9}", 1..6),
        text in "[abc]{0,60}",
    ) {
        let mut masker = Masker::new(&values).unwrap();
        let mut out = Vec::new();
        let whole = by_definition(&needles(&masker), text.as_bytes());
        for (at, byte) in text.bytes().enumerate() {
            masker.push(&[byte], &mut out);
            prop_assert!(whole.starts_with(&out), "after {} bytes", at + 1);
            let longest = (0..=at).find(|&from| needles(&masker).iter().any(|n| n.len() > at + 1 - from && n.starts_with(&text.as_bytes()[from..=at])));
            prop_assert!(masker.held() <= longest.map_or(0, |from| at + 1 - from), "held after {} bytes", at + 1);
        }
    }
}
