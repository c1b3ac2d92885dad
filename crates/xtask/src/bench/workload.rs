//! The work that is timed. Contexts are made once, always with the same bytes.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::oci::{Config, Layout, pack};
use crate::process::{Result, run_quietly, tool};
use crate::registry::Registry;
use crate::workspace::Workspace;

/// One kind of work.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    make: Make,
}

/// How its context is made.
#[derive(Debug)]
enum Make {
    /// The project's own example, and the file of it that is edited.
    Example { path: &'static str, edited: &'static str },
    /// A function that fills an empty folder.
    Context(fn(&Path) -> Result<()>),
    /// A large base image, and a RUN upon it.
    LargeBase,
    /// An image to be pulled, unpacked, and pushed to another registry.
    Transfer,
}

static WORKLOADS: [Workload; 8] = [
    Workload {
        name: "W1",
        about: "the Node and nginx example",
        make: Make::Example { path: "examples/node-nginx", edited: "src/units.js" },
    },
    Workload { name: "W2", about: "40 small RUN steps", make: Make::Context(many_steps) },
    Workload { name: "W3", about: "COPY of 1 GiB in 20,000 files", make: Make::Context(many_files) },
    Workload {
        name: "W4s",
        about: "8 stages side by side, each sleeps 3 s",
        make: Make::Context(sleeping_stages),
    },
    Workload {
        name: "W4c",
        about: "8 stages side by side, each computes for some 3 s",
        make: Make::Context(computing_stages),
    },
    Workload { name: "W7", about: "one file of 500 MB", make: Make::Context(one_large_file) },
    Workload { name: "W8", about: "one RUN on a base of 4 layers and 71,000 files", make: Make::LargeBase },
    Workload {
        name: "W9",
        about: "an image of 1 GiB in 12 layers: pulled and unpacked, pushed to an empty registry",
        make: Make::Transfer,
    },
];

/// The workloads with these names, or all.
pub(super) fn chosen(names: Option<&[String]>) -> Result<Vec<&'static Workload>> {
    let Some(names) = names else { return Ok(WORKLOADS.iter().collect()) };
    let find = |name: &String| {
        let found = WORKLOADS.iter().find(|workload| workload.name.eq_ignore_ascii_case(name));
        let known = || WORKLOADS.iter().map(|workload| workload.name).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("no workload named `{name}`; there are {}", known()).into())
    };
    names.iter().map(find).collect()
}

/// The image of W9.
pub(super) const TRANSFERRED: &str = "transferred";

impl Workload {
    /// Is it about pulling and pushing, not about building?
    pub(super) fn is_transfer(&self) -> bool {
        matches!(self.make, Make::Transfer)
    }

    /// Changes one line of the context's sources, to what it never was before; `false` where there are none.
    pub(super) fn edit(&self, context: &Path) -> Result<bool> {
        let Make::Example { edited, .. } = self.make else { return Ok(false) };
        let file = context.join(edited);
        fs::write(&file, edited_again(&fs::read_to_string(&file)?))?;
        Ok(true)
    }

    /// The context's folder; made now, unless it was before.
    pub(super) fn prepare(
        &self,
        workspace: &Workspace,
        folder: &Path,
        registry: &Registry,
    ) -> Result<PathBuf> {
        let context = folder.join(self.name);
        match self.make {
            // A copy: it will be edited.
            Make::Example { path, .. } => once(&context, |context| {
                let from = workspace.root.join(path).join(".");
                run_quietly(tool("cp").arg("--recursive").arg(from).arg(context))
            })?,
            Make::Context(make) => once(&context, make)?,
            Make::LargeBase => {
                once(&context, |context| {
                    fs::write(context.join("Dockerfile"), "FROM large-base\nRUN echo one > /one\n")
                        .map_err(Into::into)
                })?;
                let image = folder.join("large-base");
                once(&image, large_base)?;
                registry.put(&Layout::at(&image.join("layout")), "library/large-base:latest")?;
            }
            Make::Transfer => {
                // For a builder that pulls only what a build needs: COPY must see the files.
                once(&context, |context| {
                    fs::write(context.join("one"), "one\n")?;
                    fs::write(context.join("Dockerfile"), format!("FROM {TRANSFERRED}\nCOPY one /one\n"))
                        .map_err(Into::into)
                })?;
                let image = folder.join("transferred");
                once(&image, twelve_layers)?;
                registry.put(&Layout::at(&image.join("layout")), &format!("library/{TRANSFERRED}:latest"))?;
            }
        }
        Ok(context)
    }
}

