//! The final stage as an image: labels of the command line, diff IDs, times.

use rbuild_image::{Digest, HistoryEntry, ImageConfig, Platform, canonical_json};
use rbuild_store::MemoLinks;

use crate::build::Builder;
use crate::error::{Explain, FailureKind, Result};
use crate::image::{Image, ImageLayer};
use crate::images::diff_id_of;
use crate::packing::layer_of;
use crate::request::CacheTarget;
use crate::shared_cache::add_inline;
use crate::state::StageState;

/// Memo kind: when an image was first built, by its config without times. An image that is built again is the same image.
const FIRST_BUILT: &str = "first-built";

/// Turns the target's state into an image.
pub(crate) fn assemble(builder: &Builder<'_>, mut state: StageState) -> Result<Image> {
    let labels = &builder.request.labels;
    // They are no step: the reference writes no history for them.
    state.config.config.labels.extend(labels.clone());
    if builder.request.platform_given {
        set_platform(&mut state.config, &builder.request.platform);
    }
    state.config.rootfs.diff_ids = state
        .layers
        .iter()
        .map(|layer| match (diff_id_of(layer), layer) {
            (Some(diff_id), _) => Ok(diff_id.clone()),
            (None, ImageLayer::Snapshot(id)) => layer_of(builder.store, id).map(|(diff_id, _)| diff_id),
            (None, ImageLayer::Blob { diff_id, .. }) => Ok(diff_id.clone()),
        })
        .collect::<Result<_>>()?;
    set_times(builder, &mut state)?;
    let to = &builder.request.cache.to;
    if to.iter().any(|export| matches!(export.to, CacheTarget::Inline)) {
        add_inline(&mut state.config, &state.made);
    }
    let config_bytes = state.config.to_bytes();
    Ok(Image { config: state.config, config_bytes, layers: state.layers })
}

/// The image is of the platform that was asked for. A variant or version that was not asked for stays the base's, unless
/// that is of another platform.
fn set_platform(config: &mut ImageConfig, wanted: &Platform) {
    let same = config.os == wanted.os && config.architecture == wanted.architecture;
    config.os.clone_from(&wanted.os);
    config.architecture.clone_from(&wanted.architecture);
    if wanted.variant.is_some() || !same {
        config.variant.clone_from(&wanted.variant);
    }
    if wanted.os_version.is_some() || !same {
        config.os_version.clone_from(&wanted.os_version);
    }
    if !wanted.os_features.is_empty() || !same {
        config.os_features.clone_from(&wanted.os_features);
    }
}

/// Layers keep the time at which their step ran. Everything else has the time at which just this image was first built, so
/// that a build from the cache gives the same image ID.
fn set_times(builder: &Builder<'_>, state: &mut StageState) -> Result<()> {
    for (position, time) in &state.step_times {
        // With an epoch a result from the cache is dated as one that is made now.
        let time = builder.request.epoch.unwrap_or(*time);
        state.config.history[*position].created = Some(rfc3339(time));
    }
    let created = match builder.request.epoch {
        Some(epoch) => epoch,
        None => first_built(builder, state)?,
    };
    let created = rfc3339(created);
    let comment = "buildkit.dockerfile.v0";
    let ours = |entry: &&mut HistoryEntry| entry.created.is_none() && entry.comment == comment;
    state.config.history.iter_mut().filter(ours).for_each(|entry| entry.created = Some(created.clone()));
    state.config.created = Some(created);
    Ok(())
}

fn first_built(builder: &Builder<'_>, state: &StageState) -> Result<i64> {
    let fault = || "could not use the build cache".to_owned();
    let key = Digest::sha256_of(canonical_json(&state.config)).to_string();
    if !builder.request.cache.none
        && let Some(known) = builder.store.memo(FIRST_BUILT, &key).explain(FailureKind::Environment, fault)?
    {
        return Ok(known);
    }
    let now = rbuild_fs::Timestamp::now().seconds;
    builder
        .store
        .put_memo(FIRST_BUILT, &key, &now, &MemoLinks::default())
        .explain(FailureKind::Environment, fault)?;
    Ok(now)
}

/// Whole seconds, UTC.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_asked_for_wins() {
        for (base, wanted, expected) in [
            ("linux/amd64", "linux/arm64", "linux/arm64"),
            ("linux/arm/v7", "linux/amd64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v6", "linux/arm/v6"),
        ] {
            let parse = |text: &str| text.parse::<Platform>().unwrap();
            let mut config = ImageConfig::scratch(&parse(base));
            set_platform(&mut config, &parse(wanted));
            assert_eq!(config.platform().to_string(), expected, "{wanted} on {base}");
        }
    }
}
