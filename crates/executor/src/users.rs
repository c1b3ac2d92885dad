use crate::SandboxError;

/// Who a command runs as, resolved against the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, in the order of the file.
    pub groups: Vec<u32>,
    /// Home directory: `HOME` where the environment has none. May be empty, as in passwd.
    pub home: String,
}

/// The accounts of an image: the texts of its `/etc/passwd` and `/etc/group`, empty where it has none.
///
/// Resolution follows the reference (moby/sys/user by way of runc): numbers are always ids, never names.
#[derive(Debug, Clone, Default)]
pub struct UserDatabase {
    accounts: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl UserDatabase {
    /// Parses both texts; lines that make no sense are passed over, as the reference does.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let accounts = lines(passwd).map(|f| Account {
            name: field(&f, 0).into(),
            uid: id(field(&f, 2)).unwrap_or(0),
            gid: id(field(&f, 3)).unwrap_or(0),
            home: field(&f, 5).into(),
        });
        let groups = lines(group).map(|f| Group {
            name: field(&f, 0).into(),
            gid: id(field(&f, 2)).unwrap_or(0),
            members: field(&f, 3).split(',').filter(|m| !m.is_empty()).map(Into::into).collect(),
        });
        Self { accounts: accounts.collect(), groups: groups.collect() }
    }

    /// Resolves `USER`'s argument: `""` (root), `name`, `uid`, `name:group`, `uid:gid`, and the mixed forms.
    pub fn resolve(&self, user: &str) -> Result<User, SandboxError> {
        let (name, group) =
            user.split_once(':').map_or((user, None), |(n, g)| (n, Some(g).filter(|g| !g.is_empty())));
        let name = if name.is_empty() { "0" } else { name };
        let account = match number(name)? {
            Some(uid) => self.accounts.iter().find(|a| a.uid == uid),
            None => Some(self.account(name)?),
        };
        let uid = number(name)?.or(account.map(|a| a.uid)).unwrap_or(0);
        let gid = match group {
            Some(group) => self.gid(group)?,
            None => account.map_or(0, |a| a.gid),
        };
        let groups = match (group, account) {
            (None, Some(account)) => self.supplementary(&account.name),
            _ => Vec::new(),
        };
        Ok(User { uid, gid, groups, home: self.home(uid) })
    }

    /// A `--chown` user part: a number stays one, a name must exist.
    pub fn uid(&self, user: &str) -> Result<u32, SandboxError> {
        match number(user)? {
            Some(uid) => Ok(uid),
            None => Ok(self.account(user)?.uid),
        }
    }

    /// A group by number or name.
    pub fn gid(&self, group: &str) -> Result<u32, SandboxError> {
        match number(group)? {
            Some(gid) => Ok(gid),
            None => (self.groups.iter().find(|g| g.name == group).map(|g| g.gid))
                .ok_or_else(|| SandboxError::NoSuchGroup(group.into())),
        }
    }

    /// The primary group of a user in passwd, by name or number.
    pub fn primary_gid(&self, user: &str) -> Option<u32> {
        let by_number = number(user).ok().flatten();
        self.accounts.iter().find(|a| by_number.map_or(a.name == user, |uid| a.uid == uid)).map(|a| a.gid)
    }

    /// The home of the first account with this uid; `/` for a stranger.
    pub fn home(&self, uid: u32) -> String {
        self.accounts.iter().find(|a| a.uid == uid).map_or_else(|| "/".into(), |a| a.home.clone())
    }

    fn account(&self, name: &str) -> Result<&Account, SandboxError> {
        self.accounts.iter().find(|a| a.name == name).ok_or_else(|| SandboxError::NoSuchUser(name.into()))
    }

    fn supplementary(&self, name: &str) -> Vec<u32> {
        self.groups.iter().filter(|g| g.members.iter().any(|m| m == name)).map(|g| g.gid).collect()
    }
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split(':').collect())
}

fn field<'a>(fields: &[&'a str], index: usize) -> &'a str {
    fields.get(index).copied().unwrap_or("")
}

/// An id of a file: anything from 0 to 2³²-2.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&n| n != u32::MAX)
}

/// `Some` for a text of digits only; the reference refuses ids of 2³¹ and above.
fn number(text: &str) -> Result<Option<u32>, SandboxError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(n) if n <= i32::MAX as u32 => Ok(Some(n)),
        _ => Err(SandboxError::IdRange(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        app:x:1500:1501::/srv/app:/bin/sh\n\
        3000:x:77:78::/n:/bin/sh\n\
        bare:x:1600:1600:::\n\
        \n# a comment\nbroken\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1501:\nextra:x:20:app\n";

    fn database() -> UserDatabase {
        UserDatabase::parse(PASSWD, GROUP)
    }

    #[test]
    fn every_form_of_user() {
        let table: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[10], "/root"),
            ("root", 0, 0, &[10], "/root"),
            ("0", 0, 0, &[10], "/root"),
            ("app", 1500, 1501, &[10, 20], "/srv/app"),
            ("1500", 1500, 1501, &[10, 20], "/srv/app"),
            ("app:wheel", 1500, 10, &[], "/srv/app"),
            ("app:", 1500, 1501, &[10, 20], "/srv/app"),
            ("1500:0", 1500, 0, &[], "/srv/app"),
            ("app:4321", 1500, 4321, &[], "/srv/app"),
            ("1234", 1234, 0, &[], "/"),
            ("3000", 3000, 0, &[], "/"),
            ("bare", 1600, 1600, &[], ""),
        ];
        for &(text, uid, gid, groups, home) in table {
            let expected = User { uid, gid, groups: groups.to_vec(), home: home.into() };
            assert_eq!(database().resolve(text).unwrap(), expected, "USER {text:?}");
        }
    }

    #[test]
    fn names_that_do_not_exist_and_ids_out_of_range() {
        assert!(matches!(database().resolve("nobody"), Err(SandboxError::NoSuchUser(n)) if n == "nobody"));
        assert!(matches!(database().resolve("app:none"), Err(SandboxError::NoSuchGroup(n)) if n == "none"));
        assert!(matches!(database().resolve("2147483648"), Err(SandboxError::IdRange(_))));
        assert!(matches!(database().resolve("99999999999999"), Err(SandboxError::IdRange(_))));
    }

    #[test]
    fn an_image_without_passwd_has_a_root() {
        let empty = UserDatabase::default();
        assert_eq!(empty.resolve("").unwrap(), User { uid: 0, gid: 0, groups: vec![], home: "/".into() });
        assert!(empty.resolve("root").is_err());
    }
}
