//! "Did you mean …?"

/// Words longer than this are not compared: nobody misspells them, and the cost is their product.
const LONGEST: usize = 64;

/// The known word that `word` probably stands for: at most a third of its letters are wrong, swapped, missing or
/// too many. Case does not count. `None` when nothing is near, or when `word` itself is known.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = word.to_lowercase().chars().take(LONGEST + 1).collect();
    if wanted.is_empty() || wanted.len() > LONGEST {
        return None;
    }
    let allowed = (wanted.len() / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        if candidate == word {
            return None;
        }
        let letters: Vec<char> = candidate.to_lowercase().chars().take(LONGEST + 1).collect();
        if letters.len().abs_diff(wanted.len()) > allowed {
            continue;
        }
        let distance = distance(&wanted, &letters);
        if distance <= allowed && distance < letters.len() && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The known word that the reference's messages suggest for `word`: the first of those that the fewest letters make of
/// it, at most two. Case counts.
pub(crate) fn reference_suggestion<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wanted: Vec<char> = word.chars().take(LONGEST + 1).collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        if candidate == word {
            return None;
        }
        let letters: Vec<char> = candidate.chars().take(LONGEST + 1).collect();
        if letters.len().max(wanted.len()) > LONGEST || letters.len().abs_diff(wanted.len()) > 2 {
            continue;
        }
        let distance = levenshtein(&wanted, &letters);
        if distance <= 2 && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements, each counting 1.
fn levenshtein(a: &[char], b: &[char]) -> usize {
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            row.push((above[j] + usize::from(from != to)).min(above[j + 1] + 1).min(row[j] + 1));
        }
        above = row;
    }
    above[b.len()]
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours, each counting 1.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(from != to)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["FROM", "RUN", "COPY", "ENTRYPOINT", "ENV"];
        for (word, expected) in [
            ("FRM", Some("FROM")),
            ("form", Some("FROM")),
            ("COPPY", Some("COPY")),
            ("ENTRYPIONT", Some("ENTRYPOINT")),
            ("XYZZY", None),
            ("RUN", None),
            ("", None),
        ] {
            assert_eq!(suggestion(word, known), expected, "{word}");
        }
        assert_eq!(suggestion(&"x".repeat(5000), known), None);
    }
}
