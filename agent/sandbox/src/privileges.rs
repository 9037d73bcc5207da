//! What the caller of the launcher gives up once the launcher stands: it talks to the network, so it should hold nothing.

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

use crate::error::{Failure, Stage, StartError};
use crate::start::single_threaded;
use crate::sys;

/// Empties all five capability sets of this process for good, forbids gaining privileges by execve (no_new_privs, 3.5) and
/// core dumps, and closes its memory to other processes of its user (`PR_SET_DUMPABLE`, prctl(2)). The user id stays: files of
/// this user are still its own. To be called after [`crate::launcher::Launcher::start`], which keeps what it needs in its own
/// process, and before any thread, since capabilities belong to threads. May be called twice.
///
/// # Errors
/// [`StartError::Threads`] when threads exist; [`StartError::Failed`] when the kernel refuses.
pub fn give_up() -> Result<(), StartError> {
    single_threaded()?;
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Capabilities, subject, errno);
    // The bounding set first: dropping from it needs a capability. Who lacks it cannot gain any by execve either, below.
    match sys::drop_bounding(|_| false) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(failed("bounding")(errno).into()),
    }
    sys::clear_ambient().map_err(failed("ambient"))?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &CapsHashSet::new()).map_err(|_| failed("capability sets")(Errno::EPERM))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|errno| Failure::new(Stage::NoNewPrivs, "", errno))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| Failure::new(Stage::Rlimit, "core", errno))?;
    nix::sys::prctl::set_dumpable(false).map_err(|errno| Failure::new(Stage::Start, "dumpable", errno))?;
    Ok(())
}
