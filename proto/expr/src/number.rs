//! Numbers as the language reads and writes them: IEEE doubles with ECMAScript's text forms.

/// The number that a string stands for; NaN when it stands for none. Blank text is zero.
pub(crate) fn parse(text: &str) -> f64 {
    let text = text.trim_matches(is_space);
    if text.is_empty() {
        return 0.0;
    }
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return parse_radix(digits, radix);
        }
    }
    let (negative, unsigned) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = if unsigned == "Infinity" {
        f64::INFINITY
    } else if is_decimal(unsigned) {
        // The grammar was checked, so this cannot fail; a value out of range becomes infinite.
        unsigned.parse().unwrap_or(f64::NAN)
    } else {
        return f64::NAN;
    };
    if negative { -magnitude } else { magnitude }
}

fn parse_radix(digits: &str, radix: u32) -> f64 {
    if digits.is_empty() {
        return f64::NAN;
    }
    let mut value = 0.0_f64;
    let mut exact: u128 = 0;
    let mut fits = true;
    for c in digits.chars() {
        let Some(digit) = c.to_digit(radix) else {
            return f64::NAN;
        };
        value = value * f64::from(radix) + f64::from(digit);
        match exact.checked_mul(u128::from(radix)).and_then(|n| n.checked_add(u128::from(digit))) {
            Some(n) if fits => exact = n,
            _ => fits = false,
        }
    }
    // Up to 128 bits the conversion rounds once; beyond that the running sum is close enough to be the same magnitude.
    if fits { exact as f64 } else { value }
}

/// `digits[.digits][e[+-]digits]` or `.digits...`; no sign, no underscore, no words.
fn is_decimal(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    let digits = |at: &mut usize| {
        let from = *at;
        while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        *at - from
    };
    let whole = digits(&mut at);
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        fraction = digits(&mut at);
    }
    if whole + fraction == 0 {
        return false;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        if digits(&mut at) == 0 {
            return false;
        }
    }
    at == bytes.len()
}

/// A number coerced to a string: at most fifteen digits after the point, zero without a sign.
pub(crate) fn coerce(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() || value.abs() >= 1e21 {
        return shortest(value);
    }
    let rounded = fixed_15(value.abs());
    shortest(if value < 0.0 { -rounded } else { rounded })
}

/// `magnitude` rounded to fifteen decimals, ties upwards (the formatter of the standard library rounds ties to even).
fn fixed_15(magnitude: f64) -> f64 {
    let scaled = magnitude * 65_536.0;
    // Only an odd multiple of 2^-16 has exactly sixteen decimals, the last of them a five: the only possible tie.
    let tie = scaled < 9.0e15 && scaled.fract() == 0.0 && scaled % 2.0 == 1.0;
    if !tie {
        return format!("{magnitude:.15}").parse().unwrap_or(magnitude);
    }
    let exact = format!("{magnitude:.16}");
    let mut digits = exact.into_bytes();
    digits.pop();
    let mut carry = true;
    for digit in digits.iter_mut().rev().filter(|d| d.is_ascii_digit()) {
        if carry {
            carry = *digit == b'9';
            *digit = if carry { b'0' } else { *digit + 1 };
        }
    }
    let text: String = carry.then_some('1').into_iter().chain(digits.into_iter().map(char::from)).collect();
    text.parse().unwrap_or(magnitude)
}

/// The shortest text that reads back as the same number, in ECMAScript's notation.
pub(crate) fn shortest(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs();
    let text = if (1e-6..1e21).contains(&magnitude) {
        format!("{magnitude}")
    } else {
        let scientific = format!("{magnitude:e}");
        match scientific.split_once('e') {
            Some((mantissa, exponent)) if !exponent.starts_with('-') => {
                format!("{mantissa}e+{exponent}")
            }
            _ => scientific,
        }
    };
    if value < 0.0 { format!("-{text}") } else { text }
}

/// White space as ECMAScript has it, which the language follows: with the byte order mark, without NEL.
pub(crate) fn is_space(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_become_numbers() {
        for (text, number) in [
            ("", 0.0),
            ("  ", 0.0),
            (" 0x0f ", 15.0),
            ("0o17", 15.0),
            ("0b101", 5.0),
            ("-1.2E+2", -120.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+Infinity", f64::INFINITY),
            ("1e400", f64::INFINITY),
        ] {
            assert_eq!(parse(text), number, "{text:?}");
        }
        for text in ["abc", "inf", "nan", "infinity", "-0x1", "0x", "1_000", "1e", ".", "1 2", "--1", "0xg"] {
            assert!(parse(text).is_nan(), "{text:?}");
        }
    }

    #[test]
    fn numbers_become_strings() {
        for (number, text) in [
            (-0.0, "0"),
            (-2.0, "-2"),
            (0.845_512_408_225_570_1, "0.84551240822557"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-7, "1e-7"),
            (0.000_001, "0.000001"),
            (1.0 / 65_536.0, "0.000015258789063"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(coerce(number), text, "{number}");
        }
    }
}
