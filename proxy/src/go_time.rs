//! Durations as Go writes them, in flags and annotations of the projects whose words we understand.

use std::time::Duration;

/// `30s`, `1m`, `1m30s`, `500ms`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration; write 30s, 1m30s or 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut whole) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let seconds = match &after[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return Err(bad()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        whole = whole.checked_add(part).ok_or_else(bad)?;
        rest = &after[unit..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_durations_are_understood() {
        let cases =
            [("0", 0), ("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("1.5h", 5_400_000), ("1h0m0s", 3_600_000)];
        for (text, expected) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1d", "1s ", "1e3s", "9999999999999999h9999999999999999h", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
