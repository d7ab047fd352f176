//! The interface within an application's own router.

#![allow(clippy::unwrap_used, reason = "test code")]

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use kwik_admin::{Admin, Token};
use tower::ServiceExt;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let answer = router.clone().oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (head.status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_application_nests_the_interface_under_its_own_name() {
    let endpoint = kwik::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (admin, _) = Admin::new(endpoint.clone()).with_token(Token::new(TOKEN).unwrap()).router();
    let router = Router::new().nest("/admin", admin);
    let get = |path: &str| {
        let request = Request::get(path).header(header::HOST, "app.example");
        request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}")).body(Body::empty())
    };
    // What the page loads is there, however it is nested.
    let (status, page) = ask(&router, get("/admin").unwrap()).await;
    assert!(status == 200 && page.contains("src=\"admin/page.js\""), "{status} {page}");
    let (admin, _) = Admin::new(endpoint).router();
    let slash = Router::new().nest("/admin/", admin);
    let (status, page) = ask(&slash, get("/admin/").unwrap()).await;
    assert!(status == 200 && page.contains("src=\"page.js\""), "{status} {page}");
    assert!(page.contains("src=\"uplot.js\"") && page.contains("href=\"uplot.css\""), "{page}");
    for path in [
        "/admin/page.js",
        "/admin/uplot.js",
        "/admin/healthz",
        "/admin/metrics",
        "/admin/api/v1/sessions",
    ] {
        assert_eq!(ask(&router, get(path).unwrap()).await.0, 200, "{path}");
    }
    assert_eq!(ask(&router, get("/admin/nothing").unwrap()).await.0, 404);

    let patch = |token: &str| {
        let request = Request::patch("/admin/api/v1/settings").header(header::HOST, "app.example");
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        request.body(Body::from(r#"{"gap_timeout": 250}"#)).unwrap()
    };
    let (status, answer) = ask(&router, patch(TOKEN)).await;
    assert!(status == 200 && answer.contains("gap_timeout"), "{status} {answer}");
    assert_eq!(ask(&router, patch("wrong")).await.0, 401);
}
