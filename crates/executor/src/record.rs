//! What a sandbox's init and command tell rbuild.

/// What the child has to say; three native integers in one write to a pipe, which is atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Operation `index` of init's list failed.
    Setup { index: u32, errno: i32 },
    /// Operation `index` of the command's list failed.
    Command { index: u32, errno: i32 },
    /// The process for the command could not be made.
    Fork { errno: i32 },
    /// No directory of PATH has the program.
    NotInPath,
    /// The named program can't be run as it lies there.
    Lookup { errno: i32 },
    /// `execve` refused path `index`.
    Exec { index: u32, errno: i32 },
    /// The command ended with this wait status.
    Ended { status: i32 },
}

/// Length of a [`Record`] in the pipe.
pub(crate) const RECORD: usize = 12;

impl Record {
    pub(crate) fn to_bytes(self) -> [u8; RECORD] {
        let (kind, index, value) = match self {
            Self::Setup { index, errno } => (1, index, errno),
            Self::Command { index, errno } => (2, index, errno),
            Self::Fork { errno } => (3, 0, errno),
            Self::NotInPath => (4, 0, 0),
            Self::Lookup { errno } => (5, 0, errno),
            Self::Exec { index, errno } => (6, index, errno),
            Self::Ended { status } => (7, 0, status),
        };
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
            (u32::to_ne_bytes(kind), u32::to_ne_bytes(index), i32::to_ne_bytes(value));
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub(crate) fn from_bytes(bytes: [u8; RECORD]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let (index, value) = (u32::from_ne_bytes([e, f, g, h]), i32::from_ne_bytes([i, j, k, l]));
        Some(match u32::from_ne_bytes([a, b, c, d]) {
            1 => Self::Setup { index, errno: value },
            2 => Self::Command { index, errno: value },
            3 => Self::Fork { errno: value },
            4 => Self::NotInPath,
            5 => Self::Lookup { errno: value },
            6 => Self::Exec { index, errno: value },
            7 => Self::Ended { status: value },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_pipe() {
        for record in [
            Record::Setup { index: 3, errno: 1 },
            Record::Command { index: 70_000, errno: 13 },
            Record::Fork { errno: 11 },
            Record::NotInPath,
            Record::Lookup { errno: 2 },
            Record::Exec { index: 1, errno: 8 },
            Record::Ended { status: -1 },
        ] {
            assert_eq!(Record::from_bytes(record.to_bytes()), Some(record));
        }
        assert_eq!(Record::from_bytes([0; RECORD]), None);
    }
}
