//! `/api/v1`: each handler reads its parameters, asks, and answers with the report as it is.

use super::access::Principal;
use super::accounts::note;
use super::config::{Asking, read_body, source, unexpected};
use super::explain::{dscp, protocol};
use super::guard::unknown_tenant;
use super::problem::Problem;
use super::{App, worker_patience};
use crate::control::audit::Action;
use crate::control::commits::{Reply, Source, Verb};
use crate::control::{FlowPage, HandoffRow, Status, TenantFacts};
use crate::export::report::ExporterReport;
use crate::model::{AskedEnd, AskedFlow, AskedPort, NotAHostName, NotATime, NotAnEnd};
use crate::pipeline::report::{
    ClearAsked, DecisionRow, DropRow, Explanation, FlowFilter, MeasurementRow, NatBlockRow, NatPoolRow,
    PathHistory, PathName, PathReport, QueueRow, RuleRow, SessionPage, TenantRow,
};
use crate::store::report::WhoHad;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;
use utoipa::ToSchema;

/// Rows in an answer unless asked otherwise: more than a person reads.
const DEFAULT_LIMIT: usize = 100;

/// 10,000 rows: 5 MB of JSON; the console shows as many. A worker makes them between two batches, so this also bounds
/// how long its packets wait.
const MAX_LIMIT: usize = 10_000;

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Paths {
    pub(super) paths: Vec<PathReport>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Drops {
    pub(super) drops: Vec<DropRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Rules {
    pub(super) rules: Vec<RuleRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Measurements {
    pub(super) measurements: Vec<MeasurementRow>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Decisions {
    pub(super) decisions: Vec<DecisionRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Queues {
    pub(super) queues: Vec<QueueRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Nat {
    /// By tenant and handoff.
    pub(super) pools: Vec<NatPool>,
    pub(super) blocks: Vec<NatBlockRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct NatPool {
    pub(super) tenant: String,
    #[serde(flatten)]
    pub(super) pool: NatPoolRow,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Exporters {
    pub(super) exporters: Vec<ExporterReport>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Handoffs {
    /// By tenant and handoff.
    pub(super) handoffs: Vec<HandoffRow>,
}

/// A request's query as it was written: names may be unknown or come twice.
pub(super) type Parameters = Query<Vec<(String, String)>>;

pub(super) async fn status(
    State(app): State<App>,
    who: Principal,
    query: Parameters,
) -> Result<Json<Status>, Problem> {
    Asked::read(query, &[])?;
    let control = &app.control;
    let status = control.status(worker_patience()).await?;
    let Some(tenant) = &who.tenant else { return Ok(Json(status)) };
    let (paths, drops, rules, tenants) = tokio::try_join!(
        control.paths(Some(tenant), worker_patience()),
        control.drops(Some(tenant), worker_patience()),
        control.rules(Some(tenant), worker_patience()),
        control.tenants(worker_patience()),
    )?;
    Ok(Json(status.of_tenant(tenant, &TenantFacts { paths, drops, rules, tenants })))
}

pub(super) async fn paths(State(app): State<App>, query: Parameters) -> Result<Json<Paths>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    let paths = app.control.paths(asked.filter.tenant.as_deref(), worker_patience()).await?;
    Ok(Json(Paths { paths }))
}

pub(super) async fn sessions(
    State(app): State<App>,
    query: Parameters,
) -> Result<Json<SessionPage>, Problem> {
    let asked = Asked::read(query, &["tenant", "address", "port", "class", "limit"])?;
    Ok(Json(app.control.sessions(asked.filter, asked.limit, worker_patience()).await?))
}

/// Sessions that are to end.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ClearBody {
    pub(super) tenant: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number; all unless given.
    #[serde(default)]
    pub(super) protocol: Option<String>,
    /// Whoever has begun them, ADDRESS or ADDRESS:PORT; this or `to` is needed.
    #[serde(default)]
    pub(super) from: Option<String>,
    #[serde(default)]
    pub(super) to: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Cleared {
    /// How many have ended.
    pub(super) sessions: u64,
}

pub(super) async fn clear_sessions(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
    body: Bytes,
) -> Result<Json<Cleared>, Problem> {
    check_names(&query.0, &[])?;
    let body: ClearBody = read_body(&body)?;
    if asking.tenant().is_some_and(|tenant| tenant != body.tenant) {
        return Err(unknown_tenant(&body.tenant));
    }
    let end = |name, text: &Option<String>| text.as_deref().map(|text| end_of(name, text)).transpose();
    let protocol = body
        .protocol
        .as_deref()
        .map(|text| protocol(text).map_err(|why| Problem::parameter("protocol", format!("protocol: {why}"))));
    let asked = ClearAsked {
        from: end("from", &body.from)?,
        to: end("to", &body.to)?,
        protocol: protocol.transpose()?,
        tenant: body.tenant,
    };
    if asked.from.is_none() && asked.to.is_none() {
        return Err(Problem::parameter("from", "from: this or to is needed".to_owned()));
    }
    let detail = [("from", &body.from), ("to", &body.to), ("protocol", &body.protocol)];
    let detail = detail.into_iter().filter_map(|(name, text)| Some(format!("{name} {}", text.as_ref()?)));
    let (tenant, detail) = (asked.tenant.clone(), detail.collect::<Vec<_>>().join(" "));
    let sessions = app.control.clear_sessions(asked, worker_patience()).await?;
    note(&app, asking.whoever(), Action::Clear, Some(tenant), format!("{sessions} sessions {detail}")).await;
    Ok(Json(Cleared { sessions }))
}

pub(super) async fn flows(State(app): State<App>, query: Parameters) -> Result<Json<FlowPage>, Problem> {
    let asked = Asked::read(query, &["tenant", "address", "port", "class", "limit"])?;
    Ok(Json(app.control.flows(&asked.filter, asked.limit)))
}

pub(super) async fn drops(State(app): State<App>, query: Parameters) -> Result<Json<Drops>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    let drops = app.control.drops(asked.filter.tenant.as_deref(), worker_patience()).await?;
    Ok(Json(Drops { drops }))
}

pub(super) async fn rules(State(app): State<App>, query: Parameters) -> Result<Json<Rules>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    let rules = app.control.rules(asked.filter.tenant.as_deref(), worker_patience()).await?;
    Ok(Json(Rules { rules }))
}

pub(super) async fn decisions(State(app): State<App>, query: Parameters) -> Result<Json<Decisions>, Problem> {
    let asked = Asked::read(query, &["tenant", "limit"])?;
    let tenant = asked.filter.tenant.as_deref();
    let decisions = app.control.decisions(tenant, asked.limit, worker_patience()).await?;
    Ok(Json(Decisions { decisions }))
}

pub(super) async fn measurements(
    State(app): State<App>,
    query: Parameters,
) -> Result<Json<Measurements>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    let measurements = app.control.measurements(asked.filter.tenant.as_deref(), worker_patience()).await?;
    Ok(Json(Measurements { measurements }))
}

/// Of all paths, or a tenant's, a far site's, or one's.
pub(super) async fn queues(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Json<Queues>, Problem> {
    check_names(&parameters, &["tenant", "site", "path"])?;
    let wanted = |name: &str| value_of(&parameters, name).filter(|value| !value.is_empty());
    let mut queues = app.control.queues(wanted("tenant"), worker_patience()).await?;
    let fits = |name: &str, has: &str| wanted(name).is_none_or(|wanted| wanted == has);
    queues.retain(|row| fits("site", &row.site) && fits("path", &row.path));
    Ok(Json(Queues { queues }))
}

/// The pools, of all tenants or of one, with the blocks that branches have of them.
pub(super) async fn nat(State(app): State<App>, query: Parameters) -> Result<Json<Nat>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    let tenant = asked.filter.tenant.as_deref();
    let tenants = app.control.tenants(worker_patience()).await?;
    let blocks = app.control.nat_blocks(tenant, worker_patience()).await?;
    let tenants = tenants.into_iter().filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant));
    let pools = tenants.flat_map(|row| {
        let TenantRow { tenant, nat_pools, .. } = row;
        nat_pools.into_iter().map(move |pool| NatPool { tenant: tenant.clone(), pool })
    });
    Ok(Json(Nat { pools: pools.collect(), blocks }))
}

pub(super) async fn exporters(State(app): State<App>, query: Parameters) -> Result<Json<Exporters>, Problem> {
    Asked::read(query, &[])?;
    Ok(Json(Exporters { exporters: app.control.exporters() }))
}

pub(super) async fn handoffs(State(app): State<App>, query: Parameters) -> Result<Json<Handoffs>, Problem> {
    let asked = Asked::read(query, &["tenant"])?;
    Ok(Json(Handoffs { handoffs: app.control.handoffs(asked.filter.tenant.as_deref()) }))
}

/// Of one path, which all three names tell.
pub(super) async fn path_history(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Json<PathHistory>, Problem> {
    check_names(&parameters, &["tenant", "site", "path"])?;
    let name = |name: &str| {
        let given = value_of(&parameters, name).filter(|value| !value.is_empty());
        given.map(str::to_owned).ok_or_else(|| Problem::parameter(name, format!("{name}: it is needed")))
    };
    let asked = PathName { tenant: name("tenant")?, site: name("site")?, path: name("path")? };
    let PathName { tenant, site, path } = &asked;
    let unknown = Problem::parameter("path", format!("path: {tenant} has no path {site}/{path}"));
    app.control.path_history(asked, worker_patience()).await?.map(Json).ok_or(unknown)
}

/// Not a filter: a flow that has not come.
pub(super) async fn explain(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Explanation>, Problem> {
    let (tenant, flow) = asked_flow(&query.0)?;
    let explained = match asking.may_see(source(&query, "of", Source::InForce)?)? {
        Source::InForce => app.control.explain(&tenant, &flow, worker_patience()).await?,
        source => {
            let verb = Verb::Explain { source, tenant: tenant.clone(), flow: Box::new(flow) };
            let Reply::Explained(explained) = asking.ask(&app, verb).await? else { return Err(unexpected()) };
            let paths = app.control.paths(Some(&tenant), worker_patience()).await?;
            explained.map(|explanation| explanation.with_live(&tenant, &paths))
        }
    };
    match explained {
        Ok(explanation) => Ok(Json(match asking.tenant() {
            Some(tenant) => explanation.of_tenant(tenant),
            None => explanation,
        })),
        Err(unknown) => Err(Problem::parameter("tenant", unknown)),
    }
}

fn end_of(name: &str, text: &str) -> Result<AskedEnd, Problem> {
    text.parse().map_err(|error: NotAnEnd| Problem::parameter(name, format!("{name}: {text:?} is {error}")))
}

fn asked_flow(parameters: &[(String, String)]) -> Result<(String, AskedFlow), Problem> {
    const KNOWN: [&str; 7] = ["tenant", "from", "to", "protocol", "dscp", "sni", "of"];
    check_names(parameters, &KNOWN)?;
    let value = |wanted: &str| value_of(parameters, wanted);
    let required = |name: &str| {
        let given = value(name).filter(|value| !value.is_empty());
        given.ok_or_else(|| Problem::parameter(name, format!("{name}: it is needed")))
    };
    let end = |name: &str| end_of(name, required(name)?);
    let wrong = |name: &'static str| move |why: String| Problem::parameter(name, format!("{name}: {why}"));
    let sni = value("sni").filter(|text| !text.is_empty()).map(|text| {
        text.parse().map_err(|error: NotAHostName| format!("{text:?} is {error}")).map_err(wrong("sni"))
    });
    let flow = AskedFlow {
        from: end("from")?,
        to: end("to")?,
        protocol: protocol(value("protocol").unwrap_or("tcp")).map_err(wrong("protocol"))?,
        dscp: dscp(value("dscp").filter(|text| !text.is_empty()).unwrap_or("0")).map_err(wrong("dscp"))?,
        sni: sni.transpose()?,
    };
    Ok((required("tenant")?.to_owned(), flow))
}

/// Of the NAT ledger. It reads files, on a thread of its own: the others' answers do not wait for a disk.
pub(super) async fn who_had(
    State(app): State<App>,
    who: Principal,
    Query(parameters): Parameters,
) -> Result<Json<WhoHad>, Problem> {
    let asked = asked_port(&parameters)?;
    let failed = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    let answer = tokio::task::spawn_blocking(move || app.control.who_had(&asked)).await;
    match answer.map_err(|error| failed(error.to_string()))? {
        Some(Ok(answer)) => Ok(Json(match who.tenant {
            Some(tenant) => answer.of_tenant(&tenant),
            None => answer,
        })),
        Some(Err(error)) => Err(failed(format!("the NAT ledger cannot be read: {error}"))),
        None => {
            let detail = "this box keeps no NAT ledger; [nat-ledger] in popgate.toml has it keep one";
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

fn asked_port(parameters: &[(String, String)]) -> Result<AskedPort, Problem> {
    check_names(parameters, &["address", "port", "protocol", "at"])?;
    let given = |name: &str| value_of(parameters, name).filter(|value| !value.is_empty());
    let wrong = |name: &'static str| move |why: String| Problem::parameter(name, format!("{name}: {why}"));
    let at = given("at").map(|text| {
        text.parse().map_err(|error: NotATime| format!("{text:?} is {error}")).map_err(wrong("at"))
    });
    Ok(AskedPort {
        address: parse("address", given("address").unwrap_or_default(), "an IPv4 or IPv6 address")?,
        port: parse("port", given("port").unwrap_or_default(), "a port, 0 to 65535")?,
        protocol: given("protocol").map(|text| protocol(text).map_err(wrong("protocol"))).transpose()?,
        at: at.transpose()?,
    })
}

/// Every parameter must be known, and said once.
pub(super) fn check_names(parameters: &[(String, String)], known: &[&str]) -> Result<(), Problem> {
    for (index, (name, _)) in parameters.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Problem::parameter(name, format!("unknown parameter {name:?}; known here: {known}")));
        }
        if parameters[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(Problem::parameter(name, format!("parameter {name:?} comes twice")));
        }
    }
    Ok(())
}

pub(super) fn value_of<'a>(parameters: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// What the parameters say.
#[derive(Debug, PartialEq)]
struct Asked {
    filter: FlowFilter,
    limit: usize,
}

impl Asked {
    /// Every parameter must be known, understood and said once: a filter that is quietly ignored shows another tenant's
    /// sessions as if they were the ones asked for.
    fn read(Query(parameters): Parameters, known: &[&str]) -> Result<Asked, Problem> {
        let mut asked = Asked { filter: FlowFilter::default(), limit: DEFAULT_LIMIT };
        check_names(&parameters, known)?;
        for (name, value) in &parameters {
            match name.as_str() {
                "tenant" => asked.filter.tenant = Some(parse(name, value, "a tenant's name")?),
                "class" => asked.filter.class = Some(parse(name, value, "an app class's name")?),
                "address" => asked.filter.address = Some(parse(name, value, "an IPv4 or IPv6 address")?),
                "port" => asked.filter.port = Some(parse(name, value, "a port, 0 to 65535")?),
                _ => {
                    let expected = format!("a number of rows, 1 to {MAX_LIMIT}");
                    asked.limit = parse(name, value, &expected)?;
                    if !(1..=MAX_LIMIT).contains(&asked.limit) {
                        return Err(Problem::parameter(name, format!("{name}: {value:?} is not {expected}")));
                    }
                }
            }
        }
        Ok(asked)
    }
}

pub(super) fn parse<T: FromStr>(name: impl Display, value: &str, expected: &str) -> Result<T, Problem> {
    let parsed = if value.is_empty() { None } else { value.parse().ok() };
    parsed
        .ok_or_else(|| Problem::parameter(&name.to_string(), format!("{name}: {value:?} is not {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: &[&str] = &["tenant", "address", "port", "class", "limit"];

    fn read(parameters: &[(&str, &str)], known: &[&str]) -> Result<Asked, Problem> {
        Asked::read(
            Query(parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()),
            known,
        )
    }

    #[test]
    fn a_filter_is_read_from_its_parameters() {
        let asked =
            read(&[("tenant", "acme"), ("address", "2001:db8::1"), ("port", "443"), ("limit", "7")], FLOW);
        let asked = asked.expect("a filter");
        assert_eq!(asked.limit, 7);
        assert_eq!(asked.filter.tenant.as_deref(), Some("acme"));
        assert_eq!(asked.filter.address, "2001:db8::1".parse().ok());
        assert_eq!((asked.filter.port, asked.filter.class), (Some(443), None));
        assert_eq!(read(&[], FLOW).expect("no filter").limit, DEFAULT_LIMIT);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_name() {
        let bad =
            [("address", "10.0.0.0/8"), ("port", "65536"), ("port", ""), ("limit", "0"), ("limit", "10001")];
        for (name, value) in bad.into_iter().chain([("tenant", ""), ("class", ""), ("tenent", "acme")]) {
            let problem = read(&[(name, value)], FLOW).expect_err(value);
            assert_eq!((problem.status, problem.parameter.as_deref()), (400, Some(name)), "{problem:?}");
        }
        let twice = read(&[("port", "1"), ("port", "2")], FLOW).expect_err("twice");
        assert_eq!(twice.detail, "parameter \"port\" comes twice");
        let unknown = read(&[("port", "1")], &["tenant"]).expect_err("not for paths");
        assert_eq!(unknown.detail, "unknown parameter \"port\"; known here: tenant");
    }
}
