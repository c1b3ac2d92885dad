//! Git references: `REPOSITORY[?KEY=VALUE&…][#REF[:SUBDIR]]`.

use rbuild_fs::RootfsPath;

/// A git reference that cannot be read. The keys are those of the Docker documentation of git contexts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A key in the query that is none of ours.
    #[error("could not read the git reference `{text}`: unknown key `{key}`")]
    UnknownKey {
        /// The reference, without a password.
        text: String,
        /// The key.
        key: String,
    },
    /// A key in the query that is there twice, without a value, or with one it cannot have.
    #[error("could not read the git reference `{text}`: {problem} `{key}`")]
    BadValue {
        /// The reference, without a password.
        text: String,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// Two parts that say different things.
    #[error("could not read the git reference `{text}`: it names {what} twice, `{first}` and `{second}`")]
    Conflict {
        /// The reference, without a password.
        text: String,
        /// What is named.
        what: &'static str,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A part that git would take for an option.
    #[error("could not read the git reference `{text}`: `{part}` begins with a dash")]
    Dash {
        /// The reference, without a password.
        text: String,
        /// The part.
        part: String,
    },
}

/// Which time the files of a checkout get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitTime {
    /// That of the checkout.
    Checkout,
    /// That of the commit.
    Commit,
}

/// A commit of a git repository, and what of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitReference {
    /// What git is told to fetch from, without query and fragment.
    pub remote: String,
    /// Commit, tag or branch; `None` is the remote's HEAD.
    pub reference: Option<String>,
    /// Folder of the repository, cleaned, relative.
    pub subdir: Option<String>,
    /// Commit that the reference must lead to: the whole hash or its beginning.
    pub checksum: Option<String>,
    /// Whether to keep `.git`, if said.
    pub keep_git_dir: Option<bool>,
    /// Whether to fetch submodules, if said; they are by default.
    pub submodules: Option<bool>,
    /// Which time the files get, if said.
    pub mtime: Option<GitTime>,
    /// Whether to fetch the commit by its hash, if said.
    pub fetch_by_commit: Option<bool>,
    /// Whether the text could as well be a path (`github.com/a/b`); such a one counts only as a build context.
    pub bare: bool,
}

impl GitReference {
    /// Reads a git reference; `None` if the text is none: `git://`, `ssh://`, `USER@HOST:PATH`, `http(s)://….git`
    /// and `github.com/…` are.
    pub fn parse(text: &str) -> Result<Option<Self>, SourceError> {
        let (before, fragment) =
            text.split_once('#').map_or((text, None), |(before, after)| (before, Some(after)));
        let (address, query) =
            before.split_once('?').map_or((before, None), |(before, after)| (before, Some(after)));
        let Some(remote) = remote(address) else { return Ok(None) };
        let mut found = Self { remote, bare: address.starts_with("github.com/"), ..Self::default() };
        let reader = Reader { text: &without_password(text) };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            found.reference = Some(reference.to_owned()).filter(|text| !text.is_empty());
            found.subdir = Some(subdir).filter(|text| !text.is_empty()).map(folder);
        }
        if let Some(query) = query {
            reader.query(query, &mut found)?;
        }
        for part in [Some(&found.remote), found.reference.as_ref()].into_iter().flatten() {
            if part.starts_with('-') {
                return Err(SourceError::Dash { text: reader.text.to_owned(), part: part.clone() });
            }
        }
        Ok(Some(found))
    }

    /// The repository's name: the last part of the address without `.git`.
    pub fn name(&self) -> &str {
        let last = self.remote.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    }

    /// Whether the connection can be read on its way (`git://`, `http://`).
    pub fn is_unencrypted(&self) -> bool {
        self.remote.starts_with("git://") || self.remote.starts_with("http://")
    }
}

