//! Jobs by their number in this run of the node: for those that have no session yet, and for whoever follows one closely.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::{Api, seconds};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, Query, within};
use crate::http::jobs::Entry;
use crate::http::schema::{Accepted, DecideRequest, JobRequest, JobStatusQuery, JobsResponse, StatusResponse};

fn find(api: &Api, id: u64) -> Result<Entry, ApiError> {
    api.jobs.get(id).ok_or_else(|| {
        ApiError::http(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such job in this run of the node",
            "GET /me/sync/v4/sessions lists what is on record",
        )
    })
}

/// Shows a job, at once or when it has changed.
#[utoipa::path(
    get,
    path = "/me/sync/v4/job/status",
    params(JobStatusQuery),
    responses(
        (status = 200, description = "Its newest state", body = StatusResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody)
    )
)]
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Query(ask): Query<JobStatusQuery>,
) -> Result<Json<StatusResponse>, ApiError> {
    let wait = seconds(within("wait_secs", ask.wait_secs, 0, (0, 60))?);
    let job = find(&api, ask.job_id)?;
    Ok(Json(job.status_after(ask.after_version.unwrap_or(0), wait).await))
}

/// Lists the jobs of this run of the node, those included that have no session yet.
#[utoipa::path(
    get,
    path = "/me/sync/v4/jobs",
    responses(
        (status = 200, description = "The newest state of each", body = JobsResponse),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<JobsResponse> {
    Json(JobsResponse { jobs: api.jobs.all() })
}

/// Stops a job and keeps its session: `session/resume` goes on with it.
#[utoipa::path(
    post,
    path = "/me/sync/v4/job/suspend",
    request_body = JobRequest,
    responses(
        (status = 202, description = "It is being stopped", body = Accepted),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody)
    )
)]
pub(super) async fn suspend(
    State(api): State<Arc<Api>>,
    Body(ask): Body<JobRequest>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    find(&api, ask.job_id)?.handle.suspend().await;
    Ok((StatusCode::ACCEPTED, Json(Accepted { job_id: ask.job_id })))
}

/// Answers the question of a job whether what is at its target may be replaced.
#[utoipa::path(
    post,
    path = "/me/sync/v4/job/decide",
    request_body = DecideRequest,
    responses(
        (status = 202, description = "The answer is handed on", body = Accepted),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The job asks nothing", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody)
    )
)]
pub(super) async fn decide(
    State(api): State<Arc<Api>>,
    Body(ask): Body<DecideRequest>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let job = find(&api, ask.job_id)?;
    if job.handle.view().review.is_none() {
        let message = "the job asks nothing now";
        return Err(ApiError::http(StatusCode::CONFLICT, "no_review", message, "wait until its status has a review"));
    }
    if ask.accept {
        job.handle.accept().await
    } else {
        job.handle.decline().await
    }
    Ok((StatusCode::ACCEPTED, Json(Accepted { job_id: ask.job_id })))
}
