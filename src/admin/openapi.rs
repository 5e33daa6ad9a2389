//! The API in OpenAPI 3.1: what each route takes and gives, for programs that are made from it and for whoever reads. Answers'
//! and bodies' shapes are those of the types; the rest stands in [`DESCRIBED`].
//!
//! The document is also kept in the repository (`config/openapi.json`), so that a change of the API is seen in its diff. That it
//! is true is a test's business: the kept one is compared, each route is in it, and `make test` has schemathesis ask a running
//! box by it.

use super::accounts::{
    FirstUserBody, MadeToken, Me, NewTokenBody, NewUserBody, PasswordBody, SetupBody, SignInBody, Tokens,
    TotpBody, TotpProposal, UserChange, Users,
};
use super::api::{
    ClearBody, Cleared, Decisions, Drops, Exporters, Handoffs, Measurements, Nat, Paths, Queues, Rules,
};
use super::captures::Captures;
use super::config::{
    AuditPage, CandidateAnswer, Checked, CommitBody, Comparison, Confirmed, PolicyTests, Revisions, TextBody,
    Texts,
};
use super::enrolment::{Approved, Enrolments, MadeCode, NewEnrolmentBody};
use super::guard::Need;
use super::oidc::ProviderAnswer;
use super::problem::Problem;
use super::tls::CertificateAnswer;
use super::update::UpdateTaken;
use super::{ROUTES, Route};
use crate::control::captures::{CaptureAsked, CaptureRow};
use crate::control::commits::{Committed, ConfigState, DryRun};
use crate::control::updates::UpdateState;
use crate::control::{FlowPage, Status, Trace};
use crate::enrol::{Claim, Offer};
use crate::pipeline::report::{Explanation, PathHistory, SessionPage};
use crate::store::report::{FlowAnswer, WhoHad};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use utoipa::ToSchema;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths as PathMap};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    Required, ResponseBuilder, ResponsesBuilder, Schema, SecurityRequirement,
};

static DOCUMENT: LazyLock<String> =
    // A document of plain structs, which always serialises.
    LazyLock::new(|| written().to_pretty_json().unwrap_or_default() + "\n");

/// Shapes by the names that references have.
type Shapes = BTreeMap<String, RefOr<Schema>>;
/// Puts a type's shape and those it is made of among the others, and refers to it.
type Shape = fn(&mut Shapes) -> RefOr<Schema>;

fn shape<T: ToSchema>(shapes: &mut Shapes) -> RefOr<Schema> {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    shapes.extend(parts);
    let name = T::name().into_owned();
    shapes.insert(name.clone(), T::schema());
    Ref::from_schema_name(name).into()
}

/// What a parameter may be.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number(u64, u64),
    OneOf(&'static [&'static str]),
}

#[derive(Clone, Copy)]
struct Parameter {
    name: &'static str,
    kind: Kind,
    is_required: bool,
    says: &'static str,
}

const fn optional(name: &'static str, kind: Kind, says: &'static str) -> Parameter {
    Parameter { name, kind, is_required: false, says }
}

const fn required(name: &'static str, kind: Kind, says: &'static str) -> Parameter {
    Parameter { name, kind, is_required: true, says }
}

/// What comes back if nothing is wrong.
#[derive(Clone, Copy)]
enum Gives {
    Json(u16, Shape),
    /// One of these media types.
    Media(&'static [&'static str]),
    /// JSON or one of these.
    JsonOr(Shape, &'static [&'static str]),
    Nothing(u16),
}

/// What a route takes and gives.
struct Described {
    method: &'static str,
    path: &'static str,
    says: &'static str,
    parameters: &'static [Parameter],
    body: Option<Shape>,
    /// The body is a file of this media type.
    file: Option<&'static str>,
    gives: Gives,
    /// Beyond what any route may answer ([`OF_ALL`]).
    refuses: &'static [u16],
}

