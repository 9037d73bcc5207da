//! Numbers, lengths of time and pairs as people type them.

use std::time::Duration;

use caisson_model::outcome::Bytes;
use caisson_model::time::Timestamp;
use serde::{Deserialize, Serialize};

/// CPU time per wall time, in thousandths of a core. Written `1.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Thousandths.
    pub(crate) milli: u32,
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", f64::from(self.milli) / 1000.0)
    }
}

impl Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.milli) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cores, D::Error> {
        from_number(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn from_number(number: f64) -> Result<Cores, String> {
    // 0.01 is the smallest quota that cgroups take for the default period; 4096 is more than any machine has.
    if (0.01..=4096.0).contains(&number) {
        Ok(Cores { milli: (number * 1000.0).round() as u32 })
    } else {
        Err("write a number of cores from 0.01 on, such as 2 or 1.5".to_owned())
    }
}

/// Reads the number of a run.
pub(crate) fn run(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write the number of a run; `caisson runs` lists them".to_owned())
}

/// Reads a number of cores.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    from_number(text.parse().unwrap_or(f64::NAN))
}

/// Reads a count of at least 1.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number from 1 on".to_owned())
}

/// Reads a size of at least one byte.
pub(crate) fn size(text: &str) -> Result<Bytes, String> {
    match text.parse::<Bytes>() {
        Ok(Bytes(0)) => Err("a limit is more than nothing".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads the name of a system call that can be added to a filter.
pub(crate) fn system_call(text: &str) -> Result<String, String> {
    caisson_sandbox::additions::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Reads a positive length of time with its units: `90s`, `5m`, `1h 30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span: Result<jiff::SignedDuration, _> = text.parse();
    match span.map(Duration::try_from) {
        Ok(Ok(span)) if !span.is_zero() => Ok(span),
        _ => Err("write a length of time with its unit, such as 90s, 5m or 1h30m".to_owned()),
    }
}

/// Reads a day, which means its first moment in UTC, or a moment.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    // A day parses as nothing else, but a moment would parse as its day.
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| day().map(|day| day.timestamp()));
    let millis = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    millis.map(Timestamp).ok_or_else(|| "write a day such as 2024-05-01, or a moment such as 2024-05-01T12:00:00Z".to_owned())
}

/// Reads a length of time that may also be in days: `90d`.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) if days > 0 => Ok(Duration::from_secs(u64::from(days) * 24 * 3600)),
        _ => duration(text).map_err(|error| error.replace("or 1h30m", "24h or 30d")),
    }
}

/// Reads `KEY=VALUE`; the key is a variable's or input's name.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !key.contains('\0') && !value.contains('\0') => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Reads `KEY=VALUE` or `KEY` alone.
pub(crate) fn variable(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        Some(_) => pair(text).map(|(key, value)| (key, Some(value))),
        None if text.is_empty() => Err("write KEY=VALUE or KEY".to_owned()),
        None => Ok((text.to_owned(), None)),
    }
}

/// A length of time as people read it: `0.4s`, `12s`, `3m 05s`, `1h 02m`.
pub(crate) fn elapsed(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", span.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_of_time_need_a_unit() {
        let table = [("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("1m 30s", 90_000)];
        for (text, milliseconds) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "90", "0s", "-5m", "five minutes", "1 fortnight"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_and_counts_are_positive() {
        assert_eq!(cores("1.5").unwrap().milli, 1500);
        assert_eq!(cores("1.5").unwrap().to_string(), "1.5");
        for text in ["0", "-1", "NaN", "inf", "two", ""] {
            assert!(cores(text).is_err() && count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A"), Ok(("A".into(), None)));
        assert!(pair("A").is_err() && pair("=b").is_err() && variable("").is_err());
    }

    #[test]
    fn elapsed_time_reads_well() {
        let table = [(0, "0.0s"), (440, "0.4s"), (12_300, "12s"), (185_000, "3m 05s"), (3_723_000, "1h 02m")];
        for (milliseconds, text) in table {
            assert_eq!(elapsed(Duration::from_millis(milliseconds)), text);
        }
    }
}
