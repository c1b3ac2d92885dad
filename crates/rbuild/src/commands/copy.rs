//! `rbuild copy`.

use std::sync::Arc;

use rbuild_engine::Location;
use rbuild_engine::relay;
use rbuild_executor::Place;

use super::args::CopyArgs;
use super::{platform, print};
use crate::args::{GlobalArgs, Progress};
use crate::failure::CliError;
use crate::surroundings;

pub(crate) fn run(args: &CopyArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let (from, to) = (Location::parse(&args.source)?, Location::parse(&args.destination)?);
    let platform = args.platform.as_deref().map(|text| platform(Some(text))).transpose()?;
    let client = Arc::new(surroundings::client(global, place)?);
    let ui = crate::build::progress(if args.quiet { Progress::Quiet } else { Progress::Auto }, false);
    let copied = relay::copy(&client, &from, &to, platform.as_ref(), &ui);
    ui.finish();
    print(&format!("{}\n", copied?.digest));
    Ok(())
}
