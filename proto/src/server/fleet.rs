//! Enrolment and administration as gRPC services.

use tonic::{Request, Response, Status};

use crate::convert::{Cross, field};
use crate::fleet::{Enrolment as Wanted, FleetApi, TokenWish};
use crate::server::{Door, Server, invalid};
use crate::status::status;
use crate::wire;
use crate::wire::admin_server::Admin;
use crate::wire::enrolment_server::Enrolment;

#[tonic::async_trait]
impl<D: Door> Enrolment for Server<D> {
    async fn enroll(&self, request: Request<wire::EnrollRequest>) -> Result<Response<wire::Certified>, Status> {
        let api = self.enter(&request).await?;
        let wanted = Wanted::back(request.into_inner()).map_err(invalid)?;
        Ok(Response::new(api.enroll(wanted).await.map_err(status)?.out()))
    }

    async fn renew_certificate(&self, request: Request<wire::RenewCertificateRequest>) -> Result<Response<wire::Certified>, Status> {
        let api = self.enter(&request).await?;
        Ok(Response::new(api.renew_certificate(request.into_inner().request).await.map_err(status)?.out()))
    }
}

#[tonic::async_trait]
impl<D: Door> Admin for Server<D> {
    async fn create_token(&self, request: Request<wire::CreateTokenRequest>) -> Result<Response<wire::CreateTokenAnswer>, Status> {
        let api = self.enter(&request).await?;
        let wish = TokenWish::back(request.into_inner()).map_err(invalid)?;
        Ok(Response::new(api.create_token(wish).await.map_err(status)?.out()))
    }

    async fn list_tokens(&self, request: Request<wire::ListTokensRequest>) -> Result<Response<wire::ListTokensAnswer>, Status> {
        let tokens = self.enter(&request).await?.list_tokens().await.map_err(status)?;
        Ok(Response::new(wire::ListTokensAnswer { tokens: tokens.out() }))
    }

    async fn revoke_token(&self, request: Request<wire::RevokeTokenRequest>) -> Result<Response<wire::RevokeTokenAnswer>, Status> {
        let api = self.enter(&request).await?;
        api.revoke_token(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(wire::RevokeTokenAnswer {}))
    }

    async fn list_members(&self, request: Request<wire::ListMembersRequest>) -> Result<Response<wire::ListMembersAnswer>, Status> {
        let members = self.enter(&request).await?.list_members().await.map_err(status)?;
        Ok(Response::new(wire::ListMembersAnswer { members: members.out() }))
    }

    async fn expel(&self, request: Request<wire::ExpelRequest>) -> Result<Response<wire::ExpelAnswer>, Status> {
        let api = self.enter(&request).await?;
        let wire::ExpelRequest { agent, reason } = request.into_inner();
        api.expel(field(agent, "agent").map_err(invalid)?, reason).await.map_err(status)?;
        Ok(Response::new(wire::ExpelAnswer {}))
    }
}
