//! `*` and `?` in keys and comparisons. Never recursive: it remembers one star, so time is at most length times length,
//! and each step is paid for.

use super::walk::{Exhausted, Fuel};

pub(super) fn matches(text: &str, pattern: &str, fuel: &mut Fuel) -> Result<bool, Exhausted> {
    let (mut text, mut pattern) = (text, pattern);
    // Where to go on when what follows the last star did not fit: one character further.
    let mut retry: Option<(&str, &str)> = None;
    loop {
        fuel.burn(1)?;
        let step = match (pattern.chars().next(), text.chars().next()) {
            (Some('*'), _) => {
                pattern = &pattern[1..];
                if pattern.is_empty() {
                    return Ok(true);
                }
                retry = Some((text, pattern));
                continue;
            }
            (None, None) => return Ok(true),
            (Some('?'), Some(char)) => Some((1, char)),
            (Some('\\'), Some(char)) => {
                let escaped = pattern[1..].chars().next();
                (escaped == Some(char)).then_some((1 + char.len_utf8(), char))
            }
            (Some(wanted), Some(char)) => (wanted == char).then_some((char.len_utf8(), char)),
            _ => None,
        };
        match (step, retry) {
            (Some((pattern_bytes, char)), _) => {
                pattern = &pattern[pattern_bytes..];
                text = &text[char.len_utf8()..];
            }
            (None, Some((from, after_star))) => {
                let Some(skipped) = from.chars().next() else { return Ok(false) };
                text = &from[skipped.len_utf8()..];
                pattern = after_star;
                retry = Some((text, pattern));
            }
            (None, None) => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_texts_fit_a_pattern() {
        for (text, pattern, fits) in [
            ("", "", true),
            ("", "*", true),
            ("", "?", false),
            ("abc", "a*c", true),
            ("abc", "a*b", false),
            ("abcbc", "a*bc", true),
            ("aé", "a?", true),
            ("a*", r"a\*", true),
            ("ab", r"a\*", false),
            ("a", r"a\", false),
            ("mississippi", "m*iss*ip*i", true),
            ("mississippi", "m*iss*ix*i", false),
        ] {
            assert_eq!(matches(text, pattern, &mut Fuel::full()), Ok(fits), "{text} {pattern}");
        }
    }

    #[test]
    fn does_a_hostile_pattern_end() {
        let text = "a".repeat(5000);
        let pattern = format!("{}b", "a*".repeat(200));
        assert_eq!(matches(&text, &pattern, &mut Fuel::full()), Ok(false));
        let pattern = format!("*{}b", "a".repeat(2000));
        assert_eq!(matches(&text, &pattern, &mut Fuel::full()), Err(Exhausted));
    }
}
