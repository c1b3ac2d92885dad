//! What a container sees beside its image's files.

use std::net::IpAddr;

use rbuild_executor::{Mount, MountKind, Source};

use crate::Settings;

pub(super) fn mounts(settings: &Settings, resolv_conf: Vec<u8>) -> Vec<Mount> {
    let file = |(target, content): (&str, Vec<u8>)| Mount {
        target: target.into(),
        kind: MountKind::File { content, mode: 0o644, uid: 0, gid: 0, read_only: false },
    };
    let line = |(host, address): &(String, IpAddr)| format!("{address}\t{host}\n");
    let hosts = format!(
        "127.0.0.1\tlocalhost {0}\n::1\tlocalhost ip6-localhost ip6-loopback\n{1}",
        settings.hostname,
        settings.extra_hosts.iter().map(line).collect::<String>()
    );
    let files = [
        ("/etc/resolv.conf", resolv_conf),
        ("/etc/hosts", hosts.into_bytes()),
        ("/etc/hostname", format!("{}\n", settings.hostname).into_bytes()),
    ];
    let tmpfs = settings
        .tmpfs
        .iter()
        .map(|target| Mount { target: target.clone(), kind: MountKind::Tmpfs { size: None, mode: 0o1777 } });
    let volumes = settings.volumes.iter().map(|volume| Mount {
        target: volume.target.clone(),
        kind: MountKind::Bind { source: Source::Path(volume.source.clone()), read_only: volume.read_only },
    });
    files.into_iter().map(file).chain(tmpfs).chain(volumes).collect()
}
