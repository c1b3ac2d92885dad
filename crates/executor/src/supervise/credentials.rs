//! Who a process takes itself for: credentials(7) and the set*id family, computed as the kernel would.

use std::sync::Arc;

use rustix::io::Errno;

/// "Leave as it is" in every call that sets ids.
const KEEP: u32 = u32::MAX;

/// Real, effective, saved and file-system id of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    pub(crate) file: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid(2)`: a privileged process sets all four.
    fn set(&mut self, id: u32, privileged: bool) -> Result<(), Errno> {
        if privileged {
            *self = Self::all(id);
        } else if id == self.real || id == self.saved {
            (self.effective, self.file) = (id, id);
        } else {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// `setreuid(2)`.
    fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Result<(), Errno> {
        let allowed_real = [KEEP, self.real, self.effective].contains(&real);
        let allowed_effective = effective == KEEP || self.has(effective);
        if !(privileged || allowed_real && allowed_effective) {
            return Err(Errno::PERM);
        }
        let before = self.real;
        self.real = given(real, self.real);
        self.effective = given(effective, self.effective);
        if real != KEEP || effective != KEEP && effective != before {
            self.saved = self.effective;
        }
        self.file = self.effective;
        Ok(())
    }

    /// `setresuid(2)`.
    fn set_three(&mut self, [real, effective, saved]: [u32; 3], privileged: bool) -> Result<(), Errno> {
        let allowed = |id| id == KEEP || self.has(id);
        if !privileged && ![real, effective, saved].into_iter().all(allowed) {
            return Err(Errno::PERM);
        }
        self.real = given(real, self.real);
        self.effective = given(effective, self.effective);
        self.saved = given(saved, self.saved);
        self.file = self.effective;
        Ok(())
    }

    /// `setfsuid(2)`, which answers the old id whether it worked or not.
    fn set_file(&mut self, id: u32, privileged: bool) -> u32 {
        let before = self.file;
        if id != KEEP && (privileged || self.has(id) || id == before) {
            self.file = id;
        }
        before
    }
}

fn given(id: u32, before: u32) -> u32 {
    if id == KEEP { before } else { id }
}

/// User or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Group,
}

/// One call that changes ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Set(Kind, u32),
    SetTwo(Kind, u32, u32),
    SetThree(Kind, [u32; 3]),
    SetFile(Kind, u32),
    Groups(Vec<u32>),
}

/// The credentials of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) users: Ids,
    pub(crate) groups: Ids,
    pub(crate) supplementary: Arc<[u32]>,
}

impl Credentials {
    /// As a program is started for a user. The kernel shows supplementary groups sorted.
    pub(crate) fn new(uid: u32, gid: u32, supplementary: &[u32]) -> Self {
        let mut supplementary = supplementary.to_vec();
        supplementary.sort_unstable();
        Self { users: Ids::all(uid), groups: Ids::all(gid), supplementary: supplementary.into() }
    }

    /// Root overrides owners and modes of files (CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE).
    pub(crate) fn overrides_files(&self) -> bool {
        self.users.file == 0
    }

    /// Root may take any id (CAP_SETUID, CAP_SETGID), make devices and so on.
    pub(crate) fn is_privileged(&self) -> bool {
        self.users.effective == 0
    }

    /// Whether file access as this group is granted.
    pub(crate) fn in_group(&self, gid: u32) -> bool {
        self.groups.file == gid || self.supplementary.contains(&gid)
    }

    /// The bits of `rwx` (4, 2, 1) that a file's mode grants.
    pub(crate) fn granted(&self, mode: u32, uid: u32, gid: u32) -> u32 {
        if self.overrides_files() {
            return 7;
        }
        let shift = match () {
            () if self.users.file == uid => 6,
            () if self.in_group(gid) => 3,
            () => 0,
        };
        mode >> shift & 7
    }

    /// What the call answers, and what it does to the credentials.
    pub(crate) fn change(&mut self, change: Change) -> Result<i64, Errno> {
        let privileged = self.is_privileged();
        let ids = match &change {
            Change::Set(kind, _)
            | Change::SetTwo(kind, ..)
            | Change::SetThree(kind, _)
            | Change::SetFile(kind, _)
                if *kind == Kind::User =>
            {
                &mut self.users
            }
            _ => &mut self.groups,
        };
        match change {
            Change::Set(_, KEEP) => return Err(Errno::INVAL),
            Change::Set(_, id) => ids.set(id, privileged)?,
            Change::SetTwo(_, real, effective) => ids.set_two(real, effective, privileged)?,
            Change::SetThree(_, three) => ids.set_three(three, privileged)?,
            Change::SetFile(_, id) => return Ok(ids.set_file(id, privileged).into()),
            Change::Groups(_) if !privileged => return Err(Errno::PERM),
            Change::Groups(mut list) => {
                list.sort_unstable();
                self.supplementary = list.into();
            }
        }
        Ok(0)
    }

