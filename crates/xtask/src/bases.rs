//! The base images: Docker Hub's where it answers, else stand-ins made from Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};

use crate::install;
use crate::oci::{Config, EPOCH, Layout, pack};
use crate::process::{Result, is_set, output, run_quietly, tool};
use crate::registry::Registry;
use crate::report;
use crate::workspace::Workspace;

/// Debian 12 has nodejs 18, and is signed by the keys of every Debian since.
const SUITE: &str = "bookworm";

/// What `recipe.toml` says.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    image: String,
    packages: Vec<String>,
    #[serde(default)]
    variant: Variant,
    config: Config,
}

/// How much of Debian a base is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Variant {
    /// The files of the packages; a stand-in for one of Docker Hub's images.
    #[default]
    Extract,
    /// Debian with apt, configured: for the tests, and in no registry.
    Apt,
}

impl Variant {
    /// mmdebstrap's name for it, and when the recipe's script is run.
    fn options(self) -> (&'static str, &'static str) {
        match self {
            Self::Extract => ("extract", "extract"),
            Self::Apt => ("apt", "customize"),
        }
    }
}

/// A base image that was made here.
#[derive(Debug)]
pub(crate) struct Base {
    /// Its name below docker.io: `library/node:18-alpine`.
    pub(crate) image: String,
    pub(crate) layout: Layout,
    folder: PathBuf,
}

/// Whether Docker Hub answers soon. Not asked in CI nor where `RBUILD_OFFLINE` is set: runs there must not depend on it.
pub(crate) fn hub_answers() -> bool {
    if is_set("CI") || is_set("RBUILD_OFFLINE") {
        return false;
    }
    let question =
        ["2", "skopeo", "--insecure-policy", "inspect", "--raw", "docker://docker.io/library/busybox:latest"];
    output(tool("timeout").args(question)).is_ok()
}

/// Makes all stand-ins and puts them into the registry.
pub(crate) fn serve_stand_ins(workspace: &Workspace, registry: &Registry) -> Result<()> {
    for base in stand_ins(workspace)? {
        registry.put(&base.layout, &base.image)?;
    }
    Ok(())
}

/// The task `bases`.
pub(crate) fn show(workspace: &Workspace) -> Result<()> {
    install::ensure(&[install::REGISTRY, install::ROOTLESS])?;
    for base in stand_ins(workspace)? {
        println!("{}: {}", base.image, base.folder.join("layout").display());
    }
    Ok(())
}

/// The stand-ins of all recipes, made now or before.
fn stand_ins(workspace: &Workspace) -> Result<Vec<Base>> {
    made_of(workspace, Variant::Extract)
}

/// The Debian of the tests, at `demo/bases/debian/layout` of the target folder.
pub(crate) fn make_debian(workspace: &Workspace) -> Result<()> {
    made_of(workspace, Variant::Apt).map(drop)
}

fn made_of(workspace: &Workspace, variant: Variant) -> Result<Vec<Base>> {
    let recipes = workspace.root.join("testdata/base-images");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(&recipes)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("recipe.toml").is_file());
    folders.sort();
    let made = workspace.scratch("demo/bases")?;
    let mut bases = Vec::new();
    for folder in folders {
        let recipe = Recipe::read(&folder)?;
        if recipe.variant == variant {
            bases.push(stand_in(recipe, &folder, &made)?);
        }
    }
    Ok(bases)
}

impl Recipe {
    fn read(folder: &Path) -> Result<Recipe> {
        let file = folder.join("recipe.toml");
        let text = fs::read_to_string(&file)?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()).into())
    }
}

/// One stand-in, below `made`. A file beside it keeps the recipe it was made by: another recipe, another image.
fn stand_in(recipe: Recipe, recipe_folder: &Path, made: &Path) -> Result<Base> {
    let folder = made.join(recipe_folder.file_name().ok_or("a recipe without a name")?);
    let stamp = stamp(recipe_folder)?;
    if fs::read_to_string(folder.join("made-by")).is_ok_and(|made_by| made_by == stamp) {
        println!("{}: made before", recipe.image);
        let layout = Layout::at(&folder.join("layout"));
        return Ok(Base { image: recipe.image, layout, folder });
    }
    println!("{}: making it from Debian's {}", recipe.image, recipe.packages.join(", "));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let layers = layers(&recipe, recipe_folder, &folder)?;
    let bytes = layers.iter().map(|layer| Ok(layer.metadata()?.len())).sum::<Result<u64>>()?;
    let layout = Layout::create(&folder.join("layout"), &layers, &recipe.config)?;
    for layer in layers {
        fs::remove_file(layer)?;
    }
    fs::write(folder.join("made-by"), stamp)?;
    println!("{}: {}", recipe.image, report::size(bytes));
    Ok(Base { image: recipe.image, layout, folder })
}

