//! A grant and the host's own rules become a sandbox spec. The only translation between the two languages, and the floor:
//! what the host's rules do not allow is not in the spec, whatever a controller granted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caisson_gateway::served::Ecosystem;
use caisson_model::policy::{self, Destination, Egress, Grant, Preset};
use caisson_sandbox::spec::{self, Filter, GivenFile, Ids, Mount, Network, Profile, SecretFile, Spec};

use crate::apt;
use crate::capture;
use crate::egress::service::Service;
use crate::host::HostRules;
use crate::packages::{self, inside};
use crate::view::{self, System};

/// Where the operator's own certificate authorities appear when the system view does not show their file.
const CERTIFICATES: &str = "/etc/ssl/caisson-authorities.pem";

/// Variables by which programs find certificate authorities.
const AUTHORITIES: [&str; 5] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "npm_config_cafile"];

/// Everything about a step's sandbox that does not come from its grant.
#[derive(Debug)]
pub struct Request {
    /// The program: a path inside, or a name looked up in the `PATH` of `env`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment, but for what the passage to the network adds.
    pub env: Vec<(String, String)>,
    /// Its working directory inside.
    pub cwd: PathBuf,
    /// The host ids of the job.
    pub ids: Ids,
    /// How the system directories appear.
    pub system: System,
    /// What belongs to the job: mounted after the system view, in order.
    pub mounts: Vec<Mount>,
    /// Host directories whose whole content counts against the disk limit: those of the job.
    pub counted: Vec<PathBuf>,
    /// Which system calls it begins with: those of builds, or the fewer that reading other people's files needs.
    pub profile: Profile,
    /// Read-only files that come with the program.
    pub files: Vec<GivenFile>,
    /// Secret files.
    pub secrets: Vec<SecretFile>,
    /// How long the step may take by its own and its job's timeouts.
    pub timeout: Option<Duration>,
    /// What becomes of attempts to reach something that nothing allows.
    pub watch: Watch,
}

/// What becomes of attempts to reach something where nothing is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// They are refused, and told.
    Told,
    /// They are refused.
    Silent,
}

/// The way out of one sandbox.
#[derive(Clone, Debug)]
pub struct Passage {
    /// Loopback only, or with the exit's listener.
    pub network: Network,
    /// Variables that point programs at the exit and at the certificate authorities. Empty without a way out.
    pub env: Vec<(String, String)>,
    /// The package manager's configuration and certificate authorities.
    pub mounts: Vec<Mount>,
    /// Destinations that policy named.
    pub destinations: Vec<Destination>,
    /// Destinations of presets, resolved by this host's configuration.
    pub preset_destinations: Vec<Destination>,
    /// Servers of the agent's own that the step reaches.
    pub services: Vec<Service>,
    /// Doors of the package gateway: one for each of the last listeners, in their order.
    pub doors: Vec<Ecosystem>,
}

/// Time that the launcher's own clock gives beyond the step's timeout: the agent asks politely first, and the sandbox kills
/// if the agent cannot.
pub const BACKSTOP: Duration = Duration::from_secs(30);

/// The spec of one sandbox. Pure but for looking at which system directories the host has.
pub fn spec(grant: &Grant, host: &HostRules, request: Request) -> (Spec, Passage) {
    let passage = passage(&grant.egress, host, request.watch);
    let mut spec = Spec::closed(request.program);
    spec.args = request.args;
    spec.env = request.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    for (name, value) in &passage.env {
        let own = AUTHORITIES.contains(&name.as_str());
        let name = OsString::from(name);
        // Whom a step trusts is its own affair.
        if own && spec.env.iter().any(|(present, value)| *present == name && !value.is_empty()) {
            continue;
        }
        // There is no other way out: a proxy that the workflow names could not be reached.
        spec.env.retain(|(present, _)| *present != name);
        spec.env.push((name, value.into()));
    }
    spec.cwd = request.cwd;
    spec.identity = match grant.identity {
        policy::Identity::User => spec::Identity::RUNNER,
        policy::Identity::Root => spec::Identity::NamespaceRoot,
    };
    spec.ids = request.ids;
    spec.hostname = "caisson".to_owned();
    spec.mounts = view::mounts(host, &request.system);
    // The passage's own files stand in place of the view's.
    spec.mounts.retain(|mount| passage.mounts.iter().all(|own| own.target() != mount.target()));
    spec.mounts.extend(passage.mounts.iter().cloned());
    // A job has an /etc and a /var of its own, with apt's configuration; a single command gets it here.
    let alone = matches!(request.system, System::Overlay(spec::Upper::Memory { .. }));
    if grant.identity == policy::Identity::Root && alone && passage.doors.contains(&Ecosystem::Debian) {
        spec.mounts.extend(inside::debian(host));
    }
    spec.mounts.extend(request.mounts);
    spec.network = passage.network.clone();
    spec.files = request.files;
    spec.secrets = request.secrets;
    spec.limits = limits(&grant.limits, host, request.timeout);
    spec.limits.counted = request.counted;
    spec.filter =
        Filter { profile: request.profile, additions: grant.system_calls.iter().cloned().collect::<BTreeSet<_>>(), ..Filter::default() };
    spec.allow_missing = host.allow_missing.clone();
    (spec, passage)
}

