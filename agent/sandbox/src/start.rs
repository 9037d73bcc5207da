//! Starting the launcher process.
use crate::error::StartError;
use crate::host::Standing;
use crate::launcher::Options;
use std::os::fd::OwnedFd;
pub(crate) fn start(_options: &Options) -> Result<(OwnedFd, OwnedFd, Standing), StartError> {
    Err(crate::error::Failure::new(crate::error::Stage::Start, "launcher", nix::errno::Errno::ENOSYS).into())
}
