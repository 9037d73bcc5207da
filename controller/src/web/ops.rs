//! Health, readiness and metrics.

use hyper::{Method, StatusCode};

use crate::service::Service;
use crate::web::{Reply, Request, Site};

/// `/healthz` (the process works), `/readyz` (it takes calls) and `/metrics`.
#[derive(Debug)]
pub struct Ops(pub Service);

impl Site for Ops {
    const LONGEST: usize = 0;

    async fn answer(&self, request: Request) -> Reply {
        if request.method != Method::GET {
            return Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        match request.path.as_str() {
            "/healthz" => Reply::text(StatusCode::OK, "ok"),
            "/readyz" => match self.0.gauges().await {
                Ok(_) => Reply::text(StatusCode::OK, "ready"),
                Err(error) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            "/metrics" => match self.0.gauges().await {
                Ok(gauges) => {
                    let text = self.0.metrics().render(&gauges);
                    Reply { status: StatusCode::OK, kind: "text/plain; version=0.0.4; charset=utf-8", text }
                }
                Err(error) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            _ => Reply::text(StatusCode::NOT_FOUND, "there is /healthz, /readyz and /metrics"),
        }
    }
}