    /// What execve(2) makes of them: a setuid or setgid file's owner becomes effective, and effective is saved.
    pub(crate) fn execute(&mut self, set_uid: Option<u32>, set_gid: Option<u32>) {
        for (ids, set) in [(&mut self.users, set_uid), (&mut self.groups, set_gid)] {
            ids.effective = set.unwrap_or(ids.effective);
            (ids.saved, ids.file) = (ids.effective, ids.effective);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(real: u32, effective: u32, saved: u32) -> Credentials {
        let users = Ids { real, effective, saved, file: effective };
        Credentials { users, ..Credentials::new(0, 0, &[]) }
    }

    #[test]
    fn ids_change_as_the_manual_pages_say() {
        use Kind::User;
        let (app, other) = (1000, 1001);
        let table = [
            (user(0, 0, 0), Change::Set(User, app), Ok(()), (app, app, app)),
            (user(app, app, app), Change::Set(User, 0), Err(Errno::PERM), (app, app, app)),
            (user(app, 0, 0), Change::Set(User, app), Ok(()), (app, app, app)),
            (user(0, app, other), Change::Set(User, 0), Ok(()), (0, 0, other)),
            (user(app, other, 0), Change::Set(User, 0), Ok(()), (app, 0, 0)),
            (user(0, 0, 0), Change::Set(User, KEEP), Err(Errno::INVAL), (0, 0, 0)),
            (user(0, 0, 0), Change::SetTwo(User, KEEP, app), Ok(()), (0, app, app)),
            (user(0, app, 0), Change::SetTwo(User, app, 0), Ok(()), (app, 0, 0)),
            (user(app, app, app), Change::SetTwo(User, 0, KEEP), Err(Errno::PERM), (app, app, app)),
            (user(0, 0, 0), Change::SetThree(User, [app, app, KEEP]), Ok(()), (app, app, 0)),
            (user(app, app, 0), Change::SetThree(User, [KEEP, 0, KEEP]), Ok(()), (app, 0, 0)),
            (user(app, app, app), Change::SetThree(User, [KEEP, 0, KEEP]), Err(Errno::PERM), (app, app, app)),
        ];
        for (mut credentials, change, expected, (real, effective, saved)) in table {
            let name = format!("{credentials:?} {change:?}");
            assert_eq!(credentials.change(change).map(drop), expected, "{name}");
            let after = Ids { real, effective, saved, file: effective };
            assert_eq!(credentials.users, after, "{name}");
        }
    }

    #[test]
    fn file_ids_follow_and_lead() {
        let mut root = user(0, 0, 0);
        assert_eq!(root.change(Change::SetFile(Kind::User, 5)), Ok(0));
        assert_eq!(root.users.file, 5);
        assert_eq!(root.change(Change::SetFile(Kind::User, KEEP)), Ok(5));
        let mut app = user(7, 7, 7);
        assert_eq!(app.change(Change::SetFile(Kind::User, 0)), Ok(7));
        assert_eq!(app.users.file, 7);
        assert_eq!(app.change(Change::Groups(vec![1])), Err(Errno::PERM));
    }

    #[test]
    fn a_setuid_program_can_go_back() {
        let mut app = Credentials::new(1000, 1000, &[20]);
        app.execute(Some(0), None);
        assert_eq!(app.users, Ids { real: 1000, effective: 0, saved: 0, file: 0 });
        assert_eq!(app.change(Change::Set(Kind::User, 0)), Ok(0));
        assert_eq!(app.users.real, 0);
    }

    #[test]
    fn modes_grant_the_first_class_that_fits() {
        let app = Credentials::new(1000, 1000, &[20]);
        assert_eq!(app.granted(0o057, 1000, 20), 0);
        assert_eq!(app.granted(0o057, 0, 20), 5);
        assert_eq!(app.granted(0o057, 0, 0), 7);
        assert_eq!(Credentials::new(0, 0, &[]).granted(0o000, 5, 5), 7);
    }
}
