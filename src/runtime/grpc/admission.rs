//! From a request's headers to the method it calls, or to the response that refuses it. Pure: what
//! gRPC's document of its HTTP/2 mapping says a server checks.
//!
//! `te: trailers` is not asked for: it was meant to uncover proxies that drop trailers, HTTP/2
//! libraries refuse any other value, and clients exist that leave it out.

use std::net::SocketAddr;

use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method as HttpMethod, Request, Response, StatusCode, Version};

use super::status::{GrpcCode, GrpcStatus};
use crate::base::time::{NS_PER_MS, NS_PER_S, NS_PER_US};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The members' method.
const LANE: &str = "/p2pmap.v1.MemberService/Connect";

/// The methods that clients call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `atomix.map.P2PMapService/Connect`.
    Connect,
    /// `grpc.health.v1.Health/Check`.
    HealthCheck,
    /// `grpc.health.v1.Health/Watch`.
    HealthWatch,
}

/// What an admitted request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// A client's call.
    Call(Admission),
    /// `p2pmap.v1.MemberService/Connect`: all of the connection for one lane between members.
    Lane,
}

/// A client's call that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) method: Method,
    /// What the client gives the stream as a whole.
    pub(super) timeout_ns: Option<u64>,
}

/// A request that was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The client speaks gRPC: a status tells it more than HTTP could.
    Status(GrpcStatus),
    /// It doesn't: a status it can't read would look like success.
    Http(StatusCode),
}

