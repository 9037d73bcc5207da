//! Enrolment and administration, caller's side.

use caisson_model::id::AgentName;

use crate::api::ApiError;
use crate::client::{Client, call, malformed};
use crate::convert::{Cross, field};
use crate::fleet::{Certified, Enrolment, FleetApi, MemberView, NewToken, TokenView, TokenWish};
use crate::status::api_error;
use crate::wire;

impl FleetApi for Client {
    async fn enroll(&self, enrolment: Enrolment) -> Result<Certified, ApiError> {
        let answer = self.enrolment.clone().enroll(call(enrolment.out())).await.map_err(api_error)?.into_inner();
        Certified::back(answer).map_err(malformed)
    }

    async fn renew_certificate(&self, request: Vec<u8>) -> Result<Certified, ApiError> {
        let request = call(wire::RenewCertificateRequest { request });
        let answer = self.enrolment.clone().renew_certificate(request).await.map_err(api_error)?.into_inner();
        Certified::back(answer).map_err(malformed)
    }

    async fn create_token(&self, wish: TokenWish) -> Result<NewToken, ApiError> {
        let answer = self.admin.clone().create_token(call(wish.out())).await.map_err(api_error)?.into_inner();
        NewToken::back(answer).map_err(malformed)
    }

    async fn list_tokens(&self) -> Result<Vec<TokenView>, ApiError> {
        let answer = self.admin.clone().list_tokens(call(wire::ListTokensRequest {})).await.map_err(api_error)?.into_inner();
        field(answer.tokens, "tokens").map_err(malformed)
    }

    async fn revoke_token(&self, id: String) -> Result<(), ApiError> {
        self.admin.clone().revoke_token(call(wire::RevokeTokenRequest { id })).await.map_err(api_error)?;
        Ok(())
    }

    async fn list_members(&self) -> Result<Vec<MemberView>, ApiError> {
        let answer = self.admin.clone().list_members(call(wire::ListMembersRequest {})).await.map_err(api_error)?.into_inner();
        field(answer.members, "members").map_err(malformed)
    }

    async fn expel(&self, agent: AgentName, reason: String) -> Result<(), ApiError> {
        let request = call(wire::ExpelRequest { agent: agent.out(), reason });
        self.admin.clone().expel(request).await.map_err(api_error)?;
        Ok(())
    }
}
