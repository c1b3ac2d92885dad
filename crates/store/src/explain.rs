//! Why a step missed: what differs from the nearest earlier run of it.

use std::collections::BTreeMap;

use rbuild_image::Digest;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::{CacheKey, CacheRecord, KeyParts, Lineage, MemoLinks, PartValue, Store, record};

/// Memo kind of file lists, by the content digest of the whole.
const FILES: &str = "files";

/// What went into a content digest for one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Permission bits and the three special ones.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Stands for kind, attributes and content: any text that is another where one of these is.
    pub content: String,
}

/// The files behind one content digest, by path.
pub type FileList = BTreeMap<String, FileFacts>;

/// How one file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content or kind is another.
    Content,
    /// Only its mode is another.
    Mode {
        /// Mode in the earlier run.
        from: u32,
        /// Mode now.
        to: u32,
    },
    /// Owner or group are others.
    Owner {
        /// Owner and group in the earlier run.
        from: (u32, u32),
        /// Owner and group now.
        to: (u32, u32),
    },
}

/// How one part of a key differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the part.
    pub name: String,
    /// Its value in the earlier run; none if the part is new.
    pub from: Option<PartValue>,
    /// Its value now; none if the part is gone.
    pub to: Option<PartValue>,
    /// For files: which ones, by path; empty if they were not noted.
    pub files: Vec<(String, FileChange)>,
}

/// What differs between a step and the nearest earlier run of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Key of the earlier run.
    pub earlier: CacheKey,
    /// When that ran, in seconds since 1970.
    pub created: i64,
    /// What differs, in the order of the parts now; parts that are gone come last.
    pub changes: Vec<Change>,
}

impl Store {
    /// Says why `parts` missed: compares them with the earlier run of the same step that differs in the fewest parts, and of
    /// those the one used last. Nothing when this step never ran.
    pub fn explain(&self, lineage: &Lineage, parts: &KeyParts) -> Result<Option<Difference>> {
        let earlier =
            self.earlier(lineage)?.into_iter().map(|record| (changes(&record.parts, parts), record));
        // `min_by_key` keeps the first of equals, which is the one used last.
        let nearest =
            earlier.filter(|(changes, _)| !changes.is_empty()).min_by_key(|(changes, _)| changes.len());
        let Some((mut changes, CacheRecord { key, created, .. })) = nearest else { return Ok(None) };
        for change in &mut changes {
            if let (Some(PartValue::Content(from)), Some(PartValue::Content(to))) = (&change.from, &change.to)
            {
                change.files = self.file_changes(from, to)?;
            }
        }
        Ok(Some(Difference { earlier: key, created, changes }))
    }

    /// Notes which files are behind the content digest `content`, for [`Store::explain`]. One that is known is not written
    /// again: the digest says it all.
    pub fn put_file_list(&self, content: &Digest, files: &FileList) -> Result<()> {
        let path = self.inner.layout.memo(FILES, content.as_str());
        if path.exists() {
            return Ok(record::touch(&path)?);
        }
        self.put_memo(FILES, content.as_str(), files, &MemoLinks::default())
    }

    /// The files behind a content digest, if they were noted.
    pub fn file_list(&self, content: &Digest) -> Result<Option<FileList>> {
        self.memo(FILES, content.as_str())
    }

    fn file_changes(&self, from: &Digest, to: &Digest) -> Result<Vec<(String, FileChange)>> {
        match (self.file_list(from)?, self.file_list(to)?) {
            (Some(from), Some(to)) => Ok(compare(&from, &to)),
            _ => Ok(Vec::new()),
        }
    }
}

/// What differs between two keys. A name that occurs several times is matched in order.
fn changes(from: &KeyParts, to: &KeyParts) -> Vec<Change> {
    let mut before: Vec<_> = from.parts().iter().collect();
    let mut changes = Vec::new();
    for part in to.parts() {
        let earlier =
            before.iter().position(|known| known.name == part.name).map(|index| before.remove(index));
        if earlier.is_none_or(|earlier| earlier.value != part.value) {
            changes.push(Change {
                name: part.name.clone(),
                from: earlier.map(|earlier| earlier.value.clone()),
                to: Some(part.value.clone()),
                files: Vec::new(),
            });
        }
    }
    changes.extend(before.into_iter().map(|gone| Change {
        name: gone.name.clone(),
        from: Some(gone.value.clone()),
        to: None,
        files: Vec::new(),
    }));
    changes
}

fn compare(from: &FileList, to: &FileList) -> Vec<(String, FileChange)> {
    let removed =
        from.keys().filter(|path| !to.contains_key(*path)).map(|path| (path.clone(), FileChange::Removed));
    let mut changes: Vec<_> = to
        .iter()
        .filter_map(|(path, now)| Some((path.clone(), file_change(from.get(path), now)?)))
        .chain(removed)
        .collect();
    changes.sort_by(|one, other| one.0.cmp(&other.0));
    changes
}

fn file_change(before: Option<&FileFacts>, now: &FileFacts) -> Option<FileChange> {
    let Some(before) = before else { return Some(FileChange::Added) };
    if before.content != now.content {
        Some(FileChange::Content)
    } else if before.mode != now.mode {
        Some(FileChange::Mode { from: before.mode, to: now.mode })
    } else if (before.uid, before.gid) != (now.uid, now.gid) {
        Some(FileChange::Owner { from: (before.uid, before.gid), to: (now.uid, now.gid) })
    } else {
        None
    }
}
