//! What a lock manager's word proves: the whole table. (The model explores what comes of believing too much.)
#![cfg(not(target_arch = "wasm32"))]

use tab_lease::evidence::{Evidence, Manager, Word};

const HELD: Word = Word::Held { by_us: false };
const HELD_BY_US: Word = Word::Held { by_us: true };
const GRANTED: Word = Word::Granted { lock: true };
const CALLED_WITH_NULL: Word = Word::Granted { lock: false };

/// The last word's verdict.
fn verdict(manager: Manager, words: &[Word]) -> bool {
    let mut evidence = Evidence::new(manager);
    let verdicts = words.iter().map(|word| evidence.proves_end("tab", *word));
    verdicts.last().unwrap()
}

#[test]
fn a_grant_of_a_beacon_that_was_seen_held_by_another_proves_an_end() {
    assert!(verdict(Manager::Browser, &[HELD, GRANTED]));
}

#[test]
fn any_weaker_word_proves_nothing() {
    for words in [
        &[HELD][..],
        &[GRANTED],
        &[GRANTED, HELD],
        &[HELD_BY_US, GRANTED],
        &[HELD, CALLED_WITH_NULL],
        &[HELD, GRANTED, CALLED_WITH_NULL],
    ] {
        assert!(!verdict(Manager::Browser, words), "{words:?}");
    }
}

#[test]
fn a_foreign_manager_proves_nothing() {
    assert!(!verdict(Manager::Foreign, &[HELD, GRANTED]));
}

#[test]
fn words_may_be_doubled_and_late() {
    assert!(verdict(
        Manager::Browser,
        &[HELD, HELD, GRANTED, HELD, GRANTED]
    ));
    assert!(verdict(
        Manager::Browser,
        &[GRANTED, CALLED_WITH_NULL, HELD, GRANTED]
    ));
}

#[test]
fn one_tab_seen_says_nothing_of_another() {
    let mut evidence = Evidence::new(Manager::Browser);
    assert!(!evidence.proves_end("one", HELD));
    assert!(evidence.has_seen("one") && !evidence.has_seen("two"));
    assert!(!evidence.proves_end("two", GRANTED));
}
