//! Spoken codes (SPEC §6.9): a number and two words, such as `7-velvet-harbor`, that stand for a ticket as long as the
//! exporter is nearby.
//!
//! The number says which offer is meant and is no secret. The words are, for one try: whoever has them proves it by
//! [`exchange`], in which nothing travels that a guess could be tried against later.

pub mod exchange;

use std::fmt;

use bip39::Language;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Largest number of a code. Few codes are open at once, so two devices seldom have the same; and it is easily said.
pub const MAX_NUMBER: u16 = 999;
/// Words of a code: 2048 words each, so 22 bits.
pub const WORDS: usize = 2;
/// No two words of the list have these first letters in common.
const PREFIX: usize = 4;
/// Longest text that is looked at.
const MAX_CODE: usize = 128;

/// A spoken code. It is a secret until it is used: it does not print by itself.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code {
    number: u16,
    /// Places in the list of words.
    words: [u16; WORDS],
}

/// Why a text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeRefused {
    /// It does not look like one.
    #[error("this is not a code; a code is a number and two words, such as 7-velvet-harbor")]
    NotACode,
    /// Its number cannot be.
    #[error("the number of a code is from 1 to {MAX_NUMBER}")]
    Number,
    /// More or fewer words than there are in a code.
    #[error("a code has {WORDS} words behind its number, and this has {found}")]
    Words {
        /// So many.
        found: usize,
    },
    /// No code has this word.
    #[error("\u{201c}{word}\u{201d} is in no code: it is misheard or mistyped")]
    Word {
        /// In lower case.
        word: String,
    },
}

/// The words that codes are made of, in order: the English list of BIP-39.
pub fn words() -> &'static [&'static str; 2048] {
    Language::English.word_list()
}

impl Code {
    /// A code from 8 bytes of a cryptographic random source.
    pub fn draw(random: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = random;
        // 2^32 numbers are not shared out evenly among 999 by one in four million, and the number is no secret
        let number = u32::from_be_bytes([a, b, c, d]) % u32::from(MAX_NUMBER) + 1;
        let word = |high, low| u16::from_be_bytes([high, low]) % 2048;
        Self { number: number as u16, words: [word(e, f), word(g, h)] }
    }

    /// Reads a code as people type what they heard: in any case, with any signs or spaces between, and each word by its
    /// first four letters, which no two words have in common.
    ///
    /// # Errors
    /// It is none; each says what is wrong with it.
    // SPEC §6.9
    pub fn parse(text: &str) -> Result<Self, CodeRefused> {
        if text.len() > MAX_CODE {
            return Err(CodeRefused::NotACode);
        }
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, rest) = text.split_at(digits);
        if number.is_empty() {
            return Err(CodeRefused::NotACode);
        }
        let number = number.parse().ok().filter(|n| (1..=MAX_NUMBER).contains(n)).ok_or(CodeRefused::Number)?;
        let found: Vec<&str> = rest.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let [first, second] = found[..] else { return Err(CodeRefused::Words { found: found.len() }) };
        Ok(Self { number, words: [word(first)?, word(second)?] })
    }

    /// Which offer is meant. No secret.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The text that people say: print it only where it is asked for.
    pub fn to_text(&self) -> String {
        format!("{}-{}", self.number, self.secret())
    }

    /// What both sides must know: the words with a dash between.
    fn secret(&self) -> String {
        self.words.map(|at| words()[usize::from(at) % 2048]).join("-")
    }
}

fn word(raw: &str) -> Result<u16, CodeRefused> {
    let word = raw.to_lowercase();
    let (all, start) = (words(), word.get(..PREFIX));
    let whole = all.iter().position(|known| *known == word);
    let at = whole.or_else(|| start.and_then(|start| all.iter().position(|known| known.get(..PREFIX) == Some(start))));
    at.and_then(|at| u16::try_from(at).ok()).ok_or(CodeRefused::Word { word })
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-..)", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §6.9
    #[test]
    fn a_code_is_read_as_it_is_said_in_any_case_with_any_signs_between() {
        let code = Code::parse("7-velvet-harbor").unwrap();
        assert_eq!((code.number(), code.to_text()), (7, "7-velvet-harbor".to_owned()));
        for said in [
            " 7 velvet harbor\n",
            "7-VELVET-HARBOR",
            "7, Velvet, Harbor.",
            "7velvet harbor",
            "007_velvet_harbor",
            "7-velvet--harbor-",
            "7\u{2013}velvet\u{2013}harbour",
            "7 velv harb",
            "7-velvets-harbors",
        ] {
            assert_eq!(Code::parse(said), Ok(code.clone()), "{said:?}");
        }
    }

    #[test]
    fn what_is_no_code_says_what_is_wrong_with_it() {
        for (text, why) in [
            ("", CodeRefused::NotACode),
            ("velvet-harbor", CodeRefused::NotACode),
            ("me.things:me.sync.v4:AAAA", CodeRefused::NotACode),
            ("0-velvet-harbor", CodeRefused::Number),
            ("1000-velvet-harbor", CodeRefused::Number),
            ("99999999999999999999-velvet-harbor", CodeRefused::Number),
            ("7", CodeRefused::Words { found: 0 }),
            ("7-velvet", CodeRefused::Words { found: 1 }),
            ("7-velvet-harbor-7", CodeRefused::Words { found: 3 }),
            ("7-velvet-harbor-act", CodeRefused::Words { found: 3 }),
            ("7-velvet-hxrbor", CodeRefused::Word { word: "hxrbor".into() }),
            ("7-vel-harbor", CodeRefused::Word { word: "vel".into() }),
            ("7-\u{e9}t\u{e9}s-harbor", CodeRefused::Word { word: "\u{e9}t\u{e9}s".into() }),
        ] {
            assert_eq!(Code::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(Code::parse(&format!("7-velvet-harbor{}", " ".repeat(200))), Err(CodeRefused::NotACode));
    }

    #[test]
    fn every_code_that_is_drawn_is_read_again() {
        let mut numbers = std::collections::BTreeSet::new();
        for n in 0..5000_u64 {
            let code = Code::draw(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            assert_eq!(Code::parse(&code.to_text()), Ok(code.clone()));
            numbers.insert(code.number());
        }
        assert!(numbers.len() > 900 && numbers.first() == Some(&1) && numbers.last() <= Some(&MAX_NUMBER));
        assert_eq!(Code::draw([0xff; 8]).to_text().split_once('-').unwrap().1, "zoo-zoo");
    }

    #[test]
    fn no_two_words_of_the_list_are_taken_for_each_other() {
        for (at, known) in words().iter().enumerate() {
            assert_eq!(word(known), Ok(at as u16));
            assert!(known.len() < PREFIX || word(&known[..PREFIX]) == Ok(at as u16), "{known}");
        }
    }

    #[test]
    fn the_words_are_not_in_the_debug_text() {
        assert_eq!(format!("{:?}", Code::draw([0; 8])), "Code(1-..)");
    }
}