/// What git fetches from, if this is the address of a repository.
fn remote(address: &str) -> Option<String> {
    if address.starts_with("github.com/") {
        return Some(format!("https://{address}"));
    }
    if let Some((scheme, rest)) = address.split_once("://") {
        let http = matches!(scheme, "http" | "https");
        let known = matches!(scheme, "git" | "ssh") || http && rest.ends_with(".git") && rest.contains('/');
        return (known && !rest.is_empty()).then(|| address.to_owned());
    }
    // USER@HOST:PATH, as scp has it.
    let (user, rest) = address.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    (plain(user, b"-_") && plain(host, b"-.") && !path.is_empty()).then(|| address.to_owned())
}

fn folder(path: &str) -> String {
    RootfsPath::new(path).relative().to_string_lossy().into_owned()
}

/// Reads the query; keeps the text for errors.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn query(&self, query: &str, found: &mut GitReference) -> Result<(), SourceError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key), decoded(value));
            if seen.contains(&key) {
                return Err(self.bad(&key, "more than one value for"));
            }
            match key.as_str() {
                "keep-git-dir" => found.keep_git_dir = Some(self.boolean(&key, &value)?),
                "submodules" => found.submodules = Some(self.boolean(&key, &value)?),
                "fetch-by-commit" => found.fetch_by_commit = Some(self.boolean(&key, &value)?),
                "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" | "mtime" if value.is_empty() => {
                    return Err(self.bad(&key, "no value for"));
                }
                "ref" => self.set("a reference", &mut found.reference, value)?,
                "tag" => tag = Some(under("refs/tags/", value)),
                "branch" => branch = Some(under("refs/heads/", value)),
                "subdir" => self.set("a folder", &mut found.subdir, folder(&value))?,
                "checksum" | "commit" => {
                    if !value.bytes().all(|byte| byte.is_ascii_hexdigit()) || value.len() > 64 {
                        return Err(self.bad(&key, "no hash of a commit in"));
                    }
                    self.set("a commit", &mut found.checksum, value.to_ascii_lowercase())?;
                }
                "mtime" => found.mtime = Some(self.time(&key, &value)?),
                _ => return Err(SourceError::UnknownKey { text: self.text.to_owned(), key }),
            }
            seen.push(key);
        }
        for reference in [tag, branch].into_iter().flatten() {
            self.set("a reference", &mut found.reference, reference)?;
        }
        if found.reference.is_none() {
            found.reference.clone_from(&found.checksum);
        }
        Ok(())
    }

    fn set(&self, what: &'static str, slot: &mut Option<String>, value: String) -> Result<(), SourceError> {
        match slot {
            Some(first) if *first != value => {
                let (text, first) = (self.text.to_owned(), first.clone());
                Err(SourceError::Conflict { text, what, first, second: value })
            }
            _ => {
                *slot = Some(value);
                Ok(())
            }
        }
    }

    fn bad(&self, key: &str, problem: &'static str) -> SourceError {
        SourceError::BadValue { text: self.text.to_owned(), key: key.to_owned(), problem }
    }

    /// The words of Go's `strconv.ParseBool`; nothing is "true".
    fn boolean(&self, key: &str, value: &str) -> Result<bool, SourceError> {
        match value {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.bad(key, "neither true nor false in")),
        }
    }

    fn time(&self, key: &str, value: &str) -> Result<GitTime, SourceError> {
        match value {
            "checkout" => Ok(GitTime::Checkout),
            "commit" => Ok(GitTime::Commit),
            _ => Err(self.bad(key, "neither checkout nor commit in")),
        }
    }
}

