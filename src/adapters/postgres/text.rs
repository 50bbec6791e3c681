//! Texts that PostgreSQL can't hold as they are: `text` has no U+0000. It is stored as U+0001 U+0002, and U+0001 as
//! U+0001 U+0001; every other text as it is.

use std::borrow::Cow;

const MARK: char = '\u{1}';
const NUL: char = '\u{2}';

/// A text as it is stored.
pub(super) fn pack(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b <= 1) {
        return Cow::Borrowed(text);
    }
    let mut packed = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => packed.extend([MARK, NUL]),
            MARK => packed.extend([MARK, MARK]),
            other => packed.push(other),
        }
    }
    Cow::Owned(packed)
}

/// The text that was stored.
pub(super) fn unpack(stored: &str) -> Cow<'_, str> {
    if !stored.contains(MARK) {
        return Cow::Borrowed(stored);
    }
    let mut text = String::with_capacity(stored.len());
    let mut chars = stored.chars();
    while let Some(c) = chars.next() {
        match c {
            // What follows a mark was written by `pack`; what somebody else left after one stays.
            MARK => match chars.next() {
                Some(NUL) => text.push('\0'),
                Some(MARK) | None => text.push(MARK),
                Some(other) => text.extend([MARK, other]),
            },
            other => text.push(other),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ordinary_text_is_stored_as_it_is() {
        assert!(matches!(pack("a ✓ \r\n\t\u{2}"), Cow::Borrowed("a ✓ \r\n\t\u{2}")));
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_holds_no_nul(text in "[\u{0}-\u{3}a✓]{0,12}") {
            let packed = pack(&text);
            prop_assert!(!packed.contains('\0'));
            prop_assert_eq!(unpack(&packed), &*text);
        }
    }
}
