//! The ordinary user of the tests, and what only a user namespace may do.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Result, is_root, output, run, run_quietly, tool};

/// The account that root makes for the tests.
pub(crate) const ACCOUNT: &str = "rbuild-test";

/// Ids in an account's subordinate range.
const RANGE: u32 = 65536;

/// An ordinary user of this machine.
#[derive(Debug)]
pub(crate) struct Account {
    home: String,
}

impl Account {
    /// Makes the account, with subordinate ids, unless it is there already. Needs root.
    pub(crate) fn ensure() -> Result<Account> {
        if home()?.is_none() {
            println!("making the account `{ACCOUNT}`");
            run(tool("useradd").args(["--create-home", "--shell", "/bin/sh", ACCOUNT]))?;
        }
        for (file, option) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
            let text = fs::read_to_string(file).unwrap_or_default();
            if !text.lines().any(|line| line.starts_with(&format!("{ACCOUNT}:"))) {
                let first = first_free_id(&text);
                run(tool("usermod").arg(option).arg(format!("{first}-{}", first + RANGE - 1)).arg(ACCOUNT))?;
            }
        }
        let home = home()?.ok_or_else(|| format!("the account `{ACCOUNT}` has no home folder"))?;
        Ok(Account { home })
    }

    /// A program run as this user, with nothing of root's environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = tool("setpriv");
        command
            .args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups", "--inh-caps=-all"])
            .arg(program)
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", ACCOUNT)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command
    }

    /// Whether the user may run this file.
    pub(crate) fn reaches(&self, file: &Path) -> bool {
        run_quietly(self.command(Path::new("test")).arg("-x").arg(file)).is_ok()
    }
}

/// The account's home folder, if there is such an account.
fn home() -> Result<Option<String>> {
    let accounts = fs::read_to_string("/etc/passwd")?;
    let line = accounts.lines().find(|line| line.starts_with(&format!("{ACCOUNT}:")));
    Ok(line.and_then(|line| line.split(':').nth(5)).map(str::to_owned))
}

/// The first id above every range of `/etc/subuid` or `/etc/subgid`.
fn first_free_id(ranges: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>());
        match (fields.next(), fields.next()) {
            (Some(Ok(first)), Some(Ok(count))) => first.checked_add(count),
            _ => None,
        }
    };
    ranges.lines().filter_map(end).max().unwrap_or(0).max(100_000)
}

/// Deletes a tree with files of a build in it: some belong to subordinate ids, which only a user namespace may touch.
pub(crate) fn remove_tree(folder: &Path) -> Result<()> {
    let mut remove = if is_root() {
        tool("rm")
    } else {
        let mut unshare = tool("unshare");
        unshare.args(["--map-root-user", "--map-auto", "rm"]);
        unshare
    };
    output(remove.args(["-rf", "--"]).arg(folder)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap() {
        assert_eq!(first_free_id(""), 100_000);
        assert_eq!(first_free_id("a:100000:65536\nb:165536:65536\n"), 231_072);
        assert_eq!(first_free_id("a:1000:1\nbroken\n"), 100_000);
    }
}
