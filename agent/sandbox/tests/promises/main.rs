//! The promises of the sandbox, each against a hostile act and with its control. Has no harness of the standard kind,
//! since the launcher must start before any thread does. Runs as who it is; as root it runs itself again as an ordinary
//! user, so that both modes are seen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod ahead;
mod captures;
mod files;
mod limits;
mod lives;
mod refusals;
mod setting;
mod soak;

use setting::Setting;

type Test = (&'static str, fn(&Setting));

fn main() {
    if let Some(code) = caisson_sandbox::launcher::entry() {
        std::process::exit(code);
    }
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let first = words.next().unwrap_or_default();
    if name == "/proc/self/exe" {
        files::inside_our_own_program();
    }
    if first == "--victim" {
        ahead::victim();
        lives::victim();
    }
    let mut setting = Setting::new();
    let tests: Vec<Test> = [ahead::TESTS, captures::TESTS, files::TESTS, lives::TESTS, limits::TESTS, refusals::TESTS].concat();
    let mut failed = 0;
    let runs = tests.iter().map(|test| (false, test)).chain(tests.iter().map(|test| (true, test)));
    for (prepared, (name, test)) in runs {
        if !first.is_empty() && !first.starts_with("--") && !name.contains(&first) {
            continue;
        }
        if setting.ahead != prepared {
            setting.again_ahead();
        }
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&setting))).is_ok();
        let how = if prepared { ", prepared" } else { "" };
        println!("{} ... {name} ({}{how})", if passed { "ok" } else { "FAILED" }, setting.launcher.mode());
        failed += usize::from(!passed);
    }
    setting.nothing_is_left();
    drop(setting);
    let mut code = i32::from(failed > 0);
    if nix::unistd::geteuid().is_root() {
        code |= setting::again_as_ordinary_user(&first);
    }
    std::process::exit(code);
}
