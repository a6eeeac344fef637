//! Printing text that came from a peer or a file system without letting it drive the terminal (SPEC §3.4).

use std::fmt;

/// Longest text that [`escaped`] prints, in characters; the rest is replaced by `…`.
pub const MAX_PRINTED: usize = 200;

/// Displays `text` with control, bidirectional, zero-width and other invisible characters as `\u{…}`.
pub fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escaped`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for (n, c) in self.0.chars().enumerate() {
            if n == MAX_PRINTED {
                return f.write_char('…');
            }
            if is_unsafe(c) { write!(f, "{}", c.escape_unicode())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Cuts `text` to at most `max` bytes at a character border.
pub fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §3.4
    #[test]
    fn terminal_escapes_and_bidi_marks_print_as_text() {
        assert_eq!(escaped("a\u{1b}[2Jb\u{202e}c\u{200b}").to_string(), "a\\u{1b}[2Jb\\u{202e}c\\u{200b}");
        assert_eq!(escaped("naïve 文書 🗂").to_string(), "naïve 文書 🗂");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(escaped(&"x".repeat(1000)).to_string().chars().count(), MAX_PRINTED + 1);
        assert_eq!(cut("aé", 2), "a");
    }
}
