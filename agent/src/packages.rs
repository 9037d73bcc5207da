//! The package gateway of one sandbox: its doors inside, and what they tell in the ledger of the exit.

pub mod inside;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use caisson_gateway::answer::Terms;
use caisson_gateway::door::{self, Door, DoorError, Visitor};
use caisson_gateway::gateway::Gateway;
use caisson_gateway::served::{Ecosystem, Origin, Served, ServedResult, Sink, Sinks};
use caisson_gateway::settings::Reach;
use caisson_model::outcome::{EgressEntry, Package, PackageOrigin, Verdict};
use caisson_model::policy::{Egress, Preset};
use caisson_model::time::Timestamp;

use crate::egress::service::{Scribe, Service, Visit};

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

/// What the gateway answers to in the names of the indexes, for steps that ask there. A name that policy itself lets the step reach stays
/// what it is.
pub fn services(ecosystems: &[Ecosystem], egress: &Egress, gateway: &Gateway) -> Vec<Service> {
    let mut named: BTreeMap<(String, u16), Vec<Ecosystem>> = BTreeMap::new();
    for ecosystem in ecosystems {
        for (host, port) in gateway.names(*ecosystem) {
            if egress.allow.iter().all(|destination| !destination.covers(&host, port)) {
                named.entry((host, port)).or_default().push(*ecosystem);
            }
        }
    }
    let terms = terms(egress, gateway);
    let service = |((host, port), ecosystems): ((String, u16), Vec<Ecosystem>)| {
        let (gateway, reason): (Gateway, Arc<str>) = (gateway.clone(), egress.reason.as_str().into());
        let ecosystems: Arc<[Ecosystem]> = ecosystems.into();
        let serve = move |visit: Visit| {
            let Visit { stream, host, port, scribe } = visit;
            let (gateway, reason) = (gateway.clone(), Arc::clone(&reason));
            let visitor = Visitor { stream, host, port, ecosystems: Arc::clone(&ecosystems), terms };
            let sink: Sink = Arc::new(move |served: Served| scribe.record(entry(&scribe, served, &reason)));
            let serving = async move {
                if let Err(error) = door::receive(&gateway, visitor, sink).await {
                    tracing::debug!(%error, "a client of an index by its own name was not served");
                }
            };
            Box::pin(serving) as Pin<Box<dyn Future<Output = ()> + Send>>
        };
        Service { host, port, serve: Arc::new(serve) }
    };
    named.into_iter().map(service).collect()
}

fn terms(egress: &Egress, gateway: &Gateway) -> Terms {
    let settings = gateway.settings();
    let reach = if settings.offline || egress.stored { Reach::Offline } else { Reach::Online };
    Terms { before: egress.before.map(|at| at.0).into_iter().chain(settings.before).min(), reach }
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
    let terms = terms(egress, gateway);
    let open = |(ecosystem, listener): (&Ecosystem, OwnedFd)| {
        let (scribe, reason): (_, Arc<str>) = (scribe.clone(), egress.reason.as_str().into());
        let sinks: Sinks = Arc::new(move |peer, here| {
            let (scribe, reason) = (scribe.clone(), Arc::clone(&reason));
            Box::pin(async move {
                let scribe = scribe.of(peer, here).await;
                let sink: Sink = Arc::new(move |served: Served| scribe.record(entry(&scribe, served, &reason)));
                sink
            })
        });
        Door::open(gateway, *ecosystem, TcpListener::from(listener), terms, sinks)
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
