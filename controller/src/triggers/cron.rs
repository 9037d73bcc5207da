//! Times of schedules: five fields, in UTC. Pure.

use jiff::civil::DateTime;

/// A parsed time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both the day and the weekday are limited: then either is enough.
    either: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field as a set of bits.
fn field(text: &str, least: u64, most: u64, names: &[&str], first: u64) -> Option<u64> {
    let number = |text: &str| {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name)).map(|at| at as u64 + first);
        named.or_else(|| text.parse().ok()).filter(|number| (least..=most).contains(number))
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10` goes on to the end, `5` alone does not.
            None => (number(range)?, if part.contains('/') { most } else { number(range)? }),
        };
        if from > to {
            return None;
        }
        (from..=to).step_by(usize::try_from(step).ok()?).for_each(|at| set |= 1 << at);
    }
    Some(set)
}

impl Cron {
    /// Reads `MINUTE HOUR DAY MONTH WEEKDAY`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Cron> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else { return None };
        let mut weekdays = field(weekday, 0, 7, &DAYS, 0)?;
        if weekdays & 1 << 7 != 0 {
            // Sunday has two numbers.
            weekdays |= 1;
        }
        Some(Cron {
            minutes: field(minute, 0, 59, &[], 0)?,
            hours: field(hour, 0, 23, &[], 0)?,
            days: field(day, 1, 31, &[], 0)?,
            months: field(month, 1, 12, &MONTHS, 1)?,
            weekdays,
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        })
    }

    /// Whether it means this minute.
    pub fn matches(&self, at: DateTime) -> bool {
        let has = |set: u64, value: i8| set & 1 << value != 0;
        let (day, weekday) = (has(self.days, at.day()), has(self.weekdays, at.weekday().to_sunday_zero_offset()));
        let date = if self.either { day || weekday } else { day && weekday };
        has(self.minutes, at.minute()) && has(self.hours, at.hour()) && has(self.months, at.month()) && date
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::civil::datetime;

    use super::*;

    #[test]
    fn times_mean_what_they_say() {
        // 2024-05-05 is a Sunday.
        let at = datetime(2024, 5, 5, 4, 30, 0, 0);
        for (text, expected) in [
            ("* * * * *", true),
            ("30 4 * * *", true),
            ("*/15 4 * * *", true),
            ("*/20 4 * * *", false),
            ("30 4 * * 0", true),
            ("30 4 * * 7", true),
            ("30 4 * * sun", true),
            ("30 4 * * mon-fri", false),
            ("30 4 5 may *", true),
            ("30 4 1 * 0", true),
            ("30 4 1 * *", false),
            ("10-40/10 0-6 * 1,5 *", true),
            ("5/25 4 * * *", true),
        ] {
            assert_eq!(Cron::parse(text).unwrap().matches(at), expected, "{text}");
        }
        for text in ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "*/0 * * * *", "5-1 * * * *", "a * * * *"] {
            assert_eq!(Cron::parse(text), None, "{text}");
        }
    }
}
