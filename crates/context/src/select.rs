//! What a source of COPY, ADD or a mount names in a tree.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;

use rbuild_fs::{FinalSymlink, Meta, PathError, RootfsPath};

use crate::error::SelectError;
use crate::glob::Glob;
use crate::pattern::PatternSet;
use crate::tree::Tree;
use crate::walk::{Filter, walk};

/// How a source is read.
#[derive(Clone, Debug, Default)]
pub struct SelectOptions {
    /// Whether `*`, `?` and `[…]` are wildcards; set for COPY and ADD, not for the sources of mounts.
    pub wildcards: bool,
    /// `--exclude`: patterns relative to each folder that the source names. They do not apply to a file that is
    /// itself named or matched by the source.
    pub exclude: Vec<String>,
    /// `--parents`: keep the folders after `/./`; `**` is any number of folders.
    pub parents: bool,
}

/// What a source names.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The source as it was given.
    pub source: String,
    /// Whether the source has wildcards; no match is no error then.
    pub wildcard: bool,
    /// The files and folders, sorted by their paths.
    pub matches: Vec<Match>,
}

/// A file or folder that a source names.
///
/// Of a folder the *contents* are what is copied, never the folder itself. With `--parents` there is one such folder,
/// the one before `/./` (or the root), and its entries are what matched with the folders on the way: copying its
/// contents into the destination keeps the parents, and nothing else has to be done.
#[derive(Clone, Debug)]
pub struct Match {
    /// Where it lies in the tree; symbolic links are resolved.
    pub path: RootfsPath,
    /// The name a file gets in a destination folder: the source's own, also where that is a link to another name.
    /// Empty for the root.
    pub name: OsString,
    /// The file, or the folder and all below it: parents before children, sorted by name.
    pub entries: Vec<Entry>,
}

impl Match {
    /// Whether this is a folder, whose contents are copied.
    pub fn is_dir(&self) -> bool {
        self.entries.first().is_some_and(|own| own.meta.is_dir())
    }
}

/// One file of a selection. Hard links have the same device and inode in their metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to [`Match::path`]; empty for the file or folder itself.
    pub path: PathBuf,
    /// As the tree shows it.
    pub meta: Meta,
}

impl Tree {
    /// What a source names in this tree.
    ///
    /// - Sources are cleaned and rooted: `/foo`, `./foo` and `../../foo` are all `foo`.
    /// - A symbolic link that is named or matched is followed inside the tree and keeps its own name; links inside a
    ///   folder stay links.
    /// - A missing literal is an error, and one of a wildcard that matches nothing is not.
    pub fn select(&self, source: &str, options: &SelectOptions) -> Result<Selection, SelectError> {
        let exclude = PatternSet::new(&options.exclude)?;
        let wildcard = options.wildcards && Glob::has_wildcards(source);
        let matches = match options.parents {
            true => self.select_with_parents(source, exclude, options.wildcards)?,
            false => {
                let filter = Filter { exclude, include: None };
                let paths = self.expand(&RootfsPath::new(source), wildcard)?;
                let found = paths.iter().map(|path| self.select_one(path, wildcard, &filter));
                found.filter_map(Result::transpose).collect::<Result<_, _>>()?
            }
        };
        Ok(Selection { source: source.to_owned(), wildcard, matches })
    }

    /// One path of the source. `None` if all of it is ignored, which is an error only for a literal.
    fn select_one(
        &self,
        path: &RootfsPath,
        wildcard: bool,
        filter: &Filter,
    ) -> Result<Option<Match>, SelectError> {
        let real = self.real(path)?;
        let Some(meta) = self.meta(&real)? else { return self.missing(path, &real) };
        let ignored = self.ignored(path) || self.ignored(&real);
        let entries = match (meta.is_dir(), ignored) {
            (true, _) => walk(self, &real, meta, filter)?,
            (false, false) => vec![Entry { path: PathBuf::new(), meta }],
            (false, true) => Vec::new(),
        };
        // An ignored folder counts for what is taken back below it.
        if entries.is_empty() || ignored && entries.len() == 1 {
            return if wildcard && self.ignored(path) { Ok(None) } else { self.missing(path, &real) };
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Some(Match { path: real, name, entries }))
    }

