//! The wire types and gRPC stubs, generated from `caisson/v1/*.proto`. Nothing else in the workspace includes generated code.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::wildcard_imports)]

tonic::include_proto!("caisson.v1");

// The build leaves this one without `Debug`, so that no trace of a message can show a secret.
impl std::fmt::Debug for open_secrets_answer::Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).field("value", &"***").finish()
    }
}

impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest").field("agent", &self.agent).field("token", &"***").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CreateTokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateTokenAnswer").field("view", &self.view).field("token", &"***").finish()
    }
}
