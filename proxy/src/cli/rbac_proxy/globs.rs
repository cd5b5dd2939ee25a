//! Patterns of paths as Go's `path.Match` has them: `*` and `?` stay within a segment, `[a-z]` and `[^a]` are one of them.
//!
//! Pure. A pattern that Go would refuse is refused when it is read.

/// A pattern that is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    Any,
    Many,
    /// Whether it is meant by those named, or by all others.
    Class(bool, Vec<(char, char)>),
}

impl Glob {
    pub fn parse(text: &str) -> Result<Glob, String> {
        let bad = || format!("`{text}` is no pattern of a path");
        let mut pieces = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            pieces.push(match c {
                '*' => Piece::Many,
                '?' => Piece::Any,
                '\\' => Piece::One(rest.next().ok_or_else(bad)?),
                '[' => {
                    let among = rest.next_if_eq(&'^').is_none();
                    let mut ranges = Vec::new();
                    loop {
                        let low = match rest.next().ok_or_else(bad)? {
                            ']' if !ranges.is_empty() => break,
                            ']' | '-' => return Err(bad()),
                            '\\' => rest.next().ok_or_else(bad)?,
                            c => c,
                        };
                        let high = match rest.next_if_eq(&'-') {
                            Some(_) => match rest.next().ok_or_else(bad)? {
                                ']' | '-' => return Err(bad()),
                                '\\' => rest.next().ok_or_else(bad)?,
                                c => c,
                            },
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    Piece::Class(among, ranges)
                }
                c => Piece::One(c),
            });
        }
        Ok(Glob(pieces))
    }

    /// The whole path. At most one step back for each `*`, so it is done in the product of both lengths.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let (mut at, mut piece) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(piece), path.get(at)) {
                (None, None) => return true,
                (Some(Piece::Many), _) => {
                    back = Some((piece, at));
                    piece += 1;
                    continue;
                }
                (Some(one), Some(c)) if one.takes(*c) => {
                    (piece, at) = (piece + 1, at + 1);
                    continue;
                }
                _ => {}
            }
            // The last star takes one more, unless that is where a segment ends.
            match back {
                Some((star, from)) if path.get(from).is_some_and(|c| *c != '/') => {
                    back = Some((star, from + 1));
                    (piece, at) = (star + 1, from + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Piece::One(own) => *own == c,
            Piece::Any => c != '/',
            Piece::Many => false,
            Piece::Class(among, ranges) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) == *among,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_paths_fit() {
        let cases = [
            ("/metrics", "/metrics", true),
            ("/metrics", "/metrics/", false),
            ("/api/*", "/api/a", true),
            ("/api/*", "/api/a/b", false),
            ("/api/*", "/api/", true),
            ("/*/x*z", "/a/xyz", true),
            ("/*/x*z", "/a/xyzw", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/[a-c]x", "/bx", true),
            ("/[^a-c]x", "/bx", false),
            ("/[^a-c]x", "/dx", true),
            ("/\\*", "/*", true),
            ("/\\*", "/a", false),
            ("*", "/", false),
            ("", "", true),
            ("/*a*b", "/xaxbxab", true),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(Glob::parse(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        for bad in ["[", "[]", "[a", "[-]", "[a-]", "\\", "[a-\\"] {
            assert!(Glob::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in ".{0,20}", path in ".{0,40}") {
            let _ = Glob::parse(&pattern).map(|glob| glob.matches(&path));
        }
    }
}
