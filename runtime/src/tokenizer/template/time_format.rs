//! `strftime` for the formats that chat templates use. Never reads the time itself.

use minijinja::{Error, ErrorKind};
use time::OffsetDateTime;

/// The time in a format of `strftime`, English names.
pub(super) fn strftime(format: &str, now: OffsetDateTime) -> Result<String, Error> {
    let mut out = String::with_capacity(format.len() * 2);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let (padded, letter) = match characters.next() {
            Some('-') => (false, characters.next()),
            other => (true, other),
        };
        let text = letter.and_then(|letter| directive(letter, now));
        let text = text.ok_or_else(|| {
            let directive: String = letter.into_iter().collect();
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now: %{directive} is not supported"))
        })?;
        // `%-d` is `%d` without the zeros in front.
        let bare = text.trim_start_matches('0');
        out.push_str(if padded || bare.is_empty() { &text } else { bare });
    }
    Ok(out)
}

fn directive(letter: char, now: OffsetDateTime) -> Option<String> {
    let twelve = |hour: u8| if hour.is_multiple_of(12) { 12 } else { hour % 12 };
    let short = |name: String| name.chars().take(3).collect::<String>();
    Some(match letter {
        'Y' => now.year().to_string(),
        'y' => format!("{:02}", now.year().rem_euclid(100)),
        'm' => format!("{:02}", u8::from(now.month())),
        'd' => format!("{:02}", now.day()),
        'e' => format!("{:2}", now.day()),
        'j' => format!("{:03}", now.ordinal()),
        'H' => format!("{:02}", now.hour()),
        'I' => format!("{:02}", twelve(now.hour())),
        'M' => format!("{:02}", now.minute()),
        'S' => format!("{:02}", now.second()),
        'p' => if now.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        'B' => now.month().to_string(),
        'b' | 'h' => short(now.month().to_string()),
        'A' => now.weekday().to_string(),
        'a' => short(now.weekday().to_string()),
        'F' => format!("{}-{:02}-{:02}", now.year(), u8::from(now.month()), now.day()),
        'T' => format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second()),
        'Z' => "UTC".to_owned(),
        'z' => "+0000".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_published_formats_written_as_python_writes_them() {
        let now = OffsetDateTime::from_unix_timestamp(1_722_000_000).expect("26 July 2024, 13:20 UTC");
        let cases = [
            ("%d %b %Y", "26 Jul 2024"),
            ("%Y-%m-%d", "2024-07-26"),
            ("%B %-d, %Y %-I:%M %p", "July 26, 2024 1:20 PM"),
            ("%A %a %j %y%%", "Friday Fri 208 24%"),
            ("%H:%M:%S|%T|%F", "13:20:00|13:20:00|2024-07-26"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(format, now).expect(format), expected);
        }
        assert!(strftime("%Q", now).expect_err("unknown").to_string().contains("%Q is not supported"));
        assert!(strftime("50%", now).is_err());
    }
}
