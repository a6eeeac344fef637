//! What the node says about itself.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::header::CONTENT_TYPE;

use super::Api;
use crate::http::error::ErrorBody;
use crate::http::schema::Health;

/// The text of `/openapi.json`.
#[derive(Debug, Clone)]
pub(super) struct OpenApiText(pub(super) Arc<str>);

/// Says that the node runs, and which it is.
#[utoipa::path(
    get,
    path = "/healthz",
    responses(
        (status = 200, description = "It runs", body = Health),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: api.node.peer_id(),
        device_name: api.node.device_name().to_owned(),
        pid: std::process::id(),
        mdns: api.node.has_mdns(),
        passing: api.at.is_none(),
        uptime_secs: api.begun.elapsed().as_secs(),
        api: api.at.map(|at| format!("http://{at}")),
        addresses: api.node.addresses().await.iter().map(ToString::to_string).collect(),
        export_roots: named(api.exports.dirs()),
        import_roots: named(api.imports.dirs()),
        jobs: api.jobs.live().len() as u64,
    })
}

fn named(dirs: &[PathBuf]) -> Vec<String> {
    dirs.iter().map(|dir| dir.to_string_lossy().into_owned()).collect()
}

/// Figures for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "Sums over this run of the node", body = String, content_type = "application/openmetrics-text"),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let text = api.jobs.metrics.text(&api.jobs.phases());
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn openapi(Extension(OpenApiText(text)): Extension<OpenApiText>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], text.to_string())
}
