//! Which characters people can see. A text that operators decide by says what it shows: nothing in it turns the
//! direction of writing, moves a cursor, or is there without being seen.
//!
//! Letters of all scripts are fine; that some look like others cannot be helped here.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Letters, marks and symbols that have no glyph of their own: fillers, joiners, and variants of what is before them.
const WITHOUT_GLYPH: [std::ops::RangeInclusive<char>; 9] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{e0100}'..='\u{e01ef}',
];

/// Whether a character is not shown as itself: it controls, formats, breaks lines, or is invisible.
pub(crate) fn is_hidden(character: char) -> bool {
    use GeneralCategory as Category;
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    matches!(
        character.general_category(),
        Category::Control
            | Category::Format
            | Category::LineSeparator
            | Category::ParagraphSeparator
            | Category::PrivateUse
            | Category::Surrogate
    ) || WITHOUT_GLYPH.iter().any(|range| range.contains(&character))
}

/// The text with what is hidden in it made visible, as `\u{202e}`.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_of_all_scripts_are_seen() {
        for text in [
            "Payments, 24/7 <pay@shop.example>",
            "Zahlungsverkehr für Köln",
            "Ελλάδα",
            "Оплата",
            "支払い　決済",
            "결제",
            "תשלומים",
            "مدفوعات",
            "भुगतान",
            "การชำระเงิน",
            "e\u{301}",
            "🚀",
        ] {
            assert_eq!(shown(text), text);
            assert!(!text.chars().any(is_hidden), "{text}");
        }
    }

    #[test]
    fn what_turns_breaks_or_hides_is_not() {
        for hidden in [
            '\0',
            '\n',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206a}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e000}',
            '\u{e0001}',
            '\u{e0061}',
            '\u{3164}',
            '\u{115f}',
            '\u{2800}',
            '\u{fe0f}',
            '\u{34f}',
        ] {
            assert!(is_hidden(hidden), "{hidden:?}");
        }
        assert_eq!(shown("ad\u{202e}nimda\n"), "ad\\u{202e}nimda\\n");
    }

    proptest! {
        #[test]
        fn what_is_shown_hides_nothing(text in any::<String>()) {
            prop_assert!(!shown(&text).chars().any(is_hidden));
        }
    }
}
