//! The package gateway of one sandbox: its doors inside, and what they tell in the ledger of the exit.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_gateway::answer::Terms;
use caisson_gateway::door::{Door, DoorError};
use caisson_gateway::gateway::Gateway;
use caisson_gateway::served::{Ecosystem, Origin, Served, ServedResult};
use caisson_gateway::settings::Reach;
use caisson_model::outcome::{EgressEntry, Package, PackageOrigin, Verdict};
use caisson_model::policy::{Egress, Preset};
use caisson_model::time::Timestamp;

use crate::egress::service::Scribe;

/// The loopback address at which the doors are inside: not the one that a step's own servers take, so that no proxy variable
/// that speaks of those can mean it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 83, 1);

/// Where an ecosystem's door is inside. Each has a port of its own, since clients put paths of their own making below it.
pub fn address(ecosystem: Ecosystem) -> SocketAddr {
    let port = match ecosystem {
        Ecosystem::Python => 61081,
        Ecosystem::Npm => 61082,
        Ecosystem::Debian => 61083,
    };
    (ADDRESS, port).into()
}

/// Whose packages a grant lets a step have of this gateway.
pub fn ecosystems(egress: &Egress, gateway: &Gateway) -> Vec<Ecosystem> {
    let settings = gateway.settings();
    let mut found: Vec<Ecosystem> = egress
        .presets
        .iter()
        .filter_map(|preset| match preset {
            Preset::PythonPackages => {
                let any = !settings.python.is_empty() || !settings.python_links.is_empty() || settings.wheelhouse.is_some();
                any.then_some(Ecosystem::Python)
            }
            Preset::NodePackages => settings.npm.registry.is_some().then_some(Ecosystem::Npm),
            Preset::DebianPackages => (!settings.debian.is_empty()).then_some(Ecosystem::Debian),
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Opens the doors of a sandbox: one listener each, in the order of `ecosystems`. Must be called within a tokio runtime.
///
/// # Errors
/// [`DoorError`].
pub fn open(
    gateway: &Gateway,
    ecosystems: &[Ecosystem],
    listeners: Vec<OwnedFd>,
    egress: &Egress,
    scribe: &Scribe,
) -> Result<Vec<Door>, DoorError> {
    let settings = gateway.settings();
    let before = egress.before.map(|at| at.0);
    let reach = if settings.offline { Reach::Offline } else { Reach::Online };
    let terms = Terms { before: before.into_iter().chain(settings.before).min(), reach };
    let open = |(ecosystem, listener): (&Ecosystem, OwnedFd)| {
        let (scribe, reason) = (scribe.clone(), egress.reason.clone());
        let sink = Arc::new(move |served: Served| scribe.record(entry(&scribe, served, &reason)));
        Door::open(gateway, *ecosystem, TcpListener::from(listener), terms, sink)
    };
    ecosystems.iter().zip(listeners).map(open).collect()
}

fn entry(scribe: &Scribe, served: Served, reason: &str) -> EgressEntry {
    let Served { at, ecosystem, host, port, name, file, digest, bytes, result } = served;
    let ecosystem = ecosystem.name().to_owned();
    let (verdict, rule, origin) = match result {
        ServedResult::Served(origin) => {
            let origin = match origin {
                Origin::Disk => PackageOrigin::Disk,
                Origin::Upstream => PackageOrigin::Upstream,
                Origin::Folder => PackageOrigin::Folder,
            };
            (Verdict::Allowed, format!("package gateway ({reason})"), origin)
        }
        ServedResult::Refused(why) => (Verdict::Refused, format!("package gateway: {why}"), PackageOrigin::Nowhere),
        ServedResult::Missed(why) => (Verdict::Unreachable, format!("package gateway: {why}"), PackageOrigin::Nowhere),
    };
    let host = if host.is_empty() { ADDRESS.to_string() } else { host };
    let package = Some(Package { ecosystem, name, file, digest, origin });
    EgressEntry { at: Timestamp(at), received: bytes, package, ..scribe.entry(&host, port, verdict, rule) }
}
