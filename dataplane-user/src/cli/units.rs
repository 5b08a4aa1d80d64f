//! Numbers, durations and moments for people.

use std::time::Duration;

/// A duration as people write it: `60`, `60s`, `0.5`, `500ms`, `2m`, `1h`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write seconds or a unit, such as 60, 60s, 500ms, 2m, 1m30s or 1h");
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let factor = match unit.trim() {
            "ms" => 0.001,
            "" | "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        seconds += number * factor;
        rest = behind;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Whole seconds from one to a day.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let time = duration(text)?;
    let bad = || format!("`{text}`: take whole seconds from 1 to 86400, such as 60, 60s or 2m");
    u32::try_from(time.as_secs())
        .ok()
        .filter(|seconds| time.subsec_nanos() == 0 && (1..=86_400).contains(seconds))
        .ok_or_else(bad)
}

/// A time between two outputs: from a tenth of a second to a day.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let fits = (Duration::from_millis(100)..=Duration::from_hours(24)).contains(&time);
    if fits { Ok(time) } else { Err(format!("`{text}`: take 0.1 to 86400 seconds, such as 1, 0.5 or 2m")) }
}

/// A number with the prefix that leaves three digits: `9.81 G`, `104 k`, `12 `.
pub(super) fn scaled(number: u64) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let number = u128::from(number);
    let unit = |index: u32| 1000_u128.pow(index);
    // Rounded, it must stay below a thousand.
    let index = (0..4).find(|index| number * 2 < 1999 * unit(*index)).unwrap_or(4);
    let (unit, prefix) = (unit(index), PREFIXES[index as usize]);
    let rounded = |parts: u128| (number * parts + unit / 2) / unit;
    let (hundredths, tenths) = (rounded(100), rounded(10));
    match () {
        () if index == 0 || tenths >= 1000 => format!("{} {prefix}", rounded(1)),
        () if hundredths >= 1000 => format!("{}.{} {prefix}", tenths / 10, tenths % 10),
        () => format!("{}.{:02} {prefix}", hundredths / 100, hundredths % 100),
    }
}

/// Digits in groups of three: `1,204`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for start in (first..digits.len()).step_by(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&digits[start..start + 3]);
    }
    text
}

/// How long, in the two largest units: `3 d 4 h`, `5 min 10 s`.
pub(super) fn lasting(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(3);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, length) in units.iter().skip(first).take(2) {
        if left / length > 0 || parts.is_empty() {
            parts.push(format!("{} {name}", left / length));
        }
        left %= length;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let rows = [
            ("60", Some(60_000)),
            ("60s", Some(60_000)),
            ("0.5", Some(500)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3", None),
            ("nan", None),
            ("inf", None),
        ];
        for (text, want) in rows {
            assert_eq!(duration(text).ok().map(|time| time.as_millis()), want, "{text}");
        }
        for (text, want) in [("60s", Some(60)), ("2m", Some(120)), ("0", None), ("500ms", None), ("25h", None)] {
            assert_eq!(seconds(text).ok(), want, "{text}");
        }
        for (text, want) in
            [("0.1", true), ("1s", true), ("24h", true), ("0", false), ("50ms", false), ("86401", false)]
        {
            assert_eq!(interval(text).is_ok(), want, "{text}");
        }
    }

    #[test]
    fn numbers() {
        let rows = [
            (0, "0 "),
            (999, "999 "),
            (1000, "1.00 k"),
            (999_499, "999 k"),
            (999_500, "1.00 M"),
            (12_345, "12.3 k"),
            (9_810_000_000, "9.81 G"),
            (u64::MAX, "18446744 T"),
        ];
        for (number, want) in rows {
            assert_eq!(scaled(number), want, "{number}");
        }
        for (number, want) in [(0, "0"), (999, "999"), (1204, "1,204"), (1_000_000, "1,000,000")] {
            assert_eq!(grouped(number), want);
        }
    }

    #[test]
    fn times() {
        for (seconds, want) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (310, "5 min 10 s"), (273_600, "3 d 4 h"), (86_405, "1 d")]
        {
            assert_eq!(lasting(seconds), want);
        }
    }
}
