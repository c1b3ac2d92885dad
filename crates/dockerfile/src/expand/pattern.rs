//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?`, and a backslash before a letter to be taken as it is.

use regex::Regex;

/// `value` without its shortest (`greedy`: longest) part from the start that matches.
pub(super) fn trim_prefix(value: &str, pattern: &str, greedy: bool) -> Result<String, String> {
    let regex = compile(&tokens(pattern), true, greedy)?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value.get(end..).unwrap_or_default().to_owned())
}

/// `value` without its shortest (`greedy`: longest) part to the end that matches.
pub(super) fn trim_suffix(value: &str, pattern: &str, greedy: bool) -> Result<String, String> {
    // Back to front a suffix is a prefix, and the shortest match is found in one pass.
    let mut tokens = tokens(pattern);
    tokens.reverse();
    let regex = compile(&tokens, true, greedy)?;
    let reversed: String = value.chars().rev().collect();
    let end = regex.find(&reversed).map_or(0, |found| found.end());
    Ok(value.get(..value.len().saturating_sub(end)).unwrap_or_default().to_owned())
}

/// `value` with the first (`all`: every) longest match replaced. Of `all`, `$0` in the replacement is the match and
/// other `$name`s are nothing: the reference does so by accident, and files rely on it.
pub(super) fn replace(value: &str, pattern: &str, replacement: &str, all: bool) -> Result<String, String> {
    let regex = compile(&tokens(pattern), false, true)?;
    if all {
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(regex.replacen(value, 1, regex::NoExpand(replacement)).into_owned())
}

enum Token {
    Any,
    One,
    Letter(char),
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Letter(letters.next().unwrap_or('\\')),
            letter => Token::Letter(letter),
        });
    }
    tokens
}

fn compile(tokens: &[Token], anchored: bool, greedy: bool) -> Result<Regex, String> {
    let mut text = String::from(if anchored { "(?s)^" } else { "(?s)" });
    for token in tokens {
        match token {
            Token::Any if greedy => text.push_str(".*"),
            Token::Any => text.push_str(".*?"),
            Token::One => text.push('.'),
            Token::Letter(letter) => text.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&text).map_err(|_| "the pattern is too long".to_owned())
}