/// Of any route: what is asked cannot be understood, by nobody who is known or not by them, for what is not there, by another
/// method, of another host.
const OF_ALL: [u16; 6] = [400, 401, 403, 404, 405, 421];

const fn look(
    path: &'static str,
    says: &'static str,
    parameters: &'static [Parameter],
    gives: Shape,
) -> Described {
    get(path, says, parameters, Gives::Json(200, gives))
}

const fn file(
    path: &'static str,
    says: &'static str,
    parameters: &'static [Parameter],
    kinds: &'static [&'static str],
) -> Described {
    get(path, says, parameters, Gives::Media(kinds))
}

const fn get(
    path: &'static str,
    says: &'static str,
    parameters: &'static [Parameter],
    gives: Gives,
) -> Described {
    Described { method: "GET", path, says, parameters, body: None, file: None, gives, refuses: &[503] }
}

const fn change(
    method: &'static str,
    path: &'static str,
    says: &'static str,
    body: Option<Shape>,
    gives: Gives,
    refuses: &'static [u16],
) -> Described {
    Described { method, path, says, parameters: &[], body, file: None, gives, refuses }
}

const TENANT: Parameter = optional("tenant", Kind::Text, "of this tenant alone");
const OF_TENANT: Parameter = required("tenant", Kind::Text, "a tenant's name");
const ADDRESS: Parameter = optional("address", Kind::Text, "from, to or translated to this address");
const PORT: Parameter = optional("port", Kind::Number(0, 65_535), "from, to or translated to this port");
const CLASS: Parameter = optional("class", Kind::Text, "of this app class");
const LIMIT: Parameter = optional("limit", Kind::Number(1, 10_000), "at most so many rows; 100 unless given");
const PROTOCOL: Parameter = optional("protocol", Kind::Text, "`tcp`, `udp`, `icmp` or a number");
const FROM: Parameter = required("from", Kind::Text, "ADDRESS or ADDRESS:PORT");
const TO: Parameter = required("to", Kind::Text, "ADDRESS or ADDRESS:PORT");
const SCOPE: Parameter = required("scope", Kind::Text, "`box`, or `tenant:NAME`");
const OF: Parameter = optional("of", Kind::Text, SOURCES);
const SOURCES: &str = "`in-force`, `files`, `candidates`, `box`, `tenant:NAME`, several with commas, or how many revisions to go back";
const FLOWS: &[Parameter] = &[TENANT, ADDRESS, PORT, CLASS, LIMIT];
const ID: Parameter = required("id", Kind::Text, "the number in the list of tokens");
const ENROLMENT: Parameter = required("id", Kind::Text, "its number in the list of enrolments");
const CAPTURE: Parameter = required("capture", Kind::Text, "its number in the list of captures");
const FORCE_DOWNGRADE: Parameter =
    optional("force-downgrade", BOOLEAN, "take it though it is not newer than what runs, or was left before");
const REBOOT: Parameter =
    optional("reboot", BOOLEAN, "start the box anew when it is installed, as it is unless this is false");
const BOOLEAN: Kind = Kind::OneOf(&["true", "false"]);
const NAME: Parameter = required("name", Kind::Text, "the user's name");

