use std::fmt;
use std::str::FromStr;

/// The kernel's names, in the order of their numbers (capabilities(7), Linux 5.9).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability by its kernel number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

impl FromStr for Capability {
    type Err = String;

    /// `SYS_ADMIN`, `CAP_SYS_ADMIN`, in any case; the error is the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().position(|n| *n == name).map(|n| Self(n as u8)).ok_or_else(|| text.into())
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES.get(usize::from(self.0)).unwrap_or(&"?"))
    }
}

/// A set of capabilities as the kernel's bit mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// The fourteen that Docker and BuildKit leave a container: a80425fb.
    pub const fn docker() -> Self {
        Self(0xa804_25fb)
    }

    /// All that this rbuild knows.
    pub const fn all() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    /// From the kernel's mask.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The kernel's mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// With one less.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }

    /// Whether it is in the set.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability.0 != 0
    }

    /// Applies `--cap-add` and `--cap-drop` as Docker does: `ALL` is a word of both, drops come first unless everything
    /// is added. The error is the unknown name.
    pub fn adjusted<S: AsRef<str>>(self, add: &[S], drop: &[S]) -> Result<Self, String> {
        let is_all = |names: &[S]| names.iter().any(|n| n.as_ref().eq_ignore_ascii_case("all"));
        let named = |names: &[S]| -> Result<Vec<Capability>, String> {
            names
                .iter()
                .map(AsRef::as_ref)
                .filter(|n| !n.eq_ignore_ascii_case("all"))
                .map(str::parse)
                .collect()
        };
        let mut set = match (is_all(add), is_all(drop)) {
            (true, _) => Self::all(),
            (false, true) => Self::default(),
            (false, false) => self,
        };
        set = named(drop)?.into_iter().fold(set, Self::without);
        Ok(named(add)?.into_iter().fold(set, Self::with))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_set_by_name() {
        let names = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        assert_eq!(CapabilitySet::default().adjusted(&names, &[]).unwrap(), CapabilitySet::docker());
    }

    #[test]
    fn adding_and_dropping() {
        let docker = CapabilitySet::docker();
        let admin: Capability = "cap_sys_admin".parse().unwrap();
        assert!(docker.adjusted(&["SYS_ADMIN"], &[]).unwrap().contains(admin));
        assert_eq!(docker.adjusted(&["CHOWN"], &["ALL"]).unwrap().bits(), 1);
        assert_eq!(docker.adjusted(&["all"], &["sys_admin"]).unwrap(), CapabilitySet::all().without(admin));
        assert_eq!(docker.adjusted(&["SYS_FLY"], &[]), Err("SYS_FLY".into()));
        assert_eq!(admin.to_string(), "CAP_SYS_ADMIN");
    }
}
