//! What the kernel counts per user: a step that uses all of it up leaves the rest of the host, and other steps, theirs.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use place::{Place, needs};

/// Takes as many as it gets, up to a number, says how many, and holds them until its input ends. By libc alone, since no library
/// of Python has timers.
const TAKE: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
event = (ctypes.c_char * 64)(*bytes(8) + (34).to_bytes(4, 'little') + (1).to_bytes(4, 'little'))
timer = ctypes.c_void_p()
take = {
    'watch': lambda: libc.inotify_init1(0),
    'timer': lambda: libc.timer_create(0, ctypes.byref(event), ctypes.byref(timer)),
}[sys.argv[1]]
count = 0
while count < int(sys.argv[2]) and take() >= 0:
    count += 1
print(count, flush=True)
sys.stdin.read()
"#;

fn held(mut command: Command) -> (Child, u64) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let count = line.trim().parse().unwrap_or_else(|_| panic!("it said {line:?}"));
    (child, count)
}

fn release((mut child, count): (Child, u64)) -> u64 {
    child.stdin.take().unwrap().flush().unwrap();
    assert!(child.wait().unwrap().success());
    count
}

/// As whom, and with which program.
struct Side<'a> {
    place: &'a Place,
    user: Option<u32>,
    program: String,
}

impl Side<'_> {
    fn command(&self, words: &[&str]) -> Command {
        match self.user {
            None => self.place.program(words[0], &words[1..]),
            Some(user) => {
                let user = user.to_string();
                let mut all = vec!["--reuid", &user, "--regid", &user, "--clear-groups", "--"];
                all.extend(words);
                self.place.program("setpriv", &all)
            }
        }
    }

    fn outside(&self, what: &str, most: u64) -> (Child, u64) {
        held(self.command(&["/usr/bin/python3", "take.py", what, &most.to_string()]))
    }

    fn inside(&self, what: &str, most: u64) -> (Child, u64) {
        let lacking = "memory-limit,pids-limit";
        let most = most.to_string();
        held(self.command(&[&self.program, "exec", "--allow-missing", lacking, "--", "/usr/bin/python3", "take.py", what, &most]))
    }
}

fn check(side: &Side<'_>) {
    for what in ["watch", "timer"] {
        // Far more than a user of the host may have.
        const MANY: u64 = 1_000_000;
        let hog = side.inside(what, MANY);
        assert!(hog.1 < MANY, "{what}: nothing bounds it");
        assert_eq!(release(side.outside(what, 3)), 3, "{what}: the host has none left");
        release(hog);
        // The control: without a sandbox the same leaves nothing.
        let hog = side.outside(what, MANY);
        assert_eq!(release(side.outside(what, 3)), 0, "{what}: {} were not all", hog.1);
        release(hog);
    }
}

#[test]
fn a_step_cannot_use_up_what_the_kernel_counts_per_user() {
    let place = Place::new();
    place.write("take.py", TAKE);
    // An id that nobody else has: the control takes everything that its user may have.
    let user = 58_731;
    if !needs(nix::unistd::geteuid().is_root(), "only root can become somebody whose shares may be used up") {
        return;
    }
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    for path in [&program, place.path(), &place.checkout(), &place.path().join("home")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(user), Some(user)).unwrap();
    }
    check(&Side { place: &place, user: Some(user), program: program.display().to_string() });
    // As root: without a control, which would take from everybody on this host.
    let root = Side { place: &place, user: None, program: env!("CARGO_BIN_EXE_caisson").to_owned() };
    assert!(Path::new(&root.program).exists());
    for what in ["watch", "timer"] {
        let hog = root.inside(what, 1_000_000);
        assert_eq!(release(root.outside(what, 3)), 3, "{what}: the host's root has none left");
        assert_eq!(release(root.inside(what, 3)), 3, "{what}: another job has none left");
        release(hog);
    }
}
