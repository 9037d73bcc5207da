//! The launcher of `caisson exec`, begun before anything is read: it gets ready while this process reads its command line and
//! the configuration. Since it goes on in a copy of this process, that is also what keeps both out of it.

use std::fs::File;
use std::io::Read;

use caisson_sandbox::error::StartError;
use caisson_sandbox::launcher::{Image, Launcher, Options, Starting};

/// A launcher that gets ready, or why not.
pub(crate) type Ahead = Result<Starting, StartError>;

/// How much of the command line has to be looked at to see the first two words of it.
const LOOK: usize = 4096;

/// Begins to start the launcher.
pub(super) fn begin() -> Ahead {
    // Nothing stays built ahead: there is one command.
    Launcher::begin(&Options { warm: 0, image: Image::Copied, ..Options::default() })
}

/// The same where the command line begins with `exec`; `None` for any other. Must be called before there are threads.
pub(crate) fn if_asked() -> Option<Ahead> {
    // Not through `args`, which would leave copies of all of them in the memory that the launcher is a copy of.
    let mut line = [0; LOOK];
    let length = File::open("/proc/self/cmdline").and_then(|mut file| file.read(&mut line)).ok()?;
    let mut words = line[..length].split(|byte| *byte == 0);
    let asked = words.nth(1) == Some(b"exec") && words.all(|word| !matches!(word, b"--help" | b"-h"));
    line.fill(0);
    asked.then(begin)
}
