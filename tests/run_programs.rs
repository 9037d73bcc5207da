//! Real work under the default profile: the same scripts outside and inside, with the same output. Those that take longer, and CPython's
//! own tests, are run by `tests/workloads/programs.sh`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::path::Path;
use std::process::Output;

use place::{Place, needs};

fn script(name: &str) -> String {
    format!("{}/tests/workloads/programs/{name}.sh", env!("CARGO_MANIFEST_DIR"))
}

/// As an ordinary user, as which a step runs.
fn outside(place: &Place, name: &str) -> Output {
    let text = std::fs::read_to_string(script(name)).unwrap();
    let words = ["--reuid", "1000", "--regid", "1000", "--clear-groups", "--", "bash", "-c", &text];
    let home = "/tmp";
    match nix::unistd::geteuid().is_root() {
        true => place.program("setpriv", &words).env("HOME", home).current_dir("/").output().unwrap(),
        false => place.program("bash", &words[6..]).env("HOME", home).current_dir("/").output().unwrap(),
    }
}

fn check(name: &str, programs: &[&str], most: &str) {
    let absent = programs.iter().find(|path| !Path::new(path).exists());
    if !needs(absent.is_none(), &format!("{} is not here", absent.unwrap_or(&""))) {
        return;
    }
    let place = Place::new();
    let text = std::fs::read_to_string(script(name)).unwrap();
    let words = ["exec", "--allow-missing", "memory-limit", "--memory", most, "--timeout", "300s", "--", "bash", "-c", &text];
    let inside = place.caisson(&words).output().unwrap();
    assert_eq!(inside.status.code(), Some(0), "{name}: {inside:?}");
    let outside = outside(&place, name);
    assert_eq!(outside.status.code(), Some(0), "{name}, outside: {outside:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(!inside.stdout.is_empty(), "{name} said nothing");
    assert_eq!(text(&inside.stdout), text(&outside.stdout), "{name}");
}

#[test]
fn postgresql_serves_and_is_loaded() {
    check("postgres", &["/usr/lib/postgresql"], "1GiB");
}

#[test]
fn redis_serves_saves_and_starts_again() {
    check("redis", &["/usr/bin/redis-server"], "1GiB");
}

#[test]
fn mariadb_serves_and_is_loaded() {
    check("mariadb", &["/usr/sbin/mariadbd"], "1GiB");
}

#[test]
fn chromium_loads_a_page_with_its_own_sandbox_off() {
    check("chromium", &["/usr/bin/chromium"], "2GiB");
}

#[test]
fn gcc_compiles_links_and_what_it_made_runs() {
    check("gcc", &["/usr/bin/gcc", "/usr/bin/ar"], "1GiB");
}