/// The lower of what policy and host allow. Memory and processes always have a limit.
pub fn limits(asked: &policy::Limits, host: &HostRules, timeout: Option<Duration>) -> spec::Limits {
    let least = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
    let lowest = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    let default = spec::Limits::default();
    spec::Limits {
        memory: Some(asked.memory_bytes.map_or(host.memory_bytes, |bytes| bytes.min(host.memory_bytes))),
        cpu_milli: asked.cpu_milli.into_iter().chain(host.cpu_milli).min(),
        cpu_weight: asked.cpu_weight,
        pids: Some(asked.pids.map_or(host.pids, |pids| pids.min(host.pids))),
        disk: lowest(asked.disk_bytes, host.disk_bytes),
        inodes: lowest(asked.inodes, host.inodes),
        open_files: lowest(lowest(asked.open_files, host.open_files), default.open_files),
        wall_clock: least(asked.wall, timeout).map(|limit| limit.saturating_add(BACKSTOP)),
        ..default
    }
}

/// The way out that a grant opens on this host; nothing for a closed one, but that attempts may be told.
pub fn passage(egress: &Egress, host: &HostRules, watch: Watch) -> Passage {
    // Packages come through the gateway only, also where a step asks an index by its own name.
    let mut preset_destinations = Vec::new();
    let destinations = egress.allow.clone();
    let doors = packages::ecosystems(egress, &host.gateway);
    let services = packages::services(&doors, egress, &host.gateway);
    if egress.presets.contains(&Preset::DebianPackages) && !doors.contains(&Ecosystem::Debian) {
        // What no gateway fronts is reached by itself: the archives sign what they hold.
        let fronted = |(host, port): &(String, u16)| services.iter().any(|service| service.host == *host && service.port == *port);
        let archives = apt::archives().into_iter().filter(|archive| !fronted(archive));
        preset_destinations.extend(archives.map(|(host, port)| Destination { host, port: Some(port) }));
    }
    let open = egress.learn || !(destinations.is_empty() && preset_destinations.is_empty() && services.is_empty() && doors.is_empty());
    let authorities = host.index.certificates.as_ref().filter(|path| path.is_file());
    let shown: Option<&Path> = authorities.map(|path| if view::already_visible(path) { path.as_path() } else { Path::new(CERTIFICATES) });
    // Who may meet the gateway in an index's name trusts its authority beside the others.
    let bundle = if services.is_empty() { None } else { inside::authorities(host) };
    let shown = if bundle.is_some() { Some(CERTIFICATES.to_owned()) } else { shown.map(|path| path.display().to_string()) };
    let gateway = host.gateway.settings();
    let python = doors.contains(&Ecosystem::Python).then(|| packages::address(Ecosystem::Python));
    let indexes = inside::indexes(gateway);
    let content = match python {
        Some(at) => host.index.gateway_configuration(shown.as_deref(), at, indexes, gateway.python_links.len()),
        None => host.index.pip_configuration(shown.as_deref(), open),
    };
    let mut mounts = vec![Mount::File { target: "/etc/pip.conf".into(), content: content.into(), mode: 0o644 }];
    mounts.extend(inside::files(&doors, host));
    if let Some(content) = bundle {
        mounts.push(Mount::File { target: CERTIFICATES.into(), content, mode: 0o644 });
    } else if let (Some(source), Some(CERTIFICATES)) = (authorities, shown.as_deref()) {
        mounts.push(Mount::Bind { source: source.clone(), target: CERTIFICATES.into(), access: spec::Access::ReadOnly, owner: None });
    }
    let mut env = Vec::new();
    let url = format!("http://{}", capture::exit());
    if !open {
        let network = match watch {
            Watch::Silent => Network::Closed,
            Watch::Told => {
                mounts.extend(capture::files());
                // Programs that know proxies say by it whom they wanted to reach, and hear at once that they may not. Plain requests
                // go to names that tests make up, and to servers beside the step: they are left alone.
                env.extend(["HTTPS_PROXY", "https_proxy"].map(|name| (name.to_owned(), url.clone())));
                env.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), "localhost,127.0.0.1,::1".to_owned())));
                capture::network([].iter(), &[], [].into_iter(), false)
            }
        };
        return Passage { network, env, mounts, destinations, preset_destinations, services, doors };
    }
    mounts.extend(capture::files());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        env.push((name.to_owned(), url.clone()));
        env.push((name.to_ascii_lowercase(), url.clone()));
    }
    if python.is_none() {
        // Older pips take no proxy from the environment. It would be asked for the gateway too, which is reached directly.
        env.push(("PIP_PROXY".to_owned(), url));
    }
    // The step's own servers on its own loopback are reached directly, and so are those ports of the host's that policy names: the
    // kernel leads these on.
    let mut direct: Vec<String> = ["localhost", "127.0.0.1", "::1"]
        .into_iter()
        .filter(|name| services.iter().all(|service| service.host != *name))
        .map(str::to_owned)
        .collect();
    if !doors.is_empty() {
        direct.push(packages::ADDRESS.to_string());
    }
    for name in ["NO_PROXY", "no_proxy"] {
        env.push((name.to_owned(), direct.join(",")));
    }
    if let Some(path) = &shown {
        env.extend(AUTHORITIES.map(|name| (name.to_owned(), path.clone())));
        // By a file and not by its variable, which would count more than what a repository or a command line says.
        let content = format!("[http]\n\tsslCAInfo = {path}\n");
        mounts.push(Mount::File { target: "/etc/gitconfig".into(), content: content.into(), mode: 0o644 });
    }
    env.extend(inside::variables(&doors, host));
    let listeners = doors.iter().map(|ecosystem| packages::address(*ecosystem));
    let network = capture::network(destinations.iter().chain(&preset_destinations), &services, listeners, egress.learn);
    Passage { network, env, mounts, destinations, preset_destinations, services, doors }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    fn host() -> HostRules {
        HostRules { memory_bytes: 1000, pids: 10, cpu_milli: Some(500), ..HostRules::of_this_host(&BTreeMap::new()) }
    }

    #[test]
    fn policy_lowers_the_hosts_limits_and_never_raises_them() {
        let asked = policy::Limits { memory_bytes: Some(500), pids: Some(99), cpu_milli: Some(4000), ..policy::Limits::default() };
        let limits = limits(&asked, &host(), Some(Duration::from_secs(5)));
        assert_eq!((limits.memory, limits.pids, limits.cpu_milli), (Some(500), Some(10), Some(500)));
        assert_eq!(limits.wall_clock, Some(Duration::from_secs(35)));
        let limits = super::limits(&policy::Limits::default(), &host(), None);
        assert_eq!((limits.memory, limits.pids, limits.wall_clock), (Some(1000), Some(10), None));
    }

    #[test]
    fn a_closed_grant_leads_nowhere() {
        let silent = passage(&Egress::default(), &host(), Watch::Silent);
        assert_eq!(silent.network, Network::Closed);
        assert!(silent.env.is_empty());
        let told = passage(&Egress::default(), &host(), Watch::Told);
        assert!(matches!(&told.network, Network::Exit { capture: Some(capture), .. } if capture.leads.is_empty()));
        assert!(told.env.iter().all(|(name, _)| !name.eq_ignore_ascii_case("http_proxy")));
    }

    #[test]
    fn an_open_grant_points_programs_at_the_exit() {
        let egress = Egress { presets: vec![Preset::PythonPackages], ..Egress::default() };
        let opened = passage(&egress, &host(), Watch::Silent);
        let Network::Exit { listeners, capture: Some(capture) } = &opened.network else { unreachable!() };
        assert_eq!((listeners.len(), opened.doors.as_slice(), capture.leads.len()), (2, &[Ecosystem::Python][..], 2));
        for name in ["HTTP_PROXY", "https_proxy", "NO_PROXY", "SSL_CERT_FILE"] {
            assert!(opened.env.iter().any(|(present, _)| present == name), "{name}");
        }
        assert!(opened.services.iter().any(|service| service.host == "pypi.org" && service.port == 443));
        let local = Egress { allow: vec!["127.0.0.1:3141".parse().unwrap()], ..Egress::default() };
        let direct = passage(&local, &host(), Watch::Silent).env.into_iter().find(|(name, _)| name == "NO_PROXY").unwrap().1;
        assert_eq!(direct, "localhost,127.0.0.1,::1");
    }
}