/// The layers as archives: the packages, and what the recipe lays over them.
fn layers(recipe: &Recipe, recipe_folder: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let packages = folder.join("packages.tar");
    unpack_packages(recipe, recipe_folder, &packages)?;
    let mut layers = vec![packages];
    let rootfs = recipe_folder.join("rootfs");
    if rootfs.is_dir() {
        let above = folder.join("rootfs.tar");
        pack(&rootfs, &above)?;
        layers.push(above);
    }
    Ok(layers)
}

/// Unpacks the packages and what they depend on, and packs the result as a layer. Their scripts are run only for a Debian
/// that is to be configured.
fn unpack_packages(recipe: &Recipe, recipe_folder: &Path, into: &Path) -> Result<()> {
    let (variant, hook) = recipe.variant.options();
    run_quietly(
        tool("mmdebstrap")
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .arg(format!("--variant={variant}"))
            .args(["--format=tar", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"])
            // Nothing has to survive a power cut here.
            .arg("--dpkgopt=force-unsafe-io")
            .arg(format!("--include={}", recipe.packages.join(",")))
            .arg(format!("--{hook}-hook={}", recipe_folder.join("customize.sh").display()))
            .args(transport_options()?)
            .arg(SUITE)
            .arg(into)
            .args(sources()?),
    )
}

/// Debian's archive as this machine's apt reaches it, whatever other archives apt knows.
fn sources() -> Result<Vec<String>> {
    let query =
        ["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Origin: Debian"];
    let targets = output(tool("apt-get").args(query))?;
    let mut sources: Vec<String> = targets.lines().filter_map(source_line).collect();
    sources.sort();
    sources.dedup();
    if sources.is_empty() {
        return Err("apt knows no archive of Debian (`apt-get update` may not have run yet): \
                    the base images are made from its packages"
            .into());
    }
    Ok(sources)
}

/// `URI trixie-security` → the source of the same archive for [`SUITE`]. Backports are left out.
fn source_line(target: &str) -> Option<String> {
    let (uri, release) = target.split_once(' ')?;
    let suffix = release.find('-').map_or("", |dash| &release[dash..]);
    matches!(suffix, "" | "-updates" | "-security").then(|| format!("deb {uri} {SUITE}{suffix} main"))
}

/// The machine's settings for reaching an archive (proxies, certificates), which mmdebstrap's own apt does not read.
fn transport_options() -> Result<Vec<String>> {
    let settings = output(tool("apt-config").arg("dump"))?;
    let wanted =
        ["Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::https::CAInfo", "Acquire::Retries"];
    let lines = settings.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines.map(|line| format!("--aptopt={}", line.trim_end_matches(';'))).collect())
}

/// Everything the stand-in depends on, as one text.
fn stamp(recipe_folder: &Path) -> Result<String> {
    let mut files = vec![recipe_folder.with_file_name("common.sh")];
    files_below(recipe_folder, &mut files)?;
    files.sort();
    let mut stamp = format!("{SUITE} {EPOCH} {}\n", std::env::consts::ARCH);
    for file in files {
        stamp += &format!("--- {}\n", file.file_name().unwrap_or_default().to_string_lossy());
        stamp += &fs::read_to_string(&file)?;
    }
    Ok(stamp)
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files_below(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_of_debian_serves_the_suite_too() {
        let line = |target| source_line(target).unwrap_or_default();
        assert_eq!(
            line("http://mirror.test/debian/ bookworm"),
            "deb http://mirror.test/debian/ bookworm main"
        );
        assert_eq!(
            line("http://mirror.test/s/ trixie-security"),
            "deb http://mirror.test/s/ bookworm-security main"
        );
        assert_eq!(source_line("http://mirror.test/debian/ bookworm-backports"), None);
    }

    #[test]
    fn every_recipe_can_be_read() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/base-images");
        for name in ["busybox", "debian", "nginx", "node"] {
            let recipe = Recipe::read(&recipes.join(name)).unwrap();
            assert!(recipe.image.starts_with("library/"), "{}", recipe.image);
            assert!(recipes.join(name).join("customize.sh").is_file());
        }
    }
}