const DESCRIBED: &[Described] = &[
    look(
        "/api/v1/status",
        "Which box it is, how its configuration stands, and sums over its life",
        &[],
        shape::<Status>,
    ),
    look("/api/v1/paths", "Paths: state, quality, traffic", &[TENANT], shape::<Paths>),
    look("/api/v1/tunnels", "The same, by its other name", &[TENANT], shape::<Paths>),
    look("/api/v1/sessions", "What is in the session table, newest first", FLOWS, shape::<SessionPage>),
    look("/api/v1/flows", "Flow records of late, newest first", FLOWS, shape::<FlowPage>),
    Described {
        method: "GET",
        path: "/api/v1/flows/query",
        says: "A question to the flow history",
        parameters: &[
            optional("q", Kind::Text, "a filter: `tenant = acme and dst in 203.0.113.0/24 and bytes > 1M`"),
            optional("last", Kind::Text, "of the last `15m`, `1h`, `7d`; 1h unless anything is given"),
            optional("from", Kind::Text, "from a time, RFC 3339 or `-2h`, with `until`"),
            optional("until", Kind::Text, "until a time"),
            optional("by", Kind::Text, "grouped by these fields, with commas"),
            optional("sum", Kind::Text, "these sums of each group, with commas"),
            optional("order", Kind::Text, "by this sum, the largest first"),
            optional("top", Kind::Number(1, 10_000), "the first so many groups, the others together"),
            optional("step", Kind::Text, "a time series, by this step"),
            optional("previous", Kind::OneOf(&["true", "false"]), "beside the period before"),
            optional("limit", Kind::Number(1, 10_000), "at most so many rows"),
            optional("cursor", Kind::Text, "the next page: what the page before said"),
            optional("format", Kind::OneOf(&["json", "csv", "parquet"]), "as what; `json` unless given"),
        ],
        body: None,
        file: None,
        gives: Gives::JsonOr(shape::<FlowAnswer>, &["text/csv", "application/vnd.apache.parquet"]),
        refuses: &[422, 503],
    },
    look(
        "/api/v1/flows/trace",
        "What became of one flow",
        &[OF_TENANT, FROM, TO, PROTOCOL, optional("at", Kind::Text, "when it was there: a time, or `-5m`")],
        shape::<Trace>,
    ),
    look("/api/v1/drops", "What was dropped, and why", &[TENANT], shape::<Drops>),
    look("/api/v1/rules", "ACL rules, and what each has let pass or dropped", &[TENANT], shape::<Rules>),
    look(
        "/api/v1/paths/history",
        "One path's quality over the last while, with what is asked of it",
        &[
            OF_TENANT,
            required("site", Kind::Text, "the far end"),
            required("path", Kind::Text, "the path's name"),
        ],
        shape::<PathHistory>,
    ),
    look(
        "/api/v1/decisions",
        "Which class moved to which path, and why, newest first",
        &[TENANT, LIMIT],
        shape::<Decisions>,
    ),
    look("/api/v1/measurements", "What paths were judged by of late", &[TENANT], shape::<Measurements>),
    look(
        "/api/v1/queues",
        "How each class fares where bandwidth is limited",
        &[
            TENANT,
            optional("site", Kind::Text, "towards this far end"),
            optional("path", Kind::Text, "by this path"),
        ],
        shape::<Queues>,
    ),
    look("/api/v1/certificate", "The certificate that is shown over TLS", &[], shape::<CertificateAnswer>),
    look("/api/v1/exporters", "How the export to each collector stands", &[], shape::<Exporters>),
    look("/api/v1/handoffs", "The interfaces of private handoffs", &[TENANT], shape::<Handoffs>),
    Described {
        refuses: &[409, 422, 503],
        ..look(
            "/api/v1/explain",
            "What would become of a flow, step by step; with what is in force, unless `of` says otherwise",
            &[
                OF_TENANT,
                FROM,
                TO,
                PROTOCOL,
                optional("dscp", Kind::Text, "its DSCP: a name or 0 to 63"),
                optional("sni", Kind::Text, "what it calls the server"),
                OF,
            ],
            shape::<Explanation>,
        )
    },
    change(
        "POST",
        "/api/v1/sessions/clear",
        "Ends sessions",
        Some(shape::<ClearBody>),
        Gives::Json(200, shape::<Cleared>),
        &[503],
    ),
    look(
        "/api/v1/who-had",
        "Who had a public address and port, from the NAT ledger",
        &[
            required("address", Kind::Text, "a public address"),
            required("port", Kind::Number(0, 65_535), "a port"),
            PROTOCOL,
            optional("at", Kind::Text, "when: a time; now unless given"),
        ],
        shape::<WhoHad>,
    ),
    look("/api/v1/config", "What is in force, and whether anything else would be", &[], shape::<ConfigState>),
    look(
        "/api/v1/config/revisions",
        "The revisions there are, the one in force first",
        &[],
        shape::<Revisions>,
    ),
    look("/api/v1/config/texts", "A configuration's files", &[OF], shape::<Texts>),
    look(
        "/api/v1/config/compare",
        "What differs between two configurations",
        &[optional("old", Kind::Text, SOURCES), optional("new", Kind::Text, SOURCES)],
        shape::<Comparison>,
    ),
    Described {
        refuses: &[409, 422, 503],
        ..look("/api/v1/config/check", "Whether a configuration can be put in force", &[OF], shape::<Checked>)
    },
    Described {
        refuses: &[409, 422, 503],
        ..look(
            "/api/v1/config/policy-tests",
            "What a configuration's policy tests come to",
            &[OF],
            shape::<PolicyTests>,
        )
    },
    Described {
        refuses: &[409, 422, 503],
        ..look(
            "/api/v1/config/dry-run",
            "What a configuration would do to live sessions and recorded flows",
            &[OF],
            shape::<DryRun>,
        )
    },
    look(
        "/api/v1/config/candidate",
        "The open candidate of a scope, with its ETag",
        &[SCOPE],
        shape::<CandidateAnswer>,
    ),
    Described {
        parameters: &[SCOPE],
        ..change(
            "PUT",
            "/api/v1/config/candidate",
            "Opens a candidate, or takes the place of one",
            Some(shape::<TextBody>),
            Gives::Json(200, shape::<CandidateAnswer>),
            &[409, 412, 422, 428, 503],
        )
    },
    Described {
        parameters: &[SCOPE],
        ..change(
            "DELETE",
            "/api/v1/config/candidate",
            "Discards a candidate",
            None,
            Gives::Nothing(204),
            &[409, 412, 428, 503],
        )
    },
    change(
        "POST",
        "/api/v1/config/commit",
        "Puts a configuration in force; taken back unless it is confirmed, if that is asked",
        Some(shape::<CommitBody>),
        Gives::Json(200, shape::<Committed>),
        &[409, 422, 503],
    ),
    change(
        "POST",
        "/api/v1/config/confirm",
        "Confirms what is in force",
        None,
        Gives::Json(200, shape::<Confirmed>),
        &[409, 503],
    ),
    look("/api/v1/audit", "The audit log, newest first", &[LIMIT], shape::<AuditPage>),
    look("/api/v1/nat", "NAT pools, and the blocks of ports that branches have", &[TENANT], shape::<Nat>),
    look("/api/v1/captures", "Captures, newest first", &[TENANT], shape::<Captures>),
    change(
        "POST",
        "/api/v1/captures",
        "Begins a capture of a tenant's packets, which ends by itself",
        Some(shape::<CaptureAsked>),
        Gives::Json(201, shape::<CaptureRow>),
        &[409, 503],
    ),
    file("/api/v1/captures/{capture}", "What was captured so far", &[CAPTURE], &["application/x-pcapng"]),
    Described {
        parameters: &[CAPTURE],
        ..change(
            "DELETE",
            "/api/v1/captures/{capture}",
            "Ends a capture, and forgets it",
            None,
            Gives::Nothing(204),
            &[503],
        )
    },
    file("/api/v1/events", "What the console shows live, once a second", &[], &["text/event-stream"]),
    file(
        "/metrics",
        "For Prometheus",
        &[optional("rules", Kind::OneOf(&["true", "false"]), "with ACL rules' counters")],
        &["application/openmetrics-text", "text/plain"],
    ),
    change(
        "POST",
        "/api/v1/setup",
        "Whether the setup link still holds, with a second factor to be",
        Some(shape::<SetupBody>),
        Gives::Json(200, shape::<TotpProposal>),
        &[422],
    ),
    change(
        "PUT",
        "/api/v1/setup",
        "Makes the first owner, and signs them in",
        Some(shape::<FirstUserBody>),
        Gives::Json(200, shape::<Me>),
        &[409, 422, 429, 503],
    ),
    change(
        "POST",
        "/api/v1/session",
        "Signs in",
        Some(shape::<SignInBody>),
        Gives::Json(200, shape::<Me>),
        &[422, 429, 503],
    ),
    look("/api/v1/oidc", "The provider at which people may sign in besides", &[], shape::<ProviderAnswer>),
    Described {
        gives: Gives::Nothing(303),
        refuses: &[],
        ..look(
            "/api/v1/oidc/start",
            "Sends a browser to the provider, or to the console's page, which says why not",
            &[],
            shape::<ProviderAnswer>,
        )
    },
    Described {
        parameters: &[
            optional("state", Kind::Text, "what the browser was sent there with"),
            optional("code", Kind::Text, "what the box asks the provider with who it is"),
            optional("error", Kind::Text, "why there is none"),
            optional("iss", Kind::Text, "the issuer"),
        ],
        gives: Gives::Nothing(303),
        refuses: &[],
        ..look(
            "/api/v1/oidc/callback",
            "Where the provider sends a browser back to: to the console's page, signed in or told why not",
            &[],
            shape::<ProviderAnswer>,
        )
    },
    look("/api/v1/session", "Who one is", &[], shape::<Me>),
    change("DELETE", "/api/v1/session", "Signs out", None, Gives::Nothing(204), &[409]),
    change(
        "PUT",
        "/api/v1/session/password",
        "One's own password",
        Some(shape::<PasswordBody>),
        Gives::Json(200, shape::<Me>),
        &[409, 422, 429, 503],
    ),
    change(
        "POST",
        "/api/v1/session/totp",
        "A second factor to be",
        None,
        Gives::Json(200, shape::<TotpProposal>),
        &[409],
    ),
    change(
        "PUT",
        "/api/v1/session/totp",
        "One's own second factor, proved by a code",
        Some(shape::<TotpBody>),
        Gives::Json(200, shape::<Me>),
        &[409, 422, 429, 503],
    ),
    look("/api/v1/users", "The users there are", &[], shape::<Users>),
    change(
        "POST",
        "/api/v1/users",
        "Adds a user",
        Some(shape::<NewUserBody>),
        Gives::Nothing(201),
        &[409, 422, 503],
    ),
    Described {
        parameters: &[NAME],
        ..change(
            "PATCH",
            "/api/v1/users/{name}",
            "Changes what a user is",
            Some(shape::<UserChange>),
            Gives::Nothing(204),
            &[409, 422, 503],
        )
    },
    Described {
        parameters: &[NAME],
        ..change(
            "DELETE",
            "/api/v1/users/{name}",
            "Removes a user, with sessions and tokens",
            None,
            Gives::Nothing(204),
            &[409],
        )
    },
    look(
        "/api/v1/enrolments",
        "Codes for branches, and the boxes that use them, newest first",
        &[],
        shape::<Enrolments>,
    ),
    change(
        "POST",
        "/api/v1/enrolments",
        "Makes a code for a branch, which is told this once",
        Some(shape::<NewEnrolmentBody>),
        Gives::Json(201, shape::<MadeCode>),
        &[409, 422, 500, 503],
    ),
    Described {
        parameters: &[ENROLMENT],
        ..change(
            "POST",
            "/api/v1/enrolments/{id}/approve",
            "Puts the keys of the box that has used a code in force",
            None,
            Gives::Json(200, shape::<Approved>),
            &[409, 412, 422, 500, 503],
        )
    },
    Described {
        parameters: &[ENROLMENT],
        ..change(
            "POST",
            "/api/v1/enrolments/{id}/refuse",
            "Turns the box away that has used a code",
            None,
            Gives::Nothing(204),
            &[409],
        )
    },
    Described {
        parameters: &[ENROLMENT],
        ..change(
            "DELETE",
            "/api/v1/enrolments/{id}",
            "Makes a code worthless; what is in force stays",
            None,
            Gives::Nothing(204),
            &[409],
        )
    },
    change(
        "POST",
        "/api/v1/enrol",
        "What a branch asks that has a code, again and again until it has its configuration",
        Some(shape::<Claim>),
        Gives::Json(200, shape::<Offer>),
        &[409, 410, 422, 429, 500, 503],
    ),
    look(
        "/api/v1/update",
        "Which version of the box runs, and what became of the last update",
        &[],
        shape::<UpdateState>,
    ),
    Described {
        parameters: &[FORCE_DOWNGRADE, REBOOT],
        file: Some("application/octet-stream"),
        ..change(
            "POST",
            "/api/v1/update",
            "Takes a signed update for a box that runs from an image, which is installed next",
            None,
            Gives::Json(202, shape::<UpdateTaken>),
            &[409, 413, 422, 500],
        )
    },
    look("/api/v1/tokens", "API tokens: one's own, and an owner's are all", &[], shape::<Tokens>),
    change(
        "POST",
        "/api/v1/tokens",
        "Makes an API token, which is told this once",
        Some(shape::<NewTokenBody>),
        Gives::Json(201, shape::<MadeToken>),
        &[409, 422, 503],
    ),
    Described {
        parameters: &[ID],
        ..change("DELETE", "/api/v1/tokens/{id}", "Revokes an API token", None, Gives::Nothing(204), &[])
    },
    file("/api/v1/openapi.json", "This document", &[], &["application/json"]),
];

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// Writes the document anew. Routes that are not described are left out; a test sees to it that there are none.
fn written() -> OpenApi {
    let mut shapes = Shapes::new();
    let mut paths = PathMap::new();
    for described in DESCRIBED {
        let Some(route) = ROUTES.iter().find(|it| (it.method, it.path) == (described.method, described.path))
        else {
            continue;
        };
        let Some(method) = http_method(described.method) else { continue };
        let operation = described.operation(route, &mut shapes);
        let item = PathItem::new(method, operation);
        match paths.paths.get_mut(described.path) {
            Some(there) => there.merge_operations(item),
            None => drop(paths.paths.insert(described.path.to_owned(), item)),
        }
    }
    let mut components = ComponentsBuilder::new();
    for (name, shape) in shapes {
        components = components.schema(name, shape);
    }
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(super::guard::COOKIE)));
    let components = components.security_scheme("token", bearer).security_scheme("session", cookie);
    let says = "A user who has signed in asks with the cookie and, for changes, with the header `popgate-request: 1`; a \
                program with an API token. Problems are RFC 9457's.";
    let info = InfoBuilder::new().title("popgate").version("v1").description(Some(says)).build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