fn edited_again(source: &str) -> String {
    const MARK: &str = "\n// edit ";
    let (kept, last) = source.split_once(MARK).unwrap_or((source.trim_end(), "0"));
    let next = last.split('\n').next().and_then(|last| last.parse::<u64>().ok()).unwrap_or(0) + 1;
    format!("{kept}{MARK}{next}\nexport const edition = {next};\n")
}

/// Fills a folder by `make`, unless it is there; one that was not finished is made anew.
pub(super) fn once(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    println!("making {}", folder.display());
    let unfinished = folder.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    make(&unfinished)?;
    fs::rename(unfinished, folder)?;
    Ok(())
}

fn many_steps(context: &Path) -> Result<()> {
    let steps: String = (1..=40).map(|step| format!("RUN echo layer-{step} > /f{step}\n")).collect();
    Ok(fs::write(context.join("Dockerfile"), format!("FROM busybox\n{steps}"))?)
}

fn sleeping_stages(context: &Path) -> Result<()> {
    many_stages(context, "sleep 3")
}

fn computing_stages(context: &Path) -> Result<()> {
    many_stages(context, "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done")
}

fn many_stages(context: &Path, work: &str) -> Result<()> {
    let mut dockerfile = String::new();
    for stage in 1..=8 {
        dockerfile += &format!("FROM busybox AS s{stage}\nRUN {work}; echo {stage} > /f{stage}\n");
    }
    dockerfile += "FROM busybox\n";
    for stage in 1..=8 {
        dockerfile += &format!("COPY --from=s{stage} /f{stage} /\n");
    }
    Ok(fs::write(context.join("Dockerfile"), dockerfile)?)
}

fn many_files(context: &Path) -> Result<()> {
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY ctx /data\n")?;
    fill(&context.join("ctx"), &mut Bytes(3), 20_000, 1_400, 1 << 30)
}

fn one_large_file(context: &Path) -> Result<()> {
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY file /file\n")?;
    let mut file = BufWriter::new(fs::File::create(context.join("file"))?);
    let mut bytes = Bytes(7);
    for megabyte in 0..500 {
        file.write_all(&bytes.take(1_000_000, megabyte % 2 == 0))?;
    }
    Ok(file.flush()?)
}

