//! An outbound listener at a path: for apps whose client libraries take a socket, and so that nobody else in
//! the pod takes the port.

use signet_tests::apps::{Nginx, Postgres};
use signet_tests::client::{curl, psql};
use signet_tests::mesh::{Mesh, allow, id};

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_psql_call_through_unix_sockets() {
    let (mesh, nginx, postgres) = (Mesh::start().await, Nginx::start().await, Postgres::start().await);
    let (frontend, web, db) = (id("/frontend"), id("/web"), id("/db"));
    for workload in [&frontend, &web, &db] {
        mesh.workload(workload).await;
    }
    mesh.policy(&[allow("web", &web, &[&frontend]), allow("db", &db, &[&frontend])].join("---\n")).await;
    let _web = mesh.proxy(&web).await.inbound("", nginx.address).start().await;
    let _db = mesh.proxy(&db).await.inbound("", postgres.address).start().await;
    let sockets = tempfile::tempdir().unwrap();
    let path = |name: &str| sockets.path().join(name).display().to_string();
    let (web_socket, db_socket) = (path("web"), path(".s.PGSQL.5432"));
    let ask_web = || {
        let asked = curl().args(["--include", "--unix-socket", &web_socket, "http://web/identity"]);
        async move { asked.run().await.succeeded().stdout }
    };

    for last_words in [true, false] {
        let mut caller = mesh
            .proxy(&frontend)
            .await
            .with("--outbound", format!("unix:{web_socket}={web}"))
            .with("--outbound", format!("unix:{db_socket}={db}"))
            .start()
            .await;
        let answer = ask_web().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(&format!(";URI={frontend}")), "the app sees who calls: {answer}");
        let rows = psql(postgres.address, "select 6 * 7")
            .env("PGHOST", sockets.path())
            .env("PGPORT", "5432")
            .run()
            .await
            .succeeded();
        assert_eq!(rows.stdout.trim(), "42");
        caller.access(&[("direction", "outbound"), ("path", "/identity"), ("status", "200")]).await;

        // Neither an end nor a kill is in the way of the next proxy at the same path.
        if last_words {
            caller.process.terminate();
            let status = caller.process.exit(signet_tests::PATIENCE).await;
            assert_eq!(status.code(), Some(0), "{status}");
            assert!(!std::path::Path::new(&web_socket).exists(), "it takes its socket along");
        } else {
            caller.process.kill().await;
            let caller = mesh
                .proxy(&frontend)
                .await
                .with("--outbound", format!("unix:{web_socket}={web}"))
                .start()
                .await;
            let answer = ask_web().await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            drop(caller);
        }
    }
}
