//! The artifact service: what is kept for the later jobs of the run.

use std::sync::Arc;

use caisson_model::artifact::{self, Artifact, Clash, Kept};
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::forms::{self, Packing};
use crate::keeper::Keeper;
use crate::parcels::{Purpose, Wanted};
use crate::room::{Room, number_of};

/// The mime type of an archive of several files.
const ARCHIVES: [&str; 3] = ["application/zip", "application/x-zip-compressed", "application/zip-compressed"];

/// Answers one call. A field goes by the name in the protocol's own file, or by the one of its JSON form.
pub(crate) async fn answer<K: Keeper>(room: &Arc<Room<K>>, method: &str, request: &Value) -> Result<Value, Refusal> {
    let run = field(request, "workflow_run_backend_id", "workflowRunBackendId").as_str();
    if run.is_some_and(|run| run != room.token.run()) {
        return Err(Refusal::forbidden("artifacts of another run cannot be reached from here"));
    }
    match method {
        "CreateArtifact" => create(room, request).await,
        "FinalizeArtifact" => finalize(room, request).await,
        "ListArtifacts" => list(room, request).await,
        "GetSignedArtifactURL" => sign(room, request).await,
        "DeleteArtifact" => delete(room, request).await,
        _ => Err(Refusal::missing(format!("the artifact service has no {method}"))),
    }
}

/// A field by its two names; null when it is absent.
pub(crate) fn field<'r>(request: &'r Value, name: &str, camel: &str) -> &'r Value {
    match &request[name] {
        Value::Null => &request[camel],
        found => found,
    }
}

fn name(request: &Value) -> Result<String, Refusal> {
    let name = request["name"].as_str().unwrap_or_default().to_owned();
    match artifact::refusal(&name) {
        Some(reason) => {
            Err(Refusal::malformed(format!("the name '{}' is not valid: {reason}", name.chars().take(100).collect::<String>())))
        }
        None => Ok(name),
    }
}

async fn find<K: Keeper>(room: &Room<K>, name: &str) -> Result<Option<Artifact>, Refusal> {
    Ok(room.keeper.artifacts().await?.into_iter().find(|artifact| artifact.name == name))
}

fn clash(name: &str) -> Refusal {
    Refusal::there(format!("an artifact with this name already exists on the workflow run: {name}"))
}

async fn create<K: Keeper>(room: &Arc<Room<K>>, request: &Value) -> Result<Value, Refusal> {
    let name = name(request)?;
    if find(room, &name).await?.is_some() {
        return Err(clash(&name));
    }
    // Older clients do not say what they send: an archive.
    let kind = field(request, "mime_type", "mimeType").as_str();
    let archive = kind.is_none_or(|kind| ARCHIVES.contains(&kind));
    room.parcels.forget(|purpose| matches!(purpose, Purpose::Artifact { name: other, .. } if *other == name));
    let (number, signature) = room.parcels.begin(Purpose::Artifact { name, archive })?;
    Ok(json!({ "ok": true, "signed_upload_url": room.address_of(number, &signature) }))
}

async fn finalize<K: Keeper>(room: &Arc<Room<K>>, request: &Value) -> Result<Value, Refusal> {
    let wanted = name(request)?;
    let (purpose, content) = room.parcels.take(|_, purpose| matches!(purpose, Purpose::Artifact { name, .. } if *name == wanted))?;
    let Purpose::Artifact { name, archive } = purpose else { return Err(Refusal::missing("there is no such upload")) };
    let announced = number_of(&request["size"]);
    if announced.is_some_and(|size| size != content.length()) {
        return Err(Refusal::malformed(format!("{} bytes were uploaded, and {} were announced", content.length(), announced.unwrap_or(0))));
    }
    let (into, most, stated) = (room.parcels.file()?, room.parcels.most(), request["hash"].as_str().map(str::to_owned));
    let packing = {
        let name = name.clone();
        move || -> Result<_, forms::FormError> {
            let mut content = content;
            if let Some(stated) = stated {
                forms::check(&mut content, &stated)?;
            }
            if archive {
                return forms::tar_of_zip(content, into, most);
            }
            let size = content.length();
            forms::tar_of_file(&name, content, size, into).map(|packed| (packed, 1))
        }
    };
    let (packed, files) = room.blocking(packing).await?;
    let (digest, bytes) = (packed.digest, packed.bytes);
    room.keeper.put(packed).await?;
    match room.keeper.keep_artifact(name.clone(), digest, bytes, files, Clash::Refuse).await? {
        Kept::Kept => {}
        Kept::Clashes => return Err(clash(&name)),
    }
    Ok(json!({ "ok": true, "artifact_id": artifact::number(&digest).to_string() }))
}

async fn list<K: Keeper>(room: &Arc<Room<K>>, request: &Value) -> Result<Value, Refusal> {
    let name = field(request, "name_filter", "nameFilter").as_str();
    let number = number_of(field(request, "id_filter", "idFilter"));
    let found: Vec<Value> = room
        .keeper
        .artifacts()
        .await?
        .iter()
        .filter(|artifact| name.is_none_or(|name| artifact.name == name))
        .filter(|artifact| number.is_none_or(|number| artifact::number(&artifact.digest) == number))
        .map(|artifact| {
            json!({
                "workflow_run_backend_id": room.token.run(),
                "workflow_job_run_backend_id": room.token.job(),
                "database_id": artifact::number(&artifact.digest).to_string(),
                "name": artifact.name,
                "size": artifact.bytes.to_string(),
                "created_at": moment(artifact.at.0),
            })
        })
        .collect();
    Ok(json!({ "artifacts": found }))
}

async fn sign<K: Keeper>(room: &Arc<Room<K>>, request: &Value) -> Result<Value, Refusal> {
    let name = name(request)?;
    let found = find(room, &name).await?.ok_or_else(|| Refusal::missing(format!("this run has no artifact named {name}")))?;
    let (number, signature) = room.parcels.promise(Wanted { digest: found.digest, packing: Packing::Zip })?;
    Ok(json!({ "signed_url": room.address_of(number, &signature) }))
}

async fn delete<K: Keeper>(room: &Arc<Room<K>>, request: &Value) -> Result<Value, Refusal> {
    let name = name(request)?;
    let found = find(room, &name).await?.ok_or_else(|| Refusal::missing(format!("this run has no artifact named {name}")))?;
    room.keeper.drop_artifact(name).await?;
    Ok(json!({ "ok": true, "artifact_id": artifact::number(&found.digest).to_string() }))
}

/// `millis` since 1970 as the clients' reader takes it: a fraction has three, six or nine digits there, or the listing is refused whole.
fn moment(millis: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap_or(0)).unwrap_or_default();
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn a_moment_keeps_the_zeros_at_its_end() {
        assert_eq!(moment(1_795_000_000_200), "2026-11-18T11:06:40.200Z");
        assert_eq!(moment(1_795_000_000_000), "2026-11-18T11:06:40.000Z");
    }
}