fn http_method(name: &str) -> Option<HttpMethod> {
    Some(match name {
        "GET" => HttpMethod::Get,
        "PUT" => HttpMethod::Put,
        "POST" => HttpMethod::Post,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => return None,
    })
}

impl Described {
    fn operation(&self, route: &Route, shapes: &mut Shapes) -> utoipa::openapi::path::Operation {
        let id = format!("{} {}", self.method.to_lowercase(), self.path.trim_start_matches("/api/v1/"));
        let id = id.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let mut operation = OperationBuilder::new().summary(Some(self.says)).operation_id(Some(id));
        for parameter in self.parameters {
            operation = operation.parameter(parameter.written(self.path));
        }
        if self.refuses.contains(&428) {
            let tag = "`\"TAG\"`: what it takes the place of";
            let header = ParameterBuilder::new().name("If-Match").parameter_in(ParameterIn::Header);
            let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
            operation = operation
                .parameter(header.required(Required::False).description(Some(tag)).schema(Some(text)));
        }
        if let Some(body) = self.body {
            let content = ContentBuilder::new().schema(Some(body(shapes))).build();
            let body = RequestBodyBuilder::new().content("application/json", content);
            operation = operation.request_body(Some(body.required(Some(Required::True)).build()));
        }
        if let Some(kind) = self.file {
            let body = RequestBodyBuilder::new().content(kind, ContentBuilder::new().build());
            operation = operation.request_body(Some(body.required(Some(Required::True)).build()));
        }
        let mut responses = ResponsesBuilder::new();
        let good = |status: u16| ResponseBuilder::new().description(reason(status));
        responses = match self.gives {
            Gives::Nothing(status) => responses.response(status.to_string(), good(status)),
            Gives::Json(status, shape) => {
                responses.response(status.to_string(), good(status).json(shape(shapes)))
            }
            Gives::Media(kinds) => responses.response("200", good(200).media(kinds)),
            Gives::JsonOr(shape, kinds) => {
                responses.response("200", good(200).json(shape(shapes)).media(kinds))
            }
        };
        let problem = shape::<Problem>(shapes);
        for status in OF_ALL.iter().chain(self.refuses) {
            let content = ContentBuilder::new().schema(Some(problem.clone())).build();
            let response = ResponseBuilder::new()
                .description(reason(*status))
                .content("application/problem+json", content);
            responses = responses.response(status.to_string(), response);
        }
        operation = operation.responses(responses.build());
        if route.need == Need::Public {
            return operation.securities(Some([SecurityRequirement::default()])).build();
        }
        let by = ["token", "session"].map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
        operation.securities(Some(by)).build()
    }
}

