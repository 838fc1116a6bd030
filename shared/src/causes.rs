//! What a person is told of an error: its message and what caused it.

use std::error::Error;

/// The message of `error` and those of its causes, from the outside in, without one that a message before it already contains.
///
/// Never empty: the first is `error`'s own.
pub fn in_words(error: &dyn Error) -> Vec<String> {
    let mut told = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !told.iter().any(|before| before.contains(&words)) {
            told.push(words);
        }
        next = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[derive(Debug, thiserror::Error)]
    #[error("{told}")]
    struct Layer {
        told: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(told: &[&'static str]) -> Layer {
        let within = told.iter().rev().fold(None, |source, &told| Some(Box::new(Layer { told, source })));
        *within.expect("at least one")
    }

    #[test]
    fn causes_are_told_from_the_outside_in() {
        assert_eq!(
            in_words(&layers(&["cannot train", "cannot read", "no such file"])),
            ["cannot train", "cannot read", "no such file"]
        );
    }

    #[test]
    fn what_a_message_contains_is_not_told_again() {
        let error = layers(&["cannot train", "`a.nii`: no such class", "no such class", "the label has value 117"]);
        assert_eq!(in_words(&error), ["cannot train", "`a.nii`: no such class", "the label has value 117"]);
    }
}
