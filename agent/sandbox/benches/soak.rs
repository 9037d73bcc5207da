//! A soak of the launcher: `cargo bench -p caisson-sandbox --bench soak -- 10000`. Fails when an exit is lost or anything is
//! left; see `tests/promises/soak.rs`, of which the tests run a small one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, dead_code)]

#[path = "../tests/promises/setting.rs"]
mod setting;
#[path = "../tests/promises/soak.rs"]
mod soak;

use setting::Setting;

/// How many steps when nobody says.
const STEPS: usize = 10_000;

fn main() {
    if let Some(code) = caisson_sandbox::launcher::entry() {
        std::process::exit(code);
    }
    let setting = Setting::new();
    let steps = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(STEPS);
    let launcher = setting::launcher_of(std::process::id()).unwrap();
    match soak::soak(&setting.launcher, launcher, steps) {
        Ok(took) => {
            let rate = steps as f64 / took.as_secs_f64();
            println!(
                "{steps} steps in {took:.1?} under load, {rate:.0} per second, {} mode: no exit lost, nothing left",
                setting.launcher.mode()
            );
        }
        Err(wrong) => {
            eprintln!("{wrong}");
            std::process::exit(1);
        }
    }
}