impl Parameter {
    fn written(&self, path: &str) -> ParameterBuilder {
        let place =
            if path.contains(&format!("{{{}}}", self.name)) { ParameterIn::Path } else { ParameterIn::Query };
        let object = match self.kind {
            Kind::Text => ObjectBuilder::new().schema_type(SchemaType::new(Type::String)),
            Kind::Number(least, most) => ObjectBuilder::new()
                .schema_type(SchemaType::new(Type::Integer))
                .minimum(Some(least as f64))
                .maximum(Some(most as f64)),
            Kind::OneOf(words) => ObjectBuilder::new()
                .schema_type(SchemaType::new(Type::String))
                .enum_values(Some(words.iter().copied())),
        };
        let is_required = if self.is_required { Required::True } else { Required::False };
        ParameterBuilder::new()
            .name(self.name)
            .parameter_in(place)
            .required(is_required)
            .description(Some(self.says))
            .schema(Some(object))
    }
}

trait Contents {
    fn json(self, shape: RefOr<Schema>) -> Self;
    fn media(self, kinds: &[&str]) -> Self;
}

impl Contents for ResponseBuilder {
    fn json(self, shape: RefOr<Schema>) -> Self {
        self.content("application/json", ContentBuilder::new().schema(Some(shape)).build())
    }

