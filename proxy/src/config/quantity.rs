//! Durations (`30s`, `500ms`, `5m`, `1h`) and sizes (`16MiB`, `64KiB`, `4096`) as people write them.

use serde::Deserialize;
use std::time::Duration;

/// A scalar of the file, not yet understood, so that a wrong one is reported beside all the others.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    Number(u64),
    Text(String),
}

/// The longest duration one may configure: beyond it, arithmetic on clocks could overflow, and nobody means it.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Quantity {
    /// `30s`; a bare number is refused, for its unit would be a guess.
    pub fn duration(&self) -> Result<Duration, String> {
        let Quantity::Text(text) = self else { return Err("a duration needs a unit: ms, s, m or h".into()) };
        let (digits, unit) = split(text);
        let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no duration; write `30s` or `500ms`"))?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("`{text}`: the unit of a duration is ms, s, m or h")),
        };
        let duration = number.checked_mul(millis).map(Duration::from_millis).filter(|d| *d <= LONGEST);
        duration.ok_or_else(|| format!("`{text}` is longer than a year"))
    }

    /// `30s` or `never`.
    pub fn duration_or_never(&self) -> Result<Option<Duration>, String> {
        match self {
            Quantity::Text(text) if text == "never" => Ok(None),
            other => other.duration().map(Some),
        }
    }

    /// Bytes.
    pub fn size(&self) -> Result<usize, String> {
        let text = match self {
            Quantity::Number(bytes) => return usize::try_from(*bytes).map_err(|_| format!("`{bytes}` is too large")),
            Quantity::Text(text) => text,
        };
        let (digits, unit) = split(text);
        let number: usize = digits.parse().map_err(|_| format!("`{text}` is no size; write `16MiB` or `4096`"))?;
        let scale: usize = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("`{text}`: the unit of a size is KiB, MiB or GiB")),
        };
        number.checked_mul(scale).ok_or_else(|| format!("`{text}` is too large"))
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_durations_are_understood() {
        let of = |text: &str| Quantity::Text(text.into()).duration().ok().map(|d| d.as_millis());
        let cases = [("30s", Some(30_000)), ("500ms", Some(500)), ("5m", Some(300_000)), ("1h", Some(3_600_000))];
        for (text, want) in cases.into_iter().chain([("30", None), ("s", None), ("-1s", None), ("9999999h", None)]) {
            assert_eq!(of(text), want, "{text}");
        }
        assert!(Quantity::Number(30).duration().is_err());
        assert_eq!(Quantity::Text("never".into()).duration_or_never(), Ok(None));
    }

    #[test]
    fn which_sizes_are_understood() {
        let of = |text: &str| Quantity::Text(text.into()).size().ok();
        let cases = [("16MiB", Some(16 << 20)), ("4 KiB", Some(4096)), ("12", Some(12)), ("1GiB", Some(1 << 30))];
        for (text, want) in cases.into_iter().chain([("16MB", None), ("", None), ("99999999999999999GiB", None)]) {
            assert_eq!(of(text), want, "{text}");
        }
        assert_eq!(Quantity::Number(7).size(), Ok(7));
    }
}
