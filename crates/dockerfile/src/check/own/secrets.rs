//! Text that looks like a secret.

use std::sync::LazyLock;

use regex::Regex;

/// What is looked for, and what it is called. Words that may stand for a variable or a file do not count.
static PATTERNS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    let patterns = [
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
        ("an access key of AWS", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("a token of GitHub", r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{50,})"),
        ("a token of GitLab", r"\bglpat-[0-9A-Za-z_-]{20}"),
        ("a token of npm", r"\bnpm_[0-9A-Za-z]{36}"),
        ("a token of Slack", r"\bxox[abprs]-[0-9A-Za-z-]{10,}"),
        ("a password in a URL", r"[a-z][a-z0-9+.-]*://[^\s/:@$'\x22]+:[^\s/:@$'\x22]+@[^\s]"),
        ("an Authorization header", r"(?i)authorization:\s*(?:basic|bearer|token)\s+[0-9a-z+/_.=-]{8,}"),
        (
            "a password or token",
            r"(?i)(?:^|[\s_'\x22;-])(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)(?:=|:\s|\s+=\s+)['\x22]?[^\s'\x22$<{/;&|()-][^\s'\x22$;&|()]{5,}",
        ),
    ];
    patterns.into_iter().filter_map(|(name, text)| Some((name, Regex::new(text).ok()?))).collect()
});

/// What a text holds that should not be in an image's history.
pub(super) fn found(text: &str) -> Option<&'static str> {
    PATTERNS.iter().find(|(_, pattern)| pattern.is_match(text)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(PATTERNS.len(), 9);
    }

    #[test]
    fn secrets_and_what_only_resembles_them() {
        // Joined here, so that no scanner takes this file for a leak.
        let github = format!("git clone x -c token={}{}", "ghp_", "a1".repeat(18));
        for (text, expected) in [
            (format!("echo {}{} > f", "AKIA", "ABCDEFGHIJKLMNOP").as_str(), Some("an access key of AWS")),
            (github.as_str(), Some("a token of GitHub")),
            ("cat <<K\n-----BEGIN RSA PRIVATE KEY-----", Some("a private key")),
            ("curl https://me:hunter22@x.test/a", Some("a password in a URL")),
            ("curl -H 'Authorization: Bearer abcdef123456'", Some("an Authorization header")),
            ("mysql --password=hunter22", Some("a password or token")),
            ("export API_KEY=abcdef123", Some("a password or token")),
            ("mysql --password=$PASSWORD", None),
            ("login --token=\"$(cat /run/secrets/token)\"", None),
            ("x --token=/run/secrets/token", None),
            ("x --password-file=secret.txt", None),
            ("curl https://${USER}:${TOKEN}@x.test", None),
            ("curl http://x.test:8080/a@b", None),
            ("passwd -d root", None),
            ("echo password: ", None),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}
