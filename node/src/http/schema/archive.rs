//! Tickets of archives (v3).

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Names a ticket.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketRequest {
    /// Its id, which is no secret.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub ticket_id: String,
}

/// Which ticket.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TicketQuery {
    /// Its id, which is no secret.
    #[param(pattern = "^[0-9a-f]{32}$")]
    pub ticket_id: String,
}