fn under(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

/// Percent and plus signs of a query undone; a broken escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            (other, ..) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A URL as it may be shown: `https://user:secret@host/` without the secret.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    match authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')) {
        Some((user, secret)) => format!("{scheme}://{user}:***{}", &rest[user.len() + 1 + secret.len()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitReference {
        GitReference::parse(text).unwrap().unwrap_or_else(|| panic!("{text} is a git reference"))
    }

    #[test]
    fn repositories_are_recognised_by_their_address() {
        for (text, remote, name) in [
            ("git://x.test/a", "git://x.test/a", "a"),
            ("ssh://git@x.test:22/a/b.git", "ssh://git@x.test:22/a/b.git", "b"),
            ("git@x.test:owner/b.git", "git@x.test:owner/b.git", "b"),
            ("git@x.test:b", "git@x.test:b", "b"),
            ("https://x.test/a/b.git", "https://x.test/a/b.git", "b"),
            ("http://x.test/b.git#main", "http://x.test/b.git", "b"),
            ("github.com/a/b", "https://github.com/a/b", "b"),
        ] {
            let found = parse(text);
            assert_eq!((found.remote.as_str(), found.name()), (remote, name), "{text}");
        }
        for text in [
            "https://x.test/a",
            "a/b.git",
            "./git@x.test:a",
            "https://x.test/a?x=.git",
            "C:\\x",
            "a@b",
            "ftp://x/a.git",
            "../github.com/a",
            "git://",
        ] {
            assert_eq!(GitReference::parse(text), Ok(None), "{text}");
        }
        assert!(parse("git://x.test/a").is_unencrypted() && !parse("git@x.test:a").is_unencrypted());
    }

    #[test]
    fn fragments_name_reference_and_folder() {
        for (fragment, reference, subdir) in [
            ("", None, None),
            ("#", None, None),
            ("#main", Some("main"), None),
            ("#main:sub/dir", Some("main"), Some("sub/dir")),
            ("#:sub", None, Some("sub")),
            ("#a/b:../../c", Some("a/b"), Some("c")),
            ("#main:", Some("main"), None),
        ] {
            let found = parse(&format!("https://x.test/a.git{fragment}"));
            assert_eq!(
                (found.reference.as_deref(), found.subdir.as_deref()),
                (reference, subdir),
                "{fragment}"
            );
        }
    }

    #[test]
    fn queries_know_every_key() {
        let found = parse(
            "https://x.test/a.git?branch=b%2Fc&subdir=s&checksum=BE1F38E&keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=true",
        );
        assert_eq!(found.reference.as_deref(), Some("refs/heads/b/c"));
        assert_eq!(found.subdir.as_deref(), Some("s"));
        assert_eq!(found.checksum.as_deref(), Some("be1f38e"));
        assert_eq!((found.keep_git_dir, found.submodules), (Some(true), Some(false)));
        assert_eq!((found.mtime, found.fetch_by_commit), (Some(GitTime::Commit), Some(true)));
        assert_eq!(parse("git@x.test:a?tag=v1").reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(parse("git@x.test:a?commit=ab").reference.as_deref(), Some("ab"));
        assert_eq!(parse("git@x.test:a?ref=m#m").reference.as_deref(), Some("m"));
    }

    #[test]
    fn conflicts_and_unknown_keys_are_errors() {
        for (query, message) in [
            ("?ref=a&tag=b", "names a reference twice, `a` and `refs/tags/b`"),
            ("?tag=a&branch=a", "names a reference twice"),
            ("?ref=a#b", "names a reference twice, `b` and `a`"),
            ("?subdir=a#:b", "names a folder twice"),
            ("?commit=a&checksum=b", "names a commit twice"),
            ("?ref=a&ref=a", "more than one value for `ref`"),
            ("?ref=", "no value for `ref`"),
            ("?depth=1", "unknown key `depth`"),
            ("?submodules=maybe", "neither true nor false in `submodules`"),
            ("?checksum=xyz", "no hash of a commit in `checksum`"),
            ("#--upload-pack=x", "`--upload-pack=x` begins with a dash"),
        ] {
            let error = GitReference::parse(&format!("https://x.test/a.git{query}")).unwrap_err().to_string();
            assert!(error.contains(message), "{query}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let error = GitReference::parse("https://me:s3cret@x.test/a.git?bad=1").unwrap_err().to_string();
        assert!(error.contains("https://me:***@x.test/a.git") && !error.contains("s3cret"), "{error}");
    }
}
