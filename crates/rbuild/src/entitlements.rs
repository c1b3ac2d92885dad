//! `--allow`: what RUN may ask for beyond the sandbox.

use rbuild_engine::AllowedDevices;

use crate::failure::CliError;

/// All that is allowed.
#[derive(Debug, Default)]
pub(crate) struct Entitlements {
    pub(crate) insecure: bool,
    pub(crate) network_host: bool,
    pub(crate) devices: AllowedDevices,
}

impl Entitlements {
    /// Reads the options, which are already split at their commas.
    pub(crate) fn read(texts: &[String]) -> Result<Self, CliError> {
        let mut all = Entitlements::default();
        let mut device: Option<&str> = None;
        for text in texts {
            match (text.as_str(), text.split_once('=')) {
                ("security.insecure", _) => all.insecure = true,
                ("network.host", _) => all.network_host = true,
                ("device", _) => all.devices.all = true,
                (_, Some(("device", name))) if !name.is_empty() => {
                    all.devices.names.push(name.to_owned());
                    device = Some(name);
                    continue;
                }
                // The second half of `device=NAME,alias=ALIAS`: then the device goes by its alias only.
                (_, Some(("alias", alias))) if device.is_some() => {
                    all.devices.names.pop();
                    all.devices.aliases.insert(alias.to_owned(), device.unwrap_or_default().to_owned());
                }
                _ => {
                    return Err(CliError::usage(format!("unknown entitlement `{text}`"))
                        .help("there are `security.insecure`, `network.host`, `device` and `device=NAME[,alias=ALIAS]`"));
                }
            }
            device = None;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Entitlements {
        Entitlements::read(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn devices_are_allowed_by_name_or_alias_or_all_together() {
        let some = read(&["device=a/b=c", "network.host", "device=d/e=f", "alias=gpu"]);
        assert!(some.network_host && !some.insecure && !some.devices.all);
        assert_eq!(some.devices.names, ["a/b=c"]);
        assert_eq!(some.devices.aliases["gpu"], "d/e=f");
        assert!(read(&["device"]).devices.all);
        for wrong in
            [&["alias=x"][..], &["device="], &["filesystem"], &["device=a/b=c", "network.host", "alias=x"]]
        {
            let texts: Vec<String> = wrong.iter().map(|&text| text.to_owned()).collect();
            assert!(Entitlements::read(&texts).is_err(), "{wrong:?}");
        }
    }
}