/// Four layers of different shape: a few large files, then ever more small ones.
fn large_base(folder: &Path) -> Result<()> {
    let mut layers = Vec::new();
    for (number, (files, folders, size)) in [
        (1_000, 50, 400 << 20),
        (10_000, 700, 250 << 20),
        (20_000, 2_000, 150 << 20),
        (34_000, 3_200, 103 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let tree = folder.join("tree");
        fill(
            &tree.join(format!("usr/lib/part-{number}")),
            &mut Bytes(80 + number as u64),
            files,
            folders,
            size,
        )?;
        if number == 0 {
            let busybox = crate::process::find("busybox").ok_or("busybox-static is not installed")?;
            fs::create_dir(tree.join("bin"))?;
            fs::copy(busybox, tree.join("bin/busybox"))?;
            for link in ["sh", "echo"] {
                std::os::unix::fs::symlink("busybox", tree.join("bin").join(link))?;
            }
        }
        let layer = folder.join(format!("layer-{number}.tar"));
        pack(&tree, &layer)?;
        fs::remove_dir_all(&tree)?;
        layers.push(layer);
    }
    Layout::create(&folder.join("layout"), &layers, &Config::shell())?;
    layers.iter().try_for_each(fs::remove_file).map_err(Into::into)
}

/// Twelve layers of the same size, their files smaller from one to the next.
fn twelve_layers(folder: &Path) -> Result<()> {
    let mut layers = Vec::new();
    for number in 0..12_usize {
        let tree = folder.join("tree");
        let files = 200 << (number / 2);
        fill(
            &tree.join(format!("opt/part-{number}")),
            &mut Bytes(900 + number as u64),
            files,
            files / 20,
            (1 << 30) / 12,
        )?;
        let layer = folder.join(format!("layer-{number}.tar"));
        pack(&tree, &layer)?;
        fs::remove_dir_all(&tree)?;
        layers.push(layer);
    }
    Layout::create(&folder.join("layout"), &layers, &Config::shell())?;
    layers.iter().try_for_each(fs::remove_file).map_err(Into::into)
}

/// Fills a folder with files of log-normal sizes, `total` bytes together, half of them random and half text.
fn fill(folder: &Path, bytes: &mut Bytes, files: usize, folders: usize, total: u64) -> Result<()> {
    let weights: Vec<f64> = (0..files).map(|_| (1.5 * bytes.normal()).exp()).collect();
    let scale = total as f64 / weights.iter().sum::<f64>();
    for number in 0..folders {
        fs::create_dir_all(folder.join(path_of(number)))?;
    }
    for (number, weight) in weights.iter().enumerate() {
        let content = bytes.take((weight * scale) as usize, number % 2 == 0);
        fs::write(folder.join(path_of(number % folders)).join(format!("file-{number}")), content)?;
    }
    Ok(())
}

/// Folders nest: the tenth lies in the first, the hundredth in the tenth.
pub(super) fn path_of(number: usize) -> PathBuf {
    let mut path = if number < 10 { PathBuf::new() } else { path_of(number / 10) };
    path.push(format!("d{number}"));
    path
}

/// A source of bytes that are the same on every machine (xorshift64*).
#[derive(Debug)]
pub(super) struct Bytes(pub(super) u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Nearly normal with variance 1: the sum of twelve even ones, less six.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.next() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0
    }

    pub(super) fn take(&mut self, length: usize, random: bool) -> Vec<u8> {
        let mut taken = Vec::with_capacity(length + 16);
        while taken.len() < length {
            let next = self.next();
            if random {
                taken.extend(next.to_le_bytes());
            } else {
                taken.extend(WORDS[next as usize >> 3 & 31].as_bytes());
                taken.push(if next >> 60 == 0 { b'\n' } else { b' ' });
            }
        }
        taken.truncate(length);
        taken
    }
}

/// What the text is made of: it compresses about as source text does.
const WORDS: [&str; 32] = [
    "fn",
    "let",
    "match",
    "return",
    "struct",
    "layer",
    "digest",
    "(&self)",
    "->",
    "Result<()>",
    "=>",
    "{",
    "}",
    "self.path",
    "if",
    "else",
    "for",
    "in",
    "0x7f",
    "index += 1;",
    "// the",
    "String",
    "\"name\"",
    "None",
    "Some(value)",
    "impl",
    "use",
    "std::io",
    "Vec::new()",
    "assert_eq!",
    "mod",
    "&mut",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_every_time() {
        assert_eq!(Bytes(1).take(100, true), Bytes(1).take(100, true));
        assert_ne!(Bytes(1).take(100, true), Bytes(2).take(100, true));
        assert!(Bytes(1).take(1000, false).is_ascii());
    }

    #[test]
    fn no_edit_is_like_the_one_before() {
        let once = edited_again("let a = 1;\n");
        assert_eq!(once, "let a = 1;\n// edit 1\nexport const edition = 1;\n");
        assert_eq!(edited_again(&once), "let a = 1;\n// edit 2\nexport const edition = 2;\n");
    }

    #[test]
    fn workloads_are_found_by_name() {
        assert_eq!(chosen(None).unwrap().len(), 8);
        assert_eq!(chosen(Some(&["w4S".into()])).unwrap()[0].name, "W4s");
        assert!(chosen(Some(&["W99".into()])).is_err());
    }
}