    /// The path without links. What leads through a file is left as it is: nothing will be found there.
    fn real(&self, path: &RootfsPath) -> Result<RootfsPath, PathError> {
        match self.root().resolve(path, FinalSymlink::Follow) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(path.clone()),
            resolved => resolved,
        }
    }

    fn missing(&self, path: &RootfsPath, real: &RootfsPath) -> Result<Option<Match>, SelectError> {
        let path = path.clone();
        if let Some(rule) = self.ignored_by(&path) {
            return Err(SelectError::NotFound { path, ignored_by: Some(rule.clone()) });
        }
        let ignored_by = self.ignored_by(real).cloned();
        match self.meta(&path)? {
            Some(meta) if meta.is_symlink() => {
                Err(SelectError::Dangling { path, target: real.clone(), ignored_by })
            }
            _ => Err(SelectError::NotFound { path, ignored_by }),
        }
    }

    /// The paths a source without `--parents` stands for: itself, or what its wildcards match, sorted.
    fn expand(&self, source: &RootfsPath, wildcard: bool) -> Result<Vec<RootfsPath>, SelectError> {
        if !wildcard {
            return Ok(vec![source.clone()]);
        }
        let names: Vec<_> = source.components().map(|name| name.to_string_lossy()).collect();
        let literal = names.iter().take_while(|name| !Glob::has_wildcards(name)).count();
        let base = names[..literal].iter().fold(RootfsPath::root(), |path, name| path.join(name.as_ref()));
        let mut found = vec![self.real(&base)?];
        for (index, name) in names.iter().enumerate().skip(literal) {
            let (glob, is_last) = (Glob::new(name)?, index + 1 == names.len());
            let mut next = Vec::new();
            for folder in &found {
                next.extend(self.matching(folder, &glob, is_last)?);
            }
            found = next;
        }
        found.sort();
        Ok(found)
    }

    /// The names in a folder that match; before the last component only folders count, and links are not followed.
    fn matching(
        &self,
        folder: &RootfsPath,
        glob: &Glob,
        is_last: bool,
    ) -> Result<Vec<RootfsPath>, PathError> {
        if !self.root().meta(folder)?.is_some_and(|meta| meta.is_dir()) {
            return Ok(Vec::new());
        }
        let names = self.root().read_dir_meta(folder)?.into_iter();
        let hits =
            names.filter(|(name, meta)| (is_last || meta.is_dir()) && glob.matches(&name.to_string_lossy()));
        let paths = hits.map(|(name, meta)| (folder.join(name), meta));
        // An ignored file is not there; an ignored folder may hold something that is.
        Ok(paths.filter(|(path, meta)| meta.is_dir() || !self.ignored(path)).map(|(path, _)| path).collect())
    }

    fn select_with_parents(
        &self,
        source: &str,
        exclude: PatternSet,
        wildcards: bool,
    ) -> Result<Vec<Match>, SelectError> {
        let (pivot, pattern) = source.split_once("/./").unwrap_or(("/", source));
        let pattern = RootfsPath::new(pattern);
        let text = pattern.relative().to_string_lossy().into_owned();
        let literal = !wildcards || !Glob::has_wildcards(pivot) && !Glob::has_wildcards(&text);
        let include = match text.is_empty() {
            true => None,
            false => Some(PatternSet::new([if wildcards { text } else { escaped(&text) }])?),
        };
        let filter = Filter { exclude, include };
        let mut found = Vec::new();
        for path in self.expand(&RootfsPath::new(pivot), wildcards && Glob::has_wildcards(pivot))? {
            let real = self.real(&path)?;
            let Some(meta) = self.meta(&real)? else { continue };
            let entries = if meta.is_dir() { walk(self, &real, meta, &filter)? } else { Vec::new() };
            if entries.len() > 1 {
                found.push(Match { path: real, name: OsString::new(), entries });
            }
        }
        let path = RootfsPath::new(pivot).join(pattern.relative());
        // What `--exclude` leaves out is there all the same; what lies behind a linked folder is not, as in the reference.
        let there = || {
            let inside = self.real(&RootfsPath::new(pivot))?.join(pattern.relative());
            let folder = inside.parent().unwrap_or_else(RootfsPath::root);
            let is_direct = self.real(&folder)? == folder;
            Ok::<_, PathError>(is_direct && self.root().meta(&inside)?.is_some() && !self.ignored(&path))
        };
        if literal && found.is_empty() && !there()? {
            let ignored_by = self.ignored_by(&path).cloned();
            return Err(SelectError::NotFound { path, ignored_by });
        }
        Ok(found)
    }
}

/// A text as a pattern that matches just that text.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for char in text.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\' | '!') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}