/// Checks a request's headers.
pub(super) fn admit<B>(request: &Request<B>) -> Result<Admitted, Refusal> {
    if request.method() != HttpMethod::POST {
        return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !is_grpc(request.headers()) {
        return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let path = request.uri().path();
    let method = if path == LANE { None } else { Some(method(path).map_err(Refusal::Status)?) };
    if request.headers().get(GRPC_ENCODING).is_some_and(|encoding| encoding != IDENTITY) {
        let text = "compressed messages are not supported; send `grpc-encoding: identity`";
        return Err(Refusal::Status(GrpcStatus::new(GrpcCode::Unimplemented, text)));
    }
    let timeout_ns = match request.headers().get(GRPC_TIMEOUT) {
        None => None,
        Some(value) => Some(timeout_ns(value.as_bytes()).ok_or_else(|| {
            let text = "`grpc-timeout` is not 1 to 8 digits and one of H, M, S, m, u, n";
            Refusal::Status(GrpcStatus::new(GrpcCode::Internal, text))
        })?),
    };
    Ok(match method {
        Some(method) => Admitted::Call(Admission { method, timeout_ns }),
        None => Admitted::Lane,
    })
}

/// The request with which a member asks another one for a lane.
pub(super) fn lane_request(authority: SocketAddr) -> Request<()> {
    let request = Request::post(format!("http://{authority}{LANE}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, CONTENT_TYPE_GRPC)
        .header(TE, "trailers");
    request.body(()).expect("an address makes an URI")
}

/// Whether a response is one of gRPC at all.
pub(super) fn is_grpc_response<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::OK && is_grpc(response.headers())
}

/// The headers that begin a response with messages.
pub(super) fn response() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    headers.insert(GRPC_ACCEPT_ENCODING, IDENTITY);
    response
}

/// A response that consists of its status: gRPC's `Trailers-Only`.
pub(super) fn response_with_status_only(status: &GrpcStatus) -> Response<()> {
    let mut response = response();
    status.write(response.headers_mut());
    response
}

impl Refusal {
    pub(super) fn response(&self) -> Response<()> {
        match self {
            Self::Status(status) => response_with_status_only(status),
            Self::Http(code) => {
                let mut response = Response::new(());
                *response.status_mut() = *code;
                if *code == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                response
            }
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let media_type = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    let media_type = media_type.trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/grpc")
        || media_type.eq_ignore_ascii_case(b"application/grpc+proto")
}

fn method(path: &str) -> Result<Method, GrpcStatus> {
    match path {
        "/atomix.map.P2PMapService/Connect" => Ok(Method::Connect),
        "/grpc.health.v1.Health/Check" => Ok(Method::HealthCheck),
        "/grpc.health.v1.Health/Watch" => Ok(Method::HealthWatch),
        _ => Err(GrpcStatus::new(GrpcCode::Unimplemented, format!("there is no method `{path}`"))),
    }
}

fn timeout_ns(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let unit_ns = match unit {
        b'H' => 3_600 * NS_PER_S,
        b'M' => 60 * NS_PER_S,
        b'S' => NS_PER_S,
        b'm' => NS_PER_MS,
        b'u' => NS_PER_US,
        b'n' => 1,
        _ => return None,
    };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(count.saturating_mul(unit_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::post(path).body(()).unwrap();
        request.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        request
    }

    const CONNECT: &str = "/atomix.map.P2PMapService/Connect";

    #[test]
    fn the_three_methods_are_admitted() {
        let call = |method| Ok(Admitted::Call(Admission { method, timeout_ns: None }));
        let admitted = |path| admit(&request(path, &[]));
        assert_eq!(admitted(CONNECT), call(Method::Connect));
        assert_eq!(admitted("/grpc.health.v1.Health/Check"), call(Method::HealthCheck));
        assert_eq!(admitted("/grpc.health.v1.Health/Watch"), call(Method::HealthWatch));
    }

    #[test]
    fn the_request_of_a_member_is_admitted_as_such() {
        let request = lane_request("[::1]:5678".parse().unwrap());
        assert_eq!(admit(&request), Ok(Admitted::Lane));
        assert_eq!(request.uri().authority().unwrap().as_str(), "[::1]:5678");
    }

    #[test]
    fn an_unknown_method_is_unimplemented() {
        for path in ["/", "/atomix.map.P2PMapService/", "/atomix.map.P2PMapService/connect"] {
            let Err(Refusal::Status(status)) = admit(&request(path, &[])) else { panic!("{path}") };
            assert_eq!(status.code, GrpcCode::Unimplemented);
            assert!(status.message.contains(path));
        }
    }

    #[test]
    fn content_types_with_parameters_and_the_proto_suffix_are_grpc() {
        let types = ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=x"];
        for value in types {
            assert!(admit(&request(CONNECT, &[("content-type", value)])).is_ok(), "{value}");
        }
    }

    #[test]
    fn what_is_not_grpc_is_told_so_by_http() {
        let unsupported = Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        for value in ["text/html", "application/grpc-web", "application/grpc+json", ""] {
            assert_eq!(admit(&request(CONNECT, &[("content-type", value)])), unsupported);
        }
        let mut bare = request(CONNECT, &[]);
        bare.headers_mut().clear();
        assert_eq!(admit(&bare), unsupported);
        *bare.method_mut() = HttpMethod::GET;
        let refusal = admit(&bare).unwrap_err();
        assert_eq!(refusal, Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(refusal.response().headers()["allow"], "POST");
    }

    #[test]
    fn compression_is_refused_with_what_is_accepted() {
        assert!(admit(&request(CONNECT, &[("grpc-encoding", "identity")])).is_ok());
        let refusal = admit(&request(CONNECT, &[("grpc-encoding", "gzip")])).unwrap_err();
        let response = refusal.response();
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-accept-encoding"], "identity");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }

    #[test]
    fn timeouts_are_read_in_all_units() {
        assert_eq!(timeout_ns(b"2H"), Some(7_200 * NS_PER_S));
        assert_eq!(timeout_ns(b"3M"), Some(180 * NS_PER_S));
        assert_eq!(timeout_ns(b"99999999S"), Some(99_999_999 * NS_PER_S));
        assert_eq!(timeout_ns(b"250m"), Some(250 * NS_PER_MS));
        assert_eq!(timeout_ns(b"7u"), Some(7 * NS_PER_US));
        assert_eq!(timeout_ns(b"0n"), Some(0));
        assert_eq!(timeout_ns(b"99999999H"), Some(u64::MAX));
    }

    #[test]
    fn malformed_timeouts_are_refused() {
        for value in [&b""[..], b"S", b"10", b"123456789S", b"-1S", b"1.5S", b" 1S", b"1s"] {
            assert_eq!(timeout_ns(value), None, "{value:?}");
        }
        assert!(admit(&request(CONNECT, &[("grpc-timeout", "1s")])).is_err());
    }
}
