//! The walk below a folder of a tree, through the filters.

use std::ffi::OsString;
use std::path::PathBuf;
use std::vec::IntoIter;

use rbuild_fs::{Meta, PathError, RootfsPath};

use crate::pattern::{Above, PatternSet};
use crate::select::Entry;
use crate::tree::Tree;

/// What is left out below a folder.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// `--exclude`: relative to the folder.
    pub(crate) exclude: PatternSet,
    /// `--parents`: only what these match, relative to the folder.
    pub(crate) include: Option<PatternSet>,
}

/// What the three sets of patterns know of a folder.
struct Known {
    ignore: Above,
    exclude: Above,
    include: Above,
}

/// A folder being walked.
struct Frame {
    /// Relative to the tree's root, lossy: for the ignore file.
    in_tree: String,
    /// Relative to the walk's start, lossy: for the other patterns.
    relative: String,
    path: PathBuf,
    known: Known,
    todo: IntoIter<(OsString, Meta)>,
    /// Where the folder's own entry is, if the folder is wanted only for what is below it.
    tentative: Option<usize>,
}

/// All below (and with) a folder that the filters let pass: parents before children, sorted by name. A folder that is
/// filtered out is still walked, and kept, where a pattern takes back something below it.
///
/// Depth does not matter: there is no recursion.
pub(crate) fn walk(
    tree: &Tree,
    start: &RootfsPath,
    meta: Meta,
    filter: &Filter,
) -> Result<Vec<Entry>, PathError> {
    let walk = Walk { tree, start, filter };
    let mut entries = vec![Entry { path: PathBuf::new(), meta }];
    let mut stack = vec![walk.first()?];
    while let Some(frame) = stack.last_mut() {
        let Some((name, meta)) = frame.todo.next() else {
            let tentative = frame.tentative;
            stack.pop();
            if tentative.is_some_and(|own| own + 1 == entries.len()) {
                entries.pop();
            }
            continue;
        };
        let (name_text, path) = (name.to_string_lossy(), frame.path.join(&name));
        let (in_tree, relative) = (below(&frame.in_tree, &name_text), below(&frame.relative, &name_text));
        let wanted = walk.wants(&in_tree, &relative, &frame.known);
        let descend = meta.is_dir() && (wanted || walk.may_want_below(&in_tree, &relative, &frame.known));
        if !wanted && !descend {
            continue;
        }
        entries.push(Entry { path: path.clone(), meta: tree.seen(meta) });
        if descend {
            let tentative = (!wanted).then(|| entries.len() - 1);
            let known = walk.enter(&in_tree, &relative, &frame.known);
            stack.push(walk.frame(in_tree, relative, path, known, tentative)?);
        }
    }
    Ok(entries)
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

struct Walk<'a> {
    tree: &'a Tree,
    start: &'a RootfsPath,
    filter: &'a Filter,
}

impl Walk<'_> {
    fn first(&self) -> Result<Frame, PathError> {
        let mut known = Known {
            ignore: self.tree.ignore_patterns().above_root(),
            exclude: self.filter.exclude.above_root(),
            include: self.include().above_root(),
        };
        let mut in_tree = String::new();
        for name in self.start.components() {
            in_tree = below(&in_tree, &name.to_string_lossy());
            known.ignore = self.tree.ignore_patterns().enter(&in_tree, &known.ignore);
        }
        self.frame(in_tree, String::new(), PathBuf::new(), known, None)
    }

    fn frame(
        &self,
        in_tree: String,
        relative: String,
        path: PathBuf,
        known: Known,
        tentative: Option<usize>,
    ) -> Result<Frame, PathError> {
        let todo = self.tree.root().read_dir_meta(&self.start.join(&path))?.into_iter();
        Ok(Frame { in_tree, relative, path, known, todo, tentative })
    }

    fn include(&self) -> &PatternSet {
        static NONE: PatternSet = PatternSet::EMPTY;
        self.filter.include.as_ref().unwrap_or(&NONE)
    }

    fn included(&self, relative: &str, above: &Above) -> bool {
        self.filter.include.as_ref().is_none_or(|include| include.matches_below(relative, above))
    }

    fn wants(&self, in_tree: &str, relative: &str, above: &Known) -> bool {
        !self.tree.ignore_patterns().matches_below(in_tree, &above.ignore)
            && !self.filter.exclude.matches_below(relative, &above.exclude)
            && self.included(relative, &above.include)
    }

    /// Whether something below a folder that is not wanted itself can be.
    fn may_want_below(&self, in_tree: &str, relative: &str, above: &Known) -> bool {
        let (ignore, exclude) = (self.tree.ignore_patterns(), &self.filter.exclude);
        (!ignore.matches_below(in_tree, &above.ignore) || ignore.can_take_back_below(in_tree))
            && (!exclude.matches_below(relative, &above.exclude) || exclude.can_take_back_below(relative))
            && (self.included(relative, &above.include) || self.include().can_match_below(relative))
    }

    fn enter(&self, in_tree: &str, relative: &str, above: &Known) -> Known {
        Known {
            ignore: self.tree.ignore_patterns().enter(in_tree, &above.ignore),
            exclude: self.filter.exclude.enter(relative, &above.exclude),
            include: self.include().enter(relative, &above.include),
        }
    }
}
