//! Enrolment and administration.

use std::time::Duration;

use crate::convert::{Cross, Malformed, enumeration, field, message};
use crate::fleet::{Certified, Enrolment, MemberView, NewToken, TokenKind, TokenView, TokenWish};
use crate::wire;

enumeration!(TokenKind => TokenKind { Join, Api });
message!(TokenView => TokenView { id, kind, name, pool, scopes, created, expires, used, used_by, revoked });
message!(MemberView => MemberView { agent, pool, generation, joined, expires, revoked, reason });
message!(NewToken => CreateTokenAnswer { token } whole { view });

impl Cross for TokenWish {
    type Wire = wire::CreateTokenRequest;

    fn out(self) -> wire::CreateTokenRequest {
        let TokenWish { kind, name, pool, scopes, lifetime } = self;
        wire::CreateTokenRequest { kind: kind.out(), name, pool, scopes, lifetime_ns: lifetime.out() }
    }

    fn back(wire: wire::CreateTokenRequest) -> Result<TokenWish, Malformed> {
        let wire::CreateTokenRequest { kind, name, pool, scopes, lifetime_ns } = wire;
        Ok(TokenWish { kind: field(kind, "kind")?, name, pool, scopes, lifetime: Duration::from_nanos(lifetime_ns) })
    }
}

impl Cross for Enrolment {
    type Wire = wire::EnrollRequest;

    fn out(self) -> wire::EnrollRequest {
        let Enrolment { token, agent, request, facts } = self;
        wire::EnrollRequest { token, agent: agent.out(), request, facts: facts.out() }
    }

    fn back(wire: wire::EnrollRequest) -> Result<Enrolment, Malformed> {
        let wire::EnrollRequest { token, agent, request, facts } = wire;
        Ok(Enrolment { token, agent: field(agent, "agent")?, request, facts: field(facts, "facts")? })
    }
}

impl Cross for Certified {
    type Wire = wire::Certified;

    fn out(self) -> wire::Certified {
        let Certified { agent, pool, certificate, authority, begins, ends } = self;
        wire::Certified { agent: agent.out(), pool, certificate, authority, begins: begins.out(), ends: ends.out() }
    }

    fn back(wire: wire::Certified) -> Result<Certified, Malformed> {
        let wire::Certified { agent, pool, certificate, authority, begins, ends } = wire;
        Ok(Certified {
            agent: field(agent, "agent")?,
            pool,
            certificate,
            authority,
            begins: field(begins, "begins")?,
            ends: field(ends, "ends")?,
        })
    }
}
