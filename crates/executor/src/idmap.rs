use std::fmt;
use std::sync::OnceLock;

/// One line of a map: `count` ids from `inside` on are those from `outside` on in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids that this process can give to files, and what they are outside.
///
/// `Display` is a name that stays the same for the same map and is fit for a directory: `root`, `1000x1+100000x65536`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<Extent>,
    /// Groups.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// Every id is itself.
    pub fn identity() -> Self {
        let all = vec![Extent { inside: 0, outside: 0, count: u32::MAX }];
        Self { uids: all.clone(), gids: all }
    }

    /// Reads `/proc/self/uid_map` and `gid_map` texts; lines that are not three numbers are passed over.
    pub fn parse(uid_map: &str, gid_map: &str) -> Self {
        Self { uids: extents(uid_map), gids: extents(gid_map) }
    }

    /// The map of this process.
    pub(crate) fn current() -> std::io::Result<Self> {
        let read = std::fs::read_to_string::<&str>;
        Ok(Self::parse(&read("/proc/self/uid_map")?, &read("/proc/self/gid_map")?))
    }

    /// Whether a file or process can be given these ids.
    pub fn contains(&self, uid: u32, gid: u32) -> bool {
        covers(&self.uids, uid) && covers(&self.gids, gid)
    }

    /// Whether only one user can be shown.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|e| u64::from(e.count)).sum::<u64>() <= 1
    }
}

/// Whether this process can give files one owner only, after [`enter`](crate::enter).
pub fn single_id() -> bool {
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        IdMap::parse(&read("/proc/self/uid_map"), &read("/proc/self/gid_map")).is_single()
    })
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::identity() {
            return f.write_str("root");
        }
        write_extents(f, &self.uids)?;
        if self.gids != self.uids {
            f.write_str("-")?;
            write_extents(f, &self.gids)?;
        }
        Ok(())
    }
}

fn write_extents(f: &mut fmt::Formatter<'_>, extents: &[Extent]) -> fmt::Result {
    for (index, extent) in extents.iter().enumerate() {
        let join = if index == 0 { "" } else { "+" };
        write!(f, "{join}{}x{}", extent.outside, extent.count)?;
    }
    Ok(())
}

fn extents(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>().ok());
            let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some(Extent { inside, outside, count })
        })
        .collect()
}

fn covers(extents: &[Extent], id: u32) -> bool {
    extents.iter().any(|e| id.checked_sub(e.inside).is_some_and(|offset| offset < e.count))
}

/// The ranges that `/etc/subuid` or `/etc/subgid` gives a user, named there by name or by number.
pub(crate) fn subordinate_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            (Some(owner) == name || owner == number).then_some(())?;
            let range = (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
            (range.1 > 0).then_some(range)
        })
        .collect()
}

/// The map to ask for: `own` becomes 0, the subordinate ranges follow from 1 on.
pub(crate) fn stacked(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut inside = 1u32;
    for &(outside, count) in ranges {
        // The id 2³²-1 is no id, so nothing may reach it.
        let count = count.min(u32::MAX - inside);
        if count > 0 {
            extents.push(Extent { inside, outside, count });
            inside += count;
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        let map = IdMap::parse("         0          0 4294967295\n", "0 0 4294967295");
        assert_eq!(map.to_string(), "root");
        let map = IdMap::parse("0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n");
        assert_eq!(map.to_string(), "1000x1+100000x65536");
        let map = IdMap::parse("0 1000 1", "0 100 1");
        assert_eq!(map.to_string(), "1000x1-100x1");
        assert!(map.is_single() && map.contains(0, 0) && !map.contains(0, 1));
    }

    #[test]
    fn ranges_by_name_and_number() {
        let text = "ci:100000:65536\n# no\nother:1:2\n1001:300000:1000\nci:500000:0\nci:bad:1\n";
        assert_eq!(subordinate_ranges(text, Some("ci"), 1001), [(100_000, 65536), (300_000, 1000)]);
        assert_eq!(subordinate_ranges(text, None, 7), []);
    }

    #[test]
    fn several_ranges_follow_each_other() {
        let extents = stacked(1000, &[(100_000, 65536), (300_000, u32::MAX)]);
        let expected = [(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, u32::MAX - 65537)];
        assert_eq!(extents, expected.map(|(inside, outside, count)| Extent { inside, outside, count }));
    }
}