    fn media(self, kinds: &[&str]) -> Self {
        kinds.iter().fold(self, |response, kind| response.content(*kind, ContentBuilder::new().build()))
    }
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With UPDATE=1 in the environment it is written: a diff then shows what has become of the API.
    #[test]
    fn the_document_in_the_repository_is_that_of_the_api() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openapi.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &*DOCUMENT).expect("written");
        }
        let kept = std::fs::read_to_string(&path).expect("it is there");
        let told = "config/openapi.json is not of this API: UPDATE=1 cargo test --lib openapi writes it anew";
        assert!(kept == *DOCUMENT, "{told}");
    }

    #[test]
    fn every_route_is_described_once_and_nothing_else() {
        let mut routes: Vec<_> = ROUTES.iter().map(|route| (route.path, route.method)).collect();
        let mut described: Vec<_> = DESCRIBED.iter().map(|it| (it.path, it.method)).collect();
        routes.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, routes);
    }

    #[test]
    fn whatever_is_referred_to_is_there() {
        let document = serde_json::to_value(written()).expect("JSON");
        let text = document.to_string();
        let mut names = text
            .match_indices("#/components/schemas/")
            .map(|(at, prefix)| text[at + prefix.len()..].split('"').next().expect("a name").to_owned());
        assert!(names.all(|name| document["components"]["schemas"].get(&name).is_some()));
    }
}
